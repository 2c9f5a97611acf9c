"""Options as plain data: what a setting is called, its type, default, bounds and help, said once."""

import math
from collections.abc import Collection
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from pyro_vae.errors import InputError

MAX_COUNT, MAX_SEED = 10**9, 2**63 - 1  # of whole numbers: of epochs, draws, latents; and of seeds, of 64 bits
MAX_SHOWN = 40  # characters of a value in a message
Value = bool | int | float | str | tuple[int, ...] | tuple[str, ...] | None


@dataclass(frozen=True)
class Option:
    """A setting as plain data.

    Attributes:
        name: its name in Python and in `config.toml`; the flag is `--name`, dashes for underscores.
        type: `int`, `float`, `bool`, `str`, or a type of the command line by name: `scale`, `widths`, `path`, `shape`
            (height and width, with the channels before them or not), `size` (height and width), `texts` (the flag may
            be repeated).
        default: its value where none is given; None where the default depends on other settings.
        help: one sentence for `--help` and the docs, with the unit.
        choices: the names it may have, as a registry or a tuple; empty where it is not a name.
        minimum: the smallest value; `exclusive` leaves it out.
        maximum: the largest value.
        metavar: what `--help` shows in place of the type.
        group: the table of `config.toml` and of `--help`.
        is_flag: whether the flag takes no value; of a bool that may be None, `--name/--no-name`.
        is_optional: whether the value may be None although the default is not.
    """

    name: str
    type: type | str
    default: Value
    help: str
    choices: Collection[str] = ()
    minimum: float | None = None
    exclusive: bool = False
    maximum: float | None = None
    metavar: str | None = None
    group: str = ""
    is_flag: bool = False
    is_optional: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def check(self, value: Any) -> Any:
        """The value as a plain Python one, NumPy's and torch's scalars too; `InputError` for one that it cannot have.

        None passes where it is the default, or the setting is optional.
        """
        if value is None and (self.default is None or self.is_optional):
            return None
        if not isinstance(value, type) and callable(getattr(value, "item", None)) and getattr(value, "ndim", 0) == 0:
            value = value.item()
        names = tuple(self.choices)
        if names and (not isinstance(value, str) or value not in names):
            if not isinstance(self.choices, tuple):
                raise InputError(f"no {self.name} called {shown(value)}; try one of {', '.join(names)}")
            known = [repr(name) for name in names]
            raise InputError(f"{self.name} must be {', '.join(known[:-1])} or {known[-1]}, got {shown(value)}")
        if self.type in (int, float):
            return self._check_number(value)
        if self.type is bool and not isinstance(value, bool):
            raise InputError(f"{self.name} must be true or false, got {shown(value)}")
        if self.type in (str, "path") and not isinstance(value, (str, Path) if self.type == "path" else str):
            raise InputError(f"{self.name} must be a text, got {shown(value)}")
        if self.type == "texts":
            return _texts(self.name, value)
        if self.type == "widths":
            if not isinstance(value, (list, tuple)) or not value or not all(map(_is_count, value)):
                raise InputError(
                    f"{self.name} must be whole numbers of one or more, as in (500, 200), got {shown(value)}"
                )
            return tuple(value)
        if self.type in ("shape", "size"):
            return _sizes(self.name, value, (2,) if self.type == "size" else (2, 3))
        return value

    def _check_number(self, value: Any) -> int | float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{self.name} must be a number, got {shown(value)}")
        if not math.isfinite(value):
            raise InputError(f"{self.name} must be finite, got {value}")
        if self.type is int and isinstance(value, float) and not value.is_integer():
            raise InputError(f"{self.name} must be a whole number, got {shown(value)}")
        if self.minimum is not None and not (value > self.minimum if self.exclusive else value >= self.minimum):
            raise InputError(f"{self.name} must be {self._bound()}, got {value}")
        maximum = self._largest() if self.maximum is None else self.maximum
        if maximum is not None and not value <= maximum:
            raise InputError(f"{self.name} must be at most {maximum:g}, got {value}")
        if self.type is int and self.minimum is None and not value >= -MAX_SEED:
            raise InputError(f"{self.name} must be at least {-MAX_SEED:g}, got {value}")
        return int(value) if self.type is int else float(value)

    def _largest(self) -> float | None:
        """The largest whole number where the option names none: a count that a machine can do, a seed that it knows."""
        if self.type is not int:
            return None
        return MAX_SEED if self.minimum is None else MAX_COUNT

    def _bound(self) -> str:
        if self.minimum == 0:
            return "positive" if self.exclusive else "zero or more"
        if self.minimum == 1 and not self.exclusive:
            return "one or more"
        return f"{'more than' if self.exclusive else 'at least'} {self.minimum:g}"


def shown(value: object) -> str:
    """A value in a message: itself where it is short."""
    if isinstance(value, type):
        return f"the class {value.__name__}; make an object of it first, {value.__name__}(…)"
    text = repr(value)
    return f"a {type(value).__name__}" if len(text) > MAX_SHOWN or not text.isprintable() else text


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_COUNT


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """A setting of several texts; `InputError` for anything else."""
    if isinstance(value, str) or not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
        raise InputError(f"{name} must be a list of texts, as in ['a', 'b'], got {shown(value)}")
    return tuple(value)


def _sizes(name: str, value: Any, lengths: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes of an image; `InputError` for anything else."""
    is_sequence = isinstance(value, (list, tuple)) and len(value) in lengths
    if not is_sequence or not all(map(_is_count, value)):
        words = "[channels,] height and width" if 3 in lengths else "height and width"
        raise InputError(f"{name} must be {words}, whole numbers of one or more, got {shown(value)}")
    return tuple(value)


def setting(default: Any, type: type | str, help: str, **more: Any) -> Any:
    """A field of a dataclass of settings, which has its `Option` in the metadata.

    Args:
        default: the default.
        type: the type, as in `Option`.
        help: one sentence, with the unit.
        **more: further fields of `Option`.

    Returns:
        The field.
    """
    return field(default=default, metadata={"option": (type, help, more)})


def options_of(config: type) -> dict[str, Option]:
    """The options of a dataclass of settings by name, in their order; fields not made by `setting` are left out."""
    found = {}
    for each in fields(config):
        if "option" in each.metadata:
            kind, words, more = each.metadata["option"]
            default = None if each.default is MISSING else each.default
            found[each.name] = Option(each.name, kind, default, words, **more)
    return found


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A base class for frozen dataclasses of settings: each field made by `setting` is checked when it is made."""

    def __post_init__(self) -> None:
        for name, option in options_of(type(self)).items():
            object.__setattr__(self, name, option.check(getattr(self, name)))
