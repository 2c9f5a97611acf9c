"""The state of a fit between two epochs, and its form in a checkpoint's file."""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pyro_vae.distributed import ProcessGroup
from pyro_vae.inference.fit_result import EpochRecord, epoch_record

COUNTERS = ("epoch", "best_epoch", "best_value", "history")
TENSORS = {"now": "weights", "best": "best_weights", "optimizer": "optimizer"}  # prefix in the file: attribute


@dataclass
class FitState:
    """All that the next epoch depends on apart from settings and data.

    Attributes:
        best_weights: the program's weights after the best epoch.
        weights: its current weights; None in the state that a running fit updates, where the program has them.
        optimizer: the optimizer's moments and step counts, by parameter; None as `weights`.
        epoch: the number of finished epochs.
        best_epoch: the epoch with the best validation ELBO, or the last one without validation rows; 0 before any.
        best_value: that validation ELBO in nats per row, or the epoch's number.
        history: one record for each epoch.
    """

    best_weights: dict[str, Tensor]
    weights: dict[str, Tensor] | None = None
    optimizer: dict[str, Tensor] | None = None
    epoch: int = 0
    best_epoch: int = 0
    best_value: float = -math.inf
    history: list[EpochRecord] = field(default_factory=list)

    def to_file(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors, each as `now/NAME`, `best/NAME` or `optimizer/NAME`, and the counters."""
        tensors = {
            f"{prefix}/{name}": value
            for prefix, attribute in TENSORS.items()
            for name, value in (getattr(self, attribute) or {}).items()
        }
        return tensors, {name: getattr(self, name) for name in COUNTERS} | {
            "history": [dict(row) for row in self.history]
        }

    @classmethod
    def from_file(cls, tensors: dict[str, Tensor], counters: dict[str, Any]) -> "FitState":
        """The state whose `to_file` gave these tensors and counters."""
        groups: dict[str, Any] = {attribute: {} for attribute in TENSORS.values()}
        for key, value in tensors.items():
            prefix, _, name = key.partition("/")
            groups[TENSORS[prefix]][name] = value
        kept = {name: counters[name] for name in COUNTERS} | {"history": [epoch_record(r) for r in counters["history"]]}
        return cls(**groups, **kept)

    def broadcast(self, group: ProcessGroup) -> "FitState":
        """The state of rank 0, in every process."""
        tensors, counters = self.to_file()
        on_cpu = {name: value.cpu() for name, value in tensors.items()} if group.is_main else {}
        return FitState.from_file(*group.broadcast((on_cpu, counters)))
