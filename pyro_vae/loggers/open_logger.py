"""The logger of a run by its name: a callback of the fit, opened in the run's folder."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from pyro_vae.data import Dataset
from pyro_vae.inference.fit_result import EpochRecord
from pyro_vae.inference.svi.callbacks import Callback
from pyro_vae.typing import Program

TENSORBOARD = "tensorboard"


class RunLogger(Callback, Protocol):
    """A logger of a run: a callback that is called with the history too, and in the end with program and data."""

    def __call__(self, history: list[EpochRecord]) -> None: ...

    def finish(self, program: Program, data: Dataset) -> None: ...


OpenLogger = Callable[[Path], AbstractContextManager[RunLogger | None]]  # in a run's folder


def logger_opener(logger: str | None, resumed: Path | None) -> OpenLogger:
    """What opens the logger of a run's folder; a resumed run keeps the one it had. `InputError` without its package.

    Args:
        logger: `tensorboard`, or None for no logger.
        resumed: the folder of the run that is resumed, if one is.

    Returns:
        A function from the run's folder to the logger, as a context.
    """
    if logger is None and (resumed is None or not (resumed / TENSORBOARD).exists()):
        return lambda _: nullcontext()
    from pyro_vae.loggers.tensorboard import TensorBoard, summary_writer

    summary_writer()
    return lambda folder: TensorBoard(folder / TENSORBOARD)
