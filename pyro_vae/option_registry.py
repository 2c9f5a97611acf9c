"""Options, the named things that own them, and registries: plain data, from which the command line is made.

An `Option` says once what a setting is called, its type, default, bounds and help. An `Entry` is a named thing (a
prior, an optimizer, a data set) with the dotted path of what makes it, which is imported when it is used, and the
options that it alone owns. A `Registry` holds the entries of one kind.
"""

import difflib
import importlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

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
    choices: "tuple[str, ...] | Registry[Any]" = ()
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
            if isinstance(self.choices, Registry):
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


@dataclass(frozen=True)
class Entry:
    """A named thing: where it is made, and the options that it owns.

    Attributes:
        name: its name on the command line and in `config.toml`.
        path: `package.module:name` of the class or function that makes it, imported at use.
        help: a few words for `--help` and the docs.
        options: its own options; the name of the argument is the option's, or the value in `arguments`.
        arguments: the argument of the constructor that an option of another name sets, by the option's name.
        fixed: arguments that the name stands for, with their values.
    """

    name: str
    path: str
    help: str = ""
    options: tuple[Option, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Value] = field(default_factory=dict)

    def load(self) -> Callable[..., Any]:
        """The class or function, imported now."""
        module, _, names = self.path.partition(":")
        made: Any = importlib.import_module(module)
        for name in names.split("."):
            made = getattr(made, name)
        loaded: Callable[..., Any] = made
        return loaded

    def keywords(self, settings: Mapping[str, Value]) -> dict[str, Value]:
        """The keyword arguments of the constructor: those it stands for, and its options, given or by default."""
        chosen = {}
        for option in self.options:
            value = settings.get(option.name)
            chosen[self.arguments.get(option.name, option.name)] = option.default if value is None else value
        return {name: value for name, value in chosen.items() if value is not None} | dict(self.fixed)


E_ = TypeVar("E_", bound=Entry)


class Registry(Mapping[str, E_], Generic[E_]):
    """The entries of one kind by name; with a `group`, also those of other packages' entry points of that name.

    An entry point names an `Entry` (`my_package.parts:ENTRY`), in a module that imports nothing large.

    Args:
        kind: what the entries are, for messages.
        entries: the entries, in their order.
        group: the group of entry points of other packages; None where there is none.

    >>> colours = Registry("colour", [Entry("red", "my.module:Red")])
    >>> list(colours)
    ['red']
    >>> colours["blue"]
    Traceback (most recent call last):
        ...
    pyro_vae.errors.InputError: no colour called 'blue'; try one of red
    """

    def __init__(self, kind: str, entries: "list[E_]", group: str | None = None) -> None:
        self.kind, self.group, self._entries = kind, group, {entry.name: entry for entry in entries}
        self._plugins_loaded = group is None

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def register(self, entry: E_) -> None:
        """Add an entry; `InputError` for a name that is taken."""
        if entry.name in self._all():
            raise InputError(f"there is a {self.kind} called {entry.name!r} already: choose another name")
        self._entries[entry.name] = entry

    def _all(self) -> dict[str, E_]:
        if not self._plugins_loaded:
            self._plugins_loaded = True
            for point in entry_points(group=self.group or ""):
                self._add_plugin(point)
        return self._entries

    def _add_plugin(self, point: EntryPoint) -> None:
        """Add the entry of another package; where it cannot be imported, warn and do without it."""
        try:
            entry = point.load()
        except Exception as error:
            warnings.warn(f"{self.group} {point.value} was left out: {type(error).__name__}: {error}", stacklevel=4)
            return
        if not isinstance(entry, Entry) or entry.name in self._entries:
            reason = "its name is taken" if isinstance(entry, Entry) else "it is no Entry"
            warnings.warn(f"{self.group} {point.value} was left out: {reason}", stacklevel=4)
            return
        self._entries[entry.name] = entry  # type: ignore[assignment]  # a plug-in's entry is of the registry's kind

    def get(self, name: str, default: Any = None) -> Any:
        """The entry of a name, if there is one.

        Args:
            name: the name.
            default: what is returned where there is no such entry.

        Returns:
            The entry, or the default.
        """
        return self._all().get(name, default)

    def __getitem__(self, name: str) -> E_:
        if name not in self._all():
            raise InputError(f"no {self.kind} called {name!r}; try one of {', '.join(self._all())}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def owned_options(self) -> dict[str, list[tuple[str, Option]]]:
        """The options that entries own, by name: each entry's name and its option."""
        owned: dict[str, list[tuple[str, Option]]] = {}
        for entry in self._all().values():
            for option in entry.options:
                owned.setdefault(option.name, []).append((entry.name, option))
        return owned

    def owners(self, option: str) -> list[str]:
        """The names of the entries that own an option."""
        return [name for name, _ in self.owned_options().get(option, [])]


def require_known(given: Iterable[str], names: Iterable[str], source: str) -> None:
    """Raise `InputError` for a name that is no setting, with the nearest one.

    Args:
        given: the names to check.
        names: the names that exist.
        source: where the names were given, for the message.
    """
    names = list(names)
    if unknown := [name for name in given if name not in names]:
        near = difflib.get_close_matches(unknown[0], names, n=1)
        raise InputError(f"{source}: no setting called {unknown[0]!r}{f'; did you mean {near[0]!r}?' if near else ''}")


def check_owned(
    given: Mapping[str, Value], chosen: Mapping[str, Entry], registries: "Mapping[str, Registry[Any]]"
) -> None:
    """Raise `InputError` for an option that no chosen entry owns, which would be ignored, or of an unusable value.

    Args:
        given: the options that are given; None and False are taken as not given.
        chosen: for each kind the entry that is chosen.
        registries: for each kind all entries, for the message.
    """
    own = {option.name: option for entry in chosen.values() for option in entry.options}
    require_known(given, [name for registry in registries.values() for name in registry.owned_options()], "options")
    for name, value in given.items():
        if value is None or value is False:
            continue
        if name not in own:
            owners = [f"--{kind} {owner}" for kind, registry in registries.items() for owner in registry.owners(name)]
            raise InputError(
                f"--{name.replace('_', '-')} belongs to {' or '.join(owners)}; leave it out, or choose that"
            )
        own[name].check(value)
