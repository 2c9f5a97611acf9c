"""The missing cells of rows filled by a program, and how well that went."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pyro_vae.data import Split
from pyro_vae.data.prepare_rows import Preparation
from pyro_vae.data.stored_split import chunk_rows
from pyro_vae.errors import ImputationWarning
from pyro_vae.evidence.impute_rows import ZERO_DENSITY, Imputations, impute_rows, name_rows
from pyro_vae.typing import Program
from pyro_vae.workflows.row_frames import values_frame
from pyro_vae.workflows.source_frames import SourceFrame, missing_cells

CHUNK_ROWS = 6_400  # rows: a whole number of the blocks that they are worked on in


@dataclass(frozen=True)
class Imputing:
    """How missing values are filled.

    Attributes:
        method: draws, mean or mode.
        num_imputations: the number M of draws of each missing value.
        num_samples: the number S of weighted points of each row's latents.
        seed: of the draws.
    """

    method: str = "draws"
    num_imputations: int = 1
    num_samples: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class FilledRows:
    """A frame with its missing cells filled.

    Attributes:
        frame: the frame, of the library of the rows that came in.
        num_rows: of the rows that came in, N.
        num_incomplete: how many of them had a missing cell.
        num_filled: the number of cells that were filled, each once.
        bad_rows: the numbers of rows whose weights are bad.
        zero_rows: the numbers of rows whose observed values have density zero, which stay as they are.
    """

    frame: Any
    num_rows: int
    num_incomplete: int
    num_filled: int
    bad_rows: Sequence[int]
    zero_rows: Sequence[int]

    def warnings(self) -> list[str]:
        """What is wrong with some rows, in words."""
        found = []
        if self.bad_rows:
            found.append(
                f"the weights of {len(self.bad_rows)} of {self.num_incomplete} incomplete rows are bad (rows "
                f"{name_rows(list(self.bad_rows))}): do not trust what they were filled with; more samples "
                "(--num-samples), or a better fit, may help"
            )
        if self.zero_rows:
            found.append(
                f"the observed values of {len(self.zero_rows)} rows have density zero (rows "
                f"{name_rows(list(self.zero_rows))}); their missing cells stay missing"
            )
        return found


def fill_rows(
    program: Program, rows: Split, source: SourceFrame, preparation: Preparation, how: Imputing
) -> FilledRows:
    """Rows with their missing cells filled, in their own columns and types.

    Args:
        program: the program.
        rows: the rows (N), prepared.
        source: the same rows as they came.
        preparation: how they were prepared.
        how: how missing values are filled.

    Returns:
        The frame, M times as long, and how well that went.
    """
    import pandas

    if how.num_imputations > 1:
        source.require_free_names()
    size = min(CHUNK_ROWS, chunk_rows(rows.shape[1], CHUNK_ROWS))
    places = torch.arange(len(rows)) if rows.name == "train" else None
    parts = []
    for number, part in enumerate(rows.chunks(size)):
        own = None if places is None else places[number * size :][: len(part)]
        parts.append(_impute(program, part, own, how, number))
    frames = [
        pandas.concat([values_frame(part.values[m], preparation, rounded=True) for part in parts], ignore_index=True)
        for m in range(how.num_imputations)
    ]
    stage = [stage for part in parts for stage in part.stage]
    zero = [row for row, name in enumerate(stage) if name == ZERO_DENSITY]
    bad = torch.cat([part.is_bad for part in parts])
    missing = missing_cells(preparation.schema, torch.cat([part.missing for part in parts]))
    num_incomplete = int(missing.any(1).sum())
    missing[zero] = False
    return FilledRows(
        frame=source.filled(frames, missing),
        num_rows=len(rows),
        num_incomplete=num_incomplete,
        num_filled=int(missing.sum()),
        bad_rows=[row for row in bad.nonzero()[:, 0].tolist() if stage[row] != ZERO_DENSITY],
        zero_rows=zero,
    )


def _impute(program: Program, part: Split, rows: torch.Tensor | None, how: Imputing, number: int) -> Imputations:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImputationWarning)  # the whole of the rows is reported
        return impute_rows(
            program,
            part,
            how.num_imputations,
            method=how.method,
            num_samples=how.num_samples,
            rows=rows,
            seed=how.seed + number,
        )
