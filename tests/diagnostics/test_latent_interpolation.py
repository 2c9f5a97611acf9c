"""Lines through a latent space against closed forms."""

import math

import pytest
import torch

import pyro_vae as pv
from pyro_vae.diagnostics.latent_interpolation import decoded_paths, draws_around, interpolate, path_ratio, whiten


def circle(z):
    return torch.cat([z.cos(), z.sin()], 1)


def test_a_linear_decoder_has_straight_paths():
    weight = torch.randn(3, 7, dtype=torch.float64)
    starts, ends = torch.randn(20, 3, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    paths = decoded_paths(lambda z: z @ weight + 1, starts, ends)
    torch.testing.assert_close(paths.ratio, torch.ones(20, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(paths.length, ((ends - starts) @ weight).norm(dim=1))


def test_a_circle_has_the_length_of_its_arc():
    """n chords of θ/n each over one of θ: n sin(θ/2n) / sin(θ/2), which goes to (θ/2) / sin(θ/2)."""
    theta = torch.tensor([0.1, 1.0, 2.0, 3.0, 4.5], dtype=torch.float64)
    starts = torch.zeros(5, 1, dtype=torch.float64)
    for steps in (1, 3, 64):
        expected = steps * (theta / 2 / steps).sin() / (theta / 2).sin()
        torch.testing.assert_close(path_ratio(circle, starts, theta[:, None], steps=steps), expected)
    arc = theta / 2 / (theta / 2).sin()
    torch.testing.assert_close(path_ratio(circle, starts, theta[:, None], steps=1000), arc, rtol=1e-6, atol=0)


def test_paths_of_many_pairs_go_in_blocks_and_change_nothing():
    starts, ends = torch.randn(700, 2), torch.randn(700, 2)
    asked = []

    def decode(z):
        asked.append(len(z))
        return torch.cat([z, (z * z).sum(1, keepdim=True)], 1)

    together = path_ratio(decode, starts, ends, steps=32)
    assert max(asked) <= 8192
    assert sum(asked) == 700 * 33
    torch.testing.assert_close(together[500:503], path_ratio(decode, starts[500:503], ends[500:503], steps=32))
    assert (together >= 1).all()


def test_a_closed_path_is_infinitely_longer_than_its_chord():
    folded = decoded_paths(lambda z: z.abs(), torch.tensor([[-1.0], [1.0]]), torch.tensor([[1.0], [1.0]]), steps=2)
    assert folded.ratio[0] == math.inf
    assert folded.ratio[1].isnan()


def test_whitened_codes_have_mean_zero_and_unit_covariance():
    codes = torch.randn(300, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64) + 3
    white = whiten(codes)
    at = white(codes)
    torch.testing.assert_close(at.mean(0), torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(at.T.cov(correction=0), torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(white.back(at), codes)
    torch.testing.assert_close(white.scales.square(), torch.linalg.eigvalsh(codes.T.cov(correction=0)).flip(0))


def test_whitening_leaves_out_directions_in_which_nothing_varies():
    plane = torch.randn(100, 2) @ torch.randn(2, 5) + 1
    white = whiten(plane)
    assert white(plane).shape == (100, 2)
    torch.testing.assert_close(white.back(white(plane)), plane, rtol=1e-4, atol=1e-5)
    with pytest.raises(pv.InputError, match="all codes are the same"):
        whiten(torch.ones(5, 2))
    with pytest.raises(pv.InputError, match="NaN"):
        whiten(torch.tensor([[0.0, 1.0], [math.nan, 2.0]]))


def test_draws_of_one_seed_are_the_same_whitened_draws_in_any_latent_space():
    first = torch.randn(400, 3, dtype=torch.float64)
    second = 7 * torch.randn(300, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64) - 2
    torch.testing.assert_close(whiten(first)(draws_around(first, 50)), whiten(second)(draws_around(second, 50)))
    torch.testing.assert_close(draws_around(first, 5, seed=1), draws_around(first, 5, seed=1))


def test_draws_around_codes_have_their_moments_or_fill_their_box():
    """100,000 draws: means within 5 standard errors, covariances within 2 %."""
    codes = torch.randn(500, 2, dtype=torch.float64) * torch.tensor([3.0, 0.2]) + torch.tensor([5.0, -1.0])
    draws = draws_around(codes, 100_000)
    error = codes.std(0, correction=0) / 100_000**0.5
    assert ((draws.mean(0) - codes.mean(0)).abs() < 5 * error).all()
    torch.testing.assert_close(draws.var(0), codes.var(0, correction=0), rtol=0.02, atol=0)
    box = draws_around(codes, 100_000, "box")
    torch.testing.assert_close(box.amin(0), codes.amin(0), atol=0.01, rtol=0)
    torch.testing.assert_close(box.amax(0), codes.amax(0), atol=0.01, rtol=0)
    with pytest.raises(pv.InputError, match="'normal' or 'box'"):
        draws_around(codes, 3, "ball")


def test_spherical_points_lie_evenly_on_the_great_circle():
    a, b = torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64)
    points = interpolate(a, b, 6, "spherical")
    angle = torch.linspace(0, math.pi / 2, 7, dtype=torch.float64)
    expected = 2 * torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)
    torch.testing.assert_close(points, expected)


def test_spherical_turns_evenly_and_its_length_changes_evenly_however_far_apart_the_ends_point():
    a, b = torch.tensor([2.0, 0.0], dtype=torch.float64), torch.tensor([-1.0, 0.1], dtype=torch.float64)
    points = interpolate(a, b, 10, "spherical")
    steps = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(points.norm(dim=1), 2 + steps * (b.norm() - 2))
    torch.testing.assert_close(torch.atan2(points[:, 1], points[:, 0]), steps * math.atan2(0.1, -1.0))


def test_interpolation_takes_batches_and_meets_both_ends():
    a, b = torch.randn(4, 5, 3, dtype=torch.float64), torch.randn(4, 5, 3, dtype=torch.float64)
    for way in ("straight", "spherical"):
        points = interpolate(a, b, 8, way)
        assert points.shape == (9, 4, 5, 3)
        torch.testing.assert_close(points[0], a)
        torch.testing.assert_close(points[-1], b)
    torch.testing.assert_close(interpolate(a, b, 2)[1], (a + b) / 2)
    one = interpolate(a[1, 2], b[1, 2], 8, "spherical")
    torch.testing.assert_close(interpolate(a, b, 8, "spherical")[:, 1, 2], one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spherical_is_straight_in_its_limits_and_refuses_opposite_vectors(dtype):
    a = torch.tensor([1.0, 2.0], dtype=dtype)
    for b in (3 * a, a, torch.zeros(2, dtype=dtype)):
        torch.testing.assert_close(interpolate(a, b, 4, "spherical"), interpolate(a, b, 4))
    nearly = a + torch.tensor([1e-4, 0.0], dtype=dtype)
    torch.testing.assert_close(interpolate(a, nearly, 4, "spherical"), interpolate(a, nearly, 4), atol=1e-7, rtol=1e-6)
    with pytest.raises(pv.InputError, match="opposite sides"):
        interpolate(a, -3 * a, 4, "spherical")
    assert interpolate(a, -3 * a, 4).isfinite().all()
