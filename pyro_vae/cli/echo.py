"""Text for a terminal: control characters, which a stranger's names and files may hold, are shown and not sent."""

import logging
import unicodedata
from collections.abc import Callable
from typing import Any

import click


def printable(text: object) -> str:
    r"""Text without control characters: escapes that move the cursor, set colours or rename a window.

    Line feeds and tabs stay; others are written as in Python, `\x1b`.

    >>> printable("a\x1b[31mred\x07\u202e")
    'a\\x1b[31mred\\x07\\u202e'
    """
    return "".join(
        each if each in "\n\t" or unicodedata.category(each)[0] != "C" else each.encode("unicode_escape").decode()
        for each in str(text)
    )


def echo(text: object = "", *, err: bool = False, bold: bool = False, nl: bool = True) -> None:
    """`click.echo` of printable text.

    Args:
        text: the text.
        err: whether it goes to standard error.
        bold: whether a terminal shows it in bold.
        nl: whether a line feed follows.
    """
    shown = printable(text)
    click.echo(click.style(shown, bold=True) if bold else shown, err=err, nl=nl)


def echo_warning(
    show: Callable[..., None],
    is_said: bool,
    message: Warning | str,
    category: type[Warning],
    *where: Any,
    **options: Any,
) -> None:
    """A warning of this package as a line on standard error, without the line of code that it comes from.

    Args:
        show: `warnings.showwarning`, for other warnings.
        is_said: whether this process says it; of several one does.
        message: the warning.
        category: its class.
        *where: its file and line.
        **options: of `show`.
    """
    if category.__module__ == "pyro_vae.errors":
        if is_said:
            echo(f"note: {message}", err=True)
    else:
        show(message, category, *where, **options)


class EchoHandler(logging.Handler):
    """The handler of the package's log in commands: each message a line on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        echo(record.getMessage(), err=True)
