"""Encoders side by side: errors against closed forms, and numbers that only what they measure can move."""

import dataclasses
import math

import pytest
import torch
from sklearn import decomposition

import pyro_vae as pv
from pyro_vae.data import Measure, Split
from pyro_vae.diagnostics.latent_space_metrics import draws_near_rows
from pyro_vae.errors import InputError
from pyro_vae.models.pca import KernelPCA, median_square
from pyro_vae.studies.autoencoder_vs_vae_encoders import (
    Training,
    evaluate_encoder,
    fit_encoder,
    new_codes,
    pixel_knn_accuracy,
)
from pyro_vae.studies.encoder_records import METRICS, EncoderRow, mean_over_seeds

SMALL = Training(hidden=(32,), epochs=3)


@pytest.fixture(scope="module")
def digits():
    return pv.load_data("digits", binarize="none")


def test_reconstruction_error_of_pca_is_the_variance_left_over(digits):
    x = digits.train.x
    known = decomposition.PCA(10, svd_solver="full").fit(x.double().numpy())
    left = (x.double().var(0, correction=0).sum() - known.explained_variance_.sum() * (len(x) - 1) / len(x)) / 64
    found = pv.studies.reconstruction_error(pv.PCA(10).fit(digits), digits.train)
    assert found.shape == (len(x),)
    assert float(found.mean()) == pytest.approx(float(left), rel=1e-4)


def test_reconstruction_error_takes_any_program(tiny_vae):
    vae, x = tiny_vae
    expected = (vae.reconstruct(x) - x).square().mean(1)
    torch.testing.assert_close(pv.studies.reconstruction_error(vae, x), expected.double())


@pytest.mark.parametrize("kind", ["pca", "kernel-pca", "ae", "vae"])
def test_every_kind_gives_every_number(digits, kind):
    model, seconds = fit_encoder(kind, 2, digits, SMALL, seed=1)
    found = evaluate_encoder(model, digits, digits.valid, num_draws=100)
    assert set(found) == set(METRICS)
    assert seconds > 0
    assert all(isinstance(value, float) and math.isfinite(value) for value in found.values())
    assert found["path_ratio"] >= 1 - 1e-6
    assert 0 <= found["precision"] <= 1
    if kind == "pca":
        assert found["path_ratio"] == pytest.approx(1, abs=1e-5)
        assert found["off_centre"] < 0.3


def test_the_same_seed_gives_the_same_network(digits):
    first, again, other = (fit_encoder("ae", 2, digits, SMALL, seed=seed)[0] for seed in (0, 0, 1))
    x = digits.valid.x
    assert torch.equal(first.encode(x), again.encode(x))
    assert not torch.equal(first.encode(x), other.encode(x))


def test_kernel_is_the_best_of_those_tried_on_validation_rows(digits):
    chosen, _ = fit_encoder("kernel-pca", 5, digits)
    other = KernelPCA(5, chosen.gamma * 2, 1e-2).fit(digits)
    error = [float(pv.studies.reconstruction_error(m, digits.valid).mean()) for m in (chosen, other)]
    assert error[0] <= error[1]


def test_new_codes_are_the_priors_or_a_normals_around_the_codes(digits):
    vae, _ = fit_encoder("vae", 2, digits, SMALL)
    drawn = new_codes(vae, digits.valid, 4000)
    assert drawn.mean(0).abs().max() < 0.08
    torch.testing.assert_close(drawn.T.cov(), torch.eye(2), atol=0.1, rtol=0)
    pca = pv.PCA(2).fit(digits)
    codes = pca.encode(digits.valid.x)
    drawn = new_codes(pca, digits.valid, 20_000)
    torch.testing.assert_close(drawn.T.cov(), codes.T.cov(), rtol=0.1, atol=0.02)


def test_neighbours_are_within_the_ball_of_some_row():
    rows = torch.tensor([[0.0], [1.0], [10.0]])
    assert draws_near_rows(torch.tensor([[0.5], [1.9], [-0.5], [4.0], [18.0], [30.0]]), rows, k=1).tolist() == [
        True, True, True, True, True, False,
    ]  # fmt: skip
    assert draws_near_rows(torch.tensor([[0.5], [2.5]]), rows[:2], k=1).tolist() == [True, False]


def test_pixel_knn_accuracy_is_the_nearest_neighbours_of_x(digits):
    assert pixel_knn_accuracy(digits, digits.valid) > 0.95
    roll = pv.load_data("seven-normals", standardize=True)
    assert (
        pixel_knn_accuracy(dataclasses.replace(roll, train=dataclasses.replace(roll.train, labels=None)), roll.valid)
        is None
    )


def test_mean_over_seeds_gives_means_and_standard_errors():
    rows = [
        EncoderRow("ae", 2, seed, 1.0, 10, **dict.fromkeys(METRICS, value) | {"area_gini": None})
        for seed, value in enumerate((1.0, 2.0, 6.0))
    ]
    rows.append(EncoderRow("pca", 2, 0, 1.0, None, **dict.fromkeys(METRICS, 4.0)))
    ae, pca = mean_over_seeds(rows)
    assert ae.precision == (3.0, pytest.approx(math.sqrt(7 / 3)))
    assert ae.area_gini is None
    assert pca["precision"] == (4.0, None)
    assert list(pca) == ["kind", "num_latents", "num_seeds", *METRICS]


def test_an_unknown_kind_says_which_there_are(digits):
    with pytest.raises(InputError, match="pca, kernel-pca, ae, vae"):
        fit_encoder("umap", 2, digits)


def test_missing_values_do_not_count_as_rebuilt():
    class Zero:
        def reconstruct(self, x, **row_inputs):
            return torch.zeros_like(x)

    x = torch.tensor([[2.0, float("nan")], [1.0, 3.0]])
    rows = Split("given", x, Measure())
    assert pv.studies.reconstruction_error(Zero(), rows).tolist() == [4.0, 5.0]
    with pytest.raises(InputError, match="fill them first"):
        pv.PCA(1).fit(rows)


def test_what_has_collapsed_has_none_where_there_is_no_number(digits):
    class Constant(pv.PCA):
        def decode(self, z):
            return torch.zeros(*z.shape[:-1], 64, dtype=z.dtype)

    found = evaluate_encoder(Constant(2).fit(digits), digits, digits.valid, num_draws=50)
    assert found["path_ratio"] is None
    assert found["reconstruction_error"] > 0.1


def test_a_decoder_that_asks_for_more_than_z_is_refused(digits):
    vae = pv.ConditionalVAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.nets.mlp(12, 64)),
        pv.guides.MeanFieldNormal(pv.nets.mlp(74, 4)),
        num_labels=10,
    )
    with pytest.raises(InputError, match="decodes z and more"):
        evaluate_encoder(vae, digits, digits.valid)


def test_the_kernels_width_does_not_depend_on_the_order_of_rows():
    x = torch.cat([torch.randn(1500, 2), torch.randn(1500, 2) + 20])
    shuffled = x[torch.randperm(len(x))]
    assert median_square(x) == pytest.approx(median_square(shuffled), rel=0.3)
    with pytest.raises(InputError, match="give gamma"):
        median_square(torch.zeros(100, 2))
