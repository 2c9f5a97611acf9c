"""The file of a fit's metrics, a row an epoch."""

from pathlib import Path

from pyro_vae.atomic_write import append_json_line, write_json_lines
from pyro_vae.inference.svi.callbacks import CallbackBase, RunningFit
from pyro_vae.inference.svi.checkpoint import CHECKPOINT, read_checkpoint
from pyro_vae.run_folder import METRICS


class MetricsFile(CallbackBase):
    """Writes each epoch's metrics as they come, a JSON object a line.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_epoch(self, fit: RunningFit) -> None:
        append_json_line(self.path, dict(fit.history[-1]))


def drop_later_epochs(folder: Path) -> None:
    """Keep the metrics of the epochs that the fit will not repeat: after a crash the file may be ahead of them."""
    found = read_checkpoint(folder / CHECKPOINT)
    write_json_lines(folder / METRICS, [] if found is None else found[1]["history"])
