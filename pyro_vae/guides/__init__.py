"""Guides q(z|x): modules from x (N, D) to a distribution over z with event shape (K,).

`outputs(K, …)` of each class is the number of outputs that its network needs for each row.
"""

from pyro_vae.guides.categorical import CategoricalGuide
from pyro_vae.guides.flow import FlowGuide
from pyro_vae.guides.guide_wrappers import MaskAwareGuide, SemiAmortizedNormal
from pyro_vae.guides.normal import FullRankNormal, LowRankNormal, MeanFieldNormal
from pyro_vae.guides.normal_mixture import MixtureGuide
from pyro_vae.guides.per_row import PerRowCategorical, PerRowNormal

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
