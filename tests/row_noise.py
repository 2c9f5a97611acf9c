"""Programs whose draws are functions of the row and the particle, so that copies of a row have the same draws."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_vae as pv

NO_SHAPE = torch.Size()


class RowNoise(dist.Normal):
    """A normal whose standardized draws are sin(noise + 1.7 s) for particle s; `noise` (n, K) is of the rows."""

    def __init__(self, loc: Tensor, scale: Tensor, noise: Tensor) -> None:
        super().__init__(loc, scale, validate_args=False)
        self.noise = noise

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "RowNoise":
        return RowNoise(self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.noise)

    def rsample(self, sample_shape: torch.Size = NO_SHAPE) -> Tensor:
        shape = self._extended_shape(sample_shape)
        leading = shape[: len(shape) - self.noise.dim()]
        particle = torch.arange(leading.numel()).reshape(leading + (1,) * self.noise.dim())
        return self.loc + self.scale * torch.sin(self.noise + 1.7 * particle)

    def sample(self, sample_shape: torch.Size = NO_SHAPE) -> Tensor:
        return self.rsample(sample_shape).detach()


class NoisyVAE(pv.Program):
    """A VAE of K latents with a decoder that is not linear; with `shared`, a global latent shifts all rows."""

    def __init__(self, num_features: int = 3, num_latents: int = 2, shared: bool = False) -> None:
        nn.Module.__init__(self)
        self.num_features, self.shared = num_features, shared
        self.encoder, self.decoder = nn.Linear(num_features, 2 * num_latents), nn.Linear(num_latents, num_features)
        self.shift = nn.Parameter(torch.tensor([0.3, -0.4]))
        self.double()

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0)) if self.shared else 0.0
        with pyro.plate("data", len(x)):
            loc = torch.zeros(len(x), 2, dtype=x.dtype)
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(torch.tanh(z)) + shift, 0.7).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        if self.shared:
            loc, log_scale = pyro.param("moments", self.shift)
            pyro.sample("shift", RowNoise(loc, log_scale.exp(), torch.zeros((), dtype=x.dtype)))
        loc, log_scale = self.encoder(x).chunk(2, -1)
        noise = 7.0 * x[:, :2] + x[:, 2:]
        with pyro.plate("data", len(x)):
            pyro.sample("z", RowNoise(loc, log_scale.exp(), noise).to_event(1))
