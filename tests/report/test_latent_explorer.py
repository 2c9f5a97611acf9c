"""The latent space to explore: planes, grids and rows are what the program says, in the data's own units."""

import base64
import io
from dataclasses import replace

import example_programs
import numpy as np
import pytest
import torch
from example_programs import vae_for
from PIL import Image

import pyro_vae as pv
from pyro_vae.report import latent_explorer
from pyro_vae.report.latent_planes import base_points, latent_planes


def pixels(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(float)


def test_planes_go_through_their_start_and_lie_along_their_directions():
    z = torch.randn(200, 6, dtype=torch.float64) * torch.tensor([1.0, 3.0, 0.1, 2.0, 1.0, 0.5])
    planes = latent_planes(z)
    assert [plane.names for plane in planes[2:]] == [("z₂", "z₄"), ("z₁", "z₅")]
    share = [(z - plane.origin) @ plane.directions for plane in planes]
    assert share[0].var(0).sum() >= share[2].var(0).sum()  # no plane holds more than that of the principal directions
    for plane, start in [(plane, start) for plane in planes for start in base_points(z, None)]:
        grid = plane.grid(start.z, 5).reshape(5, 5, 6)
        torch.testing.assert_close(plane.at(grid[-1, 0][None])[0], plane.low)  # left and low is the last line's first
        torch.testing.assert_close(plane.at(grid[0, -1][None])[0], plane.high)
        at = plane.at(start.z[None])[0]
        torch.testing.assert_close(start.z + (plane.low - at) @ plane.directions.T, grid[-1, 0])
        assert (plane.high - plane.low).std() < 1e-9  # a unit is as long across as up
        assert ((plane.at(z) > plane.low) & (plane.at(z) < plane.high)).all()


def test_starts_are_rows_of_each_label():
    z, labels = torch.randn(60, 3).double(), torch.arange(60) % 4
    starts = base_points(z, labels)
    assert [start.name for start in starts] == ["the mean of all rows", "label 0", "label 1", "label 2", "label 3"]
    assert [int(labels[start.row]) for start in starts[1:]] == [0, 1, 2, 3]
    centre = z[labels == 2].mean(0)
    assert starts[3].row == min((i for i in range(60) if labels[i] == 2), key=lambda i: (z[i] - centre).norm())
    assert len(base_points(z, None)) == 6
    assert len(base_points(z[:, :2], labels)) == 1  # the plane is all there is


@pytest.mark.parametrize(("num_latents", "dtype"), [(1, "float32"), (2, "float32"), (4, "float32"), (2, "float64")])
def test_grids_are_what_the_decoder_says(num_latents, dtype):
    data = pv.load_data("digits")
    vae, split = vae_for(data, num_latents).to(getattr(torch, dtype)), data.valid.head(50)
    assert latent_explorer.reason_for_no_explorer(vae, split) == ""
    found = pv.log_evidence(vae, split, num_samples=30)
    page = latent_explorer.explorer(vae, data, split, found)
    x = split.x.to(getattr(torch, dtype))
    means = vae.encode(x).double()
    planes, starts = latent_planes(means), base_points(means, split.labels)
    assert (len(page["grids"]), len(page["grids"][0])) == (len(planes), len(starts))
    for plane, line in zip(planes, page["grids"], strict=True):
        for start, text in zip(starts, line, strict=True):
            decoded = vae.decode(plane.grid(start.z, page["size"]).float())
            np.testing.assert_allclose(1 - pixels(text) / 255, decoded, atol=0.5 / 63 + 1 / 255)
    rows = page["rows"]
    np.testing.assert_allclose(1 - pixels(rows["stored"]) / 255, split.stored / 16, atol=0.5 / 255)
    np.testing.assert_array_equal(1 - pixels(rows["scored"]) / 255, split.x)
    np.testing.assert_allclose(1 - pixels(rows["again"]) / 255, vae.reconstruct(x), atol=0.5 / 255 + 1e-6)
    assert (rows["labels"], rows["log_px"]) == (split.labels.tolist(), found.log_px.tolist())
    np.testing.assert_allclose(
        np.array(page["planes"][0]["at"])[:, :num_latents][:, :2], planes[0].at(means), atol=1e-4
    )


def test_a_table_is_shown_in_its_own_units(tmp_path):
    values = np.random.default_rng(0).normal([5.0, 1e9], [0.1, 1e4], (100, 2))
    np.save(tmp_path / "x.npy", values)
    data = pv.load_data(tmp_path / "x.npy")
    vae = vae_for(data, 2)
    page = latent_explorer.explorer(vae, data, data.valid)
    low = np.array(page["low"])

    def table(text):
        return np.frombuffer(base64.b64decode(text), np.float32).reshape(-1, 2) + low

    np.testing.assert_allclose(table(page["rows"]["stored"]), data.valid.stored, rtol=1e-7, atol=1e-6)
    again = data.valid.measure.to_original_units(vae.reconstruct(data.valid.x))
    np.testing.assert_allclose(table(page["rows"]["again"]), again, rtol=1e-7, atol=1e-6)
    plane = latent_planes(vae.encode(data.valid.x).double())[0]
    decoded = vae.decode(plane.grid(torch.zeros(2).double(), page["size"]).float())
    np.testing.assert_allclose(
        table(page["grids"][0][0]), data.valid.measure.to_original_units(decoded), rtol=1e-7, atol=1e-5
    )
    assert page["rows"]["log_px"] is None


def test_missing_values_stay_missing(tmp_path):
    values = np.random.default_rng(0).normal(size=(100, 3))
    values[::3, 1] = np.nan
    np.save(tmp_path / "x.npy", values)
    data = pv.load_data(tmp_path / "x.npy", missing="mask")
    page = latent_explorer.explorer(vae_for(data, 2), data, data.valid)
    stored = np.frombuffer(base64.b64decode(page["rows"]["stored"]), np.float32).reshape(-1, 3)
    np.testing.assert_array_equal(np.isnan(stored), data.valid.stored.isnan().numpy())
    assert np.isfinite(page["low"]).all()


def pictures_of(folder, values, **options):
    np.save(folder / "x.npy", values)
    return pv.load_data(folder / "x.npy", image_shape=(8, 8), binarize="none", **options)


def normal_vae(data):
    nets = pv.nets.mlp(2, 20, data.num_features), pv.nets.mlp(data.num_features, 20, 4)
    return pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Normal(nets[0]), pv.guides.MeanFieldNormal(nets[1]))


@pytest.mark.parametrize(
    ("low", "high", "levels", "standardize"),
    [(-1, 1, None, False), (-1, 1, None, True), (0, 300, None, True), (0, 1, None, False), (0, 255, 255, True)],
)
def test_pictures_are_shown_in_their_own_range(tmp_path, low, high, levels, standardize):
    values = np.random.default_rng(0).uniform(low, high, (200, 64))
    values[:, :2] = low, high
    values = values.round().astype(np.uint8) if levels else values
    data = pictures_of(tmp_path, values, standardize=standardize)
    vae, split = normal_vae(data), data.valid
    assert bool(split.measure.scale) is standardize
    page = latent_explorer.explorer(vae, data, split)

    def paper(x):
        unit = split.measure.to_original_units(x) * (levels or 1)
        return 255 - 255 * np.clip((unit.double().numpy() - low) / (high - low), 0, 1)

    rows = page["rows"]
    stored = 255 - 255 * (split.stored.double().numpy() - low) / (high - low)
    np.testing.assert_allclose(pixels(rows["stored"]), stored, atol=0.51)
    np.testing.assert_allclose(pixels(rows["again"]), paper(vae.reconstruct(split.x)), atol=0.51)
    decoded = vae.decode(
        latent_planes(vae.encode(split.x).double())[0].grid(torch.zeros(2).double(), page["size"]).float()
    )
    np.testing.assert_allclose(pixels(page["grids"][0][0]), paper(decoded), atol=0.5 * 255 / 63 + 0.51)


def test_a_missing_pixel_is_paper(tmp_path):
    values = np.random.default_rng(0).uniform(0.2, 1, (100, 64))
    values[::2, 1] = np.nan
    data = pictures_of(tmp_path, values, missing="mask")
    page = latent_explorer.explorer(normal_vae(data), data, data.valid)
    shown, seen = pixels(page["rows"]["stored"]), data.valid.mask.numpy()
    assert not seen.all()
    assert (shown[~seen] == 255).all()
    assert (shown[seen] < 255).all()


@pytest.mark.parametrize("standardize", [False, True])
def test_a_constant_column_has_no_share_in_the_error_of_blending(tmp_path, standardize):
    values = np.random.default_rng(0).normal(size=(100, 3))
    np.save(tmp_path / "two.npy", values[:, :2])
    values[:, 2] = 0.1
    np.save(tmp_path / "x.npy", values)
    data = pv.load_data(tmp_path / "x.npy", standardize=standardize)
    page = latent_explorer.explorer(vae_for(data, 2), data, data.valid)
    assert 0 < page["blend_error"] < 1
    sheets = latent_explorer.RowEncoder(data.valid)
    grid, halfway = torch.randn(25, 3).double(), torch.randn(25, 3).double()
    without = latent_explorer.RowEncoder(pv.load_data(tmp_path / "two.npy", standardize=standardize).valid)
    found = latent_explorer._blend_error(grid, halfway, 5, sheets)
    assert found == pytest.approx(latent_explorer._blend_error(grid[:, :2], halfway[:, :2], 5, without))


def test_large_pictures_are_shown_smaller_and_grids_stay_within_their_room():
    stored = (torch.rand(20, 200 * 100) * 255).to(torch.uint8)
    split = pv.Split("valid", stored, pv.load_data("mnist-5k").valid.measure, image_shape=(200, 100))
    sheets = latent_explorer.RowEncoder(split)
    assert (sheets.shrink, sheets.shown) == (3, (66, 33))
    assert pixels(sheets.text(sheets.stored)).shape == (20, 66 * 33)
    assert latent_explorer.grid_size(sheets, 40, 2) ** 2 * 40 * sheets.width <= latent_explorer.PICTURE_VALUES
    assert len(latent_explorer.fitting_rows(split, 500)) == 20


def test_why_there_is_no_explorer():
    data = pv.load_data("digits")
    assert latent_explorer.reason_for_no_explorer(vae_for(data, 2), data.valid) == ""
    nets = pv.nets.mlp(12, 9, 64), pv.nets.mlp(74, 9, 4)
    conditional = pv.ConditionalVAE(
        pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(nets[0]), pv.guides.MeanFieldNormal(nets[1]), 10
    )
    without = replace(data.valid, labels=None)
    assert "needs labels" in latent_explorer.reason_for_no_explorer(conditional, without)
    assert latent_explorer.reason_for_no_explorer(conditional, data.valid) == ""
    page = latent_explorer.explorer(conditional, data, data.valid.head(30))
    assert page["given"] == "named with each point"
    assert len(page["starts"]) == len(page["grids"][0]) == len(data.valid.labels[:30].unique())
    assert page["grids"][0][0] != page["grids"][0][1]
    two = example_programs.Hierarchical(D=64)
    assert "no decode(z)" in latent_explorer.reason_for_no_explorer(two, data.valid)
    two.decode = lambda z: z
    assert "z has 2 sites (z1, z2)" in latent_explorer.reason_for_no_explorer(two, data.valid)
