"""The semi-supervised VAE: its ELBO, gradients and log p(x) against sums by hand and closed forms."""

import inspect
import math

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor

import pyro_vae as pv
from pyro_vae.models import SemiSupervisedVAE
from pyro_vae.options import options_of
from pyro_vae.registry import ModelConfig

C, D, K, N = 3, 5, 2, 8
LABELS = torch.tensor([0, 2, -1, 1, -1, -1, 2, -1])


def make(weight=0.0, latents=K):
    torch.manual_seed(0)
    vae = SemiSupervisedVAE(
        pv.priors.Normal([0.5] * latents, [2.0] * latents),
        pv.likelihoods.Normal(pv.nets.mlp(latents + C, 6, D), scale=0.7),
        pv.guides.MeanFieldNormal(pv.nets.mlp(D + C, 6, 2 * latents)),
        pv.guides.CategoricalGuide(pv.nets.mlp(D, 6, C)),
        C,
        weight,
    ).double()
    vae.init_from_labels(LABELS)
    return vae, torch.randn(N, D, dtype=torch.float64)


def losses(vae, x, labels):
    """The objective and the noise of z that it had, (C, N, K)."""
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(vae.model, vae.guide, x, labels=labels)
    pyro.set_rng_seed(1)
    return loss, dist.Normal(torch.zeros(C, len(x), K, dtype=x.dtype), 1.0).to_event(1).sample()


def terms_by_hand(vae, x, noise) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x, z, y) − log q(z | x, y) of each class at the noise, (C, N), log q(y | x), (N, C), and the z's."""
    found, codes = [], []
    for c in range(C):
        y = torch.eye(C, dtype=x.dtype)[c].expand(len(x), C)
        q = vae.posterior(torch.cat([x, y], -1))
        z = q.base_dist.loc + q.base_dist.scale * noise[c]
        log_px = vae.likelihood(torch.cat([z, y], -1)).log_prob(x)
        found.append(vae.log_class_probs[c] + vae.prior().log_prob(z) + log_px - q.log_prob(z))
        codes.append(z)
    return torch.stack(found), vae.classifier(x).logits.log_softmax(-1), torch.stack(codes)


def objective_by_hand(vae, x, labels, noise):
    each, log_q, _ = terms_by_hand(vae, x, noise)
    unknown = (log_q.exp() * (each.T - log_q)).sum(-1)
    index = labels.clamp(min=0)[:, None]
    known = each.T.gather(1, index)[:, 0]
    classified = log_q.gather(1, index)[:, 0] * (labels >= 0)
    weight = vae.classification_weight / vae.known_share
    return torch.where(labels >= 0, known, unknown).sum() + weight * classified.sum()


@pytest.mark.parametrize("labels", [LABELS, torch.full((N,), -1), LABELS.clamp(min=0), None], ids=str)
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_objective_and_its_gradients_are_the_sums_over_classes_by_hand(labels, weight):
    vae, x = make(weight)
    loss, noise = losses(vae, x, labels)
    expected = -objective_by_hand(vae, x, torch.full((N,), -1) if labels is None else labels, noise)
    torch.testing.assert_close(loss, expected)
    parameters = list(vae.parameters())
    found, by_hand = (torch.autograd.grad(each, parameters, allow_unused=True) for each in (loss, expected))
    for one, other in zip(found, by_hand, strict=True):
        torch.testing.assert_close(
            torch.zeros(()) if one is None else one, torch.zeros(()) if other is None else other, check_dtype=False
        )


def test_the_gradient_of_the_classifier_is_that_of_finite_differences():
    vae, x = make(0.3)
    weight = vae.classifier.net[0].weight
    (gradient,) = torch.autograd.grad(losses(vae, x, LABELS)[0], weight)
    found = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            weight[1, 2] += step
        found.append(losses(vae, x, LABELS)[0].detach())
        with torch.no_grad():
            weight[1, 2] -= step
    torch.testing.assert_close(gradient[1, 2], (found[0] - found[1]) / 2e-5, rtol=1e-5, atol=1e-7)


def test_with_all_labels_known_it_is_a_conditional_vae_and_the_class_probabilities():
    vae, x = make()
    labels = LABELS.clamp(min=0)
    loss, noise = losses(vae, x, labels)
    z = terms_by_hand(vae, x, noise)[2][labels, torch.arange(N)]
    conditional = pv.ConditionalVAE(vae.prior, vae.likelihood, vae.posterior, C).double()
    traces = [
        poutine.trace(poutine.condition(function, {"z": z})).get_trace(x, labels=labels).log_prob_sum()
        for function in (conditional.model, conditional.guide)
    ]
    torch.testing.assert_close(-loss, traces[0] - traces[1] + vae.log_class_probs[labels].sum())


def test_reported_numbers_have_no_classification_term():
    """The same noise with and without it: the same ELBO, and its two terms."""
    once = {"labels": LABELS, "epochs": 1, "batch_size": N, "learning_rate": 1e-9}
    vae, x = make(5.0)
    with_term = pv.fit(vae, x, valid=x, **once).history[0]
    vae, x = make(0.0)
    without = pv.fit(vae, x, valid=x, **once).history[0]
    for name in ("elbo", "reconstruction", "kl", "valid_elbo", "valid_reconstruction", "valid_kl"):
        assert with_term[name] == pytest.approx(without[name], abs=1e-6)
    assert without.elbo == pytest.approx(without.reconstruction - without.kl)
    found = pv.log_evidence(vae, x, 1000)  # the same ELBO by other draws
    assert without.valid_elbo == pytest.approx(float(found.elbo.mean()), abs=0.1)


def exact_factor_analysers(x):
    """A mixture of factor analysers with one factor, its exact posteriors as guide, and log p(x, y), (N, C)."""
    torch.manual_seed(2)
    vae = SemiSupervisedVAE(
        pv.priors.StandardNormal(1),
        pv.likelihoods.Normal(pv.nets.linear(1 + C, D), scale=0.5),
        pv.guides.MeanFieldNormal(pv.nets.linear(D + C, 2)),
        pv.guides.CategoricalGuide(pv.nets.linear(D, C)),
        C,
    ).double()
    vae.log_class_probs = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
    decoder, encoder = vae.likelihood.net[0], vae.posterior.net[0]
    with torch.no_grad():
        loading, offsets, bias = decoder.weight[:, 0], decoder.weight[:, 1:], decoder.bias
        variance = 1 / (1 + loading @ loading / 0.25)
        encoder.weight[0] = torch.cat([variance * loading / 0.25, -variance * loading @ offsets / 0.25])
        encoder.bias[0] = -variance * loading @ bias / 0.25
        encoder.weight[1] = 0.0
        encoder.bias[1] = torch.log(torch.expm1(variance.sqrt() - 1e-4))
        covariance = loading[:, None] * loading + 0.25 * torch.eye(D, dtype=torch.float64)
        each = dist.MultivariateNormal(bias + offsets.T, covariance).log_prob(x[:, None])
    return vae.eval(), vae.log_class_probs + each


def test_log_px_of_a_mixture_of_factor_analysers_is_exact_and_so_is_its_elbo():
    """With the exact q(z | x, y) all weights of a row are equal, whatever q(y | x) is."""
    x = 2 * torch.randn(20, D, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    vae, log_pxy = exact_factor_analysers(x)
    for found in (pv.log_evidence(vae, x, 30), pv.auto_evidence(vae, x, 30)):
        torch.testing.assert_close(found.log_px, log_pxy.logsumexp(-1))
        assert found.mc_se.max() < 1e-6
        log_q = vae.predict_proba(x).log()
        torch.testing.assert_close(found.elbo, (log_q.exp() * (log_pxy - log_q)).sum(-1))
        torch.testing.assert_close(found.elbo, found.reconstruction - found.kl)
    drawn = pv.log_evidence(vae, x, 4000, prior_share=0.05)  # classes are drawn
    assert ((drawn.log_px - log_pxy.logsumexp(-1)).abs() < 5 * drawn.mc_se + 1e-3).all()


def test_scores_are_of_x_alone_whatever_labels_rows_have():
    vae, x = make()
    split = pv.Split("test", x, labels=LABELS)
    without = pv.Split("test", x)
    assert torch.equal(pv.log_evidence(vae, split, 20).log_px, pv.log_evidence(vae, without, 20).log_px)
    assert vae.encode(x, labels=LABELS).shape == (N, K)


def test_rows_are_drawn_of_given_classes_and_by_class_probabilities():
    vae, _ = make()
    with torch.no_grad():
        vae.likelihood.net[-1].weight.zero_()
    vae.likelihood.scale = 1e-3
    assert vae.sample(4, seed=0).shape == (4, D)
    labels = torch.tensor([2, 0, -1, 1])
    drawn = vae.sample(4, seed=0, labels=labels)
    assert torch.equal(drawn, vae.sample(4, seed=0, labels=labels))
    torch.testing.assert_close(drawn[:1], vae.decode(torch.zeros(1, K), labels[:1]), atol=0.01, rtol=0)
    with pytest.raises(pv.InputError, match="a label for each of the 4 draws"):
        vae.sample(4, labels=labels[:2])


def test_class_probabilities_start_at_smoothed_frequencies():
    vae, _ = make()
    torch.testing.assert_close(vae.log_class_probs.exp(), torch.tensor([2.0, 2.0, 3.0], dtype=torch.float64) / 7)
    assert float(vae.known_share) == pytest.approx(0.5)


def test_a_fit_with_few_labels_finds_the_classes_that_the_rows_show(tmp_path):
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(300) % C
    x = 4 * torch.eye(C, D)[classes] + torch.randn(300, D, generator=generator)
    labels = torch.where(torch.arange(300) < 9, classes, -1)
    vae, _ = make(1.0)
    vae = vae.float()
    vae.log_class_probs, vae.known_share = vae.log_class_probs.float(), vae.known_share.float()
    pv.fit(vae, x, labels=labels, epochs=15, learning_rate=0.05, batch_size=50)
    assert (vae.predict(x) == classes).double().mean() > 0.9
    pv.save(vae, tmp_path)
    again = pv.load(tmp_path)
    assert torch.equal(again.predict_proba(x), vae.predict_proba(x))
    assert torch.equal(pv.log_evidence(again, x[:5], 20).log_px, pv.log_evidence(vae, x[:5], 20).log_px)


def test_what_cannot_be_used_is_refused():
    vae, x = make()
    for labels in (torch.full((N,), C), torch.full((N,), -2)):
        with pytest.raises(pv.InputError, match="expected 0 to 2, and −1"):
            pv.fit(vae, x, labels=labels, epochs=1)
    for number, weight, message in (
        (1, 0.1, "two labels or more"),
        (2, -1.0, "zero or more"),
        (2, math.nan, "a finite number"),
    ):
        with pytest.raises(pv.InputError, match=message):
            SemiSupervisedVAE(vae.prior, vae.likelihood, vae.posterior, vae.classifier, number, weight)
    classifier = pv.guides.CategoricalGuide(pv.nets.mlp(D, 2))
    wrong = SemiSupervisedVAE(vae.prior, vae.likelihood, vae.posterior, classifier, C).double()
    with pytest.raises(pv.InputError, match="a Categorical over 3 classes"):
        wrong.predict_proba(x)


def test_impute_names_what_works_instead():
    vae, x = make()
    with pytest.raises(pv.InputError, match="impute_rows"):
        vae.impute(x)


def test_the_default_weight_is_that_of_the_command():
    default = inspect.signature(SemiSupervisedVAE).parameters["classification_weight"].default
    assert default == options_of(ModelConfig)["classification_weight"].default
