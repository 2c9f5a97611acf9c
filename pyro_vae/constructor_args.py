"""The arguments that a part was made with, noted by its constructor, so that it can be described and made anew."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from pyro_vae.errors import InputError

Maker = TypeVar("Maker", bound=Callable[..., Any])
FOLDERS = ("nets", "guides")
CONSTRUCTORS: dict[str, Callable[..., Any]] = {}


def part(maker: Maker) -> Maker:
    """Mark a class or function as one whose results can be saved and rebuilt from their arguments."""
    place = maker.__module__.removeprefix("pyro_vae.")
    folder = place.split(".")[0]  # which file of a folder holds a network or a guide is no one's business
    name = f"{folder if folder in FOLDERS else place}.{maker.__name__}"
    signature = inspect.signature(maker)

    def note(made: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        object.__setattr__(made, "_made_by", (name, type(made), dict(bound.arguments)))

    if inspect.isclass(maker):
        construct = maker.__init__

        @functools.wraps(construct)
        def noted_init(self: Any, *args: Any, **kwargs: Any) -> None:
            construct(self, *args, **kwargs)
            if type(self) is maker:  # a user's subclass is not what this recipe would rebuild
                note(self, args, kwargs)

        maker.__init__ = noted_init  # type: ignore[method-assign]
        CONSTRUCTORS[name] = maker
        return maker

    @functools.wraps(maker)
    def noted(*args: Any, **kwargs: Any) -> Any:
        made = maker(*args, **kwargs)
        note(made, args, kwargs)
        return made

    CONSTRUCTORS[name] = noted
    return noted  # type: ignore[return-value]


def rebuild_with(thing: Any, **changes: Any) -> Any:
    """A fresh object by the same constructor with the same arguments but for some; `InputError` where it is no part."""
    name, made_as, arguments = getattr(thing, "_made_by", (None, None, {}))
    if name is None or type(thing) is not made_as:
        raise InputError(f"a {type(thing).__name__} is not one of this package's parts, so it cannot be made anew")
    return CONSTRUCTORS[name](**(arguments | changes))
