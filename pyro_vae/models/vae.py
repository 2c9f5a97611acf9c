"""The variational autoencoder: p(z) p_θ(x|z) with guide q_φ(z|x)."""

import math
from collections.abc import Callable

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.argument_checks import check_call, shape_errors_as_input
from pyro_vae.constructor_args import part
from pyro_vae.context_managers import evaluating, one_thread_per_core, seeded
from pyro_vae.data import RowsGiven, Split
from pyro_vae.data.rows_given import rows_as_tensor
from pyro_vae.errors import InputError
from pyro_vae.models.check_parts import check_parts
from pyro_vae.part_bases import init_likelihood_from_rows, init_part_from_data, masked_likelihood
from pyro_vae.programs.distribution_means import distribution_mean, mean_in_closed_form
from pyro_vae.programs.model_and_guide import Program
from pyro_vae.programs.parameters import PARAM_PREFIX, device_and_dtype, register_parameters, use_param_store
from pyro_vae.programs.row_inputs import Batch, RowInputs, accepts_row_inputs, bind_supported_kwargs
from pyro_vae.typing import Guide, Latents, Likelihood, Prior, RowLatents, Rows

IMPUTE_BATCH_SIZE = 256


@part
class VAE(Program):
    r"""A variational autoencoder (Kingma & Welling, arXiv:1312.6114; Rezende et al., arXiv:1401.4082) from three parts.

    $p(x, z) = p(z)\, p_\theta(x|z)$ with guide $q_\phi(z|x)$, one z for each row. Any module or function that returns a
    Pyro distribution is a part.

    Args:
        prior: the part p(z), called without argument.
        likelihood: the part p(x|z), called with z (..., K).
        guide: the part q(z|x), called with x (N, D) and those row inputs that it takes; it is kept as `posterior`,
            since `vae.guide` is the Pyro guide function.

    >>> import pyro_vae as pv
    >>> vae = pv.VAE(
    ...     prior=pv.priors.StandardNormal(2),
    ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.mlp(2, 50, 784)),
    ...     guide=pv.guides.MeanFieldNormal(pv.nets.mlp(784, 50, 2 * 2)),
    ... )
    >>> vae.encode(torch.zeros(3, 784)).shape, vae.decode(torch.zeros(3, 2)).shape, vae.sample(4).shape
    (torch.Size([3, 2]), torch.Size([3, 784]), torch.Size([4, 784]))
    """

    def __init__(self, prior: Prior, likelihood: Likelihood, guide: Guide) -> None:
        nn.Module.__init__(self)
        check_parts(prior, likelihood, guide)
        self.prior, self.likelihood, self.posterior = prior, likelihood, guide
        self.num_features = None
        self.started: Tensor
        self.register_buffer("started", torch.tensor(False))

    def model(self, x: Rows, mask: Tensor | None = None) -> None:
        register_parameters(self.prior, "prior")
        register_parameters(self.likelihood, "likelihood")
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", masked_likelihood(self.likelihood, z, mask), obs=x)

    @accepts_row_inputs  # they are passed to the guide part, if its forward takes them
    def guide(self, x: Rows, **row_inputs: object) -> None:
        register_parameters(self.posterior, "posterior")
        with pyro.plate("data", len(x)):
            pyro.sample("z", bind_supported_kwargs(self.posterior)(x, row_inputs))

    @torch.no_grad()
    def encode(self, x: RowsGiven, **row_inputs: object) -> RowLatents:
        """Posterior means (N, K), from 64 draws where the guide has no mean; from several threads at the same time."""
        return self._by_parts((self.posterior,), x, row_inputs, super().encode)

    @torch.no_grad()
    def reconstruct(self, x: RowsGiven, **row_inputs: object) -> Rows:
        """E[x | z] at the guide's posterior means, (N, D); from several threads at the same time."""
        return self._by_parts((self.posterior, self.likelihood), x, row_inputs, super().reconstruct)

    def _by_parts(
        self,
        parts: tuple[Guide | Likelihood, ...],
        x: RowsGiven,
        row_inputs: RowInputs,
        by_trace: Callable[..., Tensor],
    ) -> Tensor:
        """The mean of the last part's distribution at the one before: without a trace, so without Pyro's lock.

        Only where a trace has given the same numbers before, and its result cannot differ otherwise: in evaluation
        mode, and not for parts with random weights or parameters by `pyro.param`.
        """
        x = rows_as_tensor(x.x if isinstance(x, Split) else x)
        known = self.__dict__.setdefault("_known_parts", {})
        needs_trace = (
            self.training
            or (type(self).model, type(self).guide) != (VAE.model, VAE.guide)
            or any(isinstance(module, PyroModule) for module in self.modules())
            or any(name.startswith(PARAM_PREFIX) for name in self._parameters)
        )
        is_known = all(one is other for one, other in zip(known.get(len(parts), (None,)), parts, strict=False))
        if is_known and not needs_trace:
            with one_thread_per_core():
                found = self._means_of(parts, x, row_inputs)
            return by_trace(x, **row_inputs) if found is None else found
        traced = by_trace(x, **row_inputs)
        if not needs_trace:
            with use_param_store(self):
                found = self._means_of(parts, x, row_inputs)
            if found is not None and torch.equal(found, traced):
                known[len(parts)] = parts
        return traced

    def _means_of(self, parts: tuple[Guide | Likelihood, ...], x: Rows, row_inputs: RowInputs) -> Tensor | None:
        """The means, None where one is not known in closed form."""
        batch = Batch.of(x.to(*device_and_dtype(self, like=x)), row_inputs)
        found: Tensor | None = batch.x
        for each, given in zip(parts, (batch.row_inputs, {}), strict=False):
            found = None if found is None else mean_in_closed_form(bind_supported_kwargs(each)(found, given))
        return found

    @torch.no_grad()
    def decode(self, z: Latents) -> Tensor:
        """E[x | z], (..., K) → (..., D)."""
        if not isinstance(z, Tensor):
            raise InputError(f"z must be a tensor of latents (..., K), got {z!r:.60}")
        with (
            use_param_store(self),
            shape_errors_as_input(f"the likelihood does not take z of {z.shape[-1]} dimensions"),
        ):
            return distribution_mean(self.likelihood(z.to(*device_and_dtype(self, like=z))))

    @torch.no_grad()
    @check_call
    def impute(self, x: RowsGiven, num_samples: int = 100, seed: int | None = 0) -> Rows:
        r"""Each missing value replaced by its mean given what was observed in the row.

        $E[x_m | x_o] \approx \sum_s \bar w_s E[x_m | z_s]$ with draws $z_s \sim q(z | x_o)$ and self-normalized weights
        $w_s = p(z_s) p(x_o | z_s) / q(z_s | x_o)$ (Mattei & Frellsen, arXiv:1812.02633).
        Raises `InputError` for categories, which have no mean.

        Args:
            x: rows (N, D), NaN where a value is missing, or a split with its mask.
            num_samples: the number S of draws for each row.
            seed: a seed of the random numbers; None continues with torch's generator.

        Returns:
            Rows (N, D), in the units of x.
        """
        if isinstance(x, Split):
            x = x.x if x.mask is None else torch.where(x.mask, x.x, math.nan)
        x = rows_as_tensor(x, missing=True)
        x = x.to(*device_and_dtype(self, like=x))
        mask = ~x.isnan()
        filled = x.nan_to_num(nan=0.0)
        blocks = []
        message = f"the VAE does not take rows of {x.shape[1]} columns"
        with use_param_store(self), seeded(seed), evaluating(self), shape_errors_as_input(message):
            for start in range(0, len(x), IMPUTE_BATCH_SIZE):
                rows, observed = filled[start : start + IMPUTE_BATCH_SIZE], mask[start : start + IMPUTE_BATCH_SIZE]
                q = bind_supported_kwargs(self.posterior)(rows, {"mask": observed})
                z = q.sample((num_samples,))
                log_weights = (
                    self.prior().log_prob(z)
                    - q.log_prob(z)
                    + masked_likelihood(self.likelihood, z, observed).log_prob(rows)
                )
                means = (log_weights.softmax(0).unsqueeze(-1) * self.likelihood(z).mean).sum(0)
                if means.isnan().any():
                    raise InputError("this likelihood has no mean to impute with")
                blocks.append(torch.where(observed, rows, means))
        return torch.cat(blocks)

    def init_from_data(self, mean: Tensor, rows: Tensor) -> None:
        """Before a VAE's first fit: initialize the likelihood and the prior, each if it supports that.

        Args:
            mean: the data's mean (D,), for the likelihood.
            rows: some rows (n, D), for both.
        """
        if not self.started:
            init_part_from_data(self.likelihood, mean)
            init_likelihood_from_rows(self.likelihood, rows[:, : len(mean)])
            init_part_from_data(self.prior, rows)
        self.started.fill_(True)
