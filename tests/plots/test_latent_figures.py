"""Looking inside: what the pictures show is what the program says, and every kind of program is looked into."""

import numpy as np
import pyro
import pytest
import torch
from example_programs import Hierarchical, global_mean, plain_functions, vamp_vae
from figure_checks import Given, build_vae, check_drawn, look_at, sheet_of, words

import pyro_vae as pv
from pyro_vae.data.columns import Column, Schema
from pyro_vae.diagnostics.latent_usage import LatentUsage
from pyro_vae.errors import InputError
from pyro_vae.plots import style
from pyro_vae.plots.latent_figures import draw_latent_figures, latent_usage_bars
from pyro_vae.plots.latent_traversals import interpolations, traversals
from pyro_vae.plots.latent_view import LatentView
from pyro_vae.plots.log_px_extremes import extremes
from pyro_vae.studies.posterior_collapse import CollapseResult, plot_collapse

ALL = ["traversals", "interpolations", "usage", "aggregate", "ordered-samples", "extremes"]


@pytest.mark.parametrize("K", [2, 5])
def test_a_vae_of_pictures_gets_every_picture(K, tmp_path):
    data = pv.load_data("digits")
    vae, split = build_vae(K, 64), data.valid.head(30)
    pictures = draw_latent_figures(vae, data, split, pv.log_evidence(vae, split, 20).log_px)
    assert [picture.name for picture in pictures] == ALL
    for picture in pictures:
        check_drawn(picture.figure, tmp_path / f"{picture.name}.png")
        assert picture.title
        assert picture.caption.endswith(".")


def test_a_table_gets_every_picture(tmp_path):
    data = pv.load_data("swiss-roll")
    vae, split = build_vae(2, 3, likelihood=pv.likelihoods.Normal), data.valid.head(30)
    pictures = draw_latent_figures(vae, data, split, pv.log_evidence(vae, split, 20).log_px)
    assert [picture.name for picture in pictures] == ALL
    for picture in pictures:
        check_drawn(picture.figure, tmp_path / f"{picture.name}.png")
    assert "column in its own units" in pictures[0].caption


def conditional():
    likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(12, 8, 64))
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(74, 8, 4))
    return pv.ConditionalVAE(pv.priors.StandardNormal(2), likelihood, guide, 10)


def flow_vae():
    net = pv.nets.mlp(64, 8, pv.guides.FlowGuide.outputs(2))
    return build_vae(2, 64, pv.priors.FlowPrior(2, 2), pv.guides.FlowGuide(net, 2, 2))


def two_functions():
    whole = Hierarchical(64)
    return pv.Program(whole.model, whole.guide)


@pytest.mark.parametrize(
    ("make", "name", "expected"),
    [
        (lambda: vamp_vae(2, 64), "digits", ALL),
        (lambda: build_vae(3, 64, pv.priors.MixtureOfNormals(3, 4)), "digits", ALL),
        (flow_vae, "digits", ALL),
        (two_functions, "digits", ALL),
        (lambda: plain_functions(2), "pinwheel", ALL),
        (conditional, "digits", [name for name in ALL if name != "interpolations"]),
        (lambda: pv.GaussianMixture(3, 2), "pinwheel", ["ordered-samples", "extremes"]),
        (global_mean, "seven-normals", []),
        (lambda: pv.Autoencoder(pv.nets.mlp(64, 3), build_vae(3, 64).likelihood, 3), "digits", ALL[:2]),
    ],
)
def test_other_programs_get_what_they_have(make, name, expected):
    program, data = make(), pv.load_data(name)
    pv.fit(program, data.train, epochs=1, batch_size=len(data.train))
    split = data.valid.head(30)
    try:
        log_px = pv.log_evidence(program, split, 10).log_px
    except InputError:
        log_px = None
    assert [picture.name for picture in draw_latent_figures(program, data, split, log_px)] == expected


def test_without_log_px_the_extremes_are_left_out_and_a_wrong_one_is_an_error():
    data, vae = pv.load_data("digits"), build_vae(2, 64)
    assert [picture.name for picture in draw_latent_figures(vae, data, data.valid.head(20), None)] == ALL[:-1]
    with pytest.raises(InputError, match="there are 20 rows"):
        draw_latent_figures(vae, data, data.valid.head(20), torch.zeros(19))


def test_same_seed_same_picture_and_nothing_else_is_touched():
    view = look_at(build_vae(2, 64))
    before = torch.get_rng_state()
    again = LatentView(view.program, view.data, view.split)
    other = LatentView(view.program, view.data, view.split, seed=1)
    assert torch.equal(view.posterior_draws, again.posterior_draws)
    assert torch.equal(view.prior_draws, again.prior_draws)
    assert not torch.equal(view.posterior_draws, other.posterior_draws)
    assert torch.equal(torch.get_rng_state(), before)
    assert not pyro.get_param_store()._params


def test_decoding_by_traces_is_the_decoder():
    whole = Hierarchical(64)
    view = look_at(pv.Program(whole.model, whole.guide))
    z, rows = torch.randn(7, 5), torch.arange(7)
    with torch.no_grad():
        torch.testing.assert_close(view.decode(z, rows), whole.decoder(z[:, :3]).sigmoid())  # z1, then z2
    vae = conditional()
    view, z = look_at(vae), torch.randn(7, 2)
    torch.testing.assert_close(view.decode(z, rows), vae.decode(z, view.split.labels[:7]))


def test_traversals_move_one_latent_from_end_to_end():
    view = look_at(build_vae(3, 64))
    found = sheet_of(traversals(view), (8, 8), 12)
    assert found.shape == (3, 12, 64)
    np.testing.assert_array_equal(found[:, 0], view.rows.x[0].expand(3, -1).numpy())
    for line, k in zip(found, view.order, strict=True):
        for column, share in ((1, 0.01), (11, 0.99)):
            z = view.means[0].clone()
            z[k] = view.posterior_draws[:, k].quantile(share)
            np.testing.assert_allclose(line[column], view.program.decode(z).numpy(), atol=1e-5)


def test_interpolations_begin_and_end_at_rows_of_different_labels():
    view = look_at(build_vae(3, 64))
    found = sheet_of(interpolations(view), (8, 8), 13)
    assert found.shape == (8, 13, 64)
    x, means = view.rows.x, view.means
    for pair in range(4):
        first, last = (int((view.rows.labels == kind).nonzero()[0, 0]) for kind in (2 * pair, 2 * pair + 1))
        for line in found[2 * pair : 2 * pair + 2]:
            np.testing.assert_array_equal(line[[0, -1]], x[[first, last]].numpy())
            np.testing.assert_allclose(
                line[[1, -2]], view.decode(means[[first, last]], torch.arange(2)).numpy(), atol=1e-6
            )
        middle = view.decode((means[first] + means[last])[None] / 2, torch.arange(1))[0]
        np.testing.assert_allclose(found[2 * pair, 6], middle.numpy(), atol=1e-6)


def test_bars_are_sorted_and_a_collapsed_latent_is_grey():
    guide = Given([0.0, 0.0, 0.0], [1.0, 0.1, 0.5])
    figure = latent_usage_bars(look_at(build_vae(3, 64, guide=guide)))
    left, right = figure.axes
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["$z_{2}$", "$z_{3}$", "$z_{1}$"]
    heights = [bar.get_height() for bar in left.patches]
    exact = [0.5 * (s**2 - 1) - np.log(s) for s in (0.1, 0.5, 1.0)]
    np.testing.assert_allclose(heights, exact, atol=0.15)
    assert words(figure)[1] == "0 of 3 above 0.01: active"  # the same for all rows: means do not vary
    low, high = right.get_ylim()
    assert low < 0.01 < high


def test_best_and_worst_rows_are_those_by_log_px():
    view = look_at(build_vae(2, 64))
    log_px = torch.randn(40, generator=torch.Generator().manual_seed(0))
    figure = extremes(view, log_px)
    order = log_px.argsort()
    for axes, chosen in zip((0, 1), (order[:10], order.flip(0)[:10]), strict=True):
        found = sheet_of(figure, (8, 8), 10, axes)
        np.testing.assert_array_equal(found[0], view.split.x[chosen].numpy())
        np.testing.assert_allclose(found[1], view.program.reconstruct(view.split.x[chosen]).numpy(), atol=1e-6)


def test_a_dollar_in_a_name_is_a_dollar(tmp_path):
    split = pv.Split("valid", torch.randn(30, 3))
    names = ("profit_$_per_$", "$x^$", r"a\$b$")
    data = pv.Dataset("a$b$", split, split, split, schema=Schema(tuple(Column(name, "real") for name in names)))
    vae = build_vae(2, 3, likelihood=pv.likelihoods.Normal)
    pictures = draw_latent_figures(vae, data, split, torch.randn(30))
    assert [picture.name for picture in pictures] == ALL
    for picture in pictures:
        check_drawn(picture.figure, tmp_path / f"{picture.name}.png")
    written = [axes.title for axes in pictures[0].figure.axes] + [pictures[-2].figure.axes[0].xaxis.label]
    for text in [axes._left_title for axes in pictures[0].figure.axes] + written[3:]:
        shown, math = text._preprocess_math(text.get_text())
        assert (shown in names, math) == (True, False)


def test_principal_components_are_no_program():
    data = pv.load_data("digits")
    with pytest.raises(InputError, match=r"expected a program with a model and a guide, got a PCA"):
        draw_latent_figures(pv.PCA(2).fit(data), data, data.valid, None)


def test_names_of_pictures_lie_beside_them():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    style.label_rows(axes, ["a", "b"], 8)
    style.label_columns(axes, {1: "c"}, (8, 6))
    assert [text.xy for text in axes.texts] == [(-0.5, 4), (-0.5, 14), (11, -0.5)]


def test_the_figure_of_collapse_shows_its_numbers(tmp_path):
    def one(way, seed, kl, log_px):
        size = torch.full((4,), log_px, dtype=torch.float64)
        evidence = pv.log_evidence(build_vae(2, 64), torch.ones(4, 64), 10)
        evidence = type(evidence)(**(vars(evidence) | {"log_px": size, "elbo": size - 1, "kl": size * 0 + sum(kl)}))
        values = torch.tensor(kl, dtype=torch.float64)
        return CollapseResult(way, seed, LatentUsage({"z": values}, values, ("z[0]", "z[1]")), evidence, 1, 1.0)

    found = [one("plain", 0, [0.0, 1.0], -5.0), one("warm", 0, [0.5, 2.0], -4.0)]
    found += [one("plain", 1, [0.0, 1.0], -5.0), one("warm", 1, [0.5, 2.0], -4.5)]
    figure = plot_collapse(found)
    check_drawn(figure, tmp_path / "collapse.png")
    assert words(figure) == [
        "log p(x) −5.00\nELBO −6.00\nKL 1.00",
        "log p(x) −4.25  (+0.75 ± 0.25)\nELBO −5.25\nKL 2.50",
    ]
    assert [bar.get_height() for bar in figure.axes[1].patches] == [2.0, 0.5]
    with pytest.raises(InputError, match="one fit or more"):
        plot_collapse([])
