"""The result of every fit method, and the record of one epoch."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from pyro_vae.json_records import Record


@dataclass(frozen=True)
class EpochRecord(Record):
    """The metrics of one epoch, a row of `metrics.jsonl`: nats per row, None where a fit method has no such number.

    Attributes:
        epoch: the number of the epoch, from one.
        step: the optimizer's steps so far.
        elbo: the ELBO of the training rows at β = 1, seen during the epoch; for EM log p(x).
        reconstruction: its term E[log p(x|z)].
        kl: its other term, so that elbo = reconstruction − kl.
        valid_elbo: the ELBO of the validation rows at β = 1, after the epoch.
        valid_reconstruction: its term E[log p(x|z)].
        valid_kl: its other term.
        valid_kl_apart: the KL of each latent site, one number or one for each of its dimensions.
        active_units: how many latent dimensions are active on the validation rows.
        learning_rate: of the epoch's last step.
        beta: the weight of the KL term in the objective, in the epoch's last step.
        seconds: of the fit so far.
    """

    epoch: int
    step: int
    elbo: float | None = None
    reconstruction: float | None = None
    kl: float | None = None
    valid_elbo: float | None = None
    valid_reconstruction: float | None = None
    valid_kl: float | None = None
    valid_kl_apart: dict[str, float | list[float]] | None = None
    active_units: int | None = None
    learning_rate: float | None = None
    beta: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class EMEpoch(EpochRecord):
    """The metrics of one iteration of EM, an E-step at the current parameters.

    Attributes:
        objective: log p(x) plus the log density of the prior of the parameters, nats per row.
        log_prior: that log density over the number of rows.
        start: the number of the start, from zero.
        segment: within a segment the objective never falls; moving a component begins a new one.
        revived: the number of components that were moved after the E-step.
    """

    objective: float = math.nan
    log_prior: float = 0.0
    start: int = 0
    segment: int = 0
    revived: int = 0


@dataclass(frozen=True)
class MCEMEpoch(EpochRecord):
    """The metrics of one epoch of Monte-Carlo EM, which has no bound.

    Attributes:
        log_joint: the mean of log p(x, u) over the training rows after their E-steps, nats per row.
        valid_log_joint: the same of the validation rows.
        acceptance: the share of transitions that were accepted.
        step_size: of the leapfrog integrator.
    """

    log_joint: float | None = None
    valid_log_joint: float | None = None
    acceptance: float | None = None
    step_size: float | None = None


def epoch_record(values: Mapping[str, Any]) -> EpochRecord:
    """The record of an epoch from the values in a file, of the class whose fields they are."""
    kinds: dict[str, type[EpochRecord]] = {"objective": EMEpoch, "log_joint": MCEMEpoch}
    return next((kind for name, kind in kinds.items() if name in values), EpochRecord).from_dict(values)


@dataclass(frozen=True)
class FitResult:
    """The course of a fit, by any fit method; the fitted parameters are in the program itself.

    Attributes:
        history: one record for each epoch.
        best_epoch: the epoch whose weights were kept, from one.
        stopped: why the fit ended: "epochs", "patience", "callback" or, for EM and CAVI, "tolerance".
        seconds: its wall time.
        advice: what to try where most latents are inactive or a bound still rises, else empty.
    """

    history: list[EpochRecord]
    best_epoch: int
    stopped: str
    seconds: float
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The result whose `to_dict` gave these values."""
        return cls(**dict(values) | {"history": [epoch_record(row) for row in values["history"]]})

    def __repr__(self) -> str:
        if not self.history:
            return f"FitResult(0 epochs; stopped by {self.stopped})"
        best = self.history[self.best_epoch - 1]
        value = best.elbo if best.valid_elbo is None else best.valid_elbo
        words = f"best {self.best_epoch}: ELBO {math.nan if value is None else value:.2f} nats per row"
        return f"FitResult({len(self.history)} epochs, {words}; stopped by {self.stopped}; {self.seconds:.1f} s)"
