"""A fit as TensorBoard shows it: curves as they come, then pictures and the latent space. Its package is an extra."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.context_managers import seeded
from pyro_vae.data import Dataset, Split
from pyro_vae.errors import InputError
from pyro_vae.inference.fit_result import EpochRecord
from pyro_vae.plots import style
from pyro_vae.plots.fit_figures import reconstructions, samples
from pyro_vae.programs.model_and_guide import encode

TERMS = ("elbo", "reconstruction", "kl")
SCALARS = (*TERMS, *(f"valid_{term}" for term in TERMS), "active_units", "learning_rate", "beta")
EMBEDDED = 1000
MEANS = "posterior_means"


class TensorBoard:
    """Writes a fit's epochs to a folder that `tensorboard --logdir` reads: `fit(…, on_epoch=TensorBoard(folder))`.

    Each call writes the last epoch's scalars under the names of `metrics.jsonl`, nats per row, the epoch as step. In a
    folder with events of an earlier process new ones are appended, and those of this epoch and later are hidden.
    `finish` adds figures and the latent space. Raises `InputError` where the package tensorboard is missing.

    >>> import tempfile
    >>> import pyro_vae as pv
    >>> data = pv.load_data("digits")
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 64))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(64, 8, 4)))
    >>> with tempfile.TemporaryDirectory() as folder, TensorBoard(folder) as board:
    ...     fitted = pv.fit(vae, data, epochs=2, on_epoch=board)
    ...     board.finish(vae, data)
    """

    def __init__(self, folder: str | Path) -> None:
        self._make = summary_writer()
        self.folder, self.epoch = Path(folder), 0
        self._writer: Any = None

    def __call__(self, history: list[EpochRecord]) -> None:
        """Write the epochs of a fit's history that were not written before."""
        if self._writer is None:
            self.epoch = self._open(history)
        if history and history[-1]["epoch"] < self.epoch:  # another fit
            self.epoch = 0
        for row in history:
            if row["epoch"] > self.epoch:
                self._write(row)
        self.epoch = history[-1]["epoch"] if history else self.epoch
        self._writer.flush()

    def _open(self, history: list[EpochRecord]) -> int:
        """Open the folder; the last epoch that need not be written, which is none in a new folder."""
        begun = any(self.folder.glob("events.out.tfevents.*"))
        epoch = history[-1]["epoch"] if history else 0
        self._writer = self._make(str(self.folder), purge_step=epoch if begun and history else None)
        return epoch - 1 if begun and history else 0

    def _write(self, row: dict[str, Any]) -> None:
        for name in SCALARS:
            if row.get(name) is not None:
                self._writer.add_scalar(name, row[name], row["epoch"])

    def finish(self, program: Any, data: Dataset) -> None:
        """Add reconstructions, samples and the posterior means of 1,000 validation rows at most, as far as the program
        has such things, and close the files.

        In the projector points have labels, and pictures stand for themselves.
        """
        if self._writer is None:
            self._open([])
        drawings: dict[str, Callable[[Any, Dataset], Figure]] = {"reconstructions": reconstructions, "samples": samples}
        for name, draw in drawings.items():
            try:
                with style.figure_style():
                    self._writer.add_figure(name, draw(program, data), self.epoch, close=False)
            except InputError:  # nothing for each row to rebuild, or nothing to draw from
                continue
        self._embed(program, data.valid.head(EMBEDDED))
        self.close()

    def _embed(self, program: Any, rows: Split) -> None:
        try:
            with seeded(0):
                means = encode(program, rows.x, **rows.row_inputs(slice(None))).cpu()
        except InputError:
            return
        shutil.rmtree(self.folder / f"{self.epoch:05d}" / MEANS, ignore_errors=True)  # torch would complain on stdout
        indices = torch.arange(len(rows)) if rows.index is None else rows.index
        labels = torch.full_like(indices, -1) if rows.labels is None else rows.labels
        words = [[str(label), str(index)] for label, index in zip(labels.tolist(), indices.tolist(), strict=True)]
        about = {"metadata": words, "metadata_header": ["label", "row"]}
        self._writer.add_embedding(means, label_img=sprites(rows), global_step=self.epoch, tag=MEANS, **about)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def summary_writer() -> Any:
    """torch's `SummaryWriter`; `InputError` where the package tensorboard is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "the tensorboard logger needs a package that is not installed: pip install 'pyro-vae[tensorboard]'"
        ) from error
    return SummaryWriter


def sprites(rows: Split) -> Tensor | None:
    """Images (n, 1, size, size) for the projector, dark on white, padded to squares; None for tables."""
    if rows.image_shape is None:
        return None
    height, width = rows.image_shape
    levels = rows.measure.levels or 1
    grey = (rows.stored.float() / levels).reshape(-1, 1, height, width).clamp(0, 1)
    size = max(height, width)
    left, above = (size - width) // 2, (size - height) // 2
    return 1 - F.pad(grey, (left, size - width - left, above, size - height - above))
