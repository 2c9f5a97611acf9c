"""Programs with an exact log p(x), and the methods that EM needs."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pyro_vae.data import RowsGiven, Split, as_split
from pyro_vae.data.prepare_rows import require_same_preparation
from pyro_vae.errors import InputError
from pyro_vae.programs.model_and_guide import Program
from pyro_vae.programs.parameters import device_and_dtype
from pyro_vae.programs.row_inputs import require_taken
from pyro_vae.programs.support import CODES
from pyro_vae.typing import PerRow, Rows

Statistics = dict[str, Tensor]
STARTS = ("k-means++", "k-means", "random", "current")


class Density(Program):
    r"""A program with a closed form for $\log p(x)$ and for the posterior of its latents.

    A subclass writes its graphical model, `log_density(x)`, and for EM (`fit_em`) an E-step, an M-step and a start.
    Parameters are float64 from the beginning. Its guide is the exact posterior at the current parameters, without
    gradient: the bound equals log p(x), and its gradient is that of log p(x) (Fisher's identity). With a `log_prior`,
    `fit` maximizes the same sum as `fit_em`.

    Args:
        num_features: the number D of features.
    """

    started: Tensor
    held: tuple[str, ...] = ()  # parameters that EM does not change
    reads_columns = False  # whether rows may be codes of columns with kinds
    supports_missing = False  # whether rows may hold NaN, where a value is missing
    accelerated = False  # whether `fit_em` extrapolates its steps by default

    def __init__(self, num_features: int) -> None:
        nn.Module.__init__(self)
        if num_features < 1:
            raise InputError(f"expected one feature or more, got {num_features}")
        self.num_features: int = num_features
        self.register_buffer("started", torch.tensor(False))

    @property
    def block_rows(self) -> int:
        """The number of rows of a block of the E-step."""
        return 4096

    @property
    def num_free(self) -> int:
        """The number of free parameters, as an information criterion counts them."""
        raise NotImplementedError

    def log_density(self, x: Rows) -> PerRow:
        """log p(x) of some rows (n,), differentiable in the parameters, nats."""
        raise NotImplementedError

    def prepare(self, x: Rows) -> Tensor:
        """Rows in the form that `e_step` takes: quantities that are computed once and can be kept."""
        return x

    def e_step(
        self, blocks: Iterable[Tensor], hard: bool = False, weights: Tensor | None = None
    ) -> tuple[Statistics, PerRow]:
        """Expected statistics of rows under the exact posterior.

        Args:
            blocks: blocks of prepared rows.
            hard: whether the posterior's mode replaces the posterior.
            weights: how often each row counts in the statistics (N,).

        Returns:
            The statistics, added up over rows, and log p(x) of each row (N,), nats; with `hard` log p(x, mode).
        """
        raise NotImplementedError

    def m_step(self, statistics: Statistics) -> None:
        """Set the parameters to those that maximize the expected log p(x, z) plus the log prior."""
        raise NotImplementedError

    def clamp_parameters(self) -> None:
        """Move parameters that were extrapolated into the range that the M-step keeps: nothing, by default."""

    def log_prior(self) -> Tensor:
        """What MAP adds to the sum over rows of log p(x), (), nats, without constants; differentiable."""
        return torch.zeros(())

    def choose_regularization(self, rows: Rows) -> None:
        """Before a fit, set the strength of regularization by its rows (n, D): nothing, but for models that say so."""

    def start_em(self, mean: Tensor, rows: Rows, kind: str, seed: int) -> None:
        """Set the parameters to a start.

        Args:
            mean: the mean (D,) of all rows.
            rows: some of them (n, D).
            kind: one of `STARTS`.
            seed: the seed of its random numbers.
        """
        raise NotImplementedError

    def init_from_data(self, mean: Tensor, rows: Rows) -> None:
        """Before a first fit by gradients: the same start as EM's.

        Args:
            mean: the mean (D,) of all rows.
            rows: some of them (n, D).
        """
        if not self.started:
            self.choose_regularization(rows)
            self.start_em(mean, rows, "k-means++", 0)

    def revive(self, statistics: Statistics, rows: Rows) -> int:
        """Move empty components to rows.

        Args:
            statistics: those of the last E-step.
            rows: the rows with the lowest log p(x), (n, D).

        Returns:
            The number of components moved.
        """
        return 0

    @torch.no_grad()
    def log_prob(self, x: RowsGiven) -> PerRow:
        """log p(x) of each row (N,), float64 on the CPU, nats; a split counts the Jacobian of standardization."""
        split, target = self.rows_of(x), device_and_dtype(self)
        blocks = [
            self.log_density(rows_with_nan(split, slice(start, start + self.block_rows)).to(*target)).cpu().double()
            for start in range(0, len(split), self.block_rows)
        ]
        return torch.cat(blocks) + split.log_jacobian

    def rows_of(self, x: RowsGiven) -> Split:
        """The rows as a split; `InputError` for another width or preparation, and for gaps that are not supported."""
        split = as_split(x, "test")
        require_same_preparation(self.fitted_measure, split.measure)
        require_taken(self, split.inputs)
        if split.measure.counted and not self.reads_columns:
            raise InputError(CODES)
        if split.shape[1] != self.num_features:
            raise InputError(f"the model has {self.num_features} features, and the rows have {split.shape[1]}")
        if split.mask is not None and not self.supports_missing:
            raise InputError("values are missing, and this model's density needs complete rows: fill them first")
        return split

    def score_samples(self, x: RowsGiven) -> PerRow:
        """`log_prob`, under the name that scikit-learn gives it."""
        return self.log_prob(x)

    def bic(self, x: RowsGiven) -> float:
        """Schwarz's criterion, −2 Σ log p(x) + p log N with p free parameters; lower is better, as in scikit-learn.

        Rows count alike, whatever weights they have.
        """
        log_px = self.log_prob(x)
        return float(-2 * log_px.sum() + self.num_free * math.log(len(log_px)))

    def aic(self, x: RowsGiven) -> float:
        """Akaike's criterion, −2 Σ log p(x) + 2p; lower is better, as in scikit-learn.

        Rows count alike, whatever weights they have.
        """
        return float(-2 * self.log_prob(x).sum() + 2 * self.num_free)


def rows_with_nan(split: Split, rows: slice | Tensor) -> Tensor:
    """Some rows of a split, NaN where a value is missing.

    Args:
        split: the split.
        rows: which.

    Returns:
        x (n, D).
    """
    x = split[rows]
    return x if split.mask is None else torch.where(split.mask[rows], x, math.nan)


def add_statistics(total: Statistics | None, more: Statistics) -> Statistics:
    """The sum of two sets of statistics.

    Args:
        total: the sum so far, None at the start.
        more: the statistics to add.

    Returns:
        A new set.
    """
    return dict(more) if total is None else {name: value + more[name] for name, value in total.items()}


def check_start(kind: str) -> None:
    """`InputError` for an unknown kind of start."""
    if kind not in STARTS:
        raise InputError(f"no start called {kind!r}; try one of {', '.join(STARTS)}")


def column_scales(rows: Tensor) -> Tensor:
    """The standard deviation of each column's observed values (D,), one where it is zero."""
    mean = rows.nanmean(0)
    scale = (rows - mean).square().nanmean(0).sqrt() if rows.isnan().any() else rows.std(0, correction=0)
    return torch.where(scale > 0, scale, torch.ones_like(scale))
