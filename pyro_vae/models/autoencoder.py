"""The plain autoencoder: a VAE's networks without its probabilities. It has no density."""

from collections.abc import Sequence
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.constructor_args import part
from pyro_vae.data import RowsGiven
from pyro_vae.errors import InputError
from pyro_vae.part_bases import init_part_from_data
from pyro_vae.programs.distribution_means import distribution_mean
from pyro_vae.programs.model_and_guide import Program
from pyro_vae.programs.parameters import device_and_dtype, register_parameters, use_param_store
from pyro_vae.typing import Latents, Likelihood, RowLatents, Rows

CORRUPTIONS = ("masking", "gaussian")


class _NoPrior(dist.TorchDistribution):
    """A placeholder prior with log p(z) = 0 everywhere, which is no distribution."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, num_latents: int, batch_shape: Sequence[int] = ()) -> None:
        super().__init__(torch.Size(batch_shape), torch.Size([num_latents]), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "_NoPrior":
        return _NoPrior(self.event_shape[0], batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return value.new_zeros(value.shape[:-1])

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        raise InputError(
            "an autoencoder has no prior to draw z from; fit a distribution to its codes and decode draws of that, or "
            "take a VAE"
        )


@part
class Autoencoder(Program):
    r"""An autoencoder, $x \to z = f_\phi(x) \to p_\theta(x|z)$, from a VAE's networks (Hinton & Salakhutdinov 2006).

    As a program its guide is a point mass at the code and z has no prior, so the objective of `fit`, reported as
    `elbo`, is the reconstruction term
    $\log p_\theta(x | f_\phi(x))$ alone: minus the squared error, up to scale and constant, for a normal likelihood of
    fixed scale, and minus the cross-entropy for a Bernoulli. A denoising one gets corrupted rows in training, and the
    likelihood is that of the original ones (Vincent et al. 2010).

    There is no p(z), hence no p(x): asking for log p(x) or for draws raises `InputError`. Also raised for codes of
    another width than `num_latents`.

    Args:
        encoder: a network from (N, D) to codes (N, K), one point for each row.
        likelihood: the part p(x|z), as a VAE's.
        num_latents: the number K of latent dimensions.
        denoising: how much rows are corrupted in training; 0 is not at all.
        corruption: `"masking"` sets that share of each row's values to zero, `"gaussian"` adds noise of that standard
            deviation.

    >>> import pyro_vae as pv
    >>> data = pv.load_data("digits")
    >>> autoencoder = pv.Autoencoder(
    ...     encoder=pv.nets.mlp(64, 50, 2), likelihood=pv.likelihoods.Bernoulli(pv.nets.mlp(2, 50, 64)), num_latents=2
    ... )
    >>> fitted = pv.fit(autoencoder, data, epochs=2)
    >>> autoencoder.encode(data.valid.x).shape[1], autoencoder.decode(torch.zeros(3, 2)).shape
    (2, torch.Size([3, 64]))
    """

    no_density = (
        "an autoencoder has no density: codes have no prior, so log p(x) does not exist; compare "
        "reconstruction errors (pv.studies.reconstruction_error), or take a VAE of the same networks"
    )

    def __init__(
        self,
        encoder: nn.Module,
        likelihood: Likelihood,
        num_latents: int,
        denoising: float = 0.0,
        corruption: str = "masking",
    ) -> None:
        nn.Module.__init__(self)
        if corruption not in CORRUPTIONS:
            raise InputError(f"no corruption called {corruption!r}; try one of {', '.join(CORRUPTIONS)}")
        if denoising < 0 or (corruption == "masking" and denoising >= 1):
            raise InputError(
                f"denoising is a share of values to mask, below 1, or the standard deviation of noise; got {denoising}"
            )
        self.encoder, self.likelihood, self.num_latents = encoder, likelihood, num_latents
        self.denoising, self.corruption = denoising, corruption
        self.num_features = None
        self.started: Tensor
        self.register_buffer("started", torch.tensor(False))

    def extra_repr(self) -> str:
        noise = f", denoising={self.denoising}, corruption={self.corruption!r}" if self.denoising else ""
        return f"num_latents={self.num_latents}{noise}"

    def model(self, x: Rows) -> None:
        register_parameters(self.likelihood, "likelihood")
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", _NoPrior(self.num_latents))
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x: Rows) -> None:
        register_parameters(self.encoder, "encoder")
        codes = self.encoder(self._corrupt(x) if self.training and self.denoising else x)
        if codes.shape[-1] != self.num_latents:
            raise InputError(
                f"the encoder gives {codes.shape[-1]} numbers for each row, but num_latents={self.num_latents}"
            )
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(codes, event_dim=1))

    def _corrupt(self, x: Rows) -> Rows:
        if self.corruption == "gaussian":
            return x + self.denoising * torch.randn_like(x)
        return x * (torch.rand_like(x) >= self.denoising)

    @torch.no_grad()
    def decode(self, z: Latents) -> Tensor:
        """E[x | z], (..., K) → (..., D)."""
        with use_param_store(self):
            return distribution_mean(self.likelihood(z.to(*device_and_dtype(self, like=z))))

    def encode(self, x: RowsGiven, **row_inputs: object) -> RowLatents:
        """The codes (N, K)."""
        return super().encode(x)

    def reconstruct(self, x: RowsGiven, **row_inputs: object) -> Rows:
        """E[x | code of x], (N, D)."""
        return super().reconstruct(x)

    def init_from_data(self, mean: Tensor, rows: Tensor) -> None:
        """Before the first fit: initialize the likelihood, where it supports that.

        Args:
            mean: the data's mean (D,).
            rows: are not used.
        """
        if not self.started:
            init_part_from_data(self.likelihood, mean)
        self.started.fill_(True)
