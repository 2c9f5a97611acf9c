"""The variational autoencoder: p(z) p_θ(x|z) and q_φ(z|x), written once."""

from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.models.program import Program, parameters_of, place_of, show_parameters
from pyro_vae.models.rows import caller
from pyro_vae.recipes import part
from pyro_vae.shapes import Latents, Rows


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

    def model(self, x: Rows, mask: Tensor | None = None) -> None:  # type: ignore[override]  # the extras it asks for
        show_parameters(self.prior, "prior")
        show_parameters(self.likelihood, "likelihood")
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z) if mask is None else self.likelihood.masked(z, mask), obs=x)

    def guide(self, x: Rows, **extras: Any) -> None:
        show_parameters(self.posterior, "posterior")
        with pyro.plate("data", len(x)):
            pyro.sample("z", caller(self.posterior)(x, extras))

    guide.passes_extras = True  # type: ignore[attr-defined]  # to the guide part, each where its forward names it

    @torch.no_grad()
    def decode(self, z: Latents) -> Tensor:
        """E[x | z], (..., K) → (..., D)."""
        with parameters_of(self):
            return self.likelihood(z.to(place_of(self, like=z))).mean

    def start_at(self, mean: Tensor, rows: Tensor) -> None:
        """Before a VAE's first fit: let the likelihood start at the data's mean (D,) and the prior at some rows (n, D).

        Each where it knows how.
        """
        for part_, values in ((self.likelihood, mean), (self.prior, rows)):
            start = getattr(part_, "start_at", None)
            if not self.started and start is not None:
                start(values)
        self.started.fill_(True)
