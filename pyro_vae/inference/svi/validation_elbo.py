"""The ELBO of held-out rows and the active units of the guide, after each epoch."""

from collections.abc import Callable, Iterator

import pyro
import torch

from pyro_vae.context_managers import seeded
from pyro_vae.data import Split
from pyro_vae.data.stored_split import readable_rows
from pyro_vae.distributed import ProcessGroup
from pyro_vae.errors import InputError
from pyro_vae.programs.encode_rows import ACTIVE_VARIANCE, active_units
from pyro_vae.programs.parameters import DeviceAndDtype
from pyro_vae.programs.plates import PlateStructure
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.typing import Program

VALID_BATCH_SIZE = 1000
VALID_DRAWS = 2000  # of all rows together, so that few rows have many draws each
VALID_ROWS_PER_CALL = 200  # fewer rows are repeated in a batch, which takes as long as one of them


class HeldOutRows:
    """The validation rows of a fit, in batches on the program's device.

    Args:
        split: the rows.
        target: the device and type that the program takes.
        num_rows: the number N of training rows.
    """

    def __init__(self, split: Split, target: DeviceAndDtype, num_rows: int) -> None:
        self.split, self.target, self.num_rows = split, target, num_rows
        self.weights = split.relative_weights
        self.batch_size, self.num_units = readable_rows(split.shape[1], VALID_BATCH_SIZE), 0

    def __len__(self) -> int:
        return len(self.split)

    def batch(self, start: int, end: int) -> Batch:
        """Some of the rows with their inputs.

        Args:
            start: the index of the first row.
            end: the index after the last one, which may lie after all rows.

        Returns:
            The batch.
        """
        given = {"num_rows": self.num_rows, **self.split.row_inputs(slice(start, end))}
        batch = Batch.of(self.split[start:end].to(*self.target), given)
        return batch if self.weights is None else batch.with_weights(self.weights[start:end])

    def batches(self) -> Iterator[Batch]:
        """All rows in order."""
        for start in range(0, len(self), self.batch_size):
            yield self.batch(start, start + self.batch_size)

    def mean_loss(
        self, evaluate_loss: Callable[..., float], plates: PlateStructure, group: ProcessGroup, seed: int, check: bool
    ) -> float:
        """The weighted mean of a loss over rows and draws of all processes, with fixed random numbers.

        Args:
            evaluate_loss: a function of x, its row inputs and its weights if it has any, nats per row.
            plates: of the program.
            group: the processes.
            seed: of the random numbers.
            check: whether the plates of each batch are checked.

        Returns:
            The mean, nats per row.
        """
        draws = max(1, VALID_DRAWS // len(self))
        repeats = min(draws, max(1, VALID_ROWS_PER_CALL // len(self)))
        draws = draws // repeats * repeats
        shard, total = group.shard(torch.arange(len(self))), 0.0
        with seeded(group.rank_seed(seed)), pyro.validation_enabled(False):
            for rows in shard.split(self.batch_size) if len(shard) else ():
                batch = self.batch(int(rows[0]), int(rows[-1]) + 1)
                if check:
                    plates.check(batch.x, batch.mask)
                if repeats > 1:
                    batch = batch.take(torch.arange(len(batch.x), device=batch.x.device).repeat(repeats))
                for _ in range(draws // repeats):
                    total += evaluate_loss(*batch.objective_arguments) * len(batch.x)
        return sum(group.all_gather(total)) / (draws * len(self))

    def active_units(self, program: Program, plates: PlateStructure) -> int | None:
        """How many latents are active, of `num_units`: their posterior means vary over rows (arXiv:1509.00519).

        Args:
            program: the program.
            plates: of the program.

        Returns:
            The number; None where there is no latent for each row, or latents take discrete values.
        """
        batch = self.batch(0, self.batch_size)
        try:
            active, self.num_units = active_units(program, batch.x, plates=plates, **batch.row_inputs)
        except InputError:
            active = None
        return active


def collapse_advice(active: int | None, num_units: int, epochs: int) -> str:
    """What to try where fewer than half of the latent dimensions are active.

    Args:
        active: the number of active ones, if it is known.
        num_units: the number of all.
        epochs: of the fit.

    Returns:
        A sentence; empty where there is nothing to say.
    """
    if active is None or num_units < 2 or 2 * active >= num_units:
        return ""
    return (
        f"{num_units - active} of {num_units} latent dimensions are inactive: their posterior means "
        f"vary by less than {ACTIVE_VARIANCE} over rows. Try a KL warm-up "
        f"(kl_warmup={max(1, epochs // 5)}), free bits, a smaller likelihood scale, a lower "
        "learning rate, more epochs, or fewer latents"
    )
