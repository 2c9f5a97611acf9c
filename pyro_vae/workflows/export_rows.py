"""Rows drawn from a run, or passed through it, to a file."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from pyro_vae.cli import print_json


def _through(rows: Any, verb: Callable[[Any, dict[str, Any]], Any]) -> Iterator[tuple[Any, ...]]:
    """What a verb makes of rows, some at a time, with their places and labels."""
    from pyro_vae.workflows.open_run import ROWS_AT_ONCE

    for part in rows.parts(ROWS_AT_ONCE):
        yield verb(part.x, part.row_inputs(slice(None))), part.places(slice(None)), part.labels


def _write(
    opened: Any, path: Path, parts: Iterator[tuple[Any, ...]], num_rows: int, names: list[str] | None, as_json: bool
) -> None:
    from pyro_vae.workflows.write_rows import writing

    with writing(path, num_rows, names or []) as writer:
        for rows, index, labels in parts:
            writer.names = names or [f"z{i + 1}" for i in range(rows.shape[1])]
            writer.write(rows.cpu(), index, labels)
    if as_json:
        print_json({"run": str(opened.folder), "path": str(path), "num_rows": num_rows, "num_columns": rows.shape[1]})
    else:
        click.echo(f"{path}: {num_rows} rows of {rows.shape[1]}")
