"""Records, dataclasses whose fields are also read by name, and the JSON they are written to."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

R = TypeVar("R", bound="Record")
NOT_FINITE = "not_finite"  # the key beside values that JSON cannot hold


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


def to_json(content: object, indent: int | None = None) -> str:
    """JSON text, with null for numbers that JSON cannot hold; the object around them says which, and what they were.

    >>> to_json({"threshold": -math.inf, "kl": [0.5, math.nan]})
    '{"threshold": null, "kl": [0.5, null], "not_finite": {"threshold": "-inf", "kl.1": "nan"}}'

    Args:
        content: records, dictionaries, lists and plain values.
        indent: spaces for each level; None for one line.

    Returns:
        The text, without a line feed at its end.
    """
    return json.dumps(_without_infinities(content, "")[0], indent=indent, allow_nan=False)


def _without_infinities(value: object, name: str) -> tuple[object, dict[str, str]]:
    """The value with null for what is not finite, and the names and values of those outside an object of their own."""
    if isinstance(value, float) and not math.isfinite(value):
        return None, {name: str(float(value))}
    if isinstance(value, list | tuple):
        parts = [_without_infinities(item, f"{name}.{i}".lstrip(".")) for i, item in enumerate(value)]
        return [part for part, _ in parts], {key: text for _, found in parts for key, text in found.items()}
    if not isinstance(value, Mapping):
        return value, {}
    inside = {key: _without_infinities(item, str(key)) for key, item in value.items()}
    found = {key: text for _, names in inside.values() for key, text in names.items()}
    return {key: part for key, (part, _) in inside.items()} | ({NOT_FINITE: found} if found else {}), {}
