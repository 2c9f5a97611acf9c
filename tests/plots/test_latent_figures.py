"""Looking inside: what the pictures show is what the program says, and every kind of program is looked into."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from example_programs import Hierarchical, global_mean, plain_functions, vamp_vae
from figure_checks import check_drawn, words
from torch import nn

import pyro_vae as pv
from pyro_vae.data.reference_measure import Measure
from pyro_vae.diagnostics.latent_usage import LatentUsage
from pyro_vae.errors import InputError
from pyro_vae.plots import style
from pyro_vae.plots.latent_figures import aggregate, latent_figures, latent_usage_bars
from pyro_vae.plots.latent_traversals import interpolations, traversals
from pyro_vae.plots.latent_view import LatentView
from pyro_vae.plots.log_px_extremes import extremes, samples_by_log_px
from pyro_vae.studies.posterior_collapse import CollapseResult, plot_collapse

ALL = ["traversals", "interpolations", "usage", "aggregate", "ordered-samples", "extremes"]


def build_vae(K, D, prior=None, guide=None, likelihood=pv.likelihoods.Bernoulli):
    guide = guide or pv.guides.MeanFieldNormal(pv.nets.mlp(D, 8, 2 * K))
    return pv.VAE(prior or pv.priors.StandardNormal(K), likelihood(pv.nets.mlp(K, 8, D)), guide)


def look_at(program, name="digits", num=40):
    data = pv.load_data(name)
    return LatentView(program, data, data.valid.head(num))


def sheet_of(figure, shape, columns, axes=0):
    """The pictures of a sheet, (lines, columns, D)."""
    sheet = np.asarray(figure.axes[axes].images[0].get_array())
    height, width = shape[0] + 2, shape[1] + 2
    lines = (len(sheet) + 2) // height
    at = [(i * height, j * width) for i in range(lines) for j in range(columns)]
    return np.stack([sheet[a : a + shape[0], b : b + shape[1]].ravel() for a, b in at]).reshape(lines, columns, -1)


class Given(nn.Module):
    """q(z | x) the same for all rows."""

    def __init__(self, loc, scale):
        super().__init__()
        self.loc, self.scale = torch.tensor(loc), torch.tensor(scale)

    def forward(self, x):
        return dist.Normal(self.loc.expand(len(x), -1), self.scale.expand(len(x), -1)).to_event(1)


@pytest.mark.parametrize("K", [2, 5])
def test_a_vae_of_pictures_gets_every_picture(K, tmp_path):
    data = pv.load_data("digits")
    vae, split = build_vae(K, 64), data.valid.head(30)
    pictures = latent_figures(vae, data, split, pv.log_evidence(vae, split, 20).log_px)
    assert [picture.name for picture in pictures] == ALL
    for picture in pictures:
        check_drawn(picture.figure, tmp_path / f"{picture.name}.png")
        assert picture.title
        assert picture.caption.endswith(".")


def test_a_table_gets_every_picture(tmp_path):
    data = pv.load_data("swiss-roll")
    vae, split = build_vae(2, 3, likelihood=pv.likelihoods.Normal), data.valid.head(30)
    pictures = latent_figures(vae, data, split, pv.log_evidence(vae, split, 20).log_px)
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
    assert [picture.name for picture in latent_figures(program, data, split, log_px)] == expected


def test_without_log_px_the_extremes_are_left_out_and_a_wrong_one_is_an_error():
    data, vae = pv.load_data("digits"), build_vae(2, 64)
    assert [picture.name for picture in latent_figures(vae, data, data.valid.head(20), None)] == ALL[:-1]
    with pytest.raises(InputError, match="there are 20 rows"):
        latent_figures(vae, data, data.valid.head(20), torch.zeros(19))


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


def test_densities_are_the_mixture_of_the_rows_and_the_prior():
    vae = build_vae(2, 64, pv.priors.Normal([1.0, 0.0], [0.5, 2.0]))
    view, points = look_at(vae), 2 * torch.randn(30, 2)
    posterior, prior = view.densities(points)
    with torch.no_grad():
        q = [vae.posterior(x[None]).log_prob(points).exp() for x in view.rows.x]
        torch.testing.assert_close(posterior, torch.stack(q).mean(0).double(), rtol=1e-4, atol=1e-9)
        torch.testing.assert_close(prior, vae.prior().log_prob(points).exp().double())


def test_a_prior_that_depends_on_the_row_is_averaged_too():
    def model(x, labels):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(labels[:, None].float().expand(-1, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([len(x), 64]).to_event(1), obs=x)

    def guide(x, labels):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

    view, points = look_at(pv.Program(model, guide)), torch.randn(9, 2)
    _, prior = view.densities(points)
    each = dist.Normal(view.rows.labels[:, None, None].float().expand(-1, 9, 2), 1.0).to_event(1).log_prob(points)
    torch.testing.assert_close(prior, each.exp().mean(0).double(), rtol=1e-4, atol=1e-9)
    assert interpolations(view) is None  # halfway between two labels there is none


def plated(kind):
    """Two latents of which each row has its own: side by side in a plate, as a column of two, or as a vector."""
    rows = -2 if kind == "plate" else -1

    def model(x):
        with pyro.plate("data", len(x), dim=rows):
            if kind == "plate":
                with pyro.plate("k", 2, dim=-1):
                    z = pyro.sample("z", dist.Normal(1.0, 2.0))
                pyro.sample(
                    "x", dist.Normal(z.mean(-1)[..., None, None].expand(-1, 1, 64), 1.0).to_event(1), obs=x[:, None]
                )
                return
            shape = (2, 1) if kind == "column" else (2,)
            z = pyro.sample("z", dist.Normal(torch.ones(shape), 2.0).to_event(len(shape)))
            loc = z.flatten(-len(shape)).mean(-1, keepdim=True) if kind == "column" else z.mean(-1, keepdim=True)
            pyro.sample("x", dist.Normal(loc.expand(*loc.shape[:-1], 64), 1.0).to_event(1), obs=x)

    def guide(x):
        loc = x[:, 20:22] - x[:, 40:42]
        with pyro.plate("data", len(x), dim=rows):
            if kind == "plate":
                with pyro.plate("k", 2, dim=-1):
                    pyro.sample("z", dist.Normal(loc, 0.5))
            else:
                loc = loc[..., None] if kind == "column" else loc
                pyro.sample("z", dist.Normal(loc, 0.5).to_event(loc.dim() - 1))

    return pv.Program(model, guide)


@pytest.mark.parametrize("kind", ["vector", "plate", "column"])
def test_densities_of_latents_of_any_shape(kind):
    view, points = look_at(plated(kind)), 2 * torch.randn(300, 2)
    posterior, prior = view.densities(points)
    x = view.rows.x
    q = dist.Normal(x[:, 20:22] - x[:, 40:42], 0.5).to_event(1).log_prob(points[:, None]).exp().mean(1)
    torch.testing.assert_close(posterior, q.double(), rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(
        prior, dist.Normal(torch.ones(2), 2.0).to_event(1).log_prob(points).exp().double(), rtol=1e-4, atol=1e-9
    )
    data, split = view.data, view.split
    found = [picture.name for picture in latent_figures(view.program, data, split, torch.randn(len(split)))]
    assert "aggregate" in found


@pytest.mark.parametrize(("loc", "scale", "share"), [(0.0, 1.0, "0%"), (4.0, 0.01, "100%"), (0.0, 0.5, None)])
def test_holes_are_where_the_prior_is_and_the_data_are_not(loc, scale, share):
    """For q = N(0, ¼ I): q < p/10 where r² > (2/3)(log 4 + log 10), of which the prior has exp(−r²/2) = 29%."""
    view = look_at(build_vae(2, 64, guide=Given([loc, 0.0], [scale, scale])))
    figure = aggregate(view)
    note = words(figure)[0]
    assert note.endswith("of the prior's mass lies in holes, where q is below p(z)/10")
    found = note.removeprefix("40 rows; ").split(" ")[0]
    if share is None:
        assert abs(int(found.rstrip("%")) - 100 * np.exp(-(np.log(4) + np.log(10)) / 3)) < 1.5
    else:
        assert found == share


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


def test_lines_of_a_table_are_in_its_own_units():
    view = look_at(build_vae(1, 3, likelihood=pv.likelihoods.Normal), "swiss-roll")
    figure = traversals(view)
    line = figure.axes[0].lines[0].get_xydata()
    decoded = view.program.decode(torch.tensor(line[:, :1], dtype=torch.float32))
    np.testing.assert_allclose(line[:, 1], view.split.measure.to_original_units(decoded)[:, 0].numpy(), rtol=1e-5)


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


def test_a_dollar_in_a_name_is_a_dollar(tmp_path):
    split = pv.Split("valid", torch.randn(30, 3))
    names = ("profit_$_per_$", "$x^$", r"a\$b$")
    data = pv.Dataset("a$b$", split, split, split, columns=names)
    vae = build_vae(2, 3, likelihood=pv.likelihoods.Normal)
    pictures = latent_figures(vae, data, split, torch.randn(30))
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
        latent_figures(pv.PCA(2).fit(data), data, data.valid, None)


def test_missing_values_stay_white():
    stored = torch.randn(30, 3)
    stored[::2, 1] = torch.nan
    split = pv.Split("valid", stored)
    data = pv.Dataset("mine", split, split, split)
    guide = pv.guides.MaskAwareGuide(pv.guides.MeanFieldNormal(pv.nets.mlp(6, 8, 4)))
    vae = build_vae(2, 3, guide=guide, likelihood=pv.likelihoods.Normal)
    log_px = -torch.arange(30.0)
    assert [picture.name for picture in latent_figures(vae, data, split, log_px)] == ALL
    values = np.asarray(extremes(LatentView(vae, data, split), log_px).axes[0].images[0].get_array())
    assert np.ma.getmaskarray(np.ma.masked_invalid(values))[:, 1].tolist() == [i % 2 == 1 for i in range(10)]


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
