"""Linear and kernel PCA by scikit-learn, with a program's `encode`, `decode` and `reconstruct`, no density."""

from typing import ClassVar, Self

import torch
from sklearn import decomposition
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.data import RowsGiven, as_split
from pyro_vae.errors import InputError
from pyro_vae.typing import Latents, RowLatents, Rows

MAX_ROWS = 20_000  # of a kernel: its matrix then takes 3.2 GB


class _Projection:
    """The base of both: fit, encode, decode and reconstruct, in x's dtype and with float64 internally."""

    no_density: ClassVar[str] = ""

    @check_call
    def __init__(self, num_latents: int) -> None:
        if num_latents < 1:
            raise InputError(f"expected one latent or more, got {num_latents}")
        self.num_latents = num_latents
        self._fitted: decomposition.PCA | decomposition.KernelPCA | None = None

    def _estimator(self, rows: Tensor) -> decomposition.PCA | decomposition.KernelPCA:
        raise NotImplementedError

    def fit(self, data: RowsGiven) -> Self:
        """Fit to rows (N, D), a data set's training rows; returns itself."""
        split = as_split(data, "train")
        if split.mask is not None:
            raise InputError("values are missing, which principal components do not support: fill them first")
        x = split.x
        if self.num_latents >= min(x.shape):
            raise InputError(
                f"expected fewer latents than rows and columns, {x.shape[0]} × {x.shape[1]}, got {self.num_latents}"
            )
        self._fitted = self._estimator(x).fit(x.double().numpy())
        return self

    def _require_fitted(self) -> decomposition.PCA | decomposition.KernelPCA:
        if self._fitted is None:
            raise InputError(f"this {type(self).__name__} has not been fitted: call fit(x) first")
        return self._fitted

    def encode(self, x: Rows, **row_inputs: object) -> RowLatents:
        """The coordinates (N, K)."""
        return torch.from_numpy(self._require_fitted().transform(x.double().numpy())).to(x.dtype)

    def decode(self, z: Latents) -> Tensor:
        """Rows (..., D) for coordinates (..., K)."""
        flat = self._require_fitted().inverse_transform(z.reshape(-1, self.num_latents).double().numpy())
        return torch.from_numpy(flat).to(z.dtype).reshape(*z.shape[:-1], -1)

    def reconstruct(self, x: Rows, **row_inputs: object) -> Rows:
        """Each row decoded from its coordinates, (N, D)."""
        return self.decode(self.encode(x))

    def sample(self, n: int, seed: int | None = None) -> Tensor:
        raise InputError(f"a {type(self).__name__} draws no rows: {self.no_density}")


class PCA(_Projection):
    r"""Principal component analysis, $z = U_K^T (x - \bar x)$ and $\hat x = \bar x + U_K z$ (scikit-learn's).

    The linear autoencoder of least squared error. It has no density; `PPCA` is the model that spans the same plane and
    has one. Raises `InputError` before it is fitted, and when asked for log p(x) or for draws.

    >>> x = torch.randn(50, 4)
    >>> PCA(2).fit(x).encode(x).shape
    torch.Size([50, 2])
    """

    no_density = "principal components have no density; PPCA spans the same plane and has one"

    def _estimator(self, rows: Tensor) -> decomposition.PCA:
        return decomposition.PCA(self.num_latents, svd_solver="full")


class KernelPCA(_Projection):
    r"""Principal components in the feature space of $k(x, y) = \exp(-\gamma |x - y|^2)$ (Schölkopf et al. 1998).

    Codes are decoded by kernel ridge regression (Bakır et al. 2004). Needs a matrix of N × N numbers: `InputError`
    above 20,000 rows, before it is fitted, and when asked for log p(x) or for draws.

    Args:
        num_latents: the number K of components.
        gamma: the inverse squared width, by default that of the median distance between rows, $1 / \mathrm{median} |x -
            y|^2$.
        alpha: the penalty of the ridge regression.

    >>> x = torch.randn(50, 4)
    >>> KernelPCA(2).fit(x).reconstruct(x).shape
    torch.Size([50, 4])
    """

    no_density = "kernel principal components have no density; a VAE is a nonlinear alternative that has one"

    def __init__(self, num_latents: int, gamma: float | None = None, alpha: float = 0.01) -> None:
        super().__init__(num_latents)
        if not alpha > 0 or not (gamma is None or gamma > 0):
            raise InputError(f"gamma and alpha must be positive, got {gamma} and {alpha}")
        self.gamma, self.alpha = gamma, alpha

    def _estimator(self, rows: Tensor) -> decomposition.KernelPCA:
        if len(rows) > MAX_ROWS:
            raise InputError(
                f"kernel PCA needs a matrix of N × N numbers, too many for {len(rows)} rows: fit to {MAX_ROWS} or fewer"
            )
        return decomposition.KernelPCA(
            self.num_latents,
            kernel="rbf",
            gamma=self.gamma or 1 / median_square(rows),
            alpha=self.alpha,
            fit_inverse_transform=True,
            eigen_solver="arpack" if 4 * self.num_latents < len(rows) else "dense",
            random_state=0,
        )


def median_square(rows: Rows, max_rows: int = 1000) -> float:
    """The median squared distance between rows.

    Args:
        rows: rows (N, D).
        max_rows: how many of them, evenly spaced, are compared.

    Returns:
        The median, in squared units of x.
    """
    some = rows[:: -(-len(rows) // max_rows)].double()
    found = float(torch.pdist(some).square().median())
    if not found > 0:
        raise InputError("more than half of the rows are the same, which leaves no width for a kernel: give gamma=…")
    return found
