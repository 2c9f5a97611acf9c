"""Where the study notes err, the package states it right: each test here proves one row of `docs/notes.md`, and fails
for what the note says."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from torch.distributions import kl_divergence

import pyro_vae as pv
from pyro_vae.inference.objectives.elbo_terms import RowWeighted
from pyro_vae.programs.find_plates import find_plates
from pyro_vae.programs.row_inputs import Batch


def a_mixture(C=3, D=2, seed=0):
    """A mixture with unequal weights, a start of its own, and 12 rows."""
    x = torch.randn(12, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mixture = pv.GaussianMixture(C, D, "diagonal", prior_rows=0)
    weights = torch.arange(1, C + 1, dtype=torch.float64)
    mixture.set_parameters(weights / weights.sum(), x[:C].clone(), torch.full((C, D), 0.7, dtype=torch.float64))
    return mixture, x


def log_joint(mixture, x):
    """log p(x_i, c) from torch's own distributions, (N, C); differentiable."""
    scale = mixture.raw_scale.exp()
    parts = torch.distributions.Normal(mixture.loc, scale.expand_as(mixture.loc)).log_prob(x[:, None]).sum(-1)
    return mixture.logits.log_softmax(0) + parts


def test_kl_is_zero_when_both_agree_and_can_be_below_one():
    """1. Not "always greater than 1"."""
    prior = pv.priors.StandardNormal(3)()
    assert kl_divergence(prior, prior).item() == 0
    near = dist.Normal(torch.full((3,), 0.1), torch.full((3,), 0.9)).to_event(1)
    assert 0 < kl_divergence(near, prior).item() < 1


def test_a_draw_is_the_mean_plus_scale_times_noise():
    """2. σ ⊙ ε, not σ² ⊙ ε."""
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(3, 2))
    q = guide(torch.ones(200_000, 3))
    z = q.rsample()
    scale = q.base_dist.scale[0].item()
    assert scale != pytest.approx(scale**2, rel=0.05)
    assert z.std().item() == pytest.approx(scale, rel=0.01)


def test_kl_to_the_standard_normal_has_the_square_of_the_mean():
    """3. μᵀμ, not μᵀΣ⁻¹μ."""
    loc, scale = torch.tensor([0.5, -2.0]), torch.tensor([0.3, 0.7])
    covariance = torch.diag(scale**2)
    right = 0.5 * (covariance.trace() + loc @ loc - 2 - covariance.logdet())
    wrong = 0.5 * (covariance.trace() + loc @ covariance.inverse() @ loc - 2 - covariance.logdet())
    found = kl_divergence(dist.Normal(loc, scale).to_event(1), pv.priors.StandardNormal(2)())
    assert found.item() == pytest.approx(right.item(), rel=1e-6)
    assert abs(found.item() - wrong.item()) > 1


def test_the_m_step_maximizes_the_expected_log():
    """4. Where the M-step ends E_Q[log p(x, Z; θ)] is level; E_Q[p(x, Z; θ) / Q], without the log, is not."""
    mixture, x = a_mixture()
    q = mixture.responsibilities(x)
    mixture.m_step(mixture.e_step([mixture.prepare(x)])[0])
    parameters = [mixture.logits, mixture.loc, mixture.raw_scale]
    with_log = (q * log_joint(mixture, x)).sum()
    without = (q * (log_joint(mixture, x).exp() / q)).sum()
    level = torch.autograd.grad(with_log, parameters)
    steep = torch.autograd.grad(without, parameters)
    assert max(g.abs().max().item() for g in level) < 1e-10
    assert max(g.abs().max().item() for g in steep) > 0.01


def test_the_elbo_is_log_p_minus_log_q_and_so_below_log_px(tiny_vae):
    """5. E[log q] − E[log p] is minus the ELBO: of binary rows it is positive and no lower bound."""
    vae, x = tiny_vae
    found = pv.log_evidence(vae, x, num_samples=500)
    assert (found.elbo < found.log_px).all()
    assert found.elbo.mean() < 0, "minus the ELBO would be positive for binary rows"
    torch.testing.assert_close(found.elbo, found.reconstruction - found.kl)


def test_one_q_for_all_rows_is_a_looser_bound():
    """6. The best single Q leaves a gap in every row but by chance; with a q_i for each row the bound touches."""
    mixture, x = a_mixture()
    joint = log_joint(mixture, x).detach()
    one = joint.mean(0).softmax(0).expand_as(joint)  # maximizes the sum of the rows' bounds over a single Q
    each = mixture.responsibilities(x)
    bounds = [(q * (joint - q.log())).sum(1) for q in (one, each)]
    log_px = mixture.log_prob(x)
    assert (log_px - bounds[0]).min() > 1e-4
    assert (log_px - bounds[0]).mean() > 0.1
    torch.testing.assert_close(bounds[1], log_px)


def test_log_px_less_the_elbo_is_the_divergence_from_the_posterior():
    """7. KL(q ‖ p(z|x)), row by row; the ELBO itself is no divergence, and neither is KL(q ‖ p(z))."""
    mixture, x = a_mixture()
    joint = log_joint(mixture, x).detach()
    q = torch.rand(len(x), 3, dtype=torch.float64).softmax(1)
    elbo = (q * (joint - q.log())).sum(1)
    to_posterior = (q * (q.log() - mixture.responsibilities(x).log())).sum(1)
    to_prior = (q * (q.log() - mixture.weights.log())).sum(1)
    torch.testing.assert_close(mixture.log_prob(x) - elbo, to_posterior)
    assert (mixture.log_prob(x) - elbo - to_prior).abs().mean() > 0.1
    assert elbo.max() < 0, "a divergence would not be negative"


def test_em_and_vi_maximize_the_same_bound():
    """8. From one θ: the table of q that gradients find for F(q, θ) is the E-step's, to the value of the bound."""
    mixture, x = a_mixture()
    free = torch.zeros(len(x), 3, dtype=torch.float64, requires_grad=True)
    joint, optimizer = log_joint(mixture, x).detach(), torch.optim.LBFGS([free], max_iter=200, tolerance_grad=1e-12)

    def loss():
        optimizer.zero_grad()
        q = free.softmax(1)
        value = -(q * (joint - q.log())).sum()
        value.backward()
        return value

    optimizer.step(loss)
    torch.testing.assert_close(free.detach().softmax(1), mixture.responsibilities(x), atol=1e-4, rtol=0)
    assert -loss().item() == pytest.approx(mixture.log_prob(x).sum().item(), abs=1e-6)


def test_decoder_and_encoder_have_parameters_of_their_own(tiny_vae):
    """9. θ and φ: no name and no tensor in common, and moving either leaves the other's distribution as it is."""
    vae, x = tiny_vae
    trace = poutine.trace(vae.model).get_trace(x), poutine.trace(vae.guide).get_trace(x)
    theta, phi = ({name for name, site in t.nodes.items() if site["type"] == "param"} for t in trace)
    assert theta
    assert phi
    assert not theta & phi
    assert {id(p) for p in vae.likelihood.parameters()}.isdisjoint(id(p) for p in vae.posterior.parameters())

    def decoded():
        return vae.likelihood(torch.ones(1, 2)).mean.detach().clone()

    def encoded():
        return vae.posterior(x).mean.detach().clone()

    for moved, still in ((vae.likelihood, encoded), (vae.posterior, decoded)):
        before = decoded(), encoded(), still()
        with torch.no_grad():
            for parameter in moved.parameters():
                parameter.add_(1.0)
        assert torch.equal(still(), before[2])
        assert not (torch.equal(decoded(), before[0]) and torch.equal(encoded(), before[1]))


def test_a_pixel_has_256_values():
    """10. 256^784 pictures: P(x|z) sums to one over the 256 levels 0 … 255, and over all 256² pictures of two pixels;
    over 255 levels it does not."""
    assert pv.load_data("mnist-5k", binarize="none").train.stored.unique().tolist() == list(range(256))
    likelihood = pv.likelihoods.DiscretizedLogistic(pv.nets.mlp(2, 4, 2), scale=0.3).double()
    p = likelihood(torch.randn(1, 2, dtype=torch.float64))
    levels = torch.arange(256, dtype=torch.float64) / 255
    pictures = torch.cartesian_prod(levels, levels)
    assert len(pictures) == 256**2
    probability = p.log_prob(pictures).exp()
    assert probability.sum().item() == pytest.approx(1, abs=1e-9)
    assert probability[(pictures < 1).all(1)].sum().item() < 1 - 1e-3  # the 255² without the highest level


def test_a_mixtures_likelihood_weighs_its_labels_and_sums_over_them():
    """11. With memberships known Π_i π_{c_i} p(x_i | c_i), the complete-data likelihood, π included; the likelihood of
    the rows is its sum over all C^N memberships."""
    mixture, x = a_mixture()
    x = x[:4]
    complete, without = [], []
    for labels in itertools.product(range(3), repeat=len(x)):
        given = {"c": torch.tensor(labels)}
        complete.append(poutine.trace(pyro.condition(mixture.model, given)).get_trace(x).log_prob_sum())
        without.append(complete[-1] - mixture.weights.log()[given["c"]].sum())
    first = log_joint(mixture, x).detach()[:, 0].sum()
    torch.testing.assert_close(complete[0].detach(), first)
    torch.testing.assert_close(torch.stack(complete).logsumexp(0).detach(), mixture.log_prob(x).sum())
    assert abs(torch.stack(without).logsumexp(0).detach() - mixture.log_prob(x).sum()) > 1


def test_only_q_is_held_at_step_t():
    """12. With θ free, E_Q[log p(x, Z; θ)] has its maximum where the M-step goes, away from θ_t; with θ_t inside it
    is a constant, and no θ is better than another."""
    mixture, x = a_mixture()
    q, held = mixture.responsibilities(x), log_joint(mixture, x).detach()
    parameters = [mixture.logits, mixture.loc, mixture.raw_scale]

    def expected(joint):
        return (q * joint).sum()

    slope = torch.autograd.grad(expected(log_joint(mixture, x)), parameters)
    at_first = expected(log_joint(mixture, x)).item()
    mixture.m_step(mixture.e_step([mixture.prepare(x)])[0])
    assert max(g.abs().max().item() for g in slope) > 0.1
    assert expected(log_joint(mixture, x)).item() > at_first + 0.1
    best = expected(log_joint(mixture, x)).item()
    for _ in range(50):  # no θ near it is better
        with torch.no_grad():
            before = [parameter.clone() for parameter in parameters]
            for parameter in parameters:
                parameter.add_(0.1 * torch.randn_like(parameter))
            assert expected(log_joint(mixture, x)).item() < best
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
    assert not expected(held).requires_grad
    assert expected(held).item() == pytest.approx(at_first)


def test_q_given_x_sums_to_one_and_the_joint_does_not():
    """13. Σ_z q(z | x) = 1 for each x; Σ_z q(z, x) is the density of x, which is another number for each row. And what
    expectations are taken under has φ's parameters, not θ's."""
    mixture, x = a_mixture()
    given = mixture.responsibilities(x)
    joint = given * mixture.log_prob(x).exp()[:, None]
    torch.testing.assert_close(given.sum(1), torch.ones(len(x), dtype=torch.float64))
    torch.testing.assert_close(joint.sum(1), mixture.log_prob(x).exp())
    assert (joint.sum(1) - 1).abs().min() > 0.1
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(4, 2)).double()
    at = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    mass = guide(torch.randn(3, 4, dtype=torch.float64)).log_prob(at[:, None, None].expand(-1, 3, 1)).exp()
    torch.testing.assert_close(mass.sum(0) * (at[1] - at[0]), torch.ones(3, dtype=torch.float64), atol=1e-6, rtol=0)


def test_a_scale_is_a_standard_deviation_everywhere():
    """14. In priors, guides, likelihoods and mixtures: the variance is its square, never itself."""
    prior = pv.priors.Normal([0.0], [3.0])()
    assert prior.log_prob(torch.zeros(1)).item() == pytest.approx(-math.log(3) - 0.5 * math.log(2 * math.pi), rel=1e-6)
    assert prior.variance.item() == pytest.approx(9.0)
    likelihood = pv.likelihoods.Normal(pv.nets.mlp(2, 3), scale=0.5)(torch.zeros(1, 2))
    assert likelihood.sample((100_000,)).std(0).squeeze().tolist() == pytest.approx([0.5] * 3, rel=0.02)
    q = pv.guides.MeanFieldNormal(pv.nets.mlp(3, 2))(torch.zeros(1, 3))
    assert q.variance.item() == pytest.approx(q.base_dist.scale.item() ** 2)
    mixture = pv.GaussianMixture(1, 1, "spherical", scale=3.0)
    assert mixture.covariances.item() == pytest.approx(9.0)
    ppca = pv.PPCA(1, 2)
    with torch.no_grad():
        ppca.weight.zero_()
        ppca.loc.zero_()
    density = -2 * ppca.scale.detach().max().log() - math.log(2 * math.pi)
    assert ppca.log_prob(torch.zeros(1, 2)).item() == pytest.approx(density.item())


def test_one_draw_for_each_row_is_unbiased_for_that_rows_term(tiny_vae):
    """15. Two different averages: over draws for one row, and over rows. The first has each row's own target."""
    vae, x = tiny_vae
    x = x[:5]
    many = pv.log_evidence(vae, x, num_samples=20_000, seed=0)
    single = pv.log_evidence(vae, x.repeat(500, 1), num_samples=1, seed=1).elbo.reshape(500, 5)
    error = single.std(0) / math.sqrt(len(single))
    assert ((single.mean(0) - many.elbo).abs() < 4.5 * error).all()
    assert many.elbo.std() > 10 * error.max(), (
        "the rows' terms differ: the mean over rows is no estimate of any of them"
    )


def test_a_minibatch_estimates_the_sum_over_rows(tiny_vae):
    """15. With z given, so that draws play no part: the objectives of all batches average to that of all rows, each
    batch's differs from it, and no batch's is that of one of its rows."""
    vae, x = tiny_vae
    x, z = x[:12], torch.randn(12, 2)

    def objective(index):
        plates = find_plates(vae, Batch(x[index]))
        model = RowWeighted(plates, len(x))(pyro.condition(vae.model, {"z": z[index]}))
        return poutine.trace(model).get_trace(x[index]).log_prob_sum().detach()

    everything = objective(torch.arange(12))
    batches = torch.stack([objective(index) for index in torch.arange(12).split(4)])
    rows = torch.stack([objective(index) for index in torch.arange(12).split(1)])
    torch.testing.assert_close(batches.mean(), everything)
    torch.testing.assert_close(rows.mean(), everything)
    assert (batches[:, None] - rows.reshape(3, 4)).abs().min() > 1e-4


def test_the_elbo_bounds_the_log_and_touches_that():
    """16. With the exact posterior ELBO = log p(x). It never comes near p(x) itself: log t ≤ t − 1."""
    mixture, x = a_mixture()
    elbo, log_px = mixture.elbo(x), mixture.log_prob(x)
    torch.testing.assert_close(elbo, log_px)
    assert (log_px.exp() - elbo >= 1).all()
    assert (log_px.exp() - elbo).min() > 1.5, "nowhere near touching"


def test_reconstruction_is_squared_error_only_up_to_the_scale_that_weighs_the_kl():
    """17. And only for a normal: a Bernoulli orders two reconstructions the other way round."""
    net, z, x = pv.nets.mlp(2, 4), torch.randn(6, 2), torch.randn(6, 4)
    for scale in (0.1, 1.0, 3.0):
        log_likelihood = pv.likelihoods.Normal(net, scale=scale)(z).log_prob(x)
        squared = (x - net(z)).square().sum(-1)
        constant = -4 * (math.log(scale) + 0.5 * math.log(2 * math.pi))
        torch.testing.assert_close(log_likelihood, -squared / (2 * scale**2) + constant, rtol=1e-4, atol=1e-3)
    ones, sure, even = torch.ones(2), torch.tensor([0.9999, 0.005]), torch.tensor([0.29, 0.29])
    assert (ones - sure).square().sum() < (ones - even).square().sum()
    assert dist.Bernoulli(sure).log_prob(ones).sum() < dist.Bernoulli(even).log_prob(ones).sum()
