"""The missing cells of rows filled by a program, and how well that went."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pyro_vae.context_managers import part_seed
from pyro_vae.data import Split
from pyro_vae.data.prepare_rows import Preparation
from pyro_vae.data.stored_split import chunk_rows
from pyro_vae.errors import ImputationWarning, InputError
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
        bootstrap: the number B of programs, each fitted to training rows drawn with replacement, that draw M/B times
            each; 0 for the run's own.

    Raises `InputError` for a bootstrap of other than draws, or of a number that does not divide M.
    """

    method: str = "draws"
    num_imputations: int = 1
    num_samples: int = 1000
    seed: int = 0
    bootstrap: int = 0

    def __post_init__(self) -> None:
        if self.bootstrap and self.method != "draws":
            raise InputError(f"bootstrap is for draws, and not for the {self.method}: leave one of them out")
        if self.bootstrap and self.num_imputations % self.bootstrap:
            raise InputError(
                f"bootstrap={self.bootstrap} programs draw equally often: num_imputations={self.num_imputations} is no "
                "multiple of it"
            )


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
    programs: Sequence[Program], rows: Split, source: SourceFrame, preparation: Preparation, how: Imputing
) -> FilledRows:
    """Rows with their missing cells filled, in their own columns and types.

    Args:
        programs: the program, or several that draw equally often.
        rows: the rows (N), prepared.
        source: the same rows as they came.
        preparation: how they were prepared.
        how: how missing values are filled.

    Returns:
        The frame, M times as long, and how well that went.
    """
    if how.num_imputations > 1:
        source.require_free_names()
    size = min(CHUNK_ROWS, chunk_rows(rows.shape[1], CHUNK_ROWS))
    places = torch.arange(len(rows)) if rows.name == "train" else None
    each = replace(how, num_imputations=how.num_imputations // len(programs), bootstrap=0)
    by_program, frames = [], []
    for program in programs:
        parts = []
        for number, part in enumerate(rows.chunks(size)):
            own = None if places is None else places[number * size :][: len(part)]
            parts.append(_impute(program, part, own, each, number))
        drawn = torch.cat([part.values for part in parts], 1)
        frames += [values_frame(values, preparation, rounded=True) for values in drawn]
        by_program.append(parts)
    if modelled := [column.name for column in preparation.schema.modelled]:  # without columns that never vary
        frames = [frame[modelled] for frame in frames]
    stages = zip(*([stage for part in parts for stage in part.stage] for parts in by_program), strict=True)
    zero = [row for row, found in enumerate(stages) if ZERO_DENSITY in found]
    bad = torch.stack([torch.cat([part.is_bad for part in parts]) for parts in by_program]).any(0)
    missing = missing_cells(preparation.schema, torch.cat([part.missing for part in by_program[0]]))
    num_incomplete = int(missing.any(1).sum())
    missing[zero] = False
    return FilledRows(
        frame=source.filled(frames, missing),
        num_rows=len(rows),
        num_incomplete=num_incomplete,
        num_filled=int(missing.sum()),
        bad_rows=[row for row in bad.nonzero()[:, 0].tolist() if row not in zero],
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
            seed=part_seed(how.seed, number),
        )
