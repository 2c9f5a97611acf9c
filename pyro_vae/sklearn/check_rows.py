"""The rows X that scikit-learn gives to an estimator: checked, divided for a fit, and given back as X came."""

from collections.abc import Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from pyro_vae.data.frame_tables import FrameParts
from pyro_vae.data.frames import DataFrame, frame_like, is_frame, read_frame, require_eager
from pyro_vae.data.row_weights import check_weights
from pyro_vae.data.split_rows import random_parts
from pyro_vae.errors import InputError

MIN_ROWS = 2
RandomState = int | np.integer | np.random.RandomState | None


def as_seed(random_state: RandomState) -> int:
    """A seed: the number itself, or one that a generator draws; None draws it from NumPy's global generator."""
    if isinstance(random_state, int | np.integer):
        check_random_state(random_state)  # raises for a number that is no seed
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31))


def check_rows(estimator: BaseEstimator, X: object, *, reset: bool = False) -> DataFrame:
    """The rows as a data frame, whose columns have no names where X is an array.

    Args:
        estimator: the estimator, which gets `n_features_in_` and `feature_names_in_`, or is asked for them.
        X: an array or a data frame (N, D).
        reset: whether these are the rows of a fit.

    Returns:
        The frame; `ValueError` for other columns than those of the fit, and for values that are no numbers.
    """
    if not reset:
        check_is_fitted(estimator)
    if is_frame(X):
        require_eager(X, Path("X"))
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        if not reset and not len(cast(Sized, X)):
            raise InputError("the data frame has no rows")
        return cast(DataFrame, X)
    finite = "allow-nan" if estimator.__sklearn_tags__().input_tags.allow_nan else True
    fewest = MIN_ROWS if reset else 1
    array = validate_data(estimator, X, reset=reset, ensure_all_finite=finite, ensure_min_samples=fewest)
    return cast(DataFrame, pandas.DataFrame(array))


def divide_rows(
    rows: DataFrame, validation_fraction: float, sample_weight: object, seed: int
) -> tuple[FrameParts, Tensor | None]:
    """The rows of a fit in random order, a share of them set aside for validation.

    Args:
        rows: the rows (N).
        validation_fraction: the share; of a share above 0 at least one row.
        sample_weight: how much each row counts (N,), or one number for all; those of weight 0 are left out.
        seed: of the order.

    Returns:
        The frame with its parts, and the weights (N,).
    """
    frame = read_frame(rows, Path("X"))
    num_rows = len(frame.values)
    weights = None
    if sample_weight is not None:
        given = torch.from_numpy(np.array(sample_weight, dtype=np.float64))
        weights = check_weights(given.expand(num_rows) if given.dim() == 0 else given, num_rows)
    kept = torch.arange(num_rows) if weights is None else weights.nonzero()[:, 0]
    if len(kept) < MIN_ROWS:
        raise InputError(f"{len(kept)} rows are too few to fit; {MIN_ROWS} or more are needed")
    if not 0 <= validation_fraction < 1:
        raise InputError(f"validation_fraction must be from 0 to below 1, got {validation_fraction}")
    num_valid = max(1, int(validation_fraction * len(kept))) if validation_fraction else 0
    train, valid, test = random_parts(len(kept), seed, num_valid, 0)
    return FrameParts(frame, (kept[train], kept[valid], kept[test]), infer_label=False), weights


@dataclass(frozen=True)
class RowsFormat:
    """What the rows of a fit were, so that others come back alike.

    Attributes:
        columns: the names of the columns.
        empty: their frame without rows; None where they were an array.
    """

    columns: tuple[str, ...]
    empty: DataFrame | None

    @classmethod
    def of(cls, X: object, rows: DataFrame) -> "RowsFormat":
        """The format of rows.

        Args:
            X: the rows as they were given.
            rows: the same as a frame.

        Returns:
            Their format.
        """
        import narwhals.stable.v2 as nw

        empty = nw.from_native(cast(Any, X), eager_only=True).head(0).to_native() if is_frame(X) else None
        return cls(tuple(map(str, rows.columns)), empty)

    def restore(self, frame: pandas.DataFrame) -> Any:
        """A frame as one of the same library, or as an array of the same columns.

        Args:
            frame: the rows, with the columns that are modelled.

        Returns:
            The rows.
        """
        if self.empty is None:
            return frame.reindex(columns=list(self.columns)).to_numpy()
        return frame_like(self.empty, frame)
