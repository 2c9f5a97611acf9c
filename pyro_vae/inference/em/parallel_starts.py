"""Starts of EM in processes of their own."""

import os
import warnings

import torch
from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.inference.em.em_loop import EMRows, EMRun, EMSettings
from pyro_vae.inference.fit_result import EMEpoch
from pyro_vae.inference.svi.callbacks import Callbacks, RunningFit
from pyro_vae.models.exact_density import Density


def fit_in_parallel(run: EMRun, num_starts: int, num_workers: int) -> None:
    """Fit starts in processes, each with its share of the threads, and add them to a run in their order.

    Args:
        run: the run; a callback that stops it ends the starts that have not begun.
        num_starts: the number of starts.
        num_workers: the number of processes.
    """
    from joblib import Parallel, delayed

    weights = run.rows.weights
    task = run.model, run.rows.train, run.valid, weights, run.settings, max(1, (os.cpu_count() or 1) // num_workers)
    found = Parallel(n_jobs=min(num_workers, num_starts), return_as="generator")(
        delayed(_fit_start)(number, *task) for number in range(num_starts)
    )
    for history, stopped, state in found:
        run.add(history, stopped, state)
        if run.running.stop:
            with warnings.catch_warnings():  # of the starts that were begun and are not wanted
                warnings.filterwarnings("ignore", message=r".*tasks? (has|have) been successfully executed")
                warnings.filterwarnings("ignore", message=r".*tasks which were still being processed")
                found.close()
            break


def _fit_start(
    number: int,
    model: Density,
    train: Split,
    valid: Split | None,
    weights: Tensor | None,
    settings: EMSettings,
    num_threads: int,
) -> tuple[list[EMEpoch], str, dict[str, Tensor]]:
    """The history of one start, why it ended, and its best parameters."""
    torch.set_num_threads(num_threads)
    with torch.no_grad():
        rows = EMRows(model, train, weights, settings.memory_bytes)
        run = EMRun(rows, valid, settings, Callbacks(RunningFit(model, settings.epochs), ()))
        run.fit(number)
    return [row for row in run.history if isinstance(row, EMEpoch)], run.stopped[number], run.best
