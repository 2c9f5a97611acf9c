"""Posterior collapse: what latents carry against closed forms, and the study where the answer is known."""

import math

import pyro.distributions as dist
import pytest
import torch
from example_programs import Hierarchical, global_mean, vamp_vae
from torch import nn

import pyro_vae as pv
from pyro_vae.diagnostics.latent_usage import measure_latent_usage
from pyro_vae.errors import InputError
from pyro_vae.studies.posterior_collapse import compare_remedies, deep_vae, gain_over_baseline, remedies


class Known(nn.Module):
    """q(z | x) = N(a x, s²) in two latents that follow x's two columns, and N(0, 1) in a third, which is
    inactive."""

    def __init__(self):
        super().__init__()
        self.a, self.s = torch.tensor([2.0, 0.5, 0.0]), torch.tensor([0.3, 0.8, 1.0])

    def forward(self, x):
        return dist.Normal(self.a * x[:, [0, 1, 1]], self.s).to_event(1)


def known():
    likelihood = pv.likelihoods.Normal(pv.nets.linear(3, 2))
    return pv.VAE(pv.priors.StandardNormal(3), likelihood, Known()), torch.randn(400, 2)


def test_kl_and_variance_of_each_latent_are_their_closed_forms():
    vae, x = known()
    found = measure_latent_usage(vae, x, num_samples=50)
    means = vae.posterior.a * x[:, [0, 1, 1]]
    torch.testing.assert_close(found.variance, means.double().var(0, correction=0), rtol=1e-5, atol=1e-6)
    s = vae.posterior.s
    exact = 0.5 * (s**2 + means**2 - 1 - 2 * s.log())
    kl = found.kl_apart
    assert kl[2] == pytest.approx(0, abs=1e-7)  # q is p there: each draw weighs nothing
    for k in range(2):  # log q − log p of a draw has the variance ½(s² − 1)² + s²μ², up to the rows' own
        spread = (0.5 * (s[k] ** 2 - 1) ** 2 + s[k] ** 2 * means[:, k].square()).mean().sqrt()
        assert abs(float(kl[k] - exact[:, k].mean())) < 5 * float(spread) / math.sqrt(400 * 50)
    assert found.active.tolist() == [True, True, False]
    assert found.order.tolist() == [0, 1, 2]
    assert found.names == ("z[0]", "z[1]", "z[2]")
    assert repr(found).startswith("LatentUsage(2 of 3 latents active, KL ")


def test_means_from_draws_do_not_look_active():
    """A flow guide has no mean in closed form; at its start it does not look at x, and the noise of 64 draws would be a
    variance of 1/64 if it counted."""
    flow = pv.guides.FlowGuide(pv.nets.mlp(6, 8, pv.guides.FlowGuide.outputs(2)), 2, 2)
    for parameter in flow.parameters():
        nn.init.zeros_(parameter)
    vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 6)), flow)
    found = measure_latent_usage(vae, torch.ones(2000, 6))
    assert found.variance.abs().max() < 5 / 64 / math.sqrt(2000)
    assert found.kl_apart is None
    assert found.kl["z"].shape == (1,)
    assert found.order.tolist() == found.variance.argsort(descending=True).tolist()


def test_sites_stand_side_by_side_and_their_kl_adds_up():
    program, x = Hierarchical(), (torch.rand(200, 6) < 0.5).float()
    found = measure_latent_usage(program, x, num_samples=50)
    assert found.names == ("z1[0]", "z1[1]", "z1[2]", "z2[0]", "z2[1]")
    assert found.kl_apart.shape == (5,)
    evidence = pv.log_evidence(program, x, 200)
    assert float(found.kl_apart.sum()) == pytest.approx(float(evidence.kl.mean()), abs=0.05)
    vamp = measure_latent_usage(vamp_vae(), x)
    assert vamp.kl_apart is None
    assert vamp.variance.shape == (2,)


def test_same_seed_same_bits_and_the_callers_numbers_are_left_alone():
    vae, x = known()
    torch.manual_seed(3)
    first, after = measure_latent_usage(vae, x, seed=1), torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(measure_latent_usage(vae, x, seed=1).kl["z"], first.kl["z"])
    assert not torch.equal(measure_latent_usage(vae, x, seed=2).kl["z"], first.kl["z"])


def test_programs_without_latents_for_each_row_are_told():
    with pytest.raises(InputError, match="no latent for each row"):
        measure_latent_usage(global_mean(), torch.randn(10, 1))
    vae, x = known()
    with pytest.raises(InputError, match="num_samples"):
        measure_latent_usage(vae, x, num_samples=0)


def test_where_the_scale_is_too_large_collapse_is_the_optimum():
    """σ = 3 is above the standard deviation of every direction of the data, so no latent is worth its KL (Lucas et al.,
    arXiv:1911.02469): trained plainly nothing is carried, and free bits buy their KL with log p(x)."""
    data = pv.load_data("digits", binarize="none", dequantize=True)
    x = data.train.x.double()
    assert torch.linalg.eigvalsh(x.T.cov()).max() < 3**2
    ways = {name: way for name, way in remedies(4).items() if name in ("plain", "free bits 0.5")}
    found = compare_remedies(
        data, lambda rows: deep_vae(rows, 5, scale=3.0), ways, seeds=[0], epochs=4, num_samples=100
    )
    plain, free = found
    assert plain.kl < 0.05
    assert not plain.usage.active.any()
    assert plain.log_px - plain.elbo < 0.05
    assert free.kl > plain.kl
    assert gain_over_baseline(found, "free bits 0.5")[0] < 0
    assert plain.found.measure == data.measure


def test_records_are_paired_by_seed_and_the_same_each_time():
    ways = {"plain": {}, "warm-up": {"kl_warmup": 2}}
    few = {"seeds": [0, 5], "epochs": 2, "num_samples": 10}
    torch.manual_seed(0)
    found = compare_remedies(fit_options=ways, **few)
    torch.manual_seed(1)
    again = compare_remedies(fit_options=ways, **few)
    assert [(one.seed, one.remedy) for one in found] == [(0, "plain"), (0, "warm-up"), (5, "plain"), (5, "warm-up")]
    assert [one.log_px for one in found] == [one.log_px for one in again]
    assert len({one.log_px for one in found}) == 4
    gain, se = gain_over_baseline(found, "warm-up")
    each = torch.tensor([found[1].log_px - found[0].log_px, found[3].log_px - found[2].log_px], dtype=torch.float64)
    assert gain == pytest.approx(float(each.mean()))
    assert se == pytest.approx(float((each[0] - each[1]).abs() / 2))
    assert gain_over_baseline(found, "plain") == (0, 0)
    with pytest.raises(InputError, match="one seed or more and one remedy"):
        compare_remedies(seeds=[])
