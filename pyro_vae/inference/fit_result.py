"""The result of every fit method, and the record of one epoch."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from pyro_vae.json_records import Record

ELBO_FIELDS = ("elbo", "reconstruction", "kl", "valid_elbo", "valid_reconstruction", "valid_kl", "valid_kl_apart")


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
        restarts: how often the fit had run away and gone back to its best weights, with a lower learning rate, before
            this epoch.
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
    restarts: int = 0

    @property
    def training_value(self) -> float | None:
        """What the fit maximizes on the training rows, at its β: it falls where a fit runs away."""
        if self.reconstruction is None or self.kl is None or self.beta is None:
            return self.elbo
        return self.reconstruction - self.beta * self.kl

    @property
    def selection_value(self) -> float | None:
        """What the best epoch has the highest of; None where the last epoch is kept."""
        return self.valid_elbo

    @property
    def words(self) -> list[str]:
        """The objective on training and validation rows, in words."""
        return _in_words({"ELBO": self.elbo, "validation": self.valid_elbo})


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

    @property
    def training_value(self) -> float | None:
        return self.log_joint


@dataclass(frozen=True)
class MAPEpoch(EpochRecord):
    """The metrics of one epoch with a guide that has point masses (MAP), whose objective is no bound on log p(x).

    Attributes:
        log_joint: log p(x, z) at the guide's points, seen during the epoch, nats per row; less log q of latents that
            the guide has a density for.
        valid_log_joint: the same of the validation rows, after the epoch.
    """

    log_joint: float | None = None
    valid_log_joint: float | None = None

    @property
    def training_value(self) -> float | None:
        return self.log_joint

    @property
    def selection_value(self) -> float | None:
        return self.valid_log_joint

    @property
    def words(self) -> list[str]:
        return _in_words({"log joint": self.log_joint, "validation": self.valid_log_joint})


def _in_words(found: Mapping[str, float | None]) -> list[str]:
    return [f"{name} {value:.2f}" for name, value in found.items() if value is not None]


def map_record(record: EpochRecord) -> MAPEpoch:
    """An epoch's record with the objective under its name for point masses, and no ELBO.

    Args:
        record: the record that calls the objective an ELBO.

    Returns:
        The same epoch.
    """
    kept = {name: value for name, value in record.items() if name not in ELBO_FIELDS}
    return MAPEpoch(**kept, log_joint=record.elbo, valid_log_joint=record.valid_elbo)


def epoch_record(values: Mapping[str, Any]) -> EpochRecord:
    """The record of an epoch from the values in a file, of the class whose fields they are."""
    kinds: dict[str, type[EpochRecord]] = {"objective": EMEpoch, "acceptance": MCEMEpoch, "log_joint": MAPEpoch}
    return next((kind for name, kind in kinds.items() if name in values), EpochRecord).from_dict(values)


@dataclass(frozen=True)
class FitResult:
    """The course of a fit, by any fit method; the fitted parameters are in the program itself.

    Attributes:
        history: one record for each epoch.
        best_epoch: the epoch whose weights were kept, from one.
        stopped: why the fit ended: "epochs", "patience", "callback", "diverged" where it ran away once more after its
            last restart, or, for EM and CAVI, "tolerance".
        seconds: its wall time.
        advice: what to try where most latents are inactive or a bound still rises, else empty.
        precision: the type of the products of layers in its steps, "float32" or "bfloat16".
    """

    history: list[EpochRecord]
    best_epoch: int
    stopped: str
    seconds: float
    advice: str = ""
    precision: str = "float32"

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
        value = best.elbo if best.selection_value is None else best.selection_value
        name = "log joint" if isinstance(best, MAPEpoch) else "ELBO"
        value = best.log_joint if value is None and isinstance(best, MAPEpoch) else value
        words = f"best {self.best_epoch}: {name} {math.nan if value is None else value:.2f} nats per row"
        return f"FitResult({len(self.history)} epochs, {words}; stopped by {self.stopped}; {self.seconds:.1f} s)"
