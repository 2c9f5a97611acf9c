"""From settings to a run's folder: data, program, fit, scores, figures."""

from pathlib import Path

from pyro_vae.distributed import process_group
from pyro_vae.errors import InputError
from pyro_vae.inference.svi.progress import Style
from pyro_vae.options import Value
from pyro_vae.run_folder import require_unused
from pyro_vae.workflows.fit_job import FitJob, FitRun
from pyro_vae.workflows.fit_messages import Log
from pyro_vae.workflows.fit_settings import FitSettings
from pyro_vae.workflows.settings_of_run import settings_of_run


def fit_run(
    out: str | Path | None = None,
    *,
    program: str | None = None,
    resume: str | Path | None = None,
    logger: str | None = None,
    progress: Style = "none",
    log: Log = lambda line: None,
    debug: bool = False,
    **settings: Value | Path,
) -> FitRun:
    """Fit a program to data, score its validation rows and draw it: what `pyro-vae fit` does.

    In a script started by `torchrun` all processes fit and score, and the first alone writes.

    Raises `InputError` for what cannot be used, and leaves nothing behind; `DivergedError`, `RankLostError` and
    `KeyboardInterrupt` leave a run that can be resumed.

    Args:
        out: the run's folder, by default a new one under `runs/`.
        program: a program of one's own, as `FILE.py:FUNCTION`.
        resume: the folder of an interrupted run, whose own settings count: none may be given.
        logger: `tensorboard`, or none.
        progress: how progress is shown, as in `fit`.
        log: called with each line about what is done.
        debug: whether the trace of a figure that fails is printed.
        **settings: the options of the command with underscores (`fit_settings.fit_options`).

    Returns:
        The run that was fitted.
    """
    if resume is not None:
        if settings:
            raise InputError(
                f"a run is resumed with its own settings: leave out {next(iter(settings))}, or start a new run"
            )
        settings, out = settings_of_run(Path(resume), program), resume
    elif out is not None and process_group().is_main:
        require_unused(Path(out))
    folder = None if out is None else Path(out)
    about = FitSettings.from_options(settings), settings, folder, program
    job = FitJob(*about, resuming=resume is not None, log=log, debug=debug)
    return job.run(logger, progress)
