"""Mixtures of products over columns with kinds: each component holds one distribution a column."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.argument_checks import check_call
from pyro_vae.constructor_args import part
from pyro_vae.data.columns import Schema
from pyro_vae.distributions.column_vector import ColumnVector
from pyro_vae.errors import InputError
from pyro_vae.likelihoods.columns import column_support
from pyro_vae.models.column_families import (
    ColumnFamily,
    LogitNormalColumns,
    LogNormalColumns,
    NormalColumns,
    ZeroOrLogNormalColumns,
)
from pyro_vae.models.counted_families import LevelColumns, LogisticColumns, NegativeBinomialColumns
from pyro_vae.models.exact_density import Statistics, add_statistics, check_start
from pyro_vae.models.finite_mixture import Mixture
from pyro_vae.models.mixture_labels import find_centres
from pyro_vae.typing import Guide, Rows

MAX_BLOCK_NUMBERS = 2**20  # C × rows × D of a block
FAMILIES: dict[str, type[ColumnFamily]] = {
    "normal": NormalColumns,
    "log-normal": LogNormalColumns,
    "zero or log-normal": ZeroOrLogNormalColumns,
    "logit-normal": LogitNormalColumns,
    "negative-binomial": NegativeBinomialColumns,
    "logistic": LogisticColumns,
    "levels": LevelColumns,
    "ordinal": LevelColumns,
}


@part
class ColumnsMixture(Mixture):
    r"""A mixture of products over columns, $p(x) = \sum_c \pi_c \prod_d p(x_d | \theta_{cd})$, each of its kind.

    The densities are those of `likelihoods.Columns`, against the same measure: normal (real numbers and dates),
    log-normal, with a probability of 0 where the data has zeros, logit-normal, negative binomial, discretized logistic,
    and probabilities of levels (ordinal ones too). With levels alone it is latent class analysis. Missing values leave
    the product, so that gaps are exact.

    `fit_em` maximizes the likelihood with a weak prior, as if each component held `prior_rows` more rows: for variances
    and the scales of whole numbers rows that lie $C^{-1/D}$ standard deviations of the column from the component's own
    mean, for counts rows of the data's mean, for levels and zeros rows with the data's shares. The M-step is closed but
    for the total counts of negative binomials and for discretized logistic columns, where it is that of a lower bound
    which touches: the objective never falls. Scales are 1e-4 standard deviations at least.

    Args:
        num_components: the number C of components.
        schema: the columns (`data.schema`), whose coding is "columns".
        prior_rows: the weight of the prior; 0 is maximum likelihood.
        guide: a part q(c|x) instead of the exact posterior.

    >>> import pyro_vae as pv
    >>> data = pv.load_data("customers", label="churned")
    >>> mixture = ColumnsMixture(3, data.schema)
    >>> fitted = pv.fit_em(mixture, data, seed=0)
    >>> bool(mixture.log_prob(data.test).mean() > -25)
    True
    """

    supports_missing, reads_columns, accelerated = True, True, True

    @check_call
    def __init__(
        self, num_components: int, schema: Schema, *, prior_rows: float = 5.0, guide: Guide | None = None
    ) -> None:
        columns = schema.modelled
        super().__init__(num_components, len(columns), guide)
        if schema.coding != "columns":
            raise InputError(
                "a ColumnsMixture is for rows that are coded by the kinds of their columns: load_data(…, "
                "coding='columns'); for real numbers take GaussianMixture(…, covariance='diagonal'), for bits "
                "BernoulliMixture"
            )
        if prior_rows < 0:
            raise InputError(f"prior_rows must not be negative, got {prior_rows}")
        self.prior_rows = float(prior_rows)
        self.each_support = column_support(columns)
        self.support = constraints.independent(self.each_support, 1)
        groups: dict[tuple[str, int], list[int]] = {}
        for number, column in enumerate(columns):
            width = max(0, len(column.levels) - 1).bit_length()
            groups.setdefault((replace(column, family="").distribution, width), []).append(number)
        self.families = nn.ModuleList(
            FAMILIES[name]([columns[i] for i in numbers], num_components, self.prior_rows)
            for (name, _), numbers in groups.items()
        )
        for i, numbers in enumerate(groups.values()):
            self.register_buffer(f"columns_{i}", torch.tensor(numbers), persistent=False)
        order = torch.tensor([number for numbers in groups.values() for number in numbers]).argsort()
        self.register_buffer("order", order, persistent=False)

    order: Tensor

    def groups(self, x: Tensor) -> list[tuple[ColumnFamily, Tensor]]:
        """Each family with its columns of rows.

        Args:
            x: rows (n, D).

        Returns:
            Pairs of a family and its columns (n, m).
        """
        return [(family, x[..., self.columns_of(i)]) for i, family in enumerate(self._families)]

    def columns_of(self, group: int) -> Tensor:
        """The numbers of a group's columns (m,)."""
        return self.get_buffer(f"columns_{group}")

    @property
    def _families(self) -> list[ColumnFamily]:
        return [family for family in self.families if isinstance(family, ColumnFamily)]

    @property
    def num_free(self) -> int:
        return self.num_components - 1 + self.num_components * sum(family.num_free for family in self._families)

    @property
    def block_rows(self) -> int:
        return max(64, min(4096, MAX_BLOCK_NUMBERS // (self.num_components * self.num_features)))

    def components(self, c: Tensor) -> ColumnVector:
        """p(x | c).

        Args:
            c: labels (...,).

        Returns:
            Distributions (...,) of rows (D,).
        """
        columns = [self.columns_of(i) for i in range(len(self.families))]
        return ColumnVector([family(c) for family in self._families], columns, self.order, self.each_support)

    @property
    def means(self) -> Tensor:
        """E[x | c] (C, D), of levels the most probable one."""
        with torch.no_grad():
            return self.components(torch.arange(self.num_components, device=self.logits.device)).mean

    def prepare(self, x: Rows) -> Tensor:
        return x.to(self.logits)

    def table(self) -> Tensor | None:
        return None

    def log_probs(self, prepared: Tensor, table: Tensor | None) -> Tensor:
        each = [family.log_probs(x) for family, x in self.groups(prepared)]
        return torch.stack(each).sum(0)

    def statistics(self, prepared: Tensor, shares: Tensor, table: Tensor | None) -> Statistics:
        found: Statistics = {"counts": shares.sum(1)}
        for i, (family, x) in enumerate(self.groups(prepared)):
            found |= {f"{i}.{name}": value for name, value in family.statistics(x, shares).items()}
        return found

    @torch.no_grad()
    def maximize(self, statistics: Statistics) -> None:
        for i, family in enumerate(self._families):
            start = f"{i}."
            own = {name.removeprefix(start): sums for name, sums in statistics.items() if name.startswith(start)}
            family.maximize(own)

    def log_prior(self) -> Tensor:
        if not self.prior_rows:
            return self.logits.new_zeros(())
        return torch.stack([family.log_prior() for family in self._families]).sum()

    @torch.no_grad()
    def clamp_parameters(self) -> None:
        for family in self._families:
            family.clamp()

    @torch.no_grad()
    def describe_rows(self, mean: Tensor, rows: Rows) -> None:
        spread = self.num_components ** (-1 / self.num_features)
        for family, x in self.groups(rows.to(self.logits)):
            family.describe(x, spread)

    @torch.no_grad()
    def start_em(self, mean: Tensor, rows: Rows, kind: str, seed: int) -> None:
        """Centres among the rows as standardized numbers and bits of levels, each row given to the nearest.

        Args:
            mean: the mean (D,) of all rows.
            rows: some of them (n, D).
            kind: how the centres are found, one of `STARTS`.
            seed: the seed of their random numbers.
        """
        check_start(kind)
        if kind == "current" or len(rows) < self.num_components:
            super().start_em(mean, rows, kind, seed)
            return
        self.describe_rows(mean, rows)
        every = torch.arange(self.num_components, device=self.logits.device)
        self.move_components(every, torch.full_like(mean, torch.nan).expand(self.num_components, -1))
        features, total = self._features(rows.to(self.logits)), None
        label = torch.cdist(features, find_centres(features, self.num_components, kind, seed)).argmin(1)
        for block, at in zip(rows.split(self.block_rows), label.split(self.block_rows), strict=True):
            shares = (every[:, None] == at).to(self.logits)
            total = add_statistics(total, self.statistics(self.prepare(block), shares, None))
        self.m_step(total or {})
        self.started.fill_(True)

    def _features(self, x: Tensor) -> Tensor:
        """Numbers (n, m), centred and those of single columns with variance 1, 0 where a value is missing."""
        parts = []
        for family, columns in self.groups(x):
            values = family.features(columns)
            centred = values - values.nanmean(0)
            is_bits = isinstance(family, LevelColumns)
            parts.append(centred if is_bits else centred / centred.square().nanmean(0).sqrt().clamp(min=1e-12))
        return torch.cat(parts, 1).nan_to_num(nan=0.0)

    @torch.no_grad()
    def move_components(self, components: Tensor, rows: Rows) -> None:
        for family, x in self.groups(rows.to(self.logits)):
            family.move(components, x)

    def draw(self, c: Tensor) -> Tensor:
        return self.components(c).sample()
