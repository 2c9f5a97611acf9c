"""A record: a dataclass whose fields are also read by name, as the JSON it is written to."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

R = TypeVar("R", bound="Record")


@dataclass(frozen=True)
class Record(Mapping[str, Any]):
    """A base class for dataclasses that are written as JSON: `record.elbo` and `record["elbo"]` are the same value.

    >>> @dataclass(frozen=True)
    ... class Point(Record):
    ...     epoch: int
    ...     elbo: float | None = None
    >>> point = Point(1, -2.5)
    >>> point.elbo, point["elbo"], dict(point)
    (-2.5, -2.5, {'epoch': 1, 'elbo': -2.5})
    >>> Point.from_dict({"epoch": 1, "elbo": -2.5}) == point
    True
    """

    def __getitem__(self, name: str) -> Any:
        if name not in self.__dataclass_fields__:
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return (field.name for field in fields(self))

    def __len__(self) -> int:
        return len(fields(self))

    @classmethod
    def from_dict(cls: type[R], values: Mapping[str, Any]) -> R:
        """The record with these values; names that are none of its fields are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})
