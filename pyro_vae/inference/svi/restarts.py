"""When a fit has run away, and by how much the learning rate is lowered when it goes back to its best weights.

A fit has run away where its objective on the training rows was, for three epochs in a row, below that of its best epoch
by more than ten nats per row (β times as many where β is above 1) and by more than half of what it had gained since its
first epoch. Epochs of a KL warm-up, whose objective is another one in each, are not compared.
A fall on the validation rows alone is none: a lower learning rate does not help against overfitting. The first epoch,
which has no earlier one, has run away where the later half of its steps lies below the first step by more than those
ten nats and the size of that step's objective. Single rows of large counts can do that too, at any learning rate: where
the epoch falls at least half as far at a rate of zero, the rate is not the cause, and the fit goes on without that
watch. Epochs at the beginning that lie a hundred times as far below the best one as the
epoch after them do not count as what had been gained.

>>> risen = [EpochRecord(epoch, epoch, elbo=-100.0 / epoch) for epoch in range(1, 9)]
>>> fall_from_best(risen) is None
True
>>> fall_from_best([*risen, *(EpochRecord(epoch, epoch, elbo=-90.0) for epoch in (9, 10, 11))], EPOCHS_BELOW)
77.5
"""

from collections.abc import Sequence
from statistics import median

from torch import Tensor

from pyro_vae.errors import DivergedError
from pyro_vae.inference.fit_result import EpochRecord

RATE_FACTOR = 0.25  # of the learning rate, at each restart
MIN_FALL = 10.0  # nats per row below the best epoch
MIN_SHARE = 0.5  # of what had been gained since the first epoch
FAR = 100  # times as far below the best epoch as the next one
MIN_STEPS = 2  # of an epoch whose later half is compared with its first step
EPOCHS_BELOW = 3  # what one epoch has lost, the next often makes good


class FirstEpochFall(DivergedError):
    """The first epoch ended far below its beginning, by `fall` nats per row."""

    def __init__(self, fall: float) -> None:
        super().__init__(f"the objective fell by {fall:,.0f} nats per row")
        self.fall = fall


def fall_from_best(history: Sequence[EpochRecord], epochs: int = 1) -> float | None:
    """How far the last epochs' objective on the training rows lies below the best one, where each lies far below it.

    Args:
        history: one record for each epoch, at least one.
        epochs: how many of the last ones, which have to lie after the last restart.

    Returns:
        The least of their falls, nats per row; None where one of them is no far fall.
    """
    alike = [row for row in history if row.beta == history[-1].beta and row.training_value is not None]
    since = [row for row in alike[-epochs:] if row.restarts == history[-1].restarts]
    if len(alike) <= epochs or len(since) < epochs:
        return None
    values, last = ([row.training_value or 0.0 for row in rows] for rows in (alike, since))
    fall = max(values) - max(last)
    gained = max(values) - _first_of_scale(values)
    return fall if fall > max(_least_fall(history[-1].beta or 1.0), MIN_SHARE * gained) else None


def _first_of_scale(values: Sequence[float]) -> float:
    """The first of some objectives, without those at the beginning that lie far below any scale of the others."""
    below = [max(values) - value for value in values]
    for number in range(1, len(values)):
        if min(below[:number]) > FAR * (below[number] + MIN_FALL):
            return values[number]
    return values[0]


def _least_fall(beta: float) -> float:
    """Nats per row: a KL that counts β times moves the objective β times as far."""
    return MIN_FALL * max(1.0, beta)


def fall_in_epoch(losses: Sequence[Tensor | float], beta: float = 1.0) -> float:
    """How far the median of the later half of an epoch's losses lies above the first loss, if that is far.

    Args:
        losses: of each step, nats per row.
        beta: the weight of the KL.

    Returns:
        The rise, nats per row; 0 where it is not far.
    """
    if len(losses) < MIN_STEPS:
        return 0.0
    first = float(losses[0])
    rise = median(float(loss) for loss in losses[len(losses) // 2 :]) - first
    return rise if rise > _least_fall(beta) + abs(first) else 0.0


def validation_note(history: Sequence[EpochRecord]) -> str:
    """What is to be said where the validation objective ended far below its best epoch, with the cause.

    Args:
        history: one record for each epoch.

    Returns:
        A sentence; empty where it is not more than ten nats and half of its gain below.
    """
    rows = [row for row in history if row.selection_value is not None]
    if len(rows) < 2:
        return ""
    values = [row.selection_value or 0.0 for row in rows]
    best = values.index(max(values))
    if values[best] - values[-1] <= max(MIN_FALL, MIN_SHARE * (values[best] - _first_of_scale(values))):
        return ""
    before, after = rows[best].training_value, rows[-1].training_value
    fell = (
        f"the validation objective fell from {values[best]:,.2f} in epoch {rows[best].epoch}, whose weights are kept, "
        f"to {values[-1]:,.2f} nats per row"
    )
    if before is None or after is None or after >= before:
        return (
            f"{fell}, and that of the training rows did not: overfitting; try fewer epochs, a smaller network, patience"
        )
    return f"{fell}, and that of the training rows fell too: a learning rate too high; try a lower one"
