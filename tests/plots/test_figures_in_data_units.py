"""Figures in the data's own units: grey levels, tables, missing values, columns that never move."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from figure_checks import Given, build_vae, look_at, sheet_of
from torch import nn

import pyro_vae as pv
from pyro_vae.data.reference_measure import Measure
from pyro_vae.plots.latent_figures import draw_latent_figures
from pyro_vae.plots.latent_traversals import interpolations, traversals
from pyro_vae.plots.latent_view import LatentView
from pyro_vae.plots.log_px_extremes import extremes, samples_by_log_px

ALL = ["traversals", "interpolations", "usage", "aggregate", "ordered-samples", "extremes"]


def test_lines_of_a_table_are_in_its_own_units():
    view = look_at(build_vae(1, 3, likelihood=pv.likelihoods.Normal), "swiss-roll")
    figure = traversals(view)
    line = figure.axes[0].lines[0].get_xydata()
    decoded = view.program.decode(torch.tensor(line[:, :1], dtype=torch.float32))
    np.testing.assert_allclose(line[:, 1], view.split.measure.to_original_units(decoded)[:, 0].numpy(), rtol=1e-5)


def test_draws_are_scored_in_the_datas_units():
    """For a decoder that does not look at z, log p(x) of a standardized normal's draws has a closed form."""
    vae = build_vae(1, 3, guide=Given([0.0], [1.0]), likelihood=pv.likelihoods.Normal)
    for parameter in vae.likelihood.parameters():
        nn.init.zeros_(parameter)
    view = look_at(vae, "swiss-roll")
    axes = samples_by_log_px(view).axes[1]
    drawn = vae.sample(200, seed=0)
    exact = dist.Normal(0.0, 1.0).log_prob(drawn).sum(-1) + float(view.split.log_jacobian[0])
    assert axes.patches[-1].get_x() + axes.patches[-1].get_width() == pytest.approx(float(exact.max()), abs=1e-3)


def in_place(name, stored, **options):
    """Rows as they are, as all three splits of a data set."""
    split = pv.Split("valid", stored, **options)
    return pv.Dataset(name, split, split, split)


def test_pictures_are_undone_to_grey_levels():
    """Standardized pictures, with a pixel missing in every other row, which is paper."""
    stored = 100 * torch.rand(30, 64) - 50
    stored[:, :2], stored[::2, 5] = torch.tensor([-50.0, 50.0]), torch.nan
    measure = Measure(shift=(-10.0,) * 64, scale=(30.0,) * 64)
    data = in_place("mine", stored, measure=measure, image_shape=(8, 8))
    guide = pv.guides.MaskAwareGuide(pv.guides.MeanFieldNormal(pv.nets.mlp(128, 8, 6)))
    vae = build_vae(3, 64, guide=guide, likelihood=pv.likelihoods.Normal)
    view, split = LatentView(vae, data, data.valid), data.valid
    ink = ((stored.double() + 50) / 100).nan_to_num(nan=0.0).numpy()

    def undone(x):
        return ((x.double() * 30 - 10 + 50) / 100).clamp(0, 1).numpy()

    def again(rows):
        return undone(vae.reconstruct(split.x[rows], mask=split.mask[rows]))

    first = sheet_of(traversals(view), (8, 8), 12)
    np.testing.assert_allclose(first[:, 0], np.stack([ink[0]] * 3), atol=1e-6)
    z = view.means[0].clone()
    z[view.order[0]] = view.posterior_draws[:, view.order[0]].double().quantile(0.99)
    np.testing.assert_allclose(first[0, 11], undone(vae.decode(z)), atol=1e-5)
    walk = sheet_of(interpolations(view), (8, 8), 13)
    np.testing.assert_allclose(walk[0][[0, -1]], ink[:2], atol=1e-6)
    np.testing.assert_allclose(walk[0][[1, -2]], undone(vae.decode(view.means[:2])), atol=1e-5)
    log_px = torch.randn(30)
    order = log_px.argsort()[:10]
    worst = sheet_of(extremes(view, log_px), (8, 8), 10)
    np.testing.assert_allclose(worst[0], ink[order], atol=1e-6)
    np.testing.assert_allclose(worst[1], again(order), atol=1e-5)
    drawn, best = undone(vae.sample(200, seed=0)), sheet_of(samples_by_log_px(view), (8, 8), 10, 1)[0]
    away = abs(best[:, None] - drawn).max(-1).min(1)
    assert away.max() < 1e-6  # each is one of the draws


def test_missing_values_are_not_drawn_in_lines():
    stored = torch.randn(30, 3) * torch.tensor([1.0, 1.0, 10.0]) + 50
    stored[::2, 1], stored[5:, 2] = torch.nan, torch.nan
    data = in_place("mine", stored, measure=Measure(shift=(50.0,) * 3, scale=(1.0,) * 3))
    guide = pv.guides.MaskAwareGuide(pv.guides.MeanFieldNormal(pv.nets.mlp(6, 8, 4)))
    vae = build_vae(2, 3, guide=guide, likelihood=pv.likelihoods.Normal)
    panels = interpolations(LatentView(vae, data, data.valid)).axes
    for column, axes in enumerate(panels):
        dots = [line.get_ydata() for line in axes.lines if line.get_marker() == "o"]
        rows = [(0, 1), (2, 3), (4, 5), (6, 7)]
        np.testing.assert_allclose(dots, [stored[list(pair), column].numpy() for pair in rows], rtol=1e-6)
        band = axes.patches[0]
        known = stored[:, column][~stored[:, column].isnan()].numpy()
        np.testing.assert_allclose(
            [band.get_y(), band.get_y() + band.get_height()], np.percentile(known, [5, 95]), rtol=1e-5
        )


@pytest.mark.parametrize("num_rows", [30, 1])
def test_columns_that_never_move_are_left_out(num_rows):
    stored = torch.cat([torch.randn(30, 2), torch.full((30, 7), 0.1), torch.randn(30, 1)], 1)
    data = in_place("mine", stored)
    view = LatentView(build_vae(2, 10, likelihood=pv.likelihoods.Normal), data, data.valid.head(num_rows))
    figure = traversals(view)  # a single row has no spread, and no warning either
    assert [axes.get_title() for axes in figure.axes] == ["column 1", "column 2", "column 10"]
    everywhere = in_place("mine", torch.full((30, 10), 0.1))
    assert traversals(LatentView(view.program, everywhere, everywhere.valid)) is None
    if num_rows > 1:
        shades = np.asarray(extremes(view, torch.randn(30)).axes[0].images[0].get_array())
        np.testing.assert_array_equal(shades[:, 2:9], 0)


def test_missing_values_stay_white():
    stored = torch.randn(30, 3)
    stored[::2, 1] = torch.nan
    split = pv.Split("valid", stored)
    data = pv.Dataset("mine", split, split, split)
    guide = pv.guides.MaskAwareGuide(pv.guides.MeanFieldNormal(pv.nets.mlp(6, 8, 4)))
    vae = build_vae(2, 3, guide=guide, likelihood=pv.likelihoods.Normal)
    log_px = -torch.arange(30.0)
    assert [picture.name for picture in draw_latent_figures(vae, data, split, log_px)] == ALL
    values = np.asarray(extremes(LatentView(vae, data, split), log_px).axes[0].images[0].get_array())
    assert np.ma.getmaskarray(np.ma.masked_invalid(values))[:, 1].tolist() == [i % 2 == 1 for i in range(10)]
