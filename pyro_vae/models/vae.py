"""The variational autoencoder: p(z) p_θ(x|z) with guide q_φ(z|x)."""

import math
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.constructor_args import part
from pyro_vae.context_managers import evaluating, is_recording, seeded
from pyro_vae.data import Split
from pyro_vae.distributions import Observed
from pyro_vae.errors import InputError
from pyro_vae.flows import concat
from pyro_vae.programs.model_and_guide import Program, distribution_mean, sample
from pyro_vae.programs.parameters import device_and_dtype, register_parameters, use_param_store
from pyro_vae.programs.row_inputs import bind_supported_kwargs
from pyro_vae.typing import Latents, Rows

IMPUTE_BATCH_SIZE = 256


@part
class VAE(Program):
    r"""A variational autoencoder (Kingma & Welling, arXiv:1312.6114; Rezende et al., arXiv:1401.4082) from three parts.

    $p(x, z) = p(z)\, p_\theta(x|z)$ with guide $q_\phi(z|x)$, one z for each row. `prior()`, `likelihood(z)` and
    `guide(x)` return Pyro distributions; any module or function that does so is a part. The part given as `guide` is
    kept as `posterior`, since `vae.guide` is the Pyro guide function.

    >>> import pyro_vae as pv
    >>> vae = pv.VAE(
    ...     prior=pv.priors.StandardNormal(2),
    ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.mlp(2, 50, 784)),
    ...     guide=pv.guides.MeanFieldNormal(pv.nets.mlp(784, 50, 2 * 2)),
    ... )
    >>> vae.encode(torch.zeros(3, 784)).shape, vae.decode(torch.zeros(3, 2)).shape, vae.sample(4).shape
    (torch.Size([3, 2]), torch.Size([3, 784]), torch.Size([4, 784]))
    """

    def __init__(self, prior: Any, likelihood: Any, guide: Any) -> None:
        nn.Module.__init__(self)
        self.prior, self.likelihood, self.posterior = prior, likelihood, guide
        self.num_features = None
        self.started: Tensor
        self.register_buffer("started", torch.tensor(False))

    def model(self, x: Rows, mask: Tensor | None = None) -> None:  # type: ignore[override]  # with the row inputs it takes
        register_parameters(self.prior, "prior")
        register_parameters(self.likelihood, "likelihood")
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self._likelihood_of_observed(z, mask), obs=x)

    def _likelihood_of_observed(self, z: Latents, mask: Tensor | None) -> Any:
        """p(x | z), of the observed values alone where there is a mask."""
        if mask is None:
            return self.likelihood(z)
        masked = getattr(self.likelihood, "masked", None)
        return Observed(self.likelihood(z), mask.bool()) if masked is None else masked(z, mask)

    def guide(self, x: Rows, **row_inputs: Any) -> None:
        register_parameters(self.posterior, "posterior")
        with pyro.plate("data", len(x)):
            pyro.sample("z", bind_supported_kwargs(self.posterior)(x, row_inputs))

    guide.accepts_row_inputs = True  # type: ignore[attr-defined]  # passed to the guide part, if its forward takes them

    @torch.no_grad()
    def decode(self, z: Latents) -> Tensor:
        """E[x | z], (..., K) → (..., D)."""
        with use_param_store(self):
            return distribution_mean(self.likelihood(z.to(*device_and_dtype(self, like=z))))

    @torch.no_grad()
    def impute(self, x: Tensor | Split, num_samples: int = 100, seed: int | None = 0) -> Rows:
        r"""x (N, D), a tensor or a split, each missing value replaced by its mean given what was observed in the row.

        $E[x_m | x_o] \approx \sum_s \bar w_s E[x_m | z_s]$ with draws $z_s \sim q(z | x_o)$ and self-normalized weights
        $w_s = p(z_s) p(x_o | z_s) / q(z_s | x_o)$ (Mattei & Frellsen, arXiv:1812.02633). In the units of x.
        Raises `InputError` for categories, which have no mean.
        """
        if isinstance(x, Split):
            x = x.x if x.mask is None else torch.where(x.mask, x.x, math.nan)
        x = x.to(*device_and_dtype(self, like=x))
        mask = ~x.isnan()
        filled = x.nan_to_num(nan=0.0)
        blocks = []
        with use_param_store(self), seeded(seed), evaluating(self):
            for start in range(0, len(x), IMPUTE_BATCH_SIZE):
                rows, observed = filled[start : start + IMPUTE_BATCH_SIZE], mask[start : start + IMPUTE_BATCH_SIZE]
                q = bind_supported_kwargs(self.posterior)(rows, {"mask": observed})
                z = q.sample((num_samples,))
                log_weights = (
                    self.prior().log_prob(z) - q.log_prob(z) + self._likelihood_of_observed(z, observed).log_prob(rows)
                )
                means = (log_weights.softmax(0).unsqueeze(-1) * self.likelihood(z).mean).sum(0)
                if means.isnan().any():
                    raise InputError("this likelihood has no mean to impute with")
                blocks.append(torch.where(observed, rows, means))
        return torch.cat(blocks)

    def init_from_data(self, mean: Tensor, rows: Tensor) -> None:
        """Before a VAE's first fit: initialize the likelihood at the data's mean (D,), the prior at some rows (n, D).

        Each only if it supports that.
        """
        for part_, values in ((self.likelihood, mean), (self.prior, rows)):
            start = getattr(part_, "init_from_data", None)
            if not self.started and start is not None:
                start(values)
        self.started.fill_(True)


@part
class ConditionalVAE(VAE):
    r"""A VAE of x given a label y, $p(x, z | y) = p(z)\, p_\theta(x | z, y)$ with guide $q_\phi(z | x, y)$.

    Kingma et al. (arXiv:1406.5298, their M2 with known labels). The likelihood's network takes z and the label's
    indicator concatenated, K + C inputs, the guide's x and the indicator, D + C. Labels 0 … C − 1 come from the data
    set or as `labels=`; without them `sample` goes through the labels in turn. Raises `InputError` for a label outside.

    >>> import pyro_vae as pv
    >>> vae = ConditionalVAE(
    ...     prior=pv.priors.StandardNormal(2),
    ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.mlp(2 + 10, 50, 64)),
    ...     guide=pv.guides.MeanFieldNormal(pv.nets.mlp(64 + 10, 50, 2 * 2)),
    ...     num_labels=10,
    ... )
    >>> data = pv.load_data("digits")
    >>> fitted = pv.fit(vae, data, epochs=2)
    >>> vae.sample(5, labels=torch.tensor([7, 7, 7, 7, 7])).shape
    torch.Size([5, 64])
    """

    def __init__(self, prior: Any, likelihood: Any, guide: Any, num_labels: int) -> None:
        VAE.__init__(self, prior, likelihood, guide)
        if num_labels < 2:
            raise InputError(f"expected two labels or more, got {num_labels}")
        self.num_labels = num_labels

    def model(self, x: Rows, labels: Tensor | None = None, mask: Tensor | None = None) -> None:  # type: ignore[override]
        register_parameters(self.prior, "prior")
        register_parameters(self.likelihood, "likelihood")
        y = self._indicator(torch.arange(len(x), device=x.device) % self.num_labels if labels is None else labels, x)
        with pyro.plate("data", len(x)):
            z = concat(pyro.sample("z", self.prior()), y)
            pyro.sample("x", self._likelihood_of_observed(z, mask), obs=x)

    def guide(self, x: Rows, labels: Tensor | None = None, **row_inputs: Any) -> None:
        if labels is None:
            raise InputError("a conditional VAE needs labels, which these rows do not have: give labels=…")
        register_parameters(self.posterior, "posterior")
        with pyro.plate("data", len(x)):
            pyro.sample("z", bind_supported_kwargs(self.posterior)(concat(x, self._indicator(labels, x)), row_inputs))

    guide.accepts_row_inputs = True  # type: ignore[attr-defined]

    def init_from_data(self, mean: Tensor, rows: Tensor) -> None:
        """As a VAE's; a prior that starts at rows gets them concatenated with labels, each in turn."""
        turns = torch.arange(len(rows), device=rows.device) % self.num_labels
        VAE.init_from_data(self, mean, concat(rows, self._indicator(turns, rows)))

    def _indicator(self, labels: Tensor, like: Tensor) -> Tensor:
        if not is_recording():
            self.check_labels(labels)
        return (labels.unsqueeze(-1) == torch.arange(self.num_labels, device=labels.device)).to(like.dtype)

    def check_labels(self, labels: Tensor) -> None:
        """Raise `InputError` for a label outside 0 … C − 1."""
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_labels:
            raise InputError(
                f"labels from {int(labels.min())} to {int(labels.max())}, expected 0 to {self.num_labels - 1}"
            )

    @torch.no_grad()
    def decode(self, z: Latents, labels: Tensor) -> Tensor:  # type: ignore[override]
        """E[x | z, y], (..., K) and (...,) → (..., D)."""
        return VAE.decode(self, concat(z, self._indicator(labels, z)))

    def sample(self, n: int, seed: int | None = None, labels: Tensor | None = None) -> Tensor:
        """n new rows with these labels (n,), or with each label in turn, (n, D)."""
        return sample(self, n, seed=seed, labels=labels)

    def impute(self, x: Tensor | Split, num_samples: int = 100, seed: int | None = 0) -> Rows:
        raise InputError(
            "impute is not implemented for a conditional VAE: leave the labels out of the model, or fill x first"
        )
