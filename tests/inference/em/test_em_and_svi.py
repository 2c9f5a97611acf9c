"""EM and SVI on the same models: equal bounds, equal maxima."""

import pytest
import torch
from cluster_rows import bernoulli_clusters, gaussian_clusters
from pyro.infer import TraceEnum_ELBO

import pyro_vae as pv
from pyro_vae.models.gaussian_mixture import COVARIANCES


@pytest.mark.parametrize(
    "make", [lambda: pv.GaussianMixture(4, 3), lambda: pv.BernoulliMixture(4, 12)], ids=["gaussian", "bernoulli"]
)
def test_variational_inference_with_the_exact_posterior_has_ems_bound_at_every_step(make):
    """The same number from Pyro's traces, enumerated, as from the E-step: EM is VI with q free."""
    mixture = make()
    x = gaussian_clusters() if mixture.num_features == 3 else bernoulli_clusters()
    bounds = []
    fitted = pv.fit_em(
        mixture,
        x,
        epochs=15,
        on_epoch=lambda _: bounds.append(
            -TraceEnum_ELBO(max_plate_nesting=1).loss(mixture.model, mixture.guide, x.to(mixture.logits))
        ),
    )
    found = [row["elbo"] for row in fitted.history]
    assert found == pytest.approx([bound / len(x) for bound in bounds], rel=1e-12)
    assert len(found) > 5


def test_a_free_table_of_q_converges_to_ems_bound():
    """With θ at EM's end the best table is the responsibilities; with θ free from EM's start, so is its end EM's."""
    x = gaussian_clusters(n=200, spread=1.0)  # lumps that overlap: a softmax takes forever to say zero
    by_em = pv.GaussianMixture(3, 3, regularization="inverse-wishart")
    pv.fit_em(by_em, x, tolerance=1e-12, epochs=2000)
    held = pv.GaussianMixture(3, 3, guide=pv.guides.PerRowCategorical(200, 3), regularization="inverse-wishart")
    held.load_state_dict(by_em.state_dict(), strict=False)
    for name in ("logits", "loc", "raw_scale"):
        getattr(held, name).requires_grad_(False)
    options = {"batch_size": 200, "schedule": "cosine"}
    found = pv.fit(held, x, epochs=600, learning_rate=0.1, optimizer="rmsprop", **options).history[-1]["elbo"]
    best = by_em.log_prob(x).mean().item()
    assert best - 1e-3 < found <= best + 1e-12
    table = held.posterior(x.double(), rows=torch.arange(200)).probs
    assert (table - by_em.responsibilities(x)).abs().max() < 0.02
    free = pv.GaussianMixture(3, 3, guide=pv.guides.PerRowCategorical(200, 3), regularization="inverse-wishart")
    start = pv.GaussianMixture(3, 3, regularization="inverse-wishart")
    pv.fit_em(start, x, epochs=1)
    free.load_state_dict(start.state_dict(), strict=False)
    with torch.no_grad():
        free.posterior.logits.copy_(start.responsibilities(x).clamp(min=1e-6).log())
    found = pv.fit(free, x, epochs=500, learning_rate=0.1, **options).history[-1]["elbo"]
    assert found == pytest.approx(best, abs=5e-3)


def test_svi_from_ems_start_reaches_ems_maximum():
    """The mixture is a program: `fit` maximizes the same likelihood by gradients, with enumeration."""
    x = gaussian_clusters(n=1000)
    by_em, by_svi = pv.GaussianMixture(4, 3, prior_rows=0), pv.GaussianMixture(4, 3, prior_rows=0)
    pv.fit_em(by_em, x, tolerance=1e-10, epochs=2000)
    pv.fit(by_svi, x, epochs=150, learning_rate=0.02, batch_size=200)
    assert abs(by_svi.log_prob(x).mean() - by_em.log_prob(x).mean()) < 0.02


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_svi_stays_where_em_ended(covariance):
    """Both maximize log p(x) + log p(θ): at EM's maximum the gradients are zero, the prior's included."""
    x = gaussian_clusters(n=60)
    mixture = pv.GaussianMixture(3, 3, covariance)
    pv.fit_em(mixture, x, tolerance=1e-12, epochs=3000)

    def objective():
        return (mixture.log_prob(x).sum() + mixture.log_prior()).item() / len(x)

    before = objective()
    fitted = pv.fit(mixture, x, epochs=100, batch_size=60, learning_rate=1e-3, schedule="cosine")
    assert objective() == pytest.approx(before, abs=1e-4)
    assert fitted.history[-1]["elbo"] == pytest.approx(mixture.log_prob(x).mean().item(), abs=1e-4)
