"""Guides q(z|x): a part from x (N, D) to a distribution over z with event shape (K,).

Each class says by `outputs(K, …)` how many numbers its network has to give for each row.
"""

from pyro_vae.guides.categorical import CategoricalGuide
from pyro_vae.guides.flow import FlowGuide
from pyro_vae.guides.normal import FullRankNormal, LowRankNormal, MeanFieldNormal
from pyro_vae.guides.normal_mixture import MixtureGuide
from pyro_vae.guides.per_row import PerRowCategorical, PerRowNormal
from pyro_vae.guides.wrappers import MaskAwareGuide, SemiAmortizedNormal

__all__ = [
    "CategoricalGuide",
    "FlowGuide",
    "FullRankNormal",
    "LowRankNormal",
    "MaskAwareGuide",
    "MeanFieldNormal",
    "MixtureGuide",
    "PerRowCategorical",
    "PerRowNormal",
    "SemiAmortizedNormal",
]
