"""The one JSON object of a command, and the line about a file of rows that was written."""

from collections.abc import Mapping

from pyro_vae.cli.echo import echo
from pyro_vae.json_records import to_json


def print_json(content: object) -> None:
    """The one object that --json promises on stdout; records become objects, and infinities null with a flag."""
    echo(to_json(content))


def print_export(written: Mapping[str, object], as_json: bool) -> None:
    """A file of rows that was written, as JSON or as one line.

    Args:
        written: the record of an export, `ExportedRows`.
        as_json: whether to print JSON.
    """
    if as_json:
        print_json(written)
    else:
        echo(f"{written['path']}: {written['num_rows']} rows of {written['num_columns']}")
