"""Mixtures: p(x) = Σ_c π_c p(x | c), programs with exact posteriors, and their E- and M-steps."""

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar, cast

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.util import broadcast_shape
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyro_vae.data import RowsGiven
from pyro_vae.distributions import Observed
from pyro_vae.errors import InputError
from pyro_vae.models.exact_density import Density, Statistics, add_statistics, check_start, rows_with_nan
from pyro_vae.models.mixture_labels import Labels, find_centres
from pyro_vae.programs.parameters import register_parameters
from pyro_vae.programs.row_inputs import RowInputs, accepts_row_inputs, bind_supported_kwargs
from pyro_vae.typing import Guide, PerRow, Rows

MIN_COUNT = 1.0  # rows, below which a component is empty


class Mixture(Density):
    r"""What mixtures share: $p(x) = \sum_c \pi_c\, p(x | c)$, with the label c of each row as its latent.

    A subclass implements p(x | c).

    Args:
        num_components: the number C of components.
        num_features: the number D of features.
        guide: a part q(c|x), a module whose forward gives a categorical distribution over 0 … C − 1; without one the
            guide is the exact posterior, the responsibilities.
    """

    support: Constraint

    def __init__(self, num_components: int, num_features: int, guide: Guide | None = None) -> None:
        super().__init__(num_features)
        if num_components < 1:
            raise InputError(f"expected one component or more, got {num_components}")
        self.num_components = num_components
        self.logits = nn.Parameter(torch.zeros(num_components, dtype=torch.float64))
        self.posterior = guide.double() if isinstance(guide, nn.Module) else guide

    def extra_repr(self) -> str:
        return f"num_components={self.num_components}, num_features={self.num_features}"

    def model(self, x: Rows, mask: Tensor | None = None) -> None:
        register_parameters(self, "mixture")
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", Labels(self.logits), infer={"enumerate": "parallel"})
            component = _Component(self, c)
            pyro.sample("x", component if mask is None else _ObservedPart(component, mask), obs=x)

    @accepts_row_inputs  # they are passed to the guide part, if its forward takes them
    def guide(self, x: Rows, **row_inputs: object) -> None:
        register_parameters(self, "mixture")
        with pyro.plate("data", len(x)):
            pyro.sample("c", Labels(self._posterior(x, row_inputs).logits), infer={"enumerate": "parallel"})

    def _posterior(self, x: Rows, row_inputs: RowInputs) -> dist.Categorical:
        if self.posterior is not None:
            return cast(dist.Categorical, bind_supported_kwargs(self.posterior)(x, row_inputs))
        mask = row_inputs.get("mask")
        with torch.no_grad():
            x = torch.where(mask, x, math.nan) if isinstance(mask, Tensor) else x
            log_joint = self._log_joint(self.prepare(x), self.table()).T
            has_density = log_joint.isfinite().any(1, keepdim=True)  # not where x is a placeholder outside the support
            return dist.Categorical(logits=torch.where(has_density, log_joint, self.logits.log_softmax(0)))

    @property
    def weights(self) -> Tensor:
        """The components' probabilities π (C,)."""
        return self.logits.detach().softmax(0)

    def _log_joint(self, prepared: Tensor, table: Tensor | None) -> Tensor:
        """log π_c + log p(x | c), components first, (C, n)."""
        return self.logits.log_softmax(0)[:, None] + self.log_probs(prepared, table)

    def table(self) -> Tensor | None:
        """Quantities of log p(x | c) that depend on parameters alone, computed once for many blocks of rows."""
        raise NotImplementedError

    def log_probs(self, prepared: Tensor, table: Tensor | None) -> Tensor:
        """log p(x | c) of every component.

        Args:
            prepared: rows as `prepare` gives them.
            table: what `table` gave.

        Returns:
            Log densities (C, n), nats.
        """
        raise NotImplementedError

    @property
    def means(self) -> Tensor:
        """E[x | c] (C, D)."""
        raise NotImplementedError

    def draw(self, c: Tensor) -> Tensor:
        """A draw of x (..., D) for each label (...,)."""
        raise NotImplementedError

    def statistics(self, prepared: Tensor, shares: Tensor, table: Tensor | None) -> Statistics:
        """Sums over rows weighted by the responsibilities.

        Args:
            prepared: rows as `prepare` gives them.
            shares: the responsibilities (C, n).
            table: what `table` gave, None at the start.

        Returns:
            The sums by name; `counts` (C,) is that of the responsibilities.
        """
        raise NotImplementedError

    def log_density(self, x: Rows) -> PerRow:
        return self._log_joint(self.prepare(x), self.table()).logsumexp(0)

    @torch.no_grad()
    def responsibilities(self, x: RowsGiven) -> Tensor:
        r"""$p(c | x_i) = \pi_c p(x_i | c) / p(x_i)$, (N, C)."""
        x, table = rows_with_nan(self.rows_of(x), slice(None)).to(self.logits), self.table()
        return torch.cat([self._log_joint(self.prepare(rows), table).softmax(0).T for rows in x.split(self.block_rows)])

    @torch.no_grad()
    def draw_missing(self, x: Rows, num: int) -> Tensor:
        """Draws of x given the observed values of each row: a component by its responsibility, and x given both.

        Args:
            x: rows (n, D), NaN where a value is missing.
            num: the number of draws.

        Returns:
            Draws (num, n, D).
        """
        x = x.to(self.logits)
        labels = dist.Categorical(logits=self._log_joint(self.prepare(x), self.table()).T).sample(torch.Size([num]))
        return self.draw_given(labels, x)

    @torch.no_grad()
    def mean_missing(self, x: Rows) -> Rows:
        """E[x] given the observed values of rows (n, D), NaN where a value is missing."""
        x = x.to(self.logits)
        shares = self._log_joint(self.prepare(x), self.table()).softmax(0)
        return torch.einsum("cn,cnd->nd", shares, self.means_given(x))

    def draw_given(self, c: Tensor, x: Rows) -> Tensor:
        """A draw of x given a label and the observed values: by default values are independent given the label.

        Args:
            c: labels (num, n).
            x: rows (n, D), NaN where a value is missing.

        Returns:
            Draws (num, n, D).
        """
        return self.draw(c)

    def means_given(self, x: Rows) -> Tensor:
        """E[x | c, observed values] of rows (n, D) under each component, (C, n, D): by default the component's."""
        return self.means[:, None].expand(-1, len(x), -1)

    def predict(self, x: RowsGiven) -> Tensor:
        """The most probable component of each row, (N,)."""
        return self.responsibilities(x).argmax(1)

    @torch.no_grad()
    def elbo(self, x: RowsGiven, hard: bool = False) -> PerRow:
        r"""$\sum_c q(c|x) (\log \pi_c p(x|c) - \log q(c|x))$ of each row under the guide, (N,), summed, not sampled.

        In the units of `log_prob`, below it by KL(q(c|x) ‖ p(c|x)). For guides that need no `rows`.

        Args:
            x: rows (N, D).
            hard: whether q is the posterior's mode, as in hard EM.

        Returns:
            The bounds (N,), nats.
        """
        split, blocks, table = self.rows_of(x), [], self.table()
        for start in range(0, len(split), self.block_rows):
            rows = rows_with_nan(split, slice(start, start + self.block_rows)).to(self.logits)
            log_joint = self._log_joint(self.prepare(rows), table).T
            if hard:
                blocks.append(log_joint.amax(1))
                continue
            log_q = self._posterior(rows, {}).logits.log_softmax(-1)
            blocks.append((log_q.exp() * (log_joint - log_q)).sum(1))
        return torch.cat(blocks).cpu().double() + split.log_jacobian

    @torch.no_grad()
    def e_step(
        self, blocks: Iterable[Tensor], hard: bool = False, weights: Tensor | None = None
    ) -> tuple[Statistics, PerRow]:
        table, log_px_blocks, total, done = self.table(), [], None, 0
        for prepared in blocks:
            log_joint = self._log_joint(prepared, table)
            if hard:
                log_px, label = log_joint.max(0)
                shares = torch.zeros_like(log_joint).scatter_(0, label[None], 1.0)
            else:
                log_px = log_joint.logsumexp(0)
                shares = log_joint.sub_(log_px).exp_()
            if weights is not None:
                shares *= weights[done : done + len(log_px)]
                done += len(log_px)
            total = add_statistics(total, self.statistics(prepared, shares, table))
            log_px_blocks.append(log_px)
        return total or {}, torch.cat(log_px_blocks)

    @torch.no_grad()
    def m_step(self, statistics: Statistics) -> None:
        counts = statistics["counts"]
        self.logits.copy_((counts / counts.sum()).clamp(min=torch.finfo(counts.dtype).tiny).log())
        self.maximize(statistics)

    def maximize(self, statistics: Statistics) -> None:
        """The M-step of the parameters of p(x | c)."""
        raise NotImplementedError

    def describe_rows(self, mean: Tensor, rows: Rows) -> None:
        """Set quantities of the data that a subclass needs before its first step.

        Args:
            mean: the mean (D,) of all rows.
            rows: some of them (n, D).
        """

    @torch.no_grad()
    def start_em(self, mean: Tensor, rows: Rows, kind: str, seed: int) -> None:
        """Centres among the rows, each row given to the nearest, and an M-step.

        Args:
            mean: the mean (D,) of all rows.
            rows: some of them (n, D).
            kind: how the centres are found, one of `STARTS`.
            seed: the seed of their random numbers.
        """
        check_start(kind)
        if kind == "current":
            if not self.started:
                self.describe_rows(mean, rows)
                self.started.fill_(True)
            return
        if len(rows) < self.num_components:
            raise InputError(f"{self.num_components} components need as many rows to start at, got {len(rows)}")
        self.describe_rows(mean, rows)
        rows, total = torch.where(rows.isnan(), mean, rows).to(self.logits), None
        centres = find_centres(rows, self.num_components, kind, seed)
        self.move_components(torch.arange(self.num_components), centres)
        for block in rows.split(self.block_rows):
            label = (centres.square().sum(1)[:, None] - 2 * centres @ block.T).argmin(0)
            shares = torch.zeros(self.num_components, len(block)).to(centres).scatter_(0, label[None], 1.0)
            total = add_statistics(total, self.statistics(self.prepare(block), shares, None))
        self.m_step(total or {})
        self.started.fill_(True)

    @torch.no_grad()
    def revive(self, statistics: Statistics, rows: Rows) -> int:
        empty = (statistics["counts"] < MIN_COUNT).nonzero()[:, 0][: len(rows)]
        if len(empty):
            self.move_components(empty, rows[: len(empty)])
            self.logits[empty] = self.logits.logsumexp(0) - math.log(self.num_components)
        return len(empty)

    def move_components(self, components: Tensor, rows: Rows) -> None:
        """Set some components' means to rows, and their scales to the prior's.

        Args:
            components: their numbers (m,).
            rows: the rows (m, D).
        """
        raise NotImplementedError


class _Component(TorchDistribution):
    """p(x | c) for labels c: log-probabilities of x under all components once, then indexed by the labels."""

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    has_rsample = False

    def __init__(self, mixture: Mixture, c: Tensor, validate_args: bool | None = None) -> None:
        self.mixture, self.c = mixture, c
        super().__init__(c.shape, torch.Size([mixture.num_features]), validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        return self.mixture.support

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "_Component":
        return _Component(self.mixture, self.c.expand(torch.Size(batch_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        prepared = self.mixture.prepare(value.reshape(-1, value.shape[-1]))
        log_probs = self.mixture.log_probs(prepared, self.mixture.table())
        shape = broadcast_shape(value.shape[:-1], self.c.shape)
        row = torch.arange(log_probs.shape[1], device=log_probs.device).reshape(value.shape[:-1]).expand(shape)
        return log_probs[self.c.expand(shape), row]

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return self.mixture.draw(self.c.expand(torch.Size(sample_shape) + self.c.shape))

    @property
    def mean(self) -> Tensor:
        return self.mixture.means[self.c]


class _ObservedPart(Observed):
    """p of the observed values of x given labels c, the others summed and integrated out."""

    def __init__(self, component: _Component, mask: Tensor) -> None:
        super().__init__(component, mask)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "_ObservedPart":
        component = cast(_Component, self.values)
        return _ObservedPart(component.expand(batch_shape), self.observed)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.values.log_prob(torch.where(self.observed, value, math.nan))
