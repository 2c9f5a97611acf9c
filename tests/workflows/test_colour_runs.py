"""Pictures in colour from the folder to the report: every network, log p(x) against oracles, figures, new rows."""

import base64
import io
import itertools
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.integrate import quad
from torch import nn

import pyro_vae as pv
from pyro_vae.data.image_shapes import ImageShape
from pyro_vae.errors import InputError
from pyro_vae.loggers.tensorboard import sprites
from pyro_vae.plots import draw_on_axes
from pyro_vae.plots.display_units import stored_to_pixels, to_pixels
from pyro_vae.plots.fit_figures import latents, reconstructions, samples
from pyro_vae.plots.latent_figures import draw_latent_figures
from pyro_vae.report import latent_explorer
from pyro_vae.report.latent_planes import base_points
from pyro_vae.studies.picture_changes import cut, shift
from pyro_vae.workflows.evaluate_run import evaluate_run
from pyro_vae.workflows.export_rows import encode_run, reconstruct_run, sample_run
from pyro_vae.workflows.fit_run import fit_run
from pyro_vae.workflows.read_run import Run
from pyro_vae.workflows.report_run import report_run
from pyro_vae.workflows.score_rows import score_rows

SIZE = (8, 6)
PAINTS = {"leaf": (20, 160, 40), "ruby": (200, 20, 30)}
FEW = {"epochs": 2, "hidden": (4,), "batch_size": 20}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty pictures of 16×12 pixels: a rectangle of the paint of its class on white."""
    root, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, paint in PAINTS.items():
        (root / name).mkdir()
        for i in range(20):
            values = np.full((16, 12, 3), 255, dtype=np.uint8)
            top, left = generator.integers(1, 6, 2)
            values[top : top + 8, left : left + 5] = paint
            Image.fromarray(values).save(root / name / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return fit_run(tmp_path_factory.mktemp("runs") / "run", data=str(folder), resize=SIZE, network="conv", **FEW)


@pytest.mark.parametrize("network", ["conv", "resnet", "mlp"])
def test_a_fit_in_colour_with_every_network(network, folder, tmp_path):
    lines = []
    done = fit_run(tmp_path / "run", data=str(folder), resize=SIZE, network=network, log=lines.append, **FEW)
    said = "\n".join(lines)
    assert "labels from 'folder'" in said
    assert "read: pictures of 16×12 resized to 8×6 (LANCZOS)" in said
    assert "likelihood discretized-logistic with scale learned: colours of 0 to 255, each level" in said
    assert done.record["measure"] == "counting measure on {0, …, 255}^144"
    assert math.isfinite(done.record["log_px"])
    assert {path.stem for path in done.figures} == {"training", "reconstructions", "samples", "latents", "manifold"}
    run = Run(done.folder)
    assert run.about["image_shape"] == [3, *SIZE]
    assert run.prepare.label_levels == ("leaf", "ruby")
    assert run.data().fingerprint == run.about["fingerprint"]


def test_commands_on_a_run_in_colour(run, folder, tmp_path):
    where = str(run.folder)
    assert evaluate_run(where, num_rows=2)[1]["measure"].endswith("^144")
    for written in (sample_run(where, 3, out=tmp_path / "s.npy"), reconstruct_run(where, out=tmp_path / "r.npy")):
        rows = np.load(written.path)
        assert rows.shape[1] == 144
        assert ((rows >= 0) & (rows <= 1)).all()
    assert encode_run(where, str(folder), out=tmp_path / "z.csv").num_rows == 40
    assert (tmp_path / "z.csv").read_text().splitlines()[1].split(",")[:3] == ["leaf/00.png", "0", "leaf"]
    summary, _ = score_rows(where, str(folder), out=tmp_path / "scores.csv", false_alarms=0.25)
    assert summary.num_data == 40
    page = report_run(where, num_samples=10)
    assert "colour images of 8×6 pixels" in page.read_text()


def test_new_pictures_of_a_run(run, folder, tmp_path):
    """The rows of the fit again, bit for bit; grey ones as three equal channels; other sizes resized."""
    opened = Run(run.folder)
    again, data = opened.rows(str(folder), "test"), opened.data()
    for split in (data.train, data.valid, data.test):
        assert torch.equal(again.x[split.index], split.x)
        assert torch.equal(again.labels[split.index], split.labels)
    Image.fromarray(np.full((40, 30), 77, dtype=np.uint8)).save(tmp_path / "grey.png")
    new = opened.rows(str(tmp_path), "test")
    assert (new.stored == 77).all()
    assert new.shape == (1, 144)
    with pytest.raises(InputError, match="20 columns, but this run was fitted to rows of 144"):
        opened.prepare(np.zeros((3, 20), dtype=np.uint8))


@pytest.mark.usefixtures("without_figures")
def test_a_run_of_the_version_that_read_colours_as_grey(folder, tmp_path):
    """Its config.toml has neither `gray` nor `resize`."""
    smaller = tmp_path / "pictures"
    for path in folder.rglob("*.png"):
        (smaller / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.open(path).resize(SIZE[::-1]).save(smaller / path.parent.name / path.name)
    done = fit_run(tmp_path / "run", data=str(smaller), gray=True, **FEW)
    config = done.folder / "config.toml"
    before = evaluate_run(done.folder, num_rows=2)[1]["log_px"]
    kept = [line for line in config.read_text().splitlines() if not line.startswith(("gray", "resize", "digest"))]
    config.write_text("\n".join(kept))
    assert evaluate_run(done.folder, num_rows=2)[1]["log_px"] == before
    opened = Run(done.folder)
    assert torch.equal(opened.rows(str(smaller), "test").stored[opened.data().train.index], opened.data().train.stored)
    assert fit_run(resume=done.folder).record["log_px"] is not None


@pytest.mark.usefixtures("without_figures")
def test_binarized_colours_are_of_each_channel(folder, tmp_path):
    done = fit_run(tmp_path / "run", data=str(folder), resize=SIZE, binarize="stochastic", **FEW)
    assert done.record["measure"] == "counting measure on {0, 1}^144"
    assert Run(done.folder).data().train.measure.binarize == "stochastic"


def test_what_does_not_go_together_leaves_nothing(folder, tmp_path):
    for options, message in [
        (
            {"likelihood": "bernoulli", "resize": SIZE},
            "needs values of 0 or 1.*--binarize stochastic",
        ),
        ({"data": "digits", "resize": SIZE}, "--resize .* is for images and folders of images"),
    ]:
        with pytest.raises(InputError, match=message):
            fit_run(tmp_path / "run", **({"data": str(folder)} | options), **FEW)
    assert not (tmp_path / "run").exists()


# --- log p(x) against oracles ---


def logistic_vae(shape: ImageShape, levels, scale=0.15):
    """One latent, colours that are a linear function of it, float64."""
    torch.manual_seed(0)
    size = math.prod(shape)
    likelihood = pv.likelihoods.DiscretizedLogistic(pv.nets.linear(1, size), scale=scale, levels=levels)
    guide = pv.guides.MeanFieldNormal(pv.nets.linear(size, 2))
    vae = pv.VAE(pv.priors.StandardNormal(1), likelihood, guide).double()
    with torch.no_grad():
        for parameter in likelihood.net.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + 0.4)
    return vae


def probability(row, at, weight, bias, levels, scale):
    """P(row | z) from the definition: a logistic distribution function at the edges of each level."""
    edges = np.concatenate([[-np.inf], (np.arange(levels) + 0.5) / levels, [np.inf]])
    with np.errstate(over="ignore"):
        below = 1 / (1 + np.exp(-(edges[:, None] - (weight * at + bias)) / scale))
    return np.prod([below[v + 1, d] - below[v, d] for d, v in enumerate(row)])


def test_log_px_of_colours_is_the_integral():
    levels, scale, rows = 255, 0.15, np.random.default_rng(1).integers(0, 256, (4, 3))
    vae = logistic_vae((3, 1, 1), levels)
    weight, bias = (parameter.detach().numpy() for parameter in vae.likelihood.net.parameters())
    expected = [
        math.log(
            quad(
                lambda z, row=row: probability(row, z, weight[:, 0], bias, levels, scale) * math.exp(-z * z / 2),
                -12, 12, epsabs=1e-20, epsrel=1e-11, limit=400,
            )[0]
            / math.sqrt(2 * math.pi)
        )
        for row in rows
    ]  # fmt: skip
    x = torch.from_numpy(rows) / 255.0
    found = pv.exact_evidence(vae, x.double()).log_px
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8)
    bins = vae.likelihood(torch.randn(5, 1, dtype=torch.float64)).base_dist
    each = bins.log_prob((torch.arange(256, dtype=torch.float64) / 255).reshape(-1, 1, 1)).exp()
    torch.testing.assert_close(each.sum(0), torch.ones(5, 3, dtype=torch.float64), atol=1e-12, rtol=0)


def test_probabilities_of_all_pictures_sum_to_one():
    """All 4³ colours of one pixel with four levels a channel."""
    vae = logistic_vae((3, 1, 1), levels=3)
    x = torch.tensor(list(itertools.product(range(4), repeat=3)), dtype=torch.float64) / 3
    assert float(pv.exact_evidence(vae, x).log_px.exp().sum()) == pytest.approx(1.0, abs=1e-9)


# --- networks ---


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("make", [(pv.nets.conv, pv.nets.conv_transpose), (pv.nets.resnet, pv.nets.resnet_transpose)])
def test_networks_have_the_channels_of_the_image(make, channels):
    shape, (down, up) = (channels, 7, 6), make
    x = torch.randn(2, 3, channels * 42)
    net = down(shape, 4, 8, outputs=5)
    first = next(layer for layer in net.modules() if isinstance(layer, nn.Conv2d))
    assert first.in_channels == channels
    assert net(x).shape == (2, 3, 5)
    assert up(5, 8, 4, image_shape=shape)(torch.randn(2, 5)).shape == (2, channels * 42)
    assert up(5, 8, 4, image_shape=shape, maps=2)(torch.randn(2, 5)).shape == (2, 2 * channels * 42)
    with pytest.raises(InputError, match="was given rows of 41"):
        net(torch.zeros(2, 41))


def test_a_network_sees_pixels_of_one_place_together():
    """With a 3×3 window no output of the first layer depends on a pixel far away, in any channel."""
    net = pv.nets.conv((3, 8, 8), 2, outputs=1)
    x = torch.zeros(1, 192, requires_grad=True)
    first = net.body[0]
    first(x.reshape(1, 3, 8, 8))[0, :, 0, 0].sum().backward()
    touched = x.grad.reshape(3, 8, 8).abs().sum(0) > 0
    assert not touched[2:].any()
    assert not touched[:, 2:].any()


# --- figures ---


def drawn(figure):
    """The pixels of a figure's only image."""
    (image,) = figure.axes[0].images
    return np.asarray(image.get_array())


def test_figures_have_the_colours(run):
    data, height, width = run.data, *SIZE
    sheet = drawn(reconstructions(run.program, data))
    for i in range(3):
        found = sheet[:height, i * (width + 2) :][:, :width]
        index = torch.arange(3)
        expected = data.valid.stored[index[i]].reshape(3, *SIZE).permute(1, 2, 0).numpy() / 255
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (sheet[height : height + 2] == 1).all()  # paper
    assert drawn(samples(run.program, data)).shape == (8 * (height + 2) - 2, 8 * (width + 2) - 2, 3)


def test_every_figure_of_the_report_is_drawn_in_colour(run):
    split = run.data.train
    found = draw_latent_figures(run.program, run.data, split, torch.arange(len(split)).double())
    with_pictures = {each.name: each.figure for each in found if each.name not in ("usage", "aggregate")}
    assert with_pictures.keys() == {"traversals", "interpolations", "ordered-samples", "extremes"}
    for figure in with_pictures.values():
        sheets = [np.asarray(image.get_array()) for axes in figure.axes for image in axes.images]
        assert sheets
        assert all(sheet.ndim == 3 and sheet.min() >= 0 and sheet.max() <= 1 for sheet in sheets)


def test_pixels_of_missing_values_are_white_and_grey_ones_dark_on_white(run):
    split = run.data.valid
    seen = torch.ones(2, 144, dtype=torch.bool)
    seen[:, 3] = False
    shown = to_pixels(split, split.x[:2], seen)
    assert (shown[:, 3] == 1).all()
    torch.testing.assert_close(shown[:, 4:], stored_to_pixels(split)[:2, 4:])
    import matplotlib.figure

    axes = matplotlib.figure.Figure().subplots()
    rows = np.stack([np.arange(12.0) / 12, np.zeros(12)])
    draw_on_axes.image_grid(axes, rows, (3, 2, 2), columns=1, gap=1)
    sheet = np.asarray(axes.images[0].get_array())
    assert np.array_equal(sheet[:2], rows[0].reshape(3, 2, 2).transpose(1, 2, 0))
    assert (sheet[2] == 1).all()
    assert (sheet[3:] == 0).all()


def test_the_explorer_and_the_projector_have_the_colours(run):
    split = run.data.valid
    page = latent_explorer.explorer(run.program, run.data, split)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(page["rows"]["stored"]))))
    assert (page["picture"], page["channels"]) == (SIZE, 3)
    expected = split.stored.reshape(len(split), 3, -1).permute(0, 2, 1).numpy()
    assert np.array_equal(sheet, expected)
    shown = sprites(split)
    assert shown.shape == (len(split), 3, 8, 8)
    torch.testing.assert_close(shown[..., 1:7], split.stored.reshape(-1, 3, *SIZE) / 255)
    assert (shown[..., 0] == 1).all()


def test_labels_are_the_names_of_folders(run):
    data = run.data
    (axes,) = latents(run.program, data).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["leaf", "ruby"]
    page = latent_explorer.explorer(run.program, data, data.valid)
    assert page["label_levels"] == ["leaf", "ruby"]
    names = [point.name for point in base_points(torch.randn(4, 3), torch.tensor([0, 1, -1, 1]), data.label_levels)]
    assert names[1:] == ["label none", "label leaf", "label ruby"]


def test_pictures_in_colour_are_cut_and_moved():
    x = torch.rand(2, 3, 4, 5)
    moved = shift(x.flatten(1), (3, 4, 5), right=1).reshape(x.shape)
    torch.testing.assert_close(moved[..., 1:], x[..., :-1])
    assert (moved[..., 0] == 0).all()
    whole = cut(x.flatten(1), (3, 4, 5), share=0.2).reshape(x.shape)
    kept = (whole != 0).any(-1)
    assert torch.equal(kept[:, 0], kept[:, 1])
    assert torch.equal(kept[:, 0], kept[:, 2])
    assert 0 < (~kept[:, 0]).sum() < 8


def test_a_folder_may_be_moved(run, folder, tmp_path):
    """A run finds its pictures by their folder, and says so where they are gone."""
    config = run.folder / "config.toml"
    shutil.copytree(run.folder, tmp_path / "copy")
    copied = tmp_path / "copy" / "config.toml"
    edited = config.read_text().partition("\n")[2]  # without its digest, as one edits it by hand
    copied.write_text(edited.replace(str(folder), str(tmp_path / "gone")))
    with pytest.raises(InputError, match=r"the data this run was fitted to cannot be read: no .*gone"):
        Run(tmp_path / "copy").data()
