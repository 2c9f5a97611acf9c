"""Before a fit: what program and settings do not allow is refused, and the ELBO is chosen."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO
from pyro.poutine import Trace

from pyro_vae.context_managers import seeded
from pyro_vae.errors import InputError, RowsError
from pyro_vae.inference.svi.train_config import TrainConfig
from pyro_vae.programs.log_weights import LogWeightSampler
from pyro_vae.programs.parameters import named_parameters
from pyro_vae.programs.plates import ONE_SIZE, PlateStructure
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.traces import sample_sites
from pyro_vae.typing import Program

SETTINGS_IN_NAME = ("num_particles", "dreg", "free_bits", "each", "insomnia")


def check_batches(
    plates: PlateStructure, settings: TrainConfig, num_rows: int, has_valid: bool, num_processes: int
) -> None:
    """Raise `InputError` where the program does not allow batches, validation rows, several processes or β.

    Args:
        plates: of the program.
        settings: the training settings.
        num_rows: the number of training rows.
        has_valid: whether there are validation rows.
        num_processes: how many processes share each batch.
    """
    batch_size = min(settings.batch_size, num_rows)
    if plates.row_dim is None and batch_size < num_rows:
        raise RowsError(
            'the program has no plate over rows (with pyro.plate("data", len(x)): …), so it cannot be fitted in '
            f"batches: add the plate, or fit all {num_rows} rows at once (batch_size={num_rows})"
        )
    if plates.num_rows is not None and (batch_size < num_rows or has_valid or num_processes > 1):
        raise RowsError(
            f"the program was run for {plates.num_rows} of the {num_rows} rows, and does not run for any other number: "
            f"{ONE_SIZE}"
        )
    if plates.row_dim is None and has_valid:
        raise RowsError("the program has no plate over rows, so held-out rows have no ELBO: leave valid out")
    if plates.row_dim is None and num_processes > 1:
        raise RowsError("the program has no plate over rows, so they cannot be split among processes: add the plate")
    if batch_size < num_processes:
        raise InputError(
            f"a batch of {batch_size} rows cannot be split among {num_processes} processes: take a larger "
            "batch_size or fewer processes"
        )
    if plates.enumerated and (settings.beta != 1 or settings.kl_warmup):
        raise InputError(
            f"{', '.join(plates.enumerated)} is summed out by enumeration, which requires beta=1 and kl_warmup=0"
        )


def default_loss(guide: Trace, plates: PlateStructure, num_particles: int) -> ELBO:
    """The ELBO of a fit that names no objective.

    Args:
        guide: a trace of the guide.
        plates: of the program.
        num_particles: draws for each row and step.

    Returns:
        `Trace_ELBO`, or `TraceEnum_ELBO` where the guide marks a site to be enumerated, or leaves out one of the model.
    """
    if plates.enumerated or any(site["infer"].get("enumerate") for site in sample_sites(guide).values()):
        return TraceEnum_ELBO(num_particles, plates.nesting)
    return Trace_ELBO(num_particles)


def vectorize_particles(loss: ELBO, program: Program, plates: PlateStructure, example: Batch) -> ELBO:
    """The same objective, with vectorized particles where the program gives the same log weights so.

    Args:
        loss: the objective.
        program: the program, whose parameters are restored.
        plates: of the program.
        example: rows to compare the log weights on.

    Returns:
        The objective itself, or a copy that vectorizes particles.
    """
    has_rows = plates.row_dim is not None and not plates.outside and not plates.enumerated
    if loss.num_particles == 1 or loss.vectorize_particles or not has_rows:
        return loss
    with _perturbed_parameters(program):  # with weights of zero, any program would give the same
        is_vectorized = LogWeightSampler(program, plates, example).vectorized
    if not is_vectorized:
        return loss
    loss = copy.copy(loss)
    loss.vectorize_particles, loss.max_plate_nesting = True, plates.nesting + 1  # one for the particles
    return loss


def loss_name(loss: ELBO) -> str:
    """An objective's class, and those of its settings that change what is optimized."""
    settings = {
        name: value
        for name, value in vars(loss).items()
        if isinstance(value, (bool, int, float, str)) and name in SETTINGS_IN_NAME
    }
    return f"{type(loss).__name__} {settings}" if settings else type(loss).__name__


@contextmanager
def _perturbed_parameters(program: Program) -> Iterator[None]:
    """Add small random numbers to every parameter, and restore them afterwards."""
    parameters = list(named_parameters(program).values())
    before = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad(), seeded(0):
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn_like(parameter))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
