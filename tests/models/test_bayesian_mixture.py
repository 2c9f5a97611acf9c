"""A Bayesian Gaussian mixture against enumeration, conjugate evidences, SciPy's Wishart, quadrature and Pyro's ELBO."""

import math
from itertools import product

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceEnum_ELBO
from scipy.special import gammaln, multigammaln
from scipy.stats import wishart
from torch.distributions import kl_divergence

import pyro_vae as pv
from pyro_vae.distributions import WishartCholesky
from pyro_vae.inference.em.fit_cavi import fit_cavi
from pyro_vae.models.bayesian_mixture import BayesianGaussianMixture
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.traces import sample_sites, trace_program

CENTRES = torch.tensor([[-3.0, 0.0], [3.0, 1.0], [0.0, 4.0]], dtype=torch.float64)


def rows_of(n, seed=0, spread=1.0):
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, 2, generator=g, dtype=torch.float64)
    return CENTRES[torch.arange(n) % 3] + spread * noise * torch.tensor([1.0, 0.6])


def mixture_of(x, C=3, **settings):
    settings = {"mean": [0.3, 1.0], "covariance": [[2.0, 0.4], [0.4, 1.0]], "df": 3.5, "mean_precision": 0.7} | settings
    return BayesianGaussianMixture(C, x.shape[1], len(x), **settings)


def shaken(mixture, size=0.2, seed=1):
    """The same mixture, every parameter a little off."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=g, dtype=parameter.dtype))
    return mixture


def evidence_of_normal(x, loc, kappa, df, scatter):
    """log p(X) of rows from one normal with a Normal-Wishart prior; scatter is W⁻¹ (Bishop 2006, exercise 2.44 on)."""
    n, D = x.shape
    if n == 0:
        return 0.0
    mean = x.mean(0)
    kappa_n, df_n = kappa + n, df + n
    scatter_n = scatter + (x - mean).T @ (x - mean) + kappa * n / kappa_n * np.outer(mean - loc, mean - loc)
    log_dets = df * np.linalg.slogdet(scatter)[1] - df_n * np.linalg.slogdet(scatter_n)[1]
    gammas = multigammaln(df_n / 2, D) - multigammaln(df / 2, D)
    return gammas + D / 2 * math.log(kappa / kappa_n) + log_dets / 2 - n * D / 2 * math.log(math.pi)


def log_evidence_by_enumeration(mixture, x):
    """log p(X) over all C^N assignments, each in closed form."""
    prior, C, rows = mixture.prior, mixture.num_components, x.numpy()
    alpha, kappa, df = (float(value[0]) for value in (prior.concentration, prior.mean_precision, prior.df))
    loc, tril = prior.loc[0].numpy(), prior.scale_tril[0]
    scatter = torch.linalg.inv(tril @ tril.T).numpy()
    terms = []
    for assignment in product(range(C), repeat=len(rows)):
        c = np.array(assignment)
        counts = np.bincount(c, minlength=C)
        of_c = gammaln(C * alpha) - gammaln(C * alpha + len(rows)) + (gammaln(alpha + counts) - gammaln(alpha)).sum()
        terms.append(of_c + sum(evidence_of_normal(rows[c == k], loc, kappa, df, scatter) for k in range(C)))
    return float(np.logaddexp.reduce(terms))


def test_wishart_cholesky_has_the_density_of_a_wishart():
    g = torch.Generator().manual_seed(0)
    for D, df in ((1, 0.6), (2, 3.5), (3, 2.4)):
        lower, value = (torch.randn(D, D, generator=g, dtype=torch.float64).tril(-1) for _ in range(2))
        lower, value = lower + 0.7 * torch.eye(D), value + 1.3 * torch.eye(D)
        places = torch.tril_indices(D, D)

        def product_of(free, D=D, places=places):
            tril = torch.zeros(D, D, dtype=torch.float64).index_put(tuple(places), free)
            return (tril @ tril.T)[tuple(places)]

        jacobian = torch.autograd.functional.jacobian(product_of, value[tuple(places)])
        reference = wishart.logpdf((value @ value.T).numpy(), df, (lower @ lower.T).numpy())
        found = WishartCholesky(torch.tensor(df, dtype=torch.float64), lower).log_prob(value)
        torch.testing.assert_close(found, reference + torch.linalg.slogdet(jacobian).logabsdet, rtol=0, atol=1e-10)


def test_wishart_cholesky_draws_its_moments_and_their_gradients():
    df = torch.tensor([2.3, 5.0], dtype=torch.float64, requires_grad=True)
    lower = torch.tensor([[1.0, 0.0], [0.5, 0.8]], dtype=torch.float64)
    fn = WishartCholesky(df, lower.expand(2, 2, 2))
    tril = fn.rsample((20_000,))
    assert fn.support.check(tril).all()
    precision = tril @ tril.mT
    expected = df.detach()[:, None, None] * (lower @ lower.T)
    se = precision.std(0) / math.sqrt(20_000)
    assert ((precision.mean(0) - expected).abs() < 4.5 * se).all()
    log_det = 2 * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    assert ((log_det.mean(0) - fn.mean_log_det).abs() < 4.5 * log_det.std(0) / math.sqrt(20_000)).all()
    traces = precision.diagonal(dim1=-2, dim2=-1).sum(-1).mean(0).sum()
    (gradient,) = torch.autograd.grad(traces, df)  # of E[tr Λ] = ν tr W: tr W, from 20,000 draws
    torch.testing.assert_close(gradient, (lower @ lower.T).trace().expand(2), rtol=0.03, atol=0)


def test_kl_of_wisharts_is_the_mean_of_their_log_ratio():
    p = WishartCholesky(torch.tensor(3.0).double(), torch.tensor([[0.7, 0.0], [0.1, 0.5]]).double())
    q = WishartCholesky(torch.tensor(6.5).double(), torch.tensor([[0.4, 0.0], [-0.2, 0.6]]).double())
    tril = q.rsample((20_000,))
    ratio = q.log_prob(tril) - p.log_prob(tril)
    assert abs(ratio.mean() - kl_divergence(q, p)) < 4 * ratio.std() / math.sqrt(20_000)
    assert abs(kl_divergence(q, q)) < 1e-12
    own = -q.log_prob(tril)
    reference = wishart.entropy(
        6.5, (q.scale_tril @ q.scale_tril.T).numpy()
    )  # of Λ; the factor's differs by a Jacobian
    jacobian = 2 * math.log(2) + tril.diagonal(dim1=-2, dim2=-1).log() @ torch.tensor([2.0, 1.0]).double()
    assert abs((own + jacobian).mean() - reference) < 4 * (own + jacobian).std() / math.sqrt(20_000)


def test_with_one_component_the_bound_is_the_evidence_and_the_predictive_exact():
    x = rows_of(7)
    mixture = mixture_of(x, C=1)
    fit_cavi(mixture, x, epochs=2)
    exact = log_evidence_by_enumeration(mixture, x)
    assert mixture.bound(x).item() * 7 == pytest.approx(exact, abs=1e-9)
    new = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    with_new = log_evidence_by_enumeration(mixture, torch.cat([x, new]))
    assert float(mixture.log_predictive(new)) == pytest.approx(with_new - exact, abs=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bound_lies_below_the_evidence_by_enumeration(seed):
    x = torch.tensor([[-2.0, 0.1], [-1.5, 0.4], [2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    mixture = mixture_of(x, C=2, weight_concentration=0.8)
    at = torch.rand(4, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    fit_cavi(mixture, x, start=at / at.sum(1, keepdim=True))
    exact = log_evidence_by_enumeration(mixture, x)
    assert 1e-3 < exact - 4 * mixture.bound(x).item() < 5.0  # nats for all rows
    assert exact > 4 * shaken(mixture).bound(x).item()


def test_bound_is_the_mean_of_the_enumerated_elbo_anywhere():
    x = rows_of(30)
    mixture = mixture_of(x)
    mixture.start(x)
    shaken(mixture)
    loss = TraceEnum_ELBO(num_particles=200, vectorize_particles=True, max_plate_nesting=1)
    draws = torch.tensor([-loss.loss(mixture.model, mixture.guide, x) for _ in range(20)])
    bound, se = 30 * mixture.bound(x).item(), float(draws.std()) / math.sqrt(20)
    assert se < 0.3
    assert abs(float(draws.mean()) - bound) < 3.5 * se
    one = TraceEnum_ELBO(max_plate_nesting=1)  # one draw at a time means the same
    few = torch.tensor([-one.loss(mixture.model, mixture.guide, x) for _ in range(200)])
    assert abs(float(few.mean()) - bound) < 3.5 * float(few.std()) / math.sqrt(200)


def test_gradient_of_the_elbo_is_that_of_the_bound():
    x = rows_of(12)
    mixture = mixture_of(x, C=2)
    mixture.start(x)
    shaken(mixture)
    names, parameters = zip(*mixture.named_parameters(), strict=True)
    exact = torch.autograd.grad(-12 * mixture.bound(x), parameters)
    loss = TraceEnum_ELBO(num_particles=200, vectorize_particles=True, max_plate_nesting=1)
    found = [torch.autograd.grad(_differentiable(loss, mixture, x), parameters) for _ in range(15)]
    for name, one, several in zip(names, exact, map(torch.stack, zip(*found, strict=True)), strict=True):
        se = several.std(0) / math.sqrt(15)
        assert ((several.mean(0) - one).abs() < 6 * se + 1e-9).all(), name  # 6: t with 14 degrees, 40 numbers


def _differentiable(loss, mixture, x):
    return loss.differentiable_loss(mixture.model, mixture.guide, x)


def test_updates_are_the_best_of_their_factors():
    x = rows_of(40)
    mixture = mixture_of(x)
    mixture.start(x)
    shaken(mixture)
    globals_ = [parameter for name, parameter in mixture.named_parameters() if name != "logits"]
    for update, parameters in ((mixture.update_local, [mixture.logits]), (mixture.update_global, globals_)):
        before = mixture.bound(x).item()
        update(x)
        assert mixture.bound(x).item() > before
        for gradient in torch.autograd.grad(mixture.bound(x), parameters):
            assert gradient.abs().max() < 1e-12


def test_predictive_density_integrates_to_one():
    x = torch.cat([torch.randn(20, 1) - 3, torch.randn(10, 1) * 0.5 + 2]).double()
    mixture = BayesianGaussianMixture(3, 1, 30)
    fit_cavi(mixture, x)
    tangent = torch.linspace(-math.pi / 2, math.pi / 2, 200_003, dtype=torch.float64)[1:-1]
    density = mixture.log_predictive(tangent.tan()[:, None]).exp() / tangent.cos().square()  # the tails reach far
    assert torch.trapezoid(density, tangent).item() == pytest.approx(1, abs=1e-4)


def test_predictive_density_is_the_mean_over_the_guide():
    x = rows_of(30)
    mixture = mixture_of(x)
    fit_cavi(mixture, x)
    new = rows_of(4, seed=5)
    posterior = mixture.posterior
    with torch.no_grad(), pyro.plate("draws", 4000, dim=-2):
        weights, means, tril = posterior.draw()  # (S, 1, C), (S, C, D), (S, C, D, D)
        errors = (new[:, None, None] - means).unsqueeze(-2) @ tril  # (4, S, C, 1, D), whitened
    log_dets = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_normal = log_dets - errors.square().sum((-2, -1)) / 2 - math.log(2 * math.pi)
    density = (weights.squeeze(1) * log_normal.exp()).sum(-1)
    found = mixture.log_predictive(new).exp()
    assert ((density.mean(1) - found).abs() < 4 * density.std(1) / math.sqrt(4000)).all()
    drawn = mixture.sample(20_000, seed=0)
    assert ((drawn.mean(0) - mixture.weights @ mixture.means).abs() < 5 * drawn.std(0) / math.sqrt(20_000)).all()


def test_svi_reaches_what_coordinate_ascent_reaches():
    x = rows_of(90)
    best = mixture_of(x)
    fit_cavi(best, x, tol=1e-12)
    mixture = mixture_of(x)
    mixture.load_state_dict(best.state_dict())
    shaken(mixture, size=0.4)
    target, start = best.bound(x).item(), mixture.bound(x).item()
    loss = TraceEnum_ELBO(max_plate_nesting=1, num_particles=4, vectorize_particles=True)
    settings = {"epochs": 300, "batch_size": 90, "learning_rate": 0.05, "schedule": "cosine", "loss": loss}
    fitted = pv.fit(mixture, x, **settings)
    reached = mixture.bound(x).item()
    assert target - start > 1
    assert 0 <= target - reached < 5e-3  # nats per row
    assert (mixture.logits.softmax(-1) - best.logits.softmax(-1)).abs().max() < 0.02
    assert (mixture.responsibilities(x) - best.responsibilities(x)).abs().max() < 0.02
    assert fitted.history[-1]["elbo"] == pytest.approx(target, abs=0.03)


def test_pyro_svi_takes_it_as_it_is():
    x = rows_of(60)
    mixture = mixture_of(x)
    mixture.start(x)
    shaken(mixture)
    before = mixture.bound(x).item()
    svi = SVI(mixture.model, mixture.guide, pyro.optim.Adam({"lr": 0.02}), TraceEnum_ELBO(max_plate_nesting=1))
    for _ in range(60):
        svi.step(x)
    assert mixture.bound(x).item() > before
    drawn = Predictive(mixture.model, guide=mixture.guide, num_samples=3)(x)
    assert drawn["x"].shape == (3, 60, 2)
    assert drawn["means"].shape == (3, 3, 2)
    with pytest.warns(UserWarning, match="TraceEnum_ELBO"):
        Trace_ELBO().loss(mixture.model, mixture.guide, x)


def test_batches_find_their_rows_and_rows_held_out_their_best_q():
    x = rows_of(60)
    mixture = mixture_of(x)
    mixture.start(x)
    shaken(mixture, size=0.5)
    before = mixture.bound(x).item()
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    pv.fit(mixture, x, valid=rows_of(60, seed=3), epochs=5, batch_size=16, learning_rate=0.02, loss=loss)
    assert mixture.bound(x).item() > before
    _, guide = trace_program(mixture, Batch(x, num_rows=60))
    _, of_table = trace_program(mixture, Batch(x, rows=torch.arange(60)))
    held_out, table = (sample_sites(trace)["component"]["fn"].probs for trace in (guide, of_table))
    torch.testing.assert_close(held_out, mixture.responsibilities(x))
    torch.testing.assert_close(table, mixture.logits.softmax(-1))
    assert (held_out - table).abs().max() > 1e-3


def test_a_row_has_no_evidence_of_its_own():
    x = rows_of(20)
    mixture = mixture_of(x)
    mixture.start(x)
    with pytest.raises(pv.errors.RowsError, match="global latent couples the rows"):
        pv.log_evidence(mixture, x)


def test_save_and_load(tmp_path):
    x = rows_of(20)
    mixture = mixture_of(x, mean=torch.tensor([0.1, 0.2]))
    fit_cavi(mixture, x)
    pv.save(mixture, tmp_path)
    again = pv.load(tmp_path)
    assert torch.equal(again.bound(x), mixture.bound(x))
    assert again.started
    assert again.num_features == 2


def test_what_cannot_be_used_is_refused():
    x = rows_of(20)
    mixture = mixture_of(x)
    with pytest.raises(pv.InputError, match="call start"):
        pv.fit(mixture, x, epochs=1)
    for wrong in (torch.ones(20, 3), torch.ones(20, 2) / 2, torch.tensor([[2.0, -0.5, -0.5]]).repeat(20, 1)):
        with pytest.raises(pv.InputError, match="expected responsibilities"):
            mixture.start(x, wrong)
    with pytest.raises(pv.InputError, match="expected all 20 rows of 2 features"):
        mixture.start(x[:5])
    with pytest.raises(pv.InputError, match="too few for 3"):
        mixture_of(x[:2]).start(x[:2])
    wrong = ({"df": 1.0}, {"mean_precision": 0.0}, {"weight_concentration": -1.0}, {"mean": [0.0]})
    for settings in (*wrong, {"covariance": [[1.0, 2.0], [2.0, 1.0]]}, {"num_components": 0}):
        with pytest.raises(pv.InputError, match="expected"):
            BayesianGaussianMixture(**{"num_components": 2, "num_features": 2, "num_rows": 5} | settings)
