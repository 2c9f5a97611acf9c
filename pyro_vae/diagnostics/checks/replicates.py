"""Replicates of rows: data sets of as many rows, drawn from a model with the rows' gaps, conditions and inputs."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.diagnostics.checks.row_statistics import original_values
from pyro_vae.errors import InputError
from pyro_vae.programs.sample_rows import inputs_of_rows, sample
from pyro_vae.typing import Program

BLOCK_VALUES = 4_000_000  # of x that are drawn and compared at a time


def draw_replicates(
    program: Program, rows: Split, num_replicates: int, seed: int, decimals: Mapping[int, int] = MappingProxyType({})
) -> Iterator[Array]:
    """Replicates of rows: as many draws from the model, with the same gaps, conditions and other inputs.

    Args:
        program: the program.
        rows: the rows (n).
        num_replicates: the number R of replicates.
        seed: of the draws.
        decimals: the number of decimals of some columns' values, to which draws are rounded as samples are.

    Yields:
        Array: some of the replicates, (r, n, D) in original units, NaN where the rows have gaps.
    """
    n, width = rows.shape
    some = max(1, min(num_replicates, BLOCK_VALUES // (n * width)))
    for start in range(0, num_replicates, some):
        number = min(some, num_replicates - start)
        x = draw_like(program, rows, number, seed + start)
        mask = None if rows.mask is None else rows.mask.repeat(number, 1)
        values = original_values(rows, x, mask)
        for i, digits in decimals.items():
            values[:, i] = values[:, i].round(digits)
        yield values.reshape(number, n, width)


def draw_like(program: Program, rows: Split, num_sets: int, seed: int) -> Tensor:
    """Draws from the model, as many as there are rows, some sets of them, with the rows' conditions and other inputs.

    A model that reads x besides observing it, as a conditional one of a user's may, is given the rows.

    Args:
        program: the program.
        rows: the rows (n).
        num_sets: the number r of sets.
        seed: of the draws.

    Returns:
        The draws (r n, D), as the program sees rows.
    """
    n, width = rows.shape
    tiled = inputs_of_rows(rows, num_sets * n, labels=True)
    try:
        drawn = sample(program, num_sets * n, num_features=width, seed=seed, row_inputs=tiled)
    except InputError as error:
        try:
            drawn = sample(program, num_sets * n, seed=seed, x=rows.x.repeat(num_sets, 1), row_inputs=tiled)
        except InputError:
            raise error from None
    if drawn.shape[1] != width:
        raise InputError(f"the model draws rows of {drawn.shape[1]} values, and these have {width}")
    return drawn
