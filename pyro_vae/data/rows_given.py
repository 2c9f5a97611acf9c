"""The rows that functions take: a split, a data set, or rows in memory of any kind, checked in one place."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.frames import DataFrame, is_frame, read_frame
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.data.reference_measure import Measure
from pyro_vae.data.sparse.read_sparse import SparseMatrix, is_sparse, table_from_sparse
from pyro_vae.data.split import Split
from pyro_vae.data.table import without_mask
from pyro_vae.errors import InputError
from pyro_vae.resource_limits import require_memory

RowsGiven = Dataset | Split | Tensor | Array | DataFrame | SparseMatrix | Sequence[Sequence[float]] | Sequence[Tensor]


def as_split(data: RowsGiven, name: str) -> Split:
    """Rows as a split.

    Args:
        data: a data set, or a split, which is returned as it is; or rows (N, D) whose values are x unchanged: a tensor,
            an array, lists of numbers, a sparse matrix, or a data frame whose columns are numbers.
        name: which split of a data set.

    Returns:
        The split; `InputError` for anything else, for complex, infinite or missing values, and for no rows.

    >>> as_split([[1.0, 2.0], [3.0, 4.0]], "test").x
    tensor([[1., 2.],
            [3., 4.]], dtype=torch.float64)
    """
    if isinstance(data, Split):
        return data
    if isinstance(data, Dataset):
        return data.split(name)
    return Split("given", rows_as_tensor(data), Measure(given=True))


def rows_as_tensor(data: object, missing: bool = False) -> Tensor:
    """Rows in memory as a tensor of real numbers (N, D); a tensor of them is returned as it is, without its gradient.

    Args:
        data: the rows, as in `as_split`.
        missing: whether NaN, a missing value, is allowed.

    Returns:
        The rows.
    """
    x = data.detach() if isinstance(data, Tensor) and not is_sparse(data) else _read(data)
    if x.dim() != 2 or 0 in x.shape:
        raise InputError(f"expected rows of shape (N, D), got {tuple(x.shape)}; flatten each observation to one row")
    if x.is_complex() or x.is_quantized:
        raise InputError(f"expected rows of real numbers, got {x.dtype}; give real and imaginary parts as columns")
    x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    wrong = ~x.isfinite() & ~(x.isnan() & missing) if x.is_floating_point() else torch.zeros(())
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        remedy = "pv.load_data(rows, missing='mask') models the values that are there" if x[row, column].isnan() else ""
        raise InputError(
            f"rows hold {int(wrong.sum())} missing or infinite values (NaN or infinity), the first in row {row} (from "
            f"0), column {column}: {remedy or 'remove or fill those rows'}"
        )
    return x


def _read(data: object) -> Tensor:
    """What is no tensor as one."""
    if isinstance(data, (str, Path)):
        raise InputError(f"expected rows, got the name {str(data)!r:.80}: read them first, pv.load_data(name)")
    if is_frame(data):
        return _numbers_of(data)
    if isinstance(data, (list, tuple)):
        return _stacked(data)
    if isinstance(data, np.ndarray):
        array = without_mask(data, Path("the array"))
        if array.dtype.kind not in "fiub":
            raise InputError(f"expected rows of real numbers, got an array of {array.dtype}")
        return torch.as_tensor(array if array.flags.writeable else array.copy())
    if not is_sparse(data):
        raise InputError(
            f"expected rows: a data set, split, tensor, array, data frame or lists; got a {type(data).__name__}"
        )
    values = table_from_sparse(data, Path("the sparse matrix")).values
    require_memory(8 * len(values) * values.shape[1], "these sparse rows, made dense", "give fewer rows")
    return values[:].to(torch.float64)


def _numbers_of(data: object) -> Tensor:
    """The values of a data frame of numbers."""
    frame = read_frame(data, Path("the data frame")).values
    if texts := [name for name, kind in frame.dtypes.items() if kind.kind not in "fiub"]:
        raise InputError(
            f"the column {texts[0]!r:.60} holds other than numbers: a data frame with kinds of columns is read by "
            "pv.load_data(frame), or data.prepare(frame) for new rows"
        )
    return torch.from_numpy(frame.to_numpy(dtype="float64", na_value=float("nan")).copy())


def _stacked(rows: Sequence[object]) -> Tensor:
    """Lists of numbers, or tensors of one row each, one below the other."""
    try:
        if rows and all(isinstance(row, Tensor) for row in rows):
            return torch.stack([row.detach() for row in rows if isinstance(row, Tensor)])
        return torch.tensor(rows, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"expected lists of numbers, one for each row and all of one length ({error})") from error
