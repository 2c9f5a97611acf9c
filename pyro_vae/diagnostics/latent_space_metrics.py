"""Metrics of a latent space: location and isotropy of codes, areas of labels, gaps, and accuracy of neighbours."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyro_vae.diagnostics.latent_interpolation import require_codes, whiten
from pyro_vae.errors import InputError
from pyro_vae.typing import RowLatents

GRID = 256
WORKING_MIB = 64  # for blocks of distances
MIN_ROWS, MAX_ROWS = 10, 4000  # of a label for an area, and of those for its threshold


@dataclass(frozen=True)
class Share:
    r"""A share of `num` cases, `value`, with its binomial standard error $\sqrt{p (1 - p) / n}$, `se`."""

    value: float
    se: float
    num: int

    def __repr__(self) -> str:
        return f"Share({self.value:.1%} ± {self.se:.1%} of {self.num})"


def share_of(hits: Tensor) -> Share:
    """The share of cases (n,) that are true.

    >>> share_of(torch.tensor([True, False, False, True]))
    Share(50.0% ± 25.0% of 4)
    """
    p = float(hits.double().mean())
    return Share(p, math.sqrt(p * (1 - p) / len(hits)), len(hits))


@dataclass(frozen=True)
class Spread:
    """Location and isotropy of codes, in units of their own standard deviations.

    `off_centre` is the distance of their mean from the origin in standard deviations, `anisotropy` is from
    0 (isotropic) to 1 (no variance in some direction). `mean` (K,) and `scales` (K,), the standard
    deviations along the principal directions, are in the codes' units.
    """

    off_centre: float
    anisotropy: float
    mean: Tensor
    scales: Tensor


def spread(codes: RowLatents) -> Spread:
    r"""Centre and isotropy of codes (N, K): the first fault of an autoencoder's latent space, as numbers.

    With mean m and covariance Σ (divided by N), whose eigenvalues are λ: off_centre = $|m| / \sqrt{\mathrm{tr}\,\Sigma
    / K}$, and anisotropy = $1 - (\prod_k \lambda_k)^{1/K} / \frac1K \sum_k \lambda_k$, the sphericity statistic
    (Mauchly 1940). Neither changes when codes are rotated or multiplied by a number. A round normal's N codes have an
    anisotropy of about $(K - 1)(K + 2) / 2NK$. The codes of a guide are draws of q(z|x) (`sample_codes`): its means
    leave out the width of q, which is all the variance of an inactive dimension.

    Raises `InputError` for codes that do not outnumber their dimensions, or are all the same.

    >>> found = spread(torch.randn(2000, 3) + 10)
    >>> 16 < found.off_centre < 19, found.anisotropy < 0.01
    (True, True)
    """
    at = require_codes(codes, at_least=codes.shape[-1] + 1)
    mean = at.mean(0)
    variances = torch.linalg.svdvals(at - mean).square() / len(at)
    if not variances[0] > 0:
        raise InputError("all codes are the same: they have no variance")
    return Spread(
        off_centre=float(mean.norm() / variances.mean().sqrt()),
        anisotropy=float(1 - variances.log().mean().exp() / variances.mean()),
        mean=mean,
        scales=variances.sqrt(),
    )


def gini(sizes: Tensor) -> float:
    r"""Gini's coefficient of sizes (L,), none negative: $\sum_{ij} |a_i - a_j| / 2 L^2 \bar a$.

    0 where all are equal, 1 − 1/L where all but one are zero. Raises `InputError` where they sum to zero.

    >>> gini(torch.tensor([1.0, 1.0, 1.0])), gini(torch.tensor([0.0, 0.0, 0.0, 5.0]))
    (0.0, 0.75)
    """
    a = sizes.double()
    if len(a) == 0 or not a.sum() > 0 or a.min() < 0:
        raise InputError("expected sizes that are not negative and not all zero")
    return float((a[:, None] - a).abs().mean() / (2 * a.mean()))


@dataclass(frozen=True)
class Areas:
    """The area of each label's region in the latent plane and how unequal they are.

    `labels` (L,), their `areas` (L,) in squared units of the codes, `counts` (L,) rows, and the areas' `gini`.
    """

    labels: Tensor
    areas: Tensor
    counts: Tensor
    gini: float


def label_areas(codes: RowLatents, labels: Tensor, share: float = 0.9) -> Areas:
    r"""How unequally labels share a latent plane: the area of each, and Gini's coefficient of the areas.

    A label's region is the smallest that holds `share` of its density: $\{z : \hat f(z) \geq c\}$ for a Gaussian kernel
    density estimate with Scott's width, c the (1 − share)-quantile of its leave-one-out values at the label's own rows
    (Hyndman 1996). So a share of the rows lies inside, and smoothing hardly widens it: for a normal of scale σ the area
    is $\pi \chi^2_2(\text{share}) \sigma^2$. Gini's coefficient stays the same under any affine map of the codes. It
    has noise: ten equal normals of n rows each give about $0.8 / \sqrt n$.

    Raises `InputError` for other than two dimensions, fewer than two labels that are left, or a share not in (0, 1).

    Args:
        codes: codes (N, 2).
        labels: their labels (N,); labels of fewer than ten rows are left out.
        share: the share of a label's density that its region holds.

    Returns:
        The areas, in squared units of the codes, and their coefficient.

    >>> codes = torch.cat([torch.randn(500, 2), 3 * torch.randn(500, 2)])
    >>> found = label_areas(codes, torch.arange(1000) // 500)
    >>> bool(found.areas[1] > 6 * found.areas[0]), 0.3 < found.gini < 0.5
    (True, True)
    """
    at = require_codes(codes)
    if at.shape[1] != 2 or len(labels) != len(at) or not 0 < share < 1:
        raise InputError(
            f"areas are of labels in a plane: expected codes (N, 2), labels (N,) and a share between 0 and 1, got "
            f"{tuple(codes.shape)}, {tuple(labels.shape)} and {share}; above two dimensions, take two directions"
        )
    kinds, counts = labels.cpu().unique(return_counts=True)
    kinds, counts = kinds[counts >= MIN_ROWS], counts[counts >= MIN_ROWS]
    if len(kinds) < 2:
        raise InputError(f"expected two labels or more of {MIN_ROWS} rows or more, got {len(kinds)}")
    areas = torch.tensor([_area(at[labels.cpu() == kind], share) for kind in kinds], dtype=torch.float64)
    return Areas(kinds, areas, counts, gini(areas))


def _area(points: Tensor, share: float) -> float:
    """The area of the smallest region that holds a share of the density of points (n, 2)."""
    if not points.var(0).sum() > 0 or len((white := whiten(points)).scales) < 2:
        return 0.0
    at = white(points)
    width = len(at) ** (-1 / 6)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-0.5 * ((a[:, None] - b) / width) ** 2).exp()

    sides = [torch.linspace(float(v.min()) - 3 * width, float(v.max()) + 3 * width, GRID).double() for v in at.T]
    density = kernel(sides[0], at[:, 0]) @ kernel(sides[1], at[:, 1]).T / len(at)
    some = at[:: -(-len(at) // MAX_ROWS)]
    around = [(-0.5 * (torch.cdist(few, at) / width) ** 2).exp().sum(1) for few in some.split(1024)]
    least = ((torch.cat(around) - 1) / (len(at) - 1)).quantile(1 - share)
    cell = (sides[0][1] - sides[0][0]) * (sides[1][1] - sides[1][0]) * white.scales.prod()
    return float((density >= least).sum() * cell)


@dataclass(frozen=True)
class Support:
    """The share of draws that lie near rows (`precision`) and of rows that lie near draws (`coverage`).

    Precision is a share of the draws and coverage one of the rows, each with the error of as many independent cases.
    """

    precision: Share
    coverage: Share


def precision_and_coverage(drawn: Tensor, rows: Tensor, k: int = 5) -> Support:
    r"""The gaps of a latent space as its decoder shows them.

    Each row has a ball that reaches to its k-th nearest other row. `precision` is the share of draws that lie in some
    ball (Kynkäänniemi et al., arXiv:1904.06991), `coverage` the share of balls that hold some draw (Naeem et al.,
    arXiv:2002.09797). Draws from where the rows come from give a coverage of $1 - \prod_{j=1}^k \frac{N - j}{N + M -
    j}$ in expectation: 0.97 for k = 5 and M = N. An outlier's ball is large, which makes precision too high. Decodings
    are means, so compare them with reconstructions: among rows with noise (drawn pixels) balls are wide and nearly
    everything lies inside. Blocks of distances, so memory is flat; ties count as inside.

    Raises `InputError` for k not in 1 … N − 1 and for rows of different widths.

    Args:
        drawn: decoded draws (M, D).
        rows: rows (N, D).
        k: the neighbour that a row's ball reaches to.

    Returns:
        The two shares.

    >>> rows = torch.randn(300, 4)
    >>> precision_and_coverage(rows, rows).coverage.value, precision_and_coverage(rows + 100, rows).precision.value
    (1.0, 0.0)
    """
    precise, covered = _inside(drawn, rows, k)
    return Support(share_of(precise), share_of(covered))


def draws_near_rows(drawn: Tensor, rows: Tensor, k: int = 5) -> Tensor:
    """Which draws lie in the ball of some row, whose radius reaches its k-th nearest other row.

    Args:
        drawn: draws (M, D).
        rows: rows (N, D).
        k: the neighbour that a row's ball reaches to.

    Returns:
        True for each draw (M,) that does.
    """
    return _inside(drawn, rows, k)[0]


def _inside(drawn: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The draws that lie in some row's ball, (M,), and the rows whose ball holds some draw, (N,)."""
    from sklearn.metrics import pairwise_distances_chunked
    from sklearn.neighbors import NearestNeighbors

    a, b = _centred(drawn, rows, k)
    radius = NearestNeighbors(n_neighbors=k).fit(b).kneighbors()[0][:, -1]
    reach = radius + 1e-7 * np.sqrt(np.square(b).sum(1).max())  # the rounding of distances by products
    precise, covered = [], np.zeros(len(b), dtype=bool)
    for distances in pairwise_distances_chunked(a, b, working_memory=WORKING_MIB):
        inside = distances <= reach
        precise.append(inside.any(1))
        covered |= inside.any(0)
    return torch.from_numpy(np.concatenate(precise)), torch.from_numpy(covered)


def _centred(first: Tensor, second: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of points as float64, the second one's mean subtracted from both, so that distances lose few digits."""
    a, b = require_codes(first, at_least=1), require_codes(second)
    if a.shape[1] != b.shape[1] or not 1 <= k < len(b):
        raise InputError(
            f"expected points of one width and k from 1 to {len(b) - 1}, got widths {a.shape[1]} and {b.shape[1]}, "
            f"k = {k}"
        )
    centre = b.mean(0)
    return (a - centre).numpy(), (b - centre).numpy()


def nearest_code(draws: Tensor, codes: Tensor) -> float:
    r"""How far draws lie from codes, in units of how far codes lie from each other.

    The median distance from a draw to its nearest code, over the median from a code to its nearest other. Raises
    `InputError` for points of different widths.

    Args:
        draws: draws (M, K).
        codes: codes (N, K).

    Returns:
        About 1 for draws from where the codes come from, above it for draws that fall into gaps; infinite where more
        than half of the codes coincide and the draws do not.

    >>> codes = torch.randn(500, 2)
    >>> 0.7 < nearest_code(torch.randn(500, 2), codes) < 1.4 < nearest_code(10 * torch.randn(500, 2), codes)
    True
    """
    from sklearn.neighbors import NearestNeighbors

    a, b = _centred(draws, codes, 1)
    tree = NearestNeighbors(n_neighbors=1).fit(b)
    far, near = np.median(tree.kneighbors(a)[0]), np.median(tree.kneighbors()[0])
    return float(far / near) if near > 0 else (math.inf if far > 0 else math.nan)


def knn_accuracy(train_codes: Tensor, train_labels: Tensor, codes: Tensor, labels: Tensor, k: int = 10) -> Share:
    """Latent distance as similarity: how often the nearest training codes vote for a code's own label.

    A plain majority (scikit-learn's `KNeighborsClassifier`), the lowest of the labels that tie. Distances are of the
    codes as they are: whiten them first where their directions have no common scale. Raises `InputError` for other
    widths or numbers of labels, or k not in 1 … N − 1.

    Args:
        train_codes: training codes (N, K).
        train_labels: their labels (N,).
        codes: codes (M, K).
        labels: their labels (M,).
        k: the neighbours that vote.

    Returns:
        The share of the M codes.

    >>> codes = torch.cat([torch.randn(50, 2), torch.randn(50, 2) + 9])
    >>> knn_accuracy(codes, torch.arange(100) // 50, codes + 0.1, torch.arange(100) // 50)
    Share(100.0% ± 0.0% of 100)
    """
    from sklearn.neighbors import KNeighborsClassifier

    a, b = _centred(codes, train_codes, k)
    if len(labels) != len(a) or len(train_labels) != len(b):
        raise InputError(
            f"expected a label for each code, got {len(train_labels)} and {len(labels)} for {len(b)} and {len(a)}"
        )
    votes = KNeighborsClassifier(k).fit(b, train_labels.cpu().numpy()).predict(a)
    return share_of(torch.from_numpy(votes == labels.cpu().numpy()))
