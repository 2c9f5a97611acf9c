"""The figures of EM and VI: they draw without a warning, and show the numbers they were given."""

import numpy as np
import pytest
import torch
from figure_checks import check_drawn, words

import pyro_vae as pv
from pyro_vae.data import synthetic
from pyro_vae.diagnostics.density_grid import density_on_grid
from pyro_vae.errors import InputError
from pyro_vae.plots import style
from pyro_vae.plots.learning_curve_figures import plot_curves, plot_gap
from pyro_vae.plots.mixture_densities import plot_components, plot_planes
from pyro_vae.studies.coordinate_ascent import coordinate_ascent_demo
from pyro_vae.studies.em_bounds import plot_coordinate_ascent


@pytest.mark.parametrize("cuts", [(), (1.0,), (-1.0, 1.0)])
def test_coordinate_ascent_draws_both_paths(cuts, tmp_path):
    found = coordinate_ascent_demo(cuts=cuts)
    figure = plot_coordinate_ascent(found)
    check_drawn(figure, tmp_path / "touching.png")
    assert len(figure.axes) == 4
    curve = figure.axes[0].lines[0]
    np.testing.assert_array_equal(curve.get_ydata(), found.log_px.numpy())
    assert any("KL(q ‖ p(c|x))" in text for text in words(figure))


def test_the_gap_at_the_end_is_written_and_a_way_without_a_bound_says_so(tmp_path):
    epochs = list(range(1, 41))
    log_px = [-90 - 500 * 0.5**epoch for epoch in epochs]
    bound = [value - 0.41 for value in log_px]
    rarely = [value if epoch % 5 == 0 else None for epoch, value in zip(epochs, log_px, strict=True)]
    none = [None] * len(epochs)
    figure = plot_gap({"SVI": (epochs, bound, rarely), "EM": (epochs, log_px, log_px), "MCEM": (epochs, none, rarely)})
    check_drawn(figure, tmp_path / "gap.png")
    assert words(figure) == ["KL(q ‖ p(z|x))\n0.41 nats", "KL(q ‖ p(z|x))\n0.00 nats", "no q for held-out rows"]
    assert len(figure.axes[2].lines) == 1
    low, high = figure.axes[0].get_ylim()
    assert low > -95  # not the first epochs
    assert low < bound[-1] < log_px[-1] < high


def test_a_gap_of_one_epoch_and_one_never_measured():
    figure = plot_gap({"one": ([1], [-3.0], [-2.0]), "unknown": ([1], [-3.0], [None])})
    assert words(figure) == ["KL(q ‖ p(z|x))\n1.00 nats", ""]
    with pytest.raises(InputError, match="one curve or more"):
        plot_gap({})


def test_curves_are_dashed_in_training_and_solid_in_test(tmp_path):
    seen = [10.0, 100.0, 1000.0]
    ways = {"SVI": (seen, [-9, -8, -7], [-9, -8.5, -8]), "EM": (seen, [-9, -8, -6], [None, -8.4, -8.01])}
    figure = plot_curves({"few rows": ways, "many rows": ways})
    check_drawn(figure, tmp_path / "curves.png")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["few rows", "many rows"]
    assert [line.get_linestyle() for line in figure.axes[0].lines] == ["--", "-", "--", "-"]
    assert figure.axes[0].lines[3].get_ydata().tolist() == [-8.4, -8.01]
    assert sorted(words(figure)[:2]) == ["EM", "SVI"]


def test_components_add_up_to_the_density_in_original_units(tmp_path):
    data = pv.load_data("seven-normals")
    mixture = pv.GaussianMixture(num_components=7, num_features=1)
    pv.fit_em(mixture, data, epochs=20)
    truth = synthetic.SEVEN_WEIGHTS, synthetic.SEVEN_MEANS, synthetic.SEVEN_SCALES
    figure = plot_components(mixture, data.train, truth=truth)
    check_drawn(figure, tmp_path / "components.png")
    upper, lower = figure.axes
    *parts, total = (line.get_xydata() for line in upper.lines[:8])
    np.testing.assert_allclose(sum(part[:, 1] for part in parts), total[:, 1], atol=1e-12)
    assert np.sum(total[:, 1]) * (total[1, 0] - total[0, 0]) == pytest.approx(1, abs=1e-3)
    tops = [part[part[:, 1].argmax(), 0] for part in parts]
    assert np.abs(np.array(tops) - synthetic.SEVEN_MEANS).max() < 0.3
    assert len(upper.lines) == 15
    assert lower.get_ylim() == (0, 1)
    with pytest.raises(InputError, match="one column"):
        plot_components(mixture, torch.zeros(3, 2))


@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal", "spherical"])
def test_planes_share_their_shades_and_ellipses_are_in_original_units(covariance, tmp_path):
    data = pv.load_data("two-moons")
    mixture = pv.GaussianMixture(2, 2, covariance)
    pv.fit_em(mixture, data, epochs=20)
    ppca = pv.PPCA(num_latents=1, num_features=2)
    pv.fit_closed_form(ppca, data)
    programs = {"mixture": mixture, "PPCA": ppca}
    planes = {name: density_on_grid(each, (-2, -2), (3, 2), 40, like=data) for name, each in programs.items()}
    figure = plot_planes(data, planes, mixture=mixture, held_out={"PPCA": -2.345})
    check_drawn(figure, tmp_path / "planes.png")
    assert len(figure.axes) == 4
    assert "log p(x) −2.35 nats" in words(figure) or "log p(x) −2.34 nats" in words(figure)
    one = figure.axes[0].lines[0].get_xydata()
    expected = data.train.measure.to_original_units(mixture.means)[0].numpy()
    np.testing.assert_allclose((one.min(0) + one.max(0)) / 2, expected, atol=0.01)
    variance = {"full": lambda c: c[0].diag(), "tied": lambda c: c.diag(), "diagonal": lambda c: c[0]}
    variance = variance.get(covariance, lambda c: c[0].expand(2))(mixture.covariances)
    reach = variance.sqrt().numpy() * np.array(data.train.measure.scale)
    np.testing.assert_allclose((one.max(0) - one.min(0)) / 2, reach, rtol=0.01)


def test_a_plane_is_of_two_columns():
    plane = density_on_grid(pv.PPCA(1, 2), (-1, -1), (1, 1), 4)
    with pytest.raises(InputError, match="two columns"):
        plot_planes(torch.zeros(3, 3), {"PPCA": plane})


def test_colours_are_mixed_as_shares_say():
    found = style.blend_colours(np.array([[1.0, 0.0], [0.5, 0.5]]), ["#FF0000", "#0000FF"])
    np.testing.assert_allclose(found, [[1, 0, 0], [0.5, 0, 0.5]])


def test_names_at_the_ends_of_lines_are_moved_apart():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    axes.set_ylim(0, 1)
    style.label_ends(axes, [(0.5, "a", "k"), (0.5, "b", "k"), (0.9, "c", "k")], room=0.1)
    assert [text.get_position()[1] for text in axes.texts] == pytest.approx([0.45, 0.55, 0.9])
