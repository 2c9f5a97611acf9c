"""Rows with the values of A and B beside the same rows with those of B alone."""

import math
import warnings
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.data import Split
from pyro_vae.distributed import ProcessGroup
from pyro_vae.errors import InputError, ZeroDensityWarning
from pyro_vae.evidence.auto_evidence import exact_where_cheap
from pyro_vae.evidence.importance_sampling import Evidence, log_evidence
from pyro_vae.evidence.paired_blocks import PairedScorer
from pyro_vae.evidence.pareto_smoothing import khat_limit
from pyro_vae.evidence.score_blocks import has_row_guide, score_by_modes
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.row_batches import ScoredRows
from pyro_vae.programs.row_inputs import model_takes
from pyro_vae.typing import Program

UNDEFINED = "the values that are conditioned on have density zero"
AT_ZERO = {"log_px": -math.inf, "mc_se": 0.0, "is_bad": 0.0}  # of rows of density zero; NaN for other numbers


@dataclass(frozen=True)
class FoundRows:
    """What was found for n rows.

    Attributes:
        values: `log_px`, `mc_se`, and what the method has further, by name, (n,) each.
        measure: of the density of all values of A and B.
        kind: exact or estimate.
        reasons: why a row has no number.
    """

    values: dict[str, Tensor]
    measure: str
    kind: str
    reasons: dict[int, str]


@dataclass(frozen=True)
class PairedRows:
    """Rows with the values of A and B, the same with those of B alone, and how they are scored.

    Attributes:
        program: a program whose model takes a mask.
        both: the rows (N), with a mask.
        given: the same rows, with a mask without the values of A.
        rows: their indices (N,) in the training set, for programs that take them.
        memory_mib: memory for the draws in progress, in MiB.
        seed: seed of the draws.
        group: the processes that share the rows.
    """

    program: Program
    both: Split
    given: Split
    rows: Tensor | None
    memory_mib: float
    seed: int | None
    group: ProcessGroup

    def score(self, num_samples: int, *, exact: bool, scorer: type[PairedScorer] = PairedScorer) -> FoundRows:
        """log p(x_A | x_B) of the rows, exact if both parts are.

        Args:
            num_samples: draws S for each row and each part.
            exact: whether the exact methods are tried first.
            scorer: what draws, where they do not apply, and has more numbers for each row.

        Returns:
            The numbers of the rows.
        """
        require_conditional(self.program)
        with (
            torch.no_grad(),
            seeded(self.seed or 0),
            use_param_store(self.program),
            evaluating(self.program),
            pyro.validation_enabled(False),
        ):
            scored = self._scored(self.both)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ZeroDensityWarning)
                without_density = self._scored(self.given).reasons
            values, kind = self._exact() if exact else None, "exact"
            if values is None:
                values, kind = self._sampled(scored, num_samples, scorer), "estimate"
        undefined = torch.tensor([row in without_density for row in range(len(self.both))])
        values["log_px"] = torch.where(undefined, math.nan, values["log_px"])
        values["mc_se"] = torch.where(values["log_px"].isnan(), math.nan, values["mc_se"])
        no_number = {int(row): "its log density is NaN" for row in values["log_px"].isnan().nonzero()}
        reasons = no_number | scored.reasons | dict.fromkeys(without_density, UNDEFINED)
        return FoundRows(values, scored.measure, kind, reasons)

    def _scored(self, split: Split) -> ScoredRows:
        about = (self.rows, self.group, self.seed)
        return ScoredRows(self.program, split, *about, allow_zero=True, needs_guide=False)

    def _exact(self) -> dict[str, Tensor] | None:
        """The difference of two exact values; None where one of them is not."""
        parts = []
        for split in (self.both, self.given):
            part = exact_where_cheap(self.program, split, self.rows, self.memory_mib, self.seed, self.group)
            if part is None or (part.error == math.inf).any():
                return None
            parts.append(part.log_px)
        return {"log_px": parts[0] - parts[1], "mc_se": torch.zeros(len(self.both), dtype=torch.float64)}

    def _sampled(self, scored: ScoredRows, num_samples: int, kind: type[PairedScorer]) -> dict[str, Tensor]:
        results, hidden = None, self._hidden
        if scored.plates.num_rows is None:
            results = score_by_modes(
                lambda use_guide: kind(
                    scored.program, scored, hidden, num_samples, self.memory_mib, use_guide=use_guide
                ),
                has_row_guide(self.program, scored),
            )
        if results is None:
            return self._by_guide(scored.program if scored.plates.num_rows is None else self.program, num_samples)
        columns = {name: torch.cat([block[name] for block in results]) for name in results[0]}
        found = {name: scored.restore(column, AT_ZERO.get(name, math.nan)) for name, column in columns.items()}
        found["log_px"] = found["log_px"] + self.both.log_jacobian - self.given.log_jacobian
        return found

    @property
    def _hidden(self) -> Tensor:
        """Which values are those of A, (N, D)."""
        assert self.both.mask is not None
        assert self.given.mask is not None
        return self.both.mask & ~self.given.mask

    def _by_guide(self, program: Program, num_samples: int) -> dict[str, Tensor]:
        """The difference of two estimates by the guide's draws, whose pairing the error does not count."""

        def estimate(split: Split) -> Evidence:
            return log_evidence(
                program,
                split,
                num_samples,
                rows=self.rows,
                memory_mib=self.memory_mib,
                seed=self.seed,
                group=self.group,
            )

        both, given = estimate(self.both), estimate(self.given)
        khat = torch.maximum(both.khat, given.khat)
        return {
            "log_px": both.log_px - given.log_px,
            "mc_se": torch.hypot(both.mc_se, given.mc_se),
            "khat": khat,
            "is_bad": ~(khat <= khat_limit(num_samples)) & both.log_px.isfinite(),
        }


def require_conditional(program: Program) -> None:
    """`InputError` for a program whose model cannot leave values out."""
    if not model_takes(program, "mask"):
        raise InputError(
            "log p(x_A | x_B) needs log p(x_B), and the program's model takes no mask: give model(x, mask=None) a "
            "likelihood of the observed values (likelihood.masked(z, mask))"
        )
