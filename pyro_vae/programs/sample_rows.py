"""New rows: the model run on placeholders, with what it observes drawn."""

from collections.abc import Callable
from dataclasses import replace

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.context_managers import PYRO_LOCK, evaluating, seeded
from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.programs.distribution_means import distribution_mean
from pyro_vae.programs.find_plates import find_model_plates
from pyro_vae.programs.parameters import device_and_dtype, use_param_store
from pyro_vae.programs.program_defaults import num_features_of
from pyro_vae.programs.row_inputs import Batch, RowInputs, checked_batch
from pyro_vae.programs.traces import Site, draw_observed
from pyro_vae.resource_limits import require_memory
from pyro_vae.typing import Program, Rows

DENSE_BYTES = 8  # of a value, while rows are drawn
GIVE_X = "give the rows that it reads, program.sample(n, x=rows)"


@check_call
@torch.no_grad()
def sample(
    program: Program,
    n: int,
    *,
    num_features: int | None = None,
    seed: int | None = None,
    x: Rows | None = None,
    row_inputs: RowInputs | None = None,
) -> Tensor:
    """New rows from the model: every site is drawn, the observed ones included.

    The model runs on n placeholder rows, so its x-sites are drawn and not conditioned on. A site that observes one of
    the row inputs stays as it is, unless the model observes nothing else.

    Args:
        program: any program.
        n: the number of rows.
        num_features: the width of the placeholder, for models that ask x for its shape.
        seed: a seed of the random numbers; None continues with torch's generator.
        x: rows (n, D) for a model that reads x besides observing it, as a conditional one does; `InputError` where they
            are missing.
        row_inputs: inputs of the new rows, such as `labels` (n,), for a model that takes them.

    Returns:
        Rows (n, D).
    """
    if n < 1:
        raise InputError(f"expected one row or more to draw, got {n}")
    if x is not None and len(x) != n:
        raise InputError(f"expected one row of x for each of the {n} draws, got {len(x)}")
    batch = checked_batch(program, _placeholder(program, n, num_features) if x is None else x, row_inputs or {})
    return _draw(program, batch, seed, lambda site: site["value"], reads_x=x is not None)


@torch.no_grad()
def sample_means(
    program: Program,
    n: int,
    *,
    num_features: int | None = None,
    seed: int | None = None,
    row_inputs: RowInputs | None = None,
) -> Tensor:
    """E[x | z] for draws of the latents from the model: the likelihood's means, without its noise.

    Args:
        program: any program.
        n: the number of draws.
        num_features: the width of the placeholder, for models that ask x for its shape.
        seed: a seed of the random numbers; None continues with torch's generator.
        row_inputs: inputs of the new rows, as in `sample`.

    Returns:
        Means (n, D).
    """
    batch = checked_batch(program, _placeholder(program, n, num_features), row_inputs or {})
    return _draw(program, batch, seed, lambda site: distribution_mean(site["fn"]))


def inputs_of_rows(rows: Split, n: int, *, labels: bool = False) -> dict[str, Tensor]:
    """A split's own inputs and conditions for n new rows: those of its first rows, repeated where it has fewer.

    Args:
        rows: the split.
        n: the number of new rows.
        labels: whether their labels are among them, where there are any.

    Returns:
        The row inputs by name.
    """
    index = torch.arange(n) % len(rows)
    given = {"labels": rows.labels if labels else None, **rows.inputs}
    return {name: value[index] for name, value in given.items() if value is not None}


def _placeholder(program: Program, n: int, num_features: int | None) -> Tensor:
    """n rows of zeros, of the width that is given or that the program keeps."""
    device, dtype = device_and_dtype(program)
    width = num_features or num_features_of(program) or 1
    require_memory(n * width * DENSE_BYTES, f"{n:,} rows of {width}", "draw fewer at a time")
    return torch.zeros(n, width, device=device, dtype=dtype)


def _draw(
    program: Program, batch: Batch, seed: int | None, value: Callable[[Site], Tensor], *, reads_x: bool = False
) -> Tensor:
    with PYRO_LOCK, poutine.block(), seeded(seed), use_param_store(program), evaluating(program):
        try:
            plates = find_model_plates(program, batch)
            if not reads_x:
                require_unread(program, batch)
            sites = draw_observed(program, batch)
        except InputError:
            raise
        except (RuntimeError, ValueError) as error:
            raise InputError(
                "rows are drawn by running the model on rows of zeros, whose values it may not read, and it ended with "
                f"{type(error).__name__}: {str(error).splitlines()[0]}; {GIVE_X}"
            ) from error
    return plates.concatenate([site for site in sites.values() if site["infer"].get("was_observed")], value)


def require_unread(program: Program, placeholder: Batch) -> None:
    """`InputError` where what the model draws depends on x: draws at placeholders would be of nothing.

    Args:
        program: any program.
        placeholder: rows of zeros, with their inputs.
    """
    index = torch.arange(2, device=placeholder.x.device) % len(placeholder.x)
    zeros = placeholder.take(index)
    drawn = []
    for x in (zeros.x, torch.ones_like(zeros.x)):
        with seeded(0), pyro.validation_enabled(False):
            drawn.append(draw_observed(program, replace(zeros, x=x)))
    first, second = drawn
    if first.keys() != second.keys():
        raise InputError(f"which sites the model has depends on the values of x: {GIVE_X}")
    if changed := [name for name in first if not _equal(first[name]["value"], second[name]["value"])]:
        raise InputError(f"the model reads x, besides observing it: its draws of {', '.join(changed)} differ; {GIVE_X}")


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first.nan_to_num(), second.nan_to_num())


def simulate(program: Program, placeholder: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Rows and their latents, drawn from the model together; `InputError` for several x-sites.

    Args:
        program: any program.
        placeholder: a batch of n rows whose x is not read, with their inputs.

    Returns:
        Rows x (n, D), and the latents' values by site.
    """
    require_unread(program, placeholder)
    sites = draw_observed(program, placeholder)
    observed = [site for site in sites.values() if site["infer"].get("was_observed")]
    if len(observed) != 1 or observed[0]["value"].shape != placeholder.x.shape:
        raise InputError("simulating rows needs a model that observes x, the whole of it, at one site")
    (x,) = observed
    latents = {name: site["value"] for name, site in sites.items() if not site["is_observed"] and site is not x}
    return x["value"], latents
