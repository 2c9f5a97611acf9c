"""The figures: what they show is what the program says."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import pyro_vae as pv
from pyro_vae.data.reference_measure import Measure
from pyro_vae.plots import draw_on_axes, fit_figures, latent_manifold


def small(data, num_latents):
    hidden = pv.nets.mlp(num_latents, 10, data.num_features), pv.nets.mlp(data.num_features, 10, 2 * num_latents)
    likelihood = pv.likelihoods.Bernoulli if data.measure.startswith("counting") else pv.likelihoods.Normal
    return pv.VAE(pv.priors.StandardNormal(num_latents), likelihood(hidden[0]), pv.guides.MeanFieldNormal(hidden[1]))


def test_every_figure_is_written_and_large_enough_to_read(tmp_path):
    for name, num_latents, expected in [
        ("digits", 2, {"training", "reconstructions", "samples", "latents", "manifold"}),
        ("digits", 5, {"training", "reconstructions", "samples", "latents"}),
        ("pinwheel", 1, {"training", "reconstructions", "samples", "latents"}),
        ("seven-normals", 2, {"training", "reconstructions", "samples", "latents"}),
    ]:
        data = pv.load_data(name)
        vae = small(data, num_latents)
        fitted = pv.fit(vae, data, epochs=3)
        folder = tmp_path / f"{name}-{num_latents}"
        written = fit_figures.write_figures(folder, vae, data, fitted.history, fitted.best_epoch)
        assert {path.stem for path in written} == expected
        for path in written:
            with Image.open(path) as picture:
                assert min(picture.size) > 300
                assert np.asarray(picture.convert("L")).std() > 5, f"{path} is blank"


def sheet_of(figure, shape, columns, gap=2):
    """The pictures of a sheet, (n, D)."""
    sheet = np.asarray(figure.axes[0].images[0].get_array())
    height, width = shape[0] + gap, shape[1] + gap
    at = [(i * height, j * width) for i in range((len(sheet) + gap) // height) for j in range(columns)]
    return np.stack([sheet[a : a + shape[0], b : b + shape[1]].ravel() for a, b in at])


def test_pictures_are_undone_to_their_range_and_missing_pixels_are_white():
    stored = 2 * torch.rand(30, 64) - 1
    stored[:, :2], stored[::2, 5] = torch.tensor([-1.0, 1.0]), torch.nan
    split = pv.Split("valid", stored, Measure(shift=(0.25,) * 64, scale=(0.5,) * 64), image_shape=(8, 8))
    data = pv.Dataset("mine", split, split, split)
    vae = small(data, 2)
    found = sheet_of(fit_figures.reconstructions(vae, data), (8, 8), 10)
    ink = ((stored[:10] + 1) / 2).nan_to_num(nan=0.0)

    def undone(x):
        return ((x.double() * 0.5 + 0.25 + 1) / 2).clamp(0, 1)

    np.testing.assert_allclose(found[:10], ink, atol=1e-6)
    np.testing.assert_allclose(found[10:20], ink, atol=1e-6)
    again = fit_figures.reconstruct(vae, split.x[:10], mask=split.mask[:10])
    np.testing.assert_allclose(found[20:], undone(again), atol=1e-6)
    with fit_figures.seeded(0):
        drawn = fit_figures.sample_means(vae, 64, num_features=64)
    np.testing.assert_allclose(sheet_of(fit_figures.samples(vae, data), (8, 8), 8), undone(drawn), atol=1e-6)
    decoded = vae.decode(latent_manifold.prior_grid(vae).reshape(-1, 2))
    sheet = sheet_of(latent_manifold.manifold(vae, data), (8, 8), 20, gap=0)
    np.testing.assert_allclose(sheet, undone(decoded), atol=1e-6)


def test_missing_values_of_a_table_are_not_drawn():
    for D in (1, 3):
        stored = torch.randn(40, D) + 10
        stored[::2, 0] = torch.nan
        split = pv.Split("valid", stored)
        data = pv.Dataset("mine", split, split, split)
        vae = pv.VAE(
            pv.priors.StandardNormal(2),
            pv.likelihoods.Normal(pv.nets.mlp(2, 8, D)),
            pv.guides.MaskAwareGuide(pv.guides.MeanFieldNormal(pv.nets.mlp(2 * D, 8, 4))),
        )
        for figure in (fit_figures.reconstructions(vae, data), fit_figures.samples(vae, data)):
            if D == 3:
                np.testing.assert_array_equal(figure.axes[0].collections[0].get_offsets(), stored[1::2, :2])
            else:
                bars = [patch for patch in figure.axes[0].patches if hasattr(patch, "get_height")]
                data_bars, low = bars[:60], float(stored[1::2].min())
                left = [bar.get_x() for bar in data_bars if bar.get_height() > 0]
                assert min(left) > low - 1  # a missing value would be at 0, or at the mean
                assert sum(bar.get_height() * bar.get_width() for bar in data_bars) == pytest.approx(1)


def test_the_grid_is_even_in_prior_probability_and_upright():
    vae = pv.VAE(pv.priors.Normal([1.0, -2.0], [2.0, 0.5]), lambda z: None, lambda x: None)
    grid = latent_manifold.prior_grid(vae)
    assert grid.shape == (20, 20, 2)
    share = torch.distributions.Normal(torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.5])).cdf(grid)
    steps = (torch.arange(20) + 0.5) / 20
    torch.testing.assert_close(share[0, :, 0], steps)
    torch.testing.assert_close(share[:, 0, 1], steps.flip(0))  # z_2 grows upwards
    assert latent_manifold.prior_grid(pv.VAE(pv.priors.StandardNormal(3), lambda z: None, lambda x: None)) is None


def test_a_grid_goes_through_a_flow_and_a_mixture_says_that_it_has_none():
    flow = pv.VAE(pv.priors.FlowPrior(2, layers=2, hidden=4), lambda z: None, lambda x: None)
    with torch.no_grad():
        for parameter in flow.prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    grid = latent_manifold.prior_grid(flow)
    plain = latent_manifold.prior_grid(pv.VAE(pv.priors.StandardNormal(2), lambda z: None, lambda x: None))
    back = torch.distributions.ComposeTransform(flow.prior.flow()).inv(grid)
    torch.testing.assert_close(back, plain, atol=1e-3, rtol=0)
    data = pv.load_data("digits")
    mixture = pv.VAE(pv.priors.MixtureOfNormals(2, 3), lambda z: None, lambda x: None)
    assert latent_manifold.reason_for_no_manifold(mixture, data).startswith(
        "no manifold figure: a MixtureOfNormals has no inverse CDF"
    )
    assert latent_manifold.reason_for_no_manifold(flow, data) == ""
    assert latent_manifold.reason_for_no_manifold(mixture, pv.load_data("two-moons")) == ""


def test_pictures_lie_where_their_numbers_say():
    axes = Figure().subplots()
    rows = np.arange(5)[:, None] / 4 * np.ones((5, 6))
    draw_on_axes.image_grid(axes, rows, (2, 3), columns=3, gap=1)
    sheet = np.asarray(axes.images[0].get_array())
    assert sheet.shape == (2 * 3 - 1, 3 * 4 - 1)
    assert sheet[0, 4] == 0.25
    assert sheet[3, 0] == 0.75
    assert sheet[3, 8] == 0


def test_one_of_each_label():
    labels = torch.tensor([3, 3, 1, 0, 2, 1])
    assert fit_figures.first_of_each_label(labels, 6).tolist() == [3, 2, 4, 0]
    assert fit_figures.first_of_each_label(None, 4).tolist() == [0, 1, 2, 3]


def test_curves_mark_the_kept_epoch():
    axes = Figure().subplots()
    draw_on_axes.training_curve(axes, [1, 2, 3], [-3.0, -2.0, -1.0], [None, None, None], "ELBO", best=2)
    assert [line.get_label() for line in axes.lines] == ["training", "kept: epoch 2"]


def test_marginals_by_nuts_are_drawn_over_those_of_q(tiny_vae, tmp_path):
    vae, x = tiny_vae
    found = pv.nuts(vae, x[:2], 40, warmup=40, num_chains=2)
    figure = pv.plots.plot_posterior(found)
    assert len(figure.axes) == 4
    assert "r-hat" in figure.axes[0].texts[0].get_text()
    figure.savefig(tmp_path / "posterior.png")
