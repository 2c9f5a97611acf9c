"""A run's program fitted anew to its rows drawn with replacement: a bootstrap."""

from pathlib import Path

import torch
from torch import Tensor

from pyro_vae.context_managers import derived_seed
from pyro_vae.run_folder import require_same_data
from pyro_vae.typing import Program
from pyro_vae.workflows.fit_job import FitJob, to_cpu
from pyro_vae.workflows.fit_messages import warnings_to_log
from pyro_vae.workflows.fit_settings import FitSettings
from pyro_vae.workflows.settings_of_run import settings_of_run

ROWS = 1  # the stream of a bootstrap's rows, apart from that of its weights


def fit_resampled(folder: Path, program: str | None, number: int) -> Program:
    """The program of a run, made anew and fitted to its training rows drawn with replacement (a bootstrap).

    Args:
        folder: the run's folder, whose settings and data count.
        program: `FILE.py:FUNCTION` of a program of one's own.
        number: which draw of rows and weights, from 1.

    Returns:
        The program on the CPU, with the weights of its best epoch on the run's validation rows.
    """
    settings = settings_of_run(folder, program)
    seed = settings["seed"]
    assert isinstance(seed, int)
    settings |= {"seed": derived_seed(seed, number)}
    job = FitJob(FitSettings.from_options(settings), settings, None, program)
    require_same_data(folder, job.data.fingerprint)
    job.take_rows(resampled_rows(len(job.data.train), derived_seed(seed, number, ROWS)))
    with warnings_to_log(job.log):
        job.fit_program()
    to_cpu(job.program)
    return job.program


def resampled_rows(num_rows: int, seed: int) -> Tensor:
    """As many rows as there are, drawn with replacement.

    Args:
        num_rows: the number N of rows.
        seed: of the draw.

    Returns:
        Row numbers (N,).
    """
    return torch.randint(num_rows, (num_rows,), generator=torch.Generator().manual_seed(seed))
