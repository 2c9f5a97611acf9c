"""Programs a user might write: the test of the contract. Nothing in the package knows any of them."""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae as pv


class VampPrior(nn.Module):
    """p(z) = mean of q(z | u_k) over learned pseudo-inputs (Tomczak & Welling, arXiv:1705.07120); it borrows the
    guide."""

    def __init__(self, guide, num_pseudo, num_features):
        super().__init__()
        self.pseudo = nn.Parameter(torch.rand(num_pseudo, num_features))
        self.shared_parts = [guide]  # in a list: used here, registered by the VAE

    def forward(self):
        weights = dist.Categorical(logits=torch.zeros(len(self.pseudo)))
        return dist.MixtureSameFamily(weights, self.shared_parts[0](self.pseudo))


def vamp_vae(K=2, D=6, num_pseudo=4):
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(D, 8, 2 * K))
    return pv.VAE(VampPrior(guide, num_pseudo, D), pv.likelihoods.Bernoulli(pv.nets.mlp(K, 8, D)), guide)


class Hierarchical(nn.Module):
    """Two layers, z2 → z1 → x, and a guide x → z1 → z2, written from scratch as a user would."""

    def __init__(self, D=6, K1=3, K2=2, H=8):
        super().__init__()
        self.top_down = pv.nets.mlp(K2, H, 2 * K1)
        self.decoder = pv.nets.mlp(K1, H, D)
        self.to_first = pv.nets.mlp(D, H, 2 * K1)
        self.to_second = pv.nets.mlp(K1, H, 2 * K2)
        self.K2 = K2

    @staticmethod
    def normal(out):
        loc, raw = out.chunk(2, -1)
        return dist.Normal(loc, nn.functional.softplus(raw) + 1e-3).to_event(1)

    def model(self, x):
        pyro.module("model", nn.ModuleList([self.top_down, self.decoder]))
        with pyro.plate("batch", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(self.K2), 1.0).to_event(1))
            z1 = pyro.sample("z1", self.normal(self.top_down(z2)))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z1)).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("guide", nn.ModuleList([self.to_first, self.to_second]))
        with pyro.plate("batch", len(x)):
            z1 = pyro.sample("z1", self.normal(self.to_first(x)))
            pyro.sample("z2", self.normal(self.to_second(z1)))


class PerRowGuide(nn.Module):
    """A linear-Gaussian model with a mean and a scale for each training row in place of an encoder."""

    def __init__(self, num_rows, weight, noise):
        super().__init__()
        self.loc, self.raw = (
            nn.Parameter(torch.zeros(num_rows, weight.shape[1])),
            nn.Parameter(torch.zeros(num_rows, weight.shape[1])),
        )
        self.weight, self.noise = weight, noise

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.weight.shape[1]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T, self.noise).to_event(1), obs=x)

    def guide(self, x, rows):
        pyro.module("table", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc[rows], nn.functional.softplus(self.raw[rows])).to_event(1))


class Cauchyish(nn.Module):
    """A user's own prior in ten lines: a Student-t with learned scale."""

    def __init__(self, K):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(K))

    def forward(self):
        return dist.StudentT(5.0, torch.zeros_like(self.log_scale), self.log_scale.exp()).to_event(1)


def plain_functions(D=3):
    """Two functions that keep everything in Pyro's param store, one parameter with a constraint."""

    def model(x):
        loc = pyro.param("loc", torch.zeros(D))
        noise = pyro.param("noise", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(loc + z[..., None], noise).to_event(1), obs=x)

    def guide(x):
        weight, bias = pyro.param("weight", torch.zeros(D)), pyro.param("bias", torch.tensor(0.0))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ weight + bias, scale))

    return pv.Program(model, guide)


def global_mean(prior_scale=3.0):
    """A mean shared by all rows, outside the row plate: it can be fitted, but a row has no weight of its own."""

    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, prior_scale))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0).expand([1]).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        pyro.sample("mean", dist.Normal(loc, scale))

    return pv.Program(model, guide)


def global_mean_posterior(x, prior_scale=3.0):
    """Its exact posterior, conjugate: (mean, standard deviation)."""
    precision = prior_scale**-2 + len(x)
    return x.sum().item() / precision, 1 / math.sqrt(precision)


def vae_for(data, num_latents, hidden=20):
    """A small VAE for a data set: binary pictures or a table of numbers."""
    nets = pv.nets.mlp(num_latents, hidden, data.num_features), pv.nets.mlp(data.num_features, hidden, 2 * num_latents)
    likelihood = pv.likelihoods.Bernoulli if data.image_shape else pv.likelihoods.Normal
    return pv.VAE(pv.priors.StandardNormal(num_latents), likelihood(nets[0]), pv.guides.MeanFieldNormal(nets[1]))
