"""A mixture whose covariances are regularized in two strengths, both in rows."""

from typing import Any

import torch
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.models.covariance_forms import CovariancePrior, singular, with_ridge
from pyro_vae.models.exact_density import Statistics
from pyro_vae.models.finite_mixture import Mixture

REGULARIZATIONS = ("auto", "inverse-wishart", "reg_covar")
Pair = tuple[float, float]  # `prior_rows` and `pooled_rows`


class RegularizedMixture(Mixture):
    """A mixture whose covariances are regularized in two strengths, both in rows.

    Attributes:
        covariance: the form of the covariances.
        regularization: a name of `REGULARIZATIONS`, or "fixed" where a strength was given.
        prior_rows: the strength toward a diagonal covariance.
        pooled_rows: the strength toward one that all components share.
        uncounted_rows: rows that are not counted, so that inverses of covariances are unbiased.
        reg_covar: what scikit-learn's rule adds to the variances.
    """

    covariance: str
    regularization: str
    reg_covar: float
    strengths: Tensor  # the three numbers of rows: a state of the fit, not a setting
    loc: Tensor
    center: Tensor
    prior_variance: Tensor

    @property
    def prior_rows(self) -> float:
        return float(self.strengths[0])

    @property
    def pooled_rows(self) -> float:
        return float(self.strengths[1])

    @property
    def uncounted_rows(self) -> float:
        return float(self.strengths[2])

    def set_regularization(
        self, name: str, usual_rows: float, prior_rows: float | None, pooled_rows: float | None, reg_covar: float | None
    ) -> None:
        """Set how covariances are regularized; `InputError` for settings that contradict.

        Args:
            name: one of `REGULARIZATIONS`.
            usual_rows: `prior_rows` where none is given.
            prior_rows: the strength toward a diagonal covariance, where it is given.
            pooled_rows: the strength toward a common one, where it is given.
            reg_covar: what scikit-learn's rule adds, where it is given.
        """
        if name not in REGULARIZATIONS:
            raise InputError(f"no regularization called {name!r}; try one of {', '.join(REGULARIZATIONS)}")
        given = {"prior_rows": prior_rows, "pooled_rows": pooled_rows, "reg_covar": reg_covar}
        for what, value in given.items():
            if value is not None and not value >= 0:
                raise InputError(f"{what} must not be negative, got {value}")
        is_given = prior_rows is not None or pooled_rows is not None
        if reg_covar is not None and name != "reg_covar":
            raise InputError("reg_covar goes with regularization='reg_covar'")
        if is_given and name != "auto":
            raise InputError(f"prior_rows and pooled_rows do not go with regularization={name!r}: leave one out")
        self.regularization = "fixed" if is_given else name
        self.reg_covar = 1e-6 if reg_covar is None else float(reg_covar)
        first = prior_rows or 0.0 if is_given else usual_rows
        strengths = torch.tensor([first, pooled_rows or 0.0, 0.0], dtype=torch.float64)
        self.register_buffer("strengths", strengths)

    def set_strengths(self, strengths: Pair, num_rows: int) -> None:
        """Set both strengths, and as many uncounted rows as leave a component without rows half of its prior.

        Args:
            strengths: `prior_rows` and `pooled_rows`.
            num_rows: the number N of training rows.
        """
        self.strengths.copy_(self.strengths_of(strengths, num_rows))

    def strengths_of(self, strengths: Pair, num_rows: int) -> Tensor:
        """The three numbers of rows that `set_strengths` sets.

        Args:
            strengths: `prior_rows` and `pooled_rows`.
            num_rows: the number N of training rows.

        Returns:
            The numbers (3,).
        """
        is_one = self.num_components == 1 or self.covariance == "tied"
        size = self.num_features if self.covariance in ("full", "tied") else 1
        uncounted = min(size + 1.0, num_rows / 2 if is_one else sum(strengths) / 2)
        return torch.tensor([*strengths, uncounted]).to(self.strengths)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Files of 0.1.0 have no strengths: these stay as they are."""
        state_dict.setdefault(f"{prefix}strengths", self.strengths)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def regularized(self, scatter: Tensor, counts: Tensor) -> Tensor:
        """The M-step of the covariances.

        Args:
            scatter: what `set_means` gives.
            counts: sums of the responsibilities (C,).

        Returns:
            Covariances in their shape; `InputError` for a component without rows where nothing is regularized.
        """
        if self.regularization == "reg_covar":
            return with_ridge(self.covariance, scatter, counts, self.reg_covar, self.num_features)
        no_prior = self.prior_rows == self.pooled_rows == 0
        if no_prior and bool((counts <= 0).any()) and self.covariance != "tied":
            raise singular("a component has no row")
        return self._prior.mode(scatter, counts, self.prior_variance, self.precisions if self.pooled_rows else None)

    def log_prior(self) -> Tensor:
        if self.regularization == "reg_covar" or not bool(self.strengths.any()):
            return self.logits.new_zeros(())
        return self._prior.log_prob(self.prior_variance, self.precisions)

    @property
    def _prior(self) -> CovariancePrior:
        return CovariancePrior(self.covariance, self.prior_rows, self.pooled_rows, self.uncounted_rows)

    @property
    def covariances(self) -> Tensor:
        """Full (C, D, D), tied (D, D), diagonal (C, D), spherical (C,), as in scikit-learn."""
        raise NotImplementedError

    @property
    def precisions(self) -> Tensor:
        """The inverses of the covariances, in their shape."""
        raise NotImplementedError

    def set_covariances(self, covariances: Tensor) -> None:
        """Set covariances in the shape of the property `covariances`; `InputError` where one is singular."""
        raise NotImplementedError

    def set_means(self, statistics: Statistics) -> Tensor:
        """The M-step of the means.

        Args:
            statistics: what `statistics` gives.

        Returns:
            Sums of products of the differences from them, as `scatter_about_means` gives them.
        """
        raise NotImplementedError

    def repeated(self, times: int) -> "RegularizedMixture":
        """A new mixture of `times` as many components with covariances of their own, for `FoldMixtures`.

        Args:
            times: how many mixtures like this one it has the components of.

        Returns:
            The mixture, without regularization.
        """
        raise NotImplementedError
