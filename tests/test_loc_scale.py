"""The scale that likelihoods of real numbers begin with."""

import pytest
import torch
from torch import nn

import pyro_vae as pv


@pytest.mark.parametrize("likelihood", [pv.likelihoods.Normal, pv.likelihoods.StudentT])
@pytest.mark.parametrize("scale", ["learned", 0.3])
def test_a_scale_begins_at_a_half_unless_it_is_said(likelihood, scale):
    fn = likelihood(nn.Identity(), scale=scale)(torch.zeros(4, 3))
    assert fn.base_dist.scale.flatten().tolist() == pytest.approx([0.5 if scale == "learned" else scale] * 12)
