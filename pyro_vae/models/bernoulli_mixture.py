"""Mixtures of independent Bernoulli variables."""

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import softplus

from pyro_vae.constructor_args import part
from pyro_vae.errors import InputError
from pyro_vae.models.exact_density import Statistics
from pyro_vae.models.finite_mixture import Mixture
from pyro_vae.typing import Guide, Rows


@part
class BernoulliMixture(Mixture):
    r"""A mixture of independent Bernoulli variables, $p(x) = \sum_c \pi_c \prod_d p_{cd}^{x_d} (1 - p_{cd})^{1 - x_d}$.

    `fit_em` maximizes the likelihood with a Beta prior on each probability, as if each component held `prior_rows` more
    rows with the data's frequencies of ones. Values are 0 or 1.

    Args:
        num_components: the number C of components.
        num_features: the number D of values.
        prior_rows: the weight of the prior; 0 is maximum likelihood, which gives a value that no row of a component has
            a probability near zero, e^−700.
        guide: a part q(c|x) instead of the exact posterior.

    >>> import pyro_vae as pv
    >>> data = pv.load_data("digits")
    >>> mixture = BernoulliMixture(num_components=10, num_features=64)
    >>> fitted = pv.fit_em(mixture, data, seed=0)
    >>> bool(mixture.log_prob(data.test).mean() > -28)
    True
    """

    support, supports_missing = constraints.independent(constraints.boolean, 1), True
    prior_mean: Tensor

    def __init__(
        self, num_components: int, num_features: int, *, prior_rows: float = 1.0, guide: Guide | None = None
    ) -> None:
        super().__init__(num_components, num_features, guide)
        if prior_rows < 0:
            raise InputError(f"prior_rows must not be negative, got {prior_rows}")
        self.prior_rows = float(prior_rows)
        start = 0.1 * torch.randn(num_components, num_features, dtype=torch.float64)
        self.logits_of_bits = nn.Parameter(start)
        self.register_buffer("prior_mean", torch.full((num_features,), 0.5, dtype=torch.float64))

    @property
    def num_free(self) -> int:
        return self.num_components - 1 + self.num_components * self.num_features

    @property
    def means(self) -> Tensor:
        """The probabilities of a one (C, D)."""
        return self.logits_of_bits.detach().sigmoid()

    def prepare(self, x: Rows) -> Tensor:
        return x.to(self.logits)

    def table(self) -> Tensor:
        """The values' coefficients and a constant, (C, D + 1)."""
        return torch.cat([self.logits_of_bits, -softplus(self.logits_of_bits).sum(1, keepdim=True)], 1)

    def log_probs(self, prepared: Tensor, table: Tensor | None) -> Tensor:
        assert table is not None
        if prepared.isnan().any():
            observed = (~prepared.isnan()).to(prepared)
            return self.logits_of_bits @ prepared.nan_to_num().T - softplus(self.logits_of_bits) @ observed.T
        return table[:, :-1] @ prepared.T + table[:, -1:]

    def statistics(self, prepared: Tensor, shares: Tensor, table: Tensor | None) -> Statistics:
        """How many rows have a one, in expectation where the value is missing.

        Args:
            prepared: rows (n, D).
            shares: responsibilities (C, n).
            table: is not used.

        Returns:
            `counts` (C,) of rows, and `ones` (C, D).
        """
        ones = shares @ prepared.nan_to_num()
        if prepared.isnan().any():
            ones = ones + (shares @ prepared.isnan().to(prepared)) * self.means
        return {"counts": shares.sum(1), "ones": ones}

    @torch.no_grad()
    def maximize(self, statistics: Statistics) -> None:
        n0, counts = self.prior_rows, statistics["counts"][:, None]
        ones, zeros = (
            statistics["ones"] + n0 * self.prior_mean,
            counts - statistics["ones"] + n0 * (1 - self.prior_mean),
        )
        smallest = torch.finfo(ones.dtype).tiny
        self.logits_of_bits.copy_(ones.clamp(min=smallest).log() - zeros.clamp(min=smallest).log())

    def log_prior(self) -> Tensor:
        mean, logits = self.prior_mean, self.logits_of_bits
        return -self.prior_rows * (mean * softplus(-logits) + (1 - mean) * softplus(logits)).sum()

    @torch.no_grad()
    def describe_rows(self, mean: Tensor, rows: Rows) -> None:
        self.prior_mean.copy_((len(rows) * mean + 0.5) / (len(rows) + 1))

    def move_components(self, components: Tensor, rows: Rows) -> None:
        rows = torch.where(rows.isnan(), self.prior_mean, rows)
        mean = (rows.to(self.prior_mean) + self.prior_rows * self.prior_mean) / (1 + self.prior_rows)
        self.logits_of_bits[components] = mean.clamp(1e-3, 1 - 1e-3).logit()

    def draw(self, c: Tensor) -> Tensor:
        return torch.bernoulli(self.means[c])
