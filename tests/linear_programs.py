"""Programs that are all one normal of four values, their rows with every pattern of gaps, and its conditionals."""

import itertools
import math

import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.data import Measure, Split

W = torch.tensor([[1.0, 0.3], [-0.5, 0.8], [0.8, -0.6], [0.2, 1.1]])
LOC, NOISE = torch.tensor([0.5, -1.0, 0.0, 2.0]), 0.6
COV = W @ W.T + NOISE**2 * torch.eye(4)


class Fixed(nn.Module):
    """A guide N(loc, scale²), whatever it sees."""

    def __init__(self, loc=0.0, scale=1.5, dim=2):
        super().__init__()
        self.loc, self.scale, self.dim = loc, scale, dim

    def forward(self, x):
        return dist.Normal(torch.full((len(x), self.dim), self.loc), self.scale).to_event(1)


def linear_vae(guide=None):
    net = nn.Linear(2, 4)
    with torch.no_grad():
        net.weight.copy_(W)
        net.bias.copy_(LOC)
    return pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Normal(net, scale=NOISE), guide or Fixed())


def correlated_vae():
    """The same density of x, half of its noise correlated: z's and the residuals' covariances add up."""
    net = nn.Linear(2, 8)
    with torch.no_grad():
        net.weight.copy_(torch.cat([0.5 * W, torch.zeros(4, 2)]))
        net.bias.copy_(torch.cat([LOC, torch.zeros(4)]))
    likelihood = pv.likelihoods.MultivariateNormal(net, num_features=4)
    with torch.no_grad():
        factor = torch.linalg.cholesky(COV - 0.25 * W @ W.T)
        residual = likelihood.residual
        residual.raw_tril.copy_(factor)
        residual.raw_diagonal.copy_((factor.diagonal() - residual.floor).expm1().log())
    return pv.VAE(pv.priors.StandardNormal(2), likelihood, Fixed())


def drawn_rows(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, generator=generator) @ W.T + LOC + NOISE * torch.randn(n, 4, generator=generator)


def patterns():
    """A row of each of the 16 patterns of missing values: all, some, none."""
    missing = torch.tensor(list(itertools.product([False, True], repeat=4)))
    return torch.where(missing, math.nan, drawn_rows(16))


def conditional_normal(row, loc=LOC, cov=COV):
    """The mean and the covariance of the missing values given the others, and which these are."""
    m, o = row.isnan(), ~row.isnan()
    gain = torch.linalg.solve(cov[o][:, o], cov[o][:, m]).T if o.any() else torch.zeros(int(m.sum()), 0).to(cov)
    return loc[m] + gain @ (row[o] - loc[o]), cov[m][:, m] - gain @ cov[o][:, m], m


def ppca():
    model = pv.PPCA(2, 4)
    with torch.no_grad():
        model.weight.copy_(W)
        model.loc.copy_(LOC)
        model.log_scale.fill_(math.log(NOISE))
    return model


def one_normal():
    model = pv.GaussianMixture(1, 4)
    model.set_parameters(torch.ones(1), LOC[None].double(), COV[None].double())
    return model


GUIDES = {
    "wide": lambda: Fixed(),
    "shifted": lambda: Fixed(loc=4.0),
    "too narrow": lambda: Fixed(scale=0.05),
    "shifted and narrow": lambda: Fixed(loc=-3.0, scale=0.1),
}
LINEAR = {name: lambda name=name: linear_vae(GUIDES[name]()) for name in GUIDES}
LINEAR |= {"correlated": correlated_vae, "ppca": ppca, "a mixture of one": one_normal}


def gaps(x):
    """A split of rows with NaN."""
    return Split("test", x, Measure())
