"""The squared-error trap: changes of pictures and the three measures against loops and closed forms."""

import math

import pytest
import torch
from example_programs import Hierarchical
from oracles import LinearGaussian

import pyro_vae as pv
from pyro_vae.data import Measure, Split
from pyro_vae.errors import InputError
from pyro_vae.studies.picture_changes import cut, shift
from pyro_vae.studies.squared_error_trap import measure_squared_error_trap


def test_moving_is_what_a_loop_does():
    x = torch.rand(3, 20)
    for right, down in [(1, 0), (0, 1), (-2, 1), (0, 0), (5, 0)]:
        expected = torch.zeros(3, 4, 5)
        for r in range(4):
            for c in range(5):
                if 0 <= r - down < 4 and 0 <= c - right < 5:
                    expected[:, r, c] = x.reshape(3, 4, 5)[:, r - down, c - right]
        assert torch.equal(shift(x, (4, 5), right, down), expected.flatten(1))


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
def test_a_cut_takes_the_fewest_lines_that_hold_the_share(side):
    x = torch.rand(20, 30) * (torch.rand(20, 30) < 0.4)
    x[0] = 0
    turned = {"top": (0, 1), "bottom": (0, -1), "left": (1, 1), "right": (1, -1)}[side]
    for share in (0.05, 0.3, 0.9):
        done = cut(x, (5, 6), share, side).reshape(-1, 5, 6)
        for before, after in zip(x.reshape(-1, 5, 6).double(), done.double(), strict=True):
            before, after = (p.T if turned[0] else p for p in (before, after))
            lines = list(range(len(before)))[:: turned[1]]
            gone, removed = 0, 0.0
            while removed < share * float(before.sum()):
                removed += float(before[lines[gone]].sum())
                gone += 1
            assert float(after[lines[:gone]].abs().sum()) == 0
            assert torch.equal(after[lines[gone:]], before[lines[gone:]])


def test_a_cut_goes_with_the_picture_and_at_an_exact_share_stops_there():
    x = torch.zeros(1, 36).reshape(1, 6, 6)
    x[0, 1:5, 2] = 1
    x = x.flatten(1)
    assert cut(x, (6, 6), 0.25).sum() == 3  # the first row holds a quarter: no further one goes
    assert cut(x, (6, 6), 0.26).sum() == 2
    assert torch.equal(shift(cut(x, (6, 6), 0.3), (6, 6)), cut(shift(x, (6, 6)), (6, 6), 0.3))
    for wrong in ({"side": "front"}, {"share": 0.0}, {"share": 1.0}):
        with pytest.raises(pv.InputError, match="ink that is not negative"):
            cut(x, (6, 6), **wrong)
    with pytest.raises(pv.InputError, match="not negative"):
        cut(-x, (6, 6))
    with pytest.raises(pv.InputError, match="expected pictures"):
        shift(x, (6, 5))


def test_measures_of_a_linear_model_are_its_closed_forms():
    """With the exact posterior as guide: log p(x) exact at any S, means linear in x, and KL both ways between normals
    of one covariance Σ, Δᵀ Σ⁻¹ Δ in all."""
    exact = LinearGaussian(3, 12, inflate=1.0)
    x = exact.rows(40).abs()
    found = measure_squared_error_trap(exact, x, image_shape=(3, 4), shares=[0.2], num_samples=5)
    assert torch.equal(found.cuts[0.2].x, cut(x, (3, 4), 0.2))
    torch.testing.assert_close(found.log_px.log_px, exact.exact(x).double(), atol=1e-3, rtol=0)
    for after, rows in ((found.shifted, shift(x, (3, 4))), (found.cuts[0.2], cut(x, (3, 4), 0.2))):
        torch.testing.assert_close(after.log_px.log_px, exact.exact(rows).double(), atol=1e-3, rtol=0)
        torch.testing.assert_close(after.mse, ((rows - x).double() ** 2).mean(1))
        moved = (exact.posterior_mean(rows) - exact.posterior_mean(x)).double()
        kl = (moved @ torch.linalg.inv(exact.posterior_cov.double()) * moved).sum(1)
        torch.testing.assert_close(after.divergence, kl, rtol=1e-3, atol=1e-3)


def test_latent_distance_has_the_aggregates_unit():
    """4,000 rows: z has covariance C = cov of means + Σ over rows, and distances are √(Δᵀ C⁻¹ Δ), within 5 %."""
    exact = LinearGaussian(2, 12, inflate=1.0)
    x = exact.rows(4000).abs()
    found = measure_squared_error_trap(exact, x, image_shape=(3, 4), shares=[0.2], num_samples=0)
    means = exact.posterior_mean(x)
    spread = means.T.cov() + exact.posterior_cov
    moved = exact.posterior_mean(found.shifted.x) - means
    expected = (moved @ torch.linalg.inv(spread) * moved).sum(1).sqrt().double()
    torch.testing.assert_close(found.shifted.distance, expected, rtol=0.05, atol=0)
    assert found.log_px is None
    assert set(found.nearer(0.2)) == {"squared error", "latent distance", "divergence of q"}


def test_shares_are_counted_by_hand():
    exact = LinearGaussian(2, 12)
    x = (torch.rand(50, 12) < 0.5).float()
    found = measure_squared_error_trap(exact, x, image_shape=(3, 4), shares=[0.1, 0.5], num_samples=50)
    for share, cut_ in found.cuts.items():
        nearer = found.nearer(share)
        assert list(nearer) == ["squared error", "latent distance", "divergence of q", "log p(x)"]
        lower = (found.shifted.distance < cut_.distance).double()
        assert nearer["latent distance"].value == pytest.approx(float(lower.mean()))
        more = (found.shifted.log_px.log_px > cut_.log_px.log_px).double()
        assert nearer["log p(x)"].value == pytest.approx(float(more.mean()))
        ties = (found.shifted.mse == cut_.mse).double()
        error = ((found.shifted.mse < cut_.mse).double() + ties / 2).mean()
        assert nearer["squared error"].value == pytest.approx(float(error))
        assert nearer["squared error"].se == pytest.approx(float((error * (1 - error) / 50).sqrt()))
        gone = [1 - float(b.sum() / a.sum()) if a.sum() > 0 else 1 for a, b in zip(x, cut_.x, strict=True)]
        assert found.removed(share) == pytest.approx(sum(gone) / 50, rel=1e-4)


def test_the_trap_is_there_on_digits():
    """MNIST's digits, a tenth of the ink cut off: squared error calls the cut one nearer on more than 99 in 100."""
    data = pv.load_data("mnist-5k")
    split = data.valid
    changed = [(rows - split.x).square().mean(1) for rows in (cut(split.x, (28, 28), 0.1), shift(split.x, (28, 28)))]
    assert (changed[0] < changed[1]).double().mean() > 0.99


def test_programs_without_a_density_or_with_several_sites_have_what_they_have():
    data = pv.load_data("digits")
    split = data.valid.head(60)
    plain = pv.Autoencoder(pv.nets.mlp(64, 8, 2), pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 64)), num_latents=2)
    components = pv.PCA(3).fit(data)
    for program in (plain, components):
        found = measure_squared_error_trap(program, split, shares=[0.2])
        assert found.log_px is None
        assert set(found.nearer(0.2)) == {"squared error", "latent distance"}
    white = torch.from_numpy(components._fitted.transform(split.x.double().numpy()))
    other = torch.from_numpy(components._fitted.transform(found.shifted.x.double().numpy()))
    scale = torch.linalg.inv(white.T.cov(correction=0))
    expected = ((white - other) @ scale * (white - other)).sum(1).sqrt()
    torch.testing.assert_close(found.shifted.distance, expected, rtol=1e-4, atol=1e-4)
    deep = measure_squared_error_trap(Hierarchical(D=64), split, shares=[0.2], num_samples=10)
    assert set(deep.nearer(0.2)) == {"squared error", "latent distance", "log p(x)"}


def test_rows_that_are_no_pictures_are_refused():
    exact = LinearGaussian(2, 12)
    x = torch.rand(10, 12)
    for data in (x, Split("given", x, Measure(scale=(1.0,) * 12, shift=(0.0,) * 12), image_shape=(3, 4))):
        with pytest.raises(pv.InputError, match="expected whole pictures"):
            measure_squared_error_trap(exact, data)


def test_the_same_seed_gives_the_same_and_leaves_the_callers_numbers_alone():
    exact = LinearGaussian(2, 12)
    x = torch.rand(10, 12)
    state = torch.get_rng_state()
    settings = {"image_shape": (3, 4), "shares": [0.2], "num_samples": 20}
    first, again = (measure_squared_error_trap(exact, x, **settings) for _ in range(2))
    assert torch.equal(first.shifted.log_px.log_px, again.shifted.log_px.log_px)
    assert torch.equal(first.cuts[0.2].distance, again.cuts[0.2].distance)
    assert torch.equal(state, torch.get_rng_state())
    assert math.isfinite(float(first.shifted.distance.sum()))


def test_moves_out_of_the_picture_and_empty_requests_are_errors(tiny_vae):
    vae, x = tiny_vae
    for given, says in (
        ({"right": 4}, "within a picture"),
        ({"shares": []}, "one share or more"),
        ({"num_samples": -1}, "num_samples from 0"),
    ):
        with pytest.raises(InputError, match=says):
            measure_squared_error_trap(vae, x, image_shape=(2, 3), **given)
