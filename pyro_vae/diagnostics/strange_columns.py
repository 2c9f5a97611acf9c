"""Which columns make rows improbable: log p(x_d | x_−d) of single columns, less what it is expected to be.

>>> import pyro_vae as pv
>>> data = pv.load_data("customers", label="churned")
>>> mixture = pv.ColumnsMixture(3, data.schema)
>>> fitted = pv.fit_em(mixture, data, seed=0)
>>> row = data.test.take(torch.tensor([0]))
>>> row.stored[0, 3] = 1e6  # the revenue
>>> moved = pv.diagnostics.explain_rows(mixture, pv.Split("test", row.stored, row.measure), schema=data.schema)
>>> moved.strangest(0)[0].name
'revenue'
"""

import math
import warnings
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from pyro_vae.context_managers import evaluating, part_seed, seeded
from pyro_vae.data import Dataset, RowsGiven, Split
from pyro_vae.data.columns import Schema
from pyro_vae.data.columns.choose_columns import column_slices
from pyro_vae.data.columns.column_range import column_range
from pyro_vae.data.image_shapes import ImageShape
from pyro_vae.distributed import SINGLE_PROCESS, ProcessGroup
from pyro_vae.errors import InputError, ZeroDensityWarning
from pyro_vae.evidence.column_blocks import NUM_VALUES, ColumnScorer, ColumnShortlist
from pyro_vae.evidence.paired_rows import PairedRows, require_conditional
from pyro_vae.evidence.score_blocks import has_row_guide, score_by_modes
from pyro_vae.models.exact_density import Density, rows_with_nan
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.row_batches import ScoredRows, rows_to_score
from pyro_vae.typing import DrawsMissing, Program

MAX_COLUMNS = 20  # of a row that are computed; of more, the lowest by a first guess
MAX_NUMBERS = 2_000_000  # in the rows that a model with a density of its own scores in one call
NO_MODES = (
    "columns are explained by draws around the modes of p(z | x), and this program's latents have none: discrete ones "
    "that the guide draws, or more than 256"
)
LEAST_NATS = -2.0  # a column below it is named: in a normal 2.2 standard deviations


@dataclass(frozen=True)
class StrangeColumn:
    """A column that makes a row improbable.

    Attributes:
        name: its name.
        number: its number among the columns.
        nats: log p(x_d | x_−d) less its expectation, below 0.
    """

    name: str
    number: int
    nats: float


@dataclass(frozen=True, repr=False)
class Explanations:
    r"""How much less probable the values of N rows are than expected, given their other values.

    Attributes:
        columns: the names of the C columns.
        nats: $\log p(x_d | x_{-d}) - E[\log p(X_d | x_{-d})]$, (N, C): 0 where a value is as probable as is expected in
            its row; NaN where it is missing or was not computed.
        se: its Monte-Carlo standard error, (N, C) nats.
        is_bad: which are not to be trusted, by the k-hat of their weights, (N, C).
    """

    columns: tuple[str, ...]
    nats: Tensor
    se: Tensor
    is_bad: Tensor

    def __len__(self) -> int:
        return len(self.nats)

    def __repr__(self) -> str:
        return f"Explanations({len(self)} rows of {len(self.columns)} columns)"

    def strangest(self, row: int, num: int = 3, below: float = LEAST_NATS) -> list[StrangeColumn]:
        """The columns that make a row improbable, the strangest first.

        Args:
            row: the row.
            num: so many of them at most.
            below: the nats below which a column counts.

        Returns:
            The columns; none where no single column is strange given the others.
        """
        nats = self.nats[row].nan_to_num(math.inf, neginf=-math.inf)
        lowest = nats.argsort()[:num].tolist()
        return [StrangeColumn(self.columns[i], i, float(nats[i])) for i in lowest if nats[i] < below]


def explain_rows(
    program: Program,
    data: RowsGiven,
    *,
    schema: Schema | None = None,
    num_samples: int = 400,
    rows: Tensor | None = None,
    labels: Tensor | None = None,
    memory_mib: float = 64,
    seed: int = 0,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Explanations:
    r"""How improbable each value of rows is given the row's other values, relative to what is expected there.

    For column d: $\log p(x_d | x_{-d}) - E[\log p(X_d | x_{-d})]$ with $X_d$ drawn from $p(x_d | x_{-d})$. The second
    term is minus the column's conditional entropy in this row, so that the difference has mean 0 for rows of the model
    and does not depend on units: of a normal it is $\frac12 - \frac12 t^2$ for a value t standard deviations off.

    Models with a density of their own have the first term exactly. Others have both from draws around the modes of
    p(z | x) and p(z | x_−d), as in `conditional_evidence`; of more than 20 columns a first guess from draws of p(z | x)
    chooses those that are computed. A value that its column cannot have is −∞, and the row's others are judged without
    it. A row whose values are strange only together, each usual given the others, has no strange column.

    Raises `InputError` for pictures, for a program whose model takes no mask, and for latents that have no modes.

    Args:
        program: a program whose model takes a mask, or a model with an exact density of some of its columns.
        data: a tensor (N, D), a split, or a data set (its test split).
        schema: the columns; by default those of a data set.
        num_samples: draws S for each value.
        rows: the rows' indices (N,) in the training set, for programs that take them.
        labels: their labels (N,), for programs that take them.
        memory_mib: memory for the draws in progress, in MiB.
        seed: seed of the draws.
        group: the processes that share the rows; each gets every result.

    Returns:
        The nats of each row and column.
    """
    schema = data.schema if schema is None and isinstance(data, Dataset) else schema or Schema()
    split, rows = rows_to_score(data, rows, labels)
    require_no_pictures(split.image_shape)
    slices = column_slices(schema, split.shape[1])
    observed = torch.ones(split.shape, dtype=torch.bool) if split.mask is None else split.mask.cpu()
    impossible = _impossible_values(schema, split) & observed
    if impossible.any():
        observed = observed & ~impossible
        split = split.with_mask(observed)
    wanted = torch.stack([observed[:, numbers].any(1) for numbers in slices.values()], 1)
    task = _Task(program, split, rows, list(slices.values()), num_samples, memory_mib, seed, group)
    if not isinstance(program, Density):
        require_conditional(program)
        if wanted.shape[1] > MAX_COLUMNS and len(split):
            wanted = task.shortlist(wanted)
    nats, se = torch.full(wanted.shape, math.nan, dtype=torch.float64), torch.zeros(wanted.shape, dtype=torch.float64)
    is_bad, index = torch.zeros(wanted.shape, dtype=torch.bool), wanted.nonzero()
    for pairs in index.split(max(1, MAX_NUMBERS // split.shape[1])):
        found = task.of_pairs(pairs, observed)
        for whole, values in zip((nats, se, is_bad), found, strict=True):
            whole[pairs[:, 0], pairs[:, 1]] = values
    nats[torch.stack([impossible[:, numbers].any(1) for numbers in slices.values()], 1)] = -math.inf
    return Explanations(tuple(slices), nats, se, is_bad)


def _impossible_values(schema: Schema, split: Split) -> Tensor:
    """Which values (N, D) their column cannot have."""
    found = torch.zeros(split.shape, dtype=torch.bool)
    if schema.coding == "columns":
        x = split.x.cpu().double().numpy()
        for place, column in enumerate(schema.modelled):
            found[:, place] = torch.from_numpy(~column_range(column).contains(x[:, place]))
    return found


def require_no_pictures(image_shape: ImageShape | None) -> None:
    """`InputError` for pictures, whose columns are pixels."""
    if image_shape is not None:
        raise InputError(
            "columns explain rows of a table, and those of pictures are single pixels, which their neighbours all but "
            "determine; leave --explain out, and look at the least probable pictures in the report (pyro-vae report)"
        )


@dataclass(frozen=True)
class _Task:
    """A program, rows, the numbers of a row that each column has, and how they are scored."""

    program: Program
    split: Split
    rows: Tensor | None
    columns: list[slice]
    num_samples: int
    memory_mib: float
    seed: int
    group: ProcessGroup

    def shortlist(self, wanted: Tensor) -> Tensor:
        """The columns of each row that a first guess calls strangest, of those that are wanted, (N, C)."""
        with (
            torch.no_grad(),
            seeded(self.seed),
            use_param_store(self.program),
            evaluating(self.program),
            pyro.validation_enabled(False),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", ZeroDensityWarning)
            about = self.rows, self.group, self.seed
            scored = ScoredRows(self.program, self.split, *about, allow_zero=True, needs_guide=False)
            found = score_by_modes(
                lambda use_guide: ColumnShortlist(
                    scored.program, scored, self.columns, self.num_samples, self.memory_mib, use_guide=use_guide
                ),
                has_row_guide(self.program, scored),
            )
        if found is None:
            raise InputError(NO_MODES)
        relative = torch.zeros(wanted.shape, dtype=torch.float64)
        relative[scored.kept] = torch.cat([block["relative"] for block in found])
        lowest = relative.masked_fill(~wanted, math.inf).argsort(1)[:, :MAX_COLUMNS]
        return wanted & torch.zeros_like(wanted).scatter(1, lowest, True)

    def of_pairs(self, pairs: Tensor, observed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The nats of pairs of a row and a column (P, 2), their errors, and which are bad."""
        index = pairs[:, 0]
        part, hidden = self.split.take(index), torch.zeros(len(pairs), self.split.shape[1], dtype=torch.bool)
        for place, column in enumerate(pairs[:, 1].tolist()):
            hidden[place, self.columns[column]] = True
        both, given = part.with_mask(observed[index]), part.with_mask(observed[index] & ~hidden)
        if isinstance(self.program, Density):
            return _by_density(self.program, both, given, self.seed)
        own = None if self.rows is None else self.rows[index]
        rows = PairedRows(self.program, both, given, own, self.memory_mib, self.seed, self.group)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZeroDensityWarning)
            found = rows.score(self.num_samples, exact=False, scorer=ColumnScorer).values
        if "expected" not in found:
            raise InputError(NO_MODES)
        log_px, expected = (found[name] for name in ("log_px", "expected"))
        log_px = log_px - both.log_jacobian + given.log_jacobian
        nats = torch.where(log_px == -math.inf, log_px, log_px - expected)
        return nats, torch.hypot(found["mc_se"], found["expected_se"]), found["is_bad"]


def _by_density(program: Density, both: Split, given: Split, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The nats of pairs of a row and a column by a density of the program's own, whose p(x_−d) cancels."""
    if not isinstance(program, DrawsMissing):
        raise InputError(f"a {type(program).__name__} draws no values given others, so none are expected")
    both, given = program.rows_of(both), program.rows_of(given)
    log_px, expected, errors = [], [], []
    for block in torch.arange(len(both)).split(program.block_rows):
        own, rest = (rows_with_nan(rows, block).to(next(program.parameters())) for rows in (both, given))
        hidden = rest.isnan() & ~own.isnan()
        with torch.no_grad(), seeded(part_seed(seed, int(block[0]))):
            drawn = program.draw_missing(rest, NUM_VALUES)
            log_probs = torch.stack([program.log_density(torch.where(hidden, x, own)) for x in drawn])
            log_px.append(program.log_density(own).cpu().double())
        expected.append(log_probs.mean(0).cpu().double())
        errors.append(log_probs.std(0).cpu().double() / math.sqrt(NUM_VALUES))
    nats = torch.cat(log_px) - torch.cat(expected)
    return nats, torch.cat(errors), torch.zeros(len(nats), dtype=torch.bool)
