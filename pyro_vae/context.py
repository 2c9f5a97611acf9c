"""Whether a part may look at values to check them: not while its operations are being recorded."""

from collections.abc import Iterator
from contextlib import contextmanager

_UNREAD = False


@contextmanager
def unread() -> Iterator[None]:
    """Inside, a program is being recorded: it may not ask for a tensor's value, not even to check it."""
    global _UNREAD
    before, _UNREAD = _UNREAD, True
    try:
        yield
    finally:
        _UNREAD = before


def may_read() -> bool:
    """Whether a check may look at values; where it may not, they were checked before."""
    return not _UNREAD
