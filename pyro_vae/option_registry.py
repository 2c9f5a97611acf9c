"""Named things that own options, and registries of them: plain data, from which the command line is made.

An `Entry` is a named thing (a
prior, an optimizer, a data set) with the dotted path of what makes it, which is imported when it is used, and the
options that it alone owns. A `Registry` holds the entries of one kind.
"""

import difflib
import importlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from pyro_vae.errors import InputError
from pyro_vae.options import Option, Value


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
