"""Rows drawn from a run's model, or passed through its guide, written to a file."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_vae.context_managers import seeded
from pyro_vae.data import Split
from pyro_vae.programs.model_and_guide import encode, reconstruct, sample
from pyro_vae.workflows.read_run import CHUNK_ROWS, Run
from pyro_vae.workflows.row_writer import open_row_writer

Part = tuple[Tensor, Tensor | None, Tensor | None]  # values, index and labels of some rows


@dataclass(frozen=True)
class ExportedRows:
    """A file of rows that was written."""

    run: str
    path: str
    num_rows: int
    num_columns: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def sample_run(
    folder: str | Path, num: int = 64, *, seed: int = 0, out: str | Path | None = None, program: str | None = None
) -> ExportedRows:
    """Draw `num` rows from the model, z from the prior and x from the likelihood, in the data's units."""
    run = Run(Path(folder), program)
    drawn, width = run.program(), run.about["num_features"]

    def parts() -> Iterator[Part]:
        with seeded(seed):
            for start in range(0, num, CHUNK_ROWS):
                rows = sample(drawn, min(CHUNK_ROWS, num - start), num_features=width)
                yield run.measure.to_original_units(rows), None, None

    return _write(run, out, "samples.npy", parts(), num, run.columns())


def reconstruct_run(
    folder: str | Path,
    data: str | None = None,
    *,
    split: str = "test",
    out: str | Path | None = None,
    program: str | None = None,
) -> ExportedRows:
    """Write E[x | z] at each row's posterior mean, in the data's units; `data` as in `score_rows`."""
    run = Run(Path(folder), program)
    rows, own = run.rows(data, split), run.program()
    parts = _apply(rows, lambda x, row_inputs: run.measure.to_original_units(reconstruct(own, x, **row_inputs)))
    return _write(run, out, f"reconstructions{'' if data else f'-{split}'}.npy", parts, len(rows), run.columns())


def encode_run(
    folder: str | Path,
    data: str | None = None,
    *,
    split: str = "test",
    out: str | Path | None = None,
    program: str | None = None,
) -> ExportedRows:
    """Write each row's posterior mean of z, with its index and label; `data` as in `score_rows`."""
    run = Run(Path(folder), program)
    rows, own = run.rows(data, split), run.program()
    parts = _apply(rows, lambda x, row_inputs: encode(own, x, **row_inputs))
    return _write(run, out, f"latents{'' if data else f'-{split}'}.csv", parts, len(rows), None)


def _apply(rows: Split, function: Callable[[Tensor, dict[str, Tensor]], Tensor]) -> Iterator[Part]:
    for part in rows.chunks(CHUNK_ROWS):
        yield function(part.x, part.row_inputs(slice(None))), part.source_index(slice(None)), part.labels


def _write(
    run: Run, out: str | Path | None, name: str, parts: Iterable[Part], num_rows: int, columns: list[str] | None
) -> ExportedRows:
    path = run.folder / name if out is None else Path(out)
    with open_row_writer(path, num_rows, columns or []) as writer:
        for rows, index, labels in parts:
            writer.names = columns or [f"z{i + 1}" for i in range(rows.shape[1])]
            writer.write(rows.cpu(), index, labels)
    return ExportedRows(str(run.folder), str(path), num_rows, rows.shape[1])
