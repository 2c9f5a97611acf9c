"""Distributions that Pyro lacks and some parts return."""

from pyro_vae.distributions.discrete_values import BernoulliVector, GreyLevels, LogisticBins, Observed, is_relaxed
from pyro_vae.distributions.mixture_of_normals import Mixture, NormalMixture
from pyro_vae.distributions.wishart import WishartCholesky

__all__ = [
    "BernoulliVector",
    "GreyLevels",
    "LogisticBins",
    "Mixture",
    "NormalMixture",
    "Observed",
    "WishartCholesky",
    "is_relaxed",
]
