"""Records, dataclasses whose fields are also read by name, and the JSON they are written to."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pyro_vae.errors import InputError

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
        """The record with these values; names that are none of its fields are left out.

        Raises `InputError` for values of another type, which a file may hold.
        """
        require_types(cls, values, f"a {cls.__name__}")
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


def require_types(kind: type, values: object, what: str) -> None:
    """`InputError` for plain values of a file that do not have the types of a dataclass's fields.

    Args:
        kind: the dataclass; names that are none of its fields are not looked at.
        values: what the file holds.
        what: what they are, as the message begins.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{what} must be a table of names and values, got {values!r:.60}")
    for name, annotation in get_type_hints(kind).items():
        if name in values and not _fits(values[name], annotation):
            words = getattr(annotation, "__name__", str(annotation)).removeprefix("typing.")
            raise InputError(f"{what}: {name} must be of type {words}, got {values[name]!r:.60}; bring back a copy")


def _fits(value: object, annotation: Any) -> bool:
    """Whether a plain value is of a type; lists count as tuples, whole numbers as floats, true and false as neither."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in inside)
    if annotation in (int, float):
        return isinstance(value, (int, float) if annotation is float else int) and not isinstance(value, bool)
    if origin is not None and issubclass(origin, Mapping):
        return (
            isinstance(value, Mapping)
            and all(_fits(key, inside[0]) for key in value)
            and all(_fits(each, inside[1]) for each in value.values())
        )
    if origin is not None and issubclass(origin, Sequence):
        return isinstance(value, (list, tuple)) and all(_fits(each, inside[0]) for each in value)
    return not isinstance(annotation, type) or isinstance(value, annotation)


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
