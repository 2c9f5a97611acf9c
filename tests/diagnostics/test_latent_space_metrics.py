"""The numbers about a latent space against closed forms, brute force and constructed points."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde

import pyro_vae as pv
from pyro_vae.diagnostics.latent_space_metrics import (
    _area,
    gini,
    knn_accuracy,
    label_areas,
    nearest_code,
    precision_and_coverage,
    share_of,
    spread,
)

CHI2_90 = -2 * math.log(0.1)  # the 0.9-quantile of a chi-squared with two degrees of freedom


def disc(num, radius=1.0):
    """Points spread evenly over a disc (Vogel's spiral)."""
    i = torch.arange(num, dtype=torch.float64)
    r, angle = radius * ((i + 0.5) / num).sqrt(), i * math.pi * (3 - math.sqrt(5))
    return torch.stack([r * angle.cos(), r * angle.sin()], 1)


def test_centre_and_isotropy_are_exact_on_constructed_points():
    """Corners of a box with sides 2a around m: covariance diag(a²)."""
    a, m = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64), torch.tensor([3.0, 0.0, -4.0], dtype=torch.float64)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    found = spread(corners * a + m)
    assert found.off_centre == pytest.approx(5 / math.sqrt(7), rel=1e-12)
    assert found.anisotropy == pytest.approx(1 - 4 / 7, rel=1e-12)  # (1·4·16)^(1/3) = 4, (1 + 4 + 16) / 3 = 7
    torch.testing.assert_close(found.scales, a.flip(0))
    torch.testing.assert_close(found.mean, m)
    assert spread(corners).anisotropy == pytest.approx(0, abs=1e-12)
    assert spread(corners).off_centre == 0


def test_centre_and_isotropy_do_not_change_under_rotation_and_scale():
    codes = torch.randn(200, 4, dtype=torch.float64) * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 2
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    before, after = spread(codes), spread(37 * codes @ turn)
    assert after.off_centre == pytest.approx(before.off_centre, rel=1e-9)
    assert after.anisotropy == pytest.approx(before.anisotropy, rel=1e-9)


def test_anisotropy_of_a_balls_draws_is_as_small_as_said():
    """(K − 1)(K + 2) / 2NK from Mauchly's χ²; 200 sets, mean within 5 standard errors."""
    K, N = 5, 1000
    found = torch.tensor([spread(torch.randn(N, K)).anisotropy for _ in range(200)])
    expected = (K - 1) * (K + 2) / (2 * N * K)
    assert abs(found.mean() - expected) < 5 * found.std() / math.sqrt(200) + 0.01 * expected


def test_no_spread_in_some_direction_is_as_far_from_a_ball_as_can_be():
    flat = torch.cat([torch.randn(50, 2), torch.zeros(50, 1)], 1)
    assert spread(flat).anisotropy == pytest.approx(1, abs=1e-6)
    with pytest.raises(pv.InputError, match="4 codes or more"):
        spread(torch.randn(3, 3))
    with pytest.raises(pv.InputError, match="all codes are the same"):
        spread(torch.ones(9, 3))


def test_gini_of_known_sizes():
    assert gini(torch.tensor([1.0, 2.0, 3.0, 4.0])) == pytest.approx(0.25)
    assert gini(torch.tensor([2.0, 2.0])) == 0
    sizes = torch.rand(9)
    by_hand = sum(abs(a - b) for a in sizes for b in sizes) / (2 * 81 * sizes.mean())
    assert gini(sizes) == pytest.approx(float(by_hand), rel=1e-5)
    with pytest.raises(pv.InputError, match="not all zero"):
        gini(torch.zeros(3))


def test_areas_of_discs_are_known_and_so_is_their_gini():
    """Nine tenths of an evenly filled disc: 0.9 π r², within 3 %; areas 1, 4, 9 have Gini 8/21."""
    radii = (1.0, 2.0, 3.0)
    codes = torch.cat([disc(1000, r) + 20 * i for i, r in enumerate(radii)])
    found = label_areas(codes, torch.arange(3).repeat_interleave(1000))
    expected = torch.tensor([0.9 * math.pi * r**2 for r in radii], dtype=torch.float64)
    torch.testing.assert_close(found.areas, expected, rtol=0.03, atol=0)
    assert found.gini == pytest.approx(16 / 3 / (2 * 14 / 3 * 3) * 2, abs=1e-3)
    assert found.counts.tolist() == [1000] * 3


def test_areas_of_normals_are_known():
    """π χ²₂(0.9) σ² at the normals' quantiles, 4,000 points each, within 3 %; equal normals have Gini 0 within 0.01."""
    i = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    radius, angle = (-2 * (1 - i).log()).sqrt(), torch.arange(4000) * math.pi * (3 - math.sqrt(5))
    unit = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    stretch = torch.tensor([[2.0, 0.0], [1.0, 0.5]], dtype=torch.float64)  # determinant 1
    codes, labels = torch.cat([unit, 3 * unit + 50, unit @ stretch - 50]), torch.arange(3).repeat_interleave(4000)
    expected = math.pi * CHI2_90 * torch.tensor([1.0, 9.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(label_areas(codes, labels).areas, expected, rtol=0.03, atol=0)
    equal = torch.cat([unit, unit.flip(1) + 9])
    assert label_areas(equal, torch.arange(8000) // 4000).gini < 0.01


def test_an_area_is_that_of_scipys_density_where_it_is_high():
    """Two clusters of one label: scipy's estimate on a fine grid, cut at its leave-one-out values; within 1 %."""
    points = torch.cat([torch.randn(80, 2), 0.5 * torch.randn(70, 2) + torch.tensor([4.0, 1.0])]).double()
    kde = gaussian_kde(points.T.numpy(), bw_method=lambda k: k.n ** (-1 / 6))
    kde.set_bandwidth("scott")
    cov = np.cov(points.T.numpy(), bias=True) * kde.factor**2
    inverse, scale = np.linalg.inv(cov), 1 / (2 * math.pi * math.sqrt(np.linalg.det(cov)))

    def density(at, skip=None):
        apart = at[:, None] - points.numpy()
        kernel = scale * np.exp(-0.5 * np.einsum("abi,ij,abj->ab", apart, inverse, apart))
        return kernel.mean(1) if skip is None else (kernel.sum(1) - scale) / (len(points) - 1)

    least = np.quantile(density(points.numpy(), skip=True), 0.1)
    axis = np.linspace(-7, 9, 400)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    expected = (density(grid) >= least).sum() * (axis[1] - axis[0]) ** 2
    assert _area(points, 0.9) == pytest.approx(expected, rel=0.01)
    scipys = gaussian_kde(points.T.numpy())  # covariance divided by n − 1
    np.testing.assert_allclose(scipys(points[:5].T.numpy()), density(points[:5].numpy()), rtol=0.02)


def test_gini_of_areas_does_not_change_under_affine_maps():
    codes = torch.cat([torch.randn(100, 2), 2 * torch.randn(150, 2) + 3, torch.randn(80, 2) * torch.tensor([0.1, 2])])
    labels = torch.tensor([0] * 100 + [4] * 150 + [7] * 80)
    before = label_areas(codes, labels)
    after = label_areas(codes @ torch.tensor([[3.0, 1.0], [-2.0, 0.4]]) + 9, labels)
    assert after.gini == pytest.approx(before.gini, abs=0.005)
    torch.testing.assert_close(after.areas / before.areas, torch.full((3,), 3.2).double(), rtol=0.01, atol=0)
    assert before.labels.tolist() == [0, 4, 7]


def test_noise_of_gini_is_as_said():
    """Equal normals of n rows: about 0.8 / √n, within a quarter of it."""
    for n in (50, 400):
        labels = torch.arange(10).repeat_interleave(n)
        found = [label_areas(torch.randn(10 * n, 2), labels).gini for _ in range(10)]
        assert np.mean(found) == pytest.approx(0.8 / math.sqrt(n), rel=0.25)


def test_labels_with_few_rows_are_left_out_and_a_point_has_no_area():
    codes = torch.cat([torch.randn(50, 2), torch.ones(20, 2), torch.randn(9, 2)])
    labels = torch.tensor([0] * 50 + [1] * 20 + [2] * 9)
    found = label_areas(codes, labels)
    assert found.labels.tolist() == [0, 1]
    assert found.areas[1] == 0
    assert found.gini == pytest.approx(0.5)
    with pytest.raises(pv.InputError, match="two labels or more"):
        label_areas(codes, torch.zeros(79))
    with pytest.raises(pv.InputError, match="two directions"):
        label_areas(torch.randn(79, 3), labels)


@pytest.mark.parametrize(("K", "offset"), [(2, 0.0), (30, 1e4)])
def test_precision_and_coverage_are_those_of_a_loop(K, offset):
    drawn, rows = 1.3 * torch.randn(40, K).double() + offset, torch.randn(60, K).double() + offset
    rows[7] = rows[8]
    for k in (1, 5):
        radius = []
        for i in range(60):
            others = sorted(float((rows[i] - rows[j]).norm()) for j in range(60) if j != i)
            radius.append(others[k - 1])
        inside = [[float((d - rows[i]).norm()) <= radius[i] for i in range(60)] for d in drawn]
        found = precision_and_coverage(drawn, rows, k)
        assert found.precision.value == pytest.approx(np.mean([any(one) for one in inside]))
        assert found.coverage.value == pytest.approx(np.mean([any(one[i] for one in inside) for i in range(60)]))


def test_the_rows_themselves_are_precise_and_cover_also_where_rows_repeat():
    rows = (torch.rand(200, 30) < 0.5).float()
    rows[100:] = rows[:100]
    found = precision_and_coverage(rows, rows, k=1)
    assert found.precision.value == found.coverage.value == 1
    far = precision_and_coverage(rows + 50, rows)
    assert far.precision.value == far.coverage.value == 0


def test_coverage_of_draws_from_the_rows_own_distribution_is_known():
    """1 − Π (N − j) / (N + M − j): no draw among a row's k nearest of the N + M − 1 others. 5 standard errors."""
    N, M, k = 60, 40, 3
    found = torch.tensor(
        [precision_and_coverage(torch.randn(M, 3), torch.randn(N, 3), k).coverage.value for _ in range(30)]
    )
    expected = 1 - math.prod((N - j) / (N + M - j) for j in range(1, k + 1))
    assert abs(found.mean() - expected) < 5 * found.std() / math.sqrt(30)


def test_nearest_is_the_ratio_of_medians_of_a_loop():
    draws, codes = 2 * torch.randn(31, 3).double(), torch.randn(41, 3).double()
    far = np.median([min(float((d - c).norm()) for c in codes) for d in draws])
    near = np.median([min(float((codes[i] - codes[j]).norm()) for j in range(41) if j != i) for i in range(41)])
    assert nearest_code(draws, codes) == pytest.approx(far / near, rel=1e-9)
    assert nearest_code(torch.ones(3, 2), torch.zeros(5, 2)) == math.inf
    with pytest.raises(pv.InputError, match="one width"):
        nearest_code(draws, codes[:, :2])


def test_votes_of_neighbours_are_those_of_a_loop():
    codes, labels = torch.randn(90, 3), torch.randint(0, 3, (90,))
    others, own = torch.randn(40, 3), torch.randint(0, 3, (40,))
    hits = 0
    for code, label in zip(others, own, strict=True):
        near = sorted(range(90), key=lambda j: float((code - codes[j]).norm()))[:10]
        counts = [sum(int(labels[j]) == kind for j in near) for kind in range(3)]
        hits += counts.index(max(counts)) == int(label)  # the lowest of those that tie
    found = knn_accuracy(codes, labels, others, own)
    p = hits / 40
    assert found.value == pytest.approx(p)
    assert found.se == pytest.approx(math.sqrt(p * (1 - p) / 40))
    with pytest.raises(pv.InputError, match="a label for each"):
        knn_accuracy(codes, labels[:5], others, own)


def test_shares():
    found = share_of(torch.tensor([1.0, 0.0, 0.5, 0.5, 1.0]))
    assert found.value == pytest.approx(0.6)
    assert found.num == 5
