"""The fit that a table gets by default: it finds what one normal does not, and is not collapsed."""

import numpy as np
import pandas
import pytest
import torch

import pyro_vae as pv
from pyro_vae.atomic_write import read_toml
from pyro_vae.likelihoods.residual_covariance import ResidualCovariance, shrunk_covariance, without_factors
from pyro_vae.workflows.build_vae import build_vae
from pyro_vae.workflows.choose_likelihood import choose_likelihood
from pyro_vae.workflows.fit_run import fit_run
from pyro_vae.workflows.fit_settings import FitSettings


def curved_sheet(num_rows, seed=0):
    """Two latents, bent: the columns of four functions of them, and noise."""
    generator, weights = np.random.default_rng(seed), np.random.default_rng(0).normal(size=(4, 20))
    z, noise = generator.normal(size=(num_rows, 2)), generator.normal(size=(num_rows, 20))
    rows = np.hstack([z, np.sin(2 * z)]) @ weights + 0.3 * noise
    return pandas.DataFrame(rows, columns=[f"c{i}" for i in range(20)])


def test_a_curved_sheet_is_found_where_one_normal_would_do_to_begin_with():
    """Of the whole covariance as a beginning all latents stay inactive, two nats below."""
    data = pv.load_data(curved_sheet(1600))
    settings = FitSettings.from_options({"epochs": 60}).with_table_defaults(
        {"epochs"}, data.num_features, len(data.train)
    )
    vae = build_vae(settings.model, choose_likelihood(settings.model, data), data, 0, data.has_missing)
    fitted = pv.fit(vae, data.train, settings.training, valid=data.valid, seed=0, progress="none")
    best = fitted.history[fitted.best_epoch - 1]
    one_normal = pv.GaussianMixture(1, data.num_features)
    pv.fit_em(one_normal, data.train)
    assert best["active_units"] >= 2
    assert best["valid_elbo"] > float(one_normal.log_prob(data.valid).mean()) + 1.0


def test_a_fit_begins_at_what_a_quarter_of_the_components_leave():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5000, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    residual = ResidualCovariance(8, floor=1e-3)
    residual.init_from_rows(rows)
    factor = residual().detach().double()
    covariance = shrunk_covariance(rows.double())
    scale = covariance.diagonal().sqrt()
    factor = factor / scale[:, None]
    found = torch.linalg.eigvalsh(factor @ factor.T)
    expected = torch.linalg.eigvalsh(covariance / scale[:, None] / scale)
    torch.testing.assert_close(found[:6], expected[:6], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[6:], expected[5].expand(2), rtol=1e-3, atol=1e-4)


def test_without_factors_keeps_the_directions():
    covariance = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)  # of eigenvalues 3 and 1
    torch.testing.assert_close(without_factors(covariance, 1), torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(without_factors(covariance, 0), covariance)


def test_columns_in_other_units_begin_at_their_own_scales():
    """The largest column is no principal component, and its scale is not that of the others."""
    rows = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1.0, 50.0, 1e4])
    residual = ResidualCovariance(4, floor=1e-6)
    residual.init_from_rows(rows)
    deviations = residual().square().sum(1).sqrt()
    assert deviations.isfinite().all()
    assert ((deviations / rows.std(0))[1:] > 0.8).all()  # the least column has what is drawn to the mean of all


@pytest.mark.parametrize(
    ("data", "options", "expected"),
    [
        ("digits", {}, 0.01),
        ("digits", {"latent_dim": 1}, 0.01),
        ("digits", {"latent_dim": 3}, 0.005),
        ("digits", {"learning_rate": 0.005}, 0.005),
        ("two-moons", {}, 0.005),
    ],
)
def test_pictures_with_few_latents_have_a_higher_learning_rate(tmp_path, data, options, expected):
    fit_run(tmp_path / "run", data=data, epochs=1, hidden=(4,), **options)
    assert read_toml(tmp_path / "run" / "config.toml")["training"]["learning_rate"] == expected
