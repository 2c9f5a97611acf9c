"""The two parts of log p(x) − ELBO against their closed forms."""

import math

import pyro.distributions as dist
import pytest
import torch
from oracles import LinearGaussian
from torch import nn

import pyro_vae as pv


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Linear(nn.Module):
    """p(x | z) of a linear-Gaussian model, as a part."""

    def __init__(self, program):
        super().__init__()
        self.program = program

    def forward(self, z):
        return dist.Normal(z @ self.program.W.T + self.program.b, self.program.noise).to_event(1)


class Off(nn.Module):
    """An encoder's answer that is off by known amounts: means by `shift`, raw scales as given."""

    def __init__(self, program, shift, raw):
        super().__init__()
        self.program, self.shift, self.raw = program, shift, raw

    def forward(self, x):
        return torch.cat([self.program.posterior_mean(x) + self.shift, self.raw.expand(len(x), -1)], -1)


@pytest.mark.parametrize("free", ["normals", "outputs"])
def test_gaps_of_a_linear_model_are_their_closed_forms(double, free):
    """Mean-field q on a correlated posterior N(μ, Λ⁻¹): the best has μ and the precisions' diagonal, and KL
    ½(Σ log Λ_kk − log det Λ); the guide's KL is a formula between two normals."""
    K = 4
    exact = LinearGaussian(K, 12)
    shift, raw = 0.3 * torch.ones(K), torch.zeros(K)
    guide = pv.guides.MeanFieldNormal(Off(exact, shift, raw))
    vae = pv.VAE(pv.priors.StandardNormal(K), Linear(exact), guide)
    x = exact.rows(10)
    precision = torch.linalg.inv(exact.posterior_cov)
    approximation = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    scale = nn.functional.softplus(raw) + 1e-4
    q, p = (
        torch.distributions.MultivariateNormal(shift, torch.diag(scale**2)),
        torch.distributions.MultivariateNormal(torch.zeros(K), exact.posterior_cov),
    )
    inference = torch.distributions.kl_divergence(q, p)
    outputs_of = guide.net if free == "outputs" else None
    gaps = pv.diagnostics.inference_gaps(vae, x, outputs_of=outputs_of, steps=600, num_samples=20_000)
    assert gaps.log_px.kind == "exact"
    assert approximation > 0.05
    torch.testing.assert_close(gaps.approximation, approximation.expand(10), rtol=0, atol=0.03)
    torch.testing.assert_close(gaps.inference, inference.expand(10), rtol=0, atol=0.25)
    assert gaps.approximation.mean().item() == pytest.approx(approximation.item(), abs=0.01)
    assert gaps.amortization.mean().item() == pytest.approx((inference - approximation).item(), abs=0.06)


def test_a_flow_guide_is_refined_within_its_family():
    """Its network's answers are moved row by row, its couplings stay; nothing of the program changes."""
    data = pv.load_data("digits")
    guide = pv.guides.FlowGuide(pv.nets.mlp(64, 32, pv.guides.FlowGuide.outputs(2)), 2, layers=2)
    vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.nets.mlp(2, 32, 64)), guide)
    pv.fit(vae, data.train, epochs=5, progress="none")
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    x = data.valid[:30]
    with pytest.raises(pv.InputError, match=r"outputs_of=vae\.posterior\.net"):
        pv.diagnostics.inference_gaps(vae, x)
    gaps = pv.diagnostics.inference_gaps(vae, x, outputs_of=guide.net, steps=200)
    assert gaps.amortization.mean() > 0.03
    assert (gaps.amortization > -0.05).all()
    assert (gaps.approximation > -0.05).all()
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert not guide.net._forward_hooks


def test_what_cannot_be_freed_is_said(tiny_vae):
    vae, x = tiny_vae
    with pytest.raises(pv.InputError, match=r"a module that the guide calls once.*it gave nothing"):
        pv.refine(vae, x, outputs_of=vae.likelihood)
    with pytest.raises(pv.InputError, match="log_px is of 60 rows, and there are 10"):
        pv.diagnostics.inference_gaps(vae, x[:10], pv.log_evidence(vae, x, 30))


def test_labels_and_masks_reach_the_guide_whose_answers_are_freed():
    data = pv.load_data("digits")
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(74, 16, 4))
    vae = pv.ConditionalVAE(
        pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.nets.mlp(12, 16, 64)), guide, num_labels=10
    )
    x = data.valid[:20]
    refined = pv.refine(vae, x, 20, outputs_of=guide.net, labels=data.valid.labels[:20])
    found = pv.log_evidence(refined, x, 200, rows=torch.arange(20), labels=data.valid.labels[:20])
    plain = pv.log_evidence(vae, x, 200, labels=data.valid.labels[:20])
    assert (found.elbo - plain.elbo).mean() > 0
    assert math.isfinite(found.log_px_se)
