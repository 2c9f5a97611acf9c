"""The swiss roll: places on the sheet against the formula it is made by, flatness against sheets that are flat."""

import pytest
import torch
from sklearn.datasets import make_swiss_roll

from pyro_vae.errors import InputError
from pyro_vae.studies.autoencoder_vs_vae_encoders import Training
from pyro_vae.studies.swiss_roll import fit_swiss_roll, on_the_sheet, swiss_roll, unrolling_quality


def test_places_on_the_sheet_are_those_it_was_rolled_from():
    x, turn = make_swiss_roll(500, noise=0.0, random_state=0)
    t = torch.from_numpy(turn)
    found = on_the_sheet(torch.from_numpy(x))
    step = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:, None] * t  # ∫ √(1 + t²) dt by trapezoids
    length = torch.trapezoid((1 + step.square()).sqrt(), step, dim=0)
    torch.testing.assert_close(found[:, 0], length, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[:, 1], torch.from_numpy(x[:, 1]))


def test_noise_moves_places_a_little():
    clean, noisy = (torch.from_numpy(make_swiss_roll(500, noise=noise, random_state=0)[0]) for noise in (0.0, 0.3))
    moved = (on_the_sheet(clean) - on_the_sheet(noisy))[:, 0].abs()
    assert moved.quantile(0.99) < 2, "the roll is 90 long, and a turn is 20 to 80"


def test_a_flat_sheet_is_flat_and_a_folded_one_is_not():
    sheet = torch.rand(300, 2, dtype=torch.float64)
    turned = sheet @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
    folded = torch.stack([(sheet[:, 0] - 0.5).abs(), sheet[:, 1]], 1)
    assert unrolling_quality(turned, sheet) == pytest.approx((1, 1), abs=1e-9)
    assert unrolling_quality(folded, sheet)[0] < 0.8
    assert unrolling_quality(folded, sheet)[1] < 0.95


def test_a_roll_by_pca_lies_on_itself():
    found = fit_swiss_roll("pca")
    assert found.codes.shape == found.sheet.shape == (500, 2)
    assert found.trust < 0.9


def test_a_roll_by_an_autoencoder_runs():
    found = fit_swiss_roll("ae", training=Training(hidden=(8,), epochs=1), num_rows=200)
    assert 0 < found.error < 2
    data, _ = swiss_roll(200)
    assert len(data.train) == 200


def test_wrong_arguments():
    with pytest.raises(InputError, match="no encoder"):
        fit_swiss_roll("umap")
    with pytest.raises(InputError, match="place on the sheet"):
        unrolling_quality(torch.rand(30, 2), torch.rand(29, 2))
