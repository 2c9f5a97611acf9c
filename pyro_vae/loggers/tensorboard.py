"""A fit as TensorBoard shows it: curves as they come, then pictures and the latent space. Its package is an extra."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.atomic_write import require_file_path
from pyro_vae.context_managers import seeded
from pyro_vae.data import Dataset, Split
from pyro_vae.data.image_shapes import height_and_width, is_colour
from pyro_vae.errors import InputError
from pyro_vae.inference.fit_result import EpochRecord
from pyro_vae.inference.svi.callbacks import CallbackBase, RunningFit
from pyro_vae.plots import style
from pyro_vae.plots.fit_figures import reconstructions, samples
from pyro_vae.programs.encode_rows import encode
from pyro_vae.typing import Program

TERMS = ("elbo", "reconstruction", "kl")
SCALARS = (*TERMS, *(f"valid_{term}" for term in TERMS), "active_units", "learning_rate", "beta")
EMBEDDED = 1000
MEANS = "posterior_means"


@runtime_checkable
class EventWriter(Protocol):
    """What is used of torch's `SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...

    def add_figure(self, tag: str, figure: Figure, global_step: int, close: bool) -> None: ...

    def add_embedding(
        self,
        mat: Tensor,
        metadata: list[list[str]],
        label_img: Tensor | None,
        global_step: int,
        tag: str,
        metadata_header: list[str],
    ) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class TensorBoard(CallbackBase):
    """A callback that writes a fit's epochs to a folder that `tensorboard --logdir` reads.

    Each epoch's scalars stand under the names of `metrics.jsonl`, nats per row, the epoch as step. In a folder with
    events of an earlier process new ones are appended, and those of this epoch and later are hidden. `finish` adds
    figures and the latent space. It is a function of the history too, for `fit(…, on_epoch=TensorBoard(folder))`.
    Raises `InputError` where the package tensorboard is missing.

    Args:
        folder: the folder of the events.

    >>> import tempfile
    >>> import pyro_vae as pv
    >>> data = pv.load_data("digits")
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 64))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(64, 8, 4)))
    >>> with tempfile.TemporaryDirectory() as folder, TensorBoard(folder) as board:
    ...     fitted = pv.fit(vae, data, epochs=2, callbacks=[board])
    ...     board.finish(vae, data)
    """

    @check_call
    def __init__(self, folder: str | Path) -> None:
        self._make = summary_writer()
        self.folder, self.epoch = Path(folder), 0
        require_file_path(self.folder / "events")
        self._writer: EventWriter | None = None

    def on_epoch(self, fit: RunningFit) -> None:
        """Write the epochs that were not written before."""
        self(fit.history)

    def __call__(self, history: Sequence[EpochRecord]) -> None:
        """Write the epochs of a fit's history that were not written before."""
        writer = self._writer
        if writer is None:
            writer, self.epoch = self._open(history)
        if history and history[-1].epoch < self.epoch:  # another fit
            self.epoch = 0
        for row in history:
            if row.epoch > self.epoch:
                for name in SCALARS:
                    if row[name] is not None:
                        writer.add_scalar(name, row[name], row.epoch)
        self.epoch = history[-1].epoch if history else self.epoch
        writer.flush()

    def _open(self, history: Sequence[EpochRecord]) -> tuple[EventWriter, int]:
        """Open the folder; the writer, and the last epoch that need not be written, which is none in a new folder."""
        begun = any(self.folder.glob("events.out.tfevents.*"))
        epoch = history[-1].epoch if history else 0
        self._writer = self._make(str(self.folder), purge_step=epoch if begun and history else None)
        return self._writer, epoch - 1 if begun and history else 0

    def finish(self, program: Program, data: Dataset) -> None:
        """Add reconstructions, samples and posterior means, as far as the program has such things; close the files.

        In the projector points have labels, and pictures stand for themselves.

        Args:
            program: the fitted program.
            data: its data, of which 1,000 validation rows at most are encoded.
        """
        writer = self._open([])[0] if self._writer is None else self._writer
        for name, draw in (("reconstructions", reconstructions), ("samples", samples)):
            try:
                with style.figure_style():
                    writer.add_figure(name, draw(program, data), self.epoch, close=False)
            except InputError:  # nothing for each row to rebuild, or nothing to draw from
                continue
        self._embed(writer, program, data.valid.head(EMBEDDED))
        self.close()

    def _embed(self, writer: EventWriter, program: Program, rows: Split) -> None:
        try:
            with seeded(0):
                means = encode(program, rows.x, **rows.row_inputs(slice(None))).cpu()
        except InputError:
            return
        shutil.rmtree(self.folder / f"{self.epoch:05d}" / MEANS, ignore_errors=True)  # torch would complain on stdout
        indices = torch.arange(len(rows)) if rows.index is None else rows.index
        labels = torch.full_like(indices, -1) if rows.labels is None else rows.labels
        words = [[str(label), str(index)] for label, index in zip(labels.tolist(), indices.tolist(), strict=True)]
        writer.add_embedding(
            means,
            words,
            label_img=sprites(rows),
            global_step=self.epoch,
            tag=MEANS,
            metadata_header=["label", "row"],
        )

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def summary_writer() -> Callable[..., EventWriter]:
    """torch's `SummaryWriter`; `InputError` where the package tensorboard is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "the tensorboard logger needs a package that is not installed: pip install 'pyro-vae[tensorboard]'"
        ) from error
    return SummaryWriter


def sprites(rows: Split) -> Tensor | None:
    """Images (n, channels, size, size) for the projector, grey ones dark on white, padded to squares with white.

    None for tables.
    """
    if rows.image_shape is None:
        return None
    height, width = height_and_width(rows.image_shape)
    levels = rows.measure.levels or 1
    pixels = (rows.stored.float() / levels).reshape(len(rows), -1, height, width).clamp(0, 1)
    pixels = pixels if is_colour(rows.image_shape) else 1 - pixels
    size = max(height, width)
    left, above = (size - width) // 2, (size - height) // 2
    return F.pad(pixels, (left, size - width - left, above, size - height - above), value=1.0)
