"""The checks of one program by family; what several need is computed once."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from pyro_vae.data import Dataset, Split
from pyro_vae.data.columns import Column
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.diagnostics.baseline_densities import fit_baselines
from pyro_vae.diagnostics.checks.calibration import Simulations, calibration_verdicts, simulate_posteriors
from pyro_vae.diagnostics.checks.check_size import MIN_ROWS, CheckSize
from pyro_vae.diagnostics.checks.draws_and_rows import (
    classifier_verdict,
    coordinates,
    kernel_verdict,
    memorization_verdict,
)
from pyro_vae.diagnostics.checks.latent_checks import aggregate_verdict, moved_columns, usage_verdict
from pyro_vae.diagnostics.checks.model_check import FAMILIES
from pyro_vae.diagnostics.checks.own_statistics import OwnStatistics
from pyro_vae.diagnostics.checks.picture_statistics import PictureStatistics
from pyro_vae.diagnostics.checks.predictive_checks import (
    PREDICTIVE_WORDS,
    ReplicateTest,
    compare_statistics,
    predictive_verdict,
)
from pyro_vae.diagnostics.checks.replicates import draw_like, draw_replicates
from pyro_vae.diagnostics.checks.row_densities import RowDensities, baseline_verdict, density_verdicts, khat_verdict
from pyro_vae.diagnostics.checks.row_statistics import (
    MAX_PAIRED,
    ColumnStatistics,
    PairStatistics,
    RowColumns,
    RowStatistics,
    describe_columns,
    original_values,
)
from pyro_vae.diagnostics.checks.verdicts import Verdict, not_computed, reason_in_words
from pyro_vae.diagnostics.latent_usage import LatentUsage, measure_latent_usage
from pyro_vae.errors import InputError
from pyro_vae.evidence.auto_evidence import auto_evidence
from pyro_vae.evidence.importance_sampling import log_evidence
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.typing import Density, Program

log = logging.getLogger(__name__)
MIN_TRAINING_PER_ROW = 8  # of tests that are not corrected for estimated parameters
DRAWS_PER_ROW = 2  # whose log p(x) is compared with that of rows
MAX_DESCRIBED = 10_000_000  # values of training rows whose scales and quantiles are taken


@dataclass(frozen=True)
class CheckTask:
    """What is checked.

    Attributes:
        program: the program.
        rows: the rows, which chose nothing.
        training: the training rows; None where they are not known.
        num_training: how many rows estimated the parameters; 0 for known ones.
        columns: the columns with kinds; empty for rows without.
        data: the data set that they are of, if any: a baseline is fitted to it.
        statistics: statistics of a user's by name.
        matters: how large a difference of each of these matters.
        seed: of all draws.
        refits: the program fitted to training rows drawn with replacement, several times; empty for none.
    """

    program: Program
    rows: Split
    training: Split | None
    num_training: int
    columns: Sequence[Column]
    data: Dataset | None
    statistics: Mapping[str, Callable[[Array], float]]
    matters: Mapping[str, float]
    seed: int
    refits: Sequence[Program] = ()


class CheckFamilies:
    """The checks of one program by family; what several need is computed once.

    Args:
        task: what is checked.
        size: the numbers of rows and draws.
    """

    def __init__(self, task: CheckTask, size: CheckSize) -> None:
        self.task, self.size = task, size
        self.program, self.rows, self.training, self.seed = task.program, task.rows, task.training, task.seed
        some = max(1000, MAX_DESCRIBED // self.rows.shape[1])
        known = self.rows if self.training is None else self.training.head(some)
        self.columns: RowColumns = describe_columns(known, task.columns, () if task.data is None else task.data.columns)

    def verdicts(self, name: str) -> list[Verdict]:
        """The verdicts of a family; none where it does not concern these rows."""
        try:
            if name not in self._others:
                return self._predictive(name)
            return self._others[name]()
        except InputError as error:
            return [not_computed(name, FAMILIES[name], error)]
        except Exception as error:  # of a user's program; the other checks are not lost
            log.debug("%s", name, exc_info=True)
            reason = f"the program ended with {type(error).__name__}: {error}"
            return [not_computed(name, FAMILIES[name], reason)]

    @property
    def _others(self) -> dict[str, Callable[[], list[Verdict]]]:
        """The families apart from predictive checks."""
        return {
            "classifier": self._classifier,
            "kernel": self._kernel,
            "memorization": self._memorization,
            "guide": self._guide,
            "densities": self._densities,
            "k-hat": self._khat,
            "baseline": self._baseline,
            "aggregate": self._aggregate,
            "latents": self._latents,
        }

    @cached_property
    def _tests(self) -> dict[str, ReplicateTest | InputError] | InputError:
        """All predictive statistics, from the same replicates; the error where the model draws no rows."""
        kinds: dict[str, RowStatistics] = {"columns": ColumnStatistics(self.columns, len(self.rows))}
        picture = self.columns.image_shape is not None
        num_paired = len(self.columns.numbers) + sum(map(len, self.columns.levels.values()))
        if not picture and 1 < num_paired <= MAX_PAIRED:
            kinds["pairs"] = PairStatistics(self.columns, len(self.rows))
        if picture:
            values = original_values(self.rows)
            kinds["pictures"] = PictureStatistics(self.columns, (float(np.nanmin(values)), float(np.nanmax(values))))
        if self.task.statistics:
            kinds["statistics"] = OwnStatistics(self.task.statistics, self.task.matters)
        try:
            return compare_statistics(
                self.program,
                self.rows,
                kinds,
                self.size.num_replicates,
                self.task.num_training,
                self.seed,
                self.columns.decimals,
                self.task.refits,
            )
        except InputError as error:
            return error

    def _predictive(self, name: str) -> list[Verdict]:
        tests = self._tests
        if isinstance(tests, InputError):
            return [not_computed(name, FAMILIES[name], tests)] if name == "columns" else []
        if name not in tests:
            wide = name == "pairs" and self.columns.image_shape is None and len(self.columns.names) > 1
            reason = f"more than {MAX_PAIRED} columns and levels, whose pairs are too many to name"
            return [not_computed(name, FAMILIES[name], reason)] if wide else []
        test = tests[name]
        if isinstance(test, InputError):
            return [not_computed(name, FAMILIES[name], test)]
        meaning, advice = PREDICTIVE_WORDS["mean picture" if self._is_mean_picture(name) else name]
        verdict = predictive_verdict(name, FAMILIES[name], meaning, advice, test)
        if self._is_mean_picture(name):
            pictures = (test.rows, test.replicates.mean(0))
            shape = self.columns.image_shape
            curves = {key: value.reshape(shape) for key, value in zip(("rows", "model"), pictures, strict=True)}
            verdict = replace(verdict, title="Mean picture of rows and of draws", curves=curves)
        return [verdict]

    def _is_mean_picture(self, name: str) -> bool:
        """Whether a family compares the mean of each pixel."""
        return name == "columns" and self.columns.image_shape is not None

    @cached_property
    def _draws(self) -> Array:
        """Two sets of as many draws as rows, (2, n, D) in original units; `InputError` where some are not finite."""
        return self._draw(self._few_rows, 2, 10_007)

    def _draw(self, like: Split, num_sets: int, seed: int) -> Array:
        """Sets of draws with the gaps, conditions and other inputs of rows, in original units."""
        seed += self.seed
        drawn = np.concatenate(list(draw_replicates(self.program, like, num_sets, seed, self.columns.decimals)))
        if np.isinf(drawn).any():
            raise InputError("the model draws values that are infinite")
        return drawn

    @cached_property
    def _few_rows(self) -> Split:
        """The rows, at most an eighth of the training rows: of more, estimated parameters would be found for faults."""
        N = self.task.num_training
        return self.rows if not N else self.rows.head(max(MIN_ROWS, N // MIN_TRAINING_PER_ROW))

    def _classifier(self) -> list[Verdict]:
        return [classifier_verdict(original_values(self._few_rows), self._draws[0], self.columns, self.seed)]

    def _kernel(self) -> list[Verdict]:
        rows, draws, others = (
            coordinates(each, self.columns) for each in (original_values(self._few_rows), *self._draws)
        )
        return [kernel_verdict(rows, draws, others, self.seed)]

    def _memorization(self) -> list[Verdict]:
        if self.training is None:
            return []
        some = self._some_training  # draws like both, or gaps and conditions would tell
        drawn = np.concatenate([self._draw(each, 1, 30_011 + i)[0] for i, each in enumerate(some)])
        values = (drawn, *map(original_values, some))
        draws, rows, training = (coordinates(each, self.columns) for each in values)
        return [memorization_verdict(draws, rows, training, self.seed)]

    @cached_property
    def _some_training(self) -> tuple[Split, Split]:
        """The rows, and as many training rows, drawn without replacement."""
        assert self.training is not None
        n = min(len(self.rows), len(self.training))
        weights = self.training.weights
        p = None if weights is None else (weights / weights.sum()).cpu().numpy()
        chosen = np.random.default_rng(self.seed).choice(len(self.training), n, replace=False, p=p)
        return self.rows.head(n), self.training.take(torch.from_numpy(chosen)).with_fields(weights=None)

    @cached_property
    def _simulations(self) -> Simulations:
        size = self.size
        return simulate_posteriors(self.program, self.rows, size.num_simulations, size.num_draws, self.seed)

    def _guide(self) -> list[Verdict]:
        return calibration_verdicts(self._simulations, self.seed)

    def _score(self, rows: Split) -> LogPx:
        """log p(x) of rows, by the cheapest method that can be believed."""
        return auto_evidence(self.program, rows, self.size.num_samples, seed=self.seed)

    @cached_property
    def _some_rows(self) -> Split:
        return self._few_rows.head(self.size.num_scored)

    @cached_property
    def _scored(self) -> LogPx:
        return self._score(self._some_rows)

    @cached_property
    def _more_draws(self) -> Split:
        """Draws of the model as rows of the same measure, gaps and inputs, two for each row."""
        drawn = draw_like(self.program, self._some_rows, DRAWS_PER_ROW, self.seed + 20_011)
        several = self._some_rows.take(torch.arange(len(self._some_rows)).repeat(DRAWS_PER_ROW))
        return several.with_draw(drawn.cpu())

    def _densities(self) -> list[Verdict]:
        scored = {"rows": self._scored, "draws": self._score(self._more_draws)}
        if self.training is not None:
            scored["training rows"] = self._score(self._some_training[1].head(self.size.num_scored))
        for name, each in scored.items():
            if not each.log_px.isfinite().all():
                raise InputError(f"some {name} have no finite log p(x): {each.without_number}")
        log_px = {name: np.asarray(each.log_px) for name, each in scored.items()}
        found = RowDensities(log_px["rows"], log_px["draws"], log_px.get("training rows"))
        return density_verdicts(found, self.seed)

    def _khat(self) -> list[Verdict]:
        """k-hat of draws from the guide, where log p(x) has no closed form."""
        if isinstance(self.program, Density):
            return []
        khat = [
            log_evidence(self.program, rows, self.size.num_samples, seed=self.seed).khat.numpy()
            for rows in (self._some_rows, self._more_draws)
        ]
        return [khat_verdict(khat[0], khat[1], self.size.num_samples)]

    def _baseline(self) -> list[Verdict]:
        if self.task.data is None:
            return []
        scored = {each.name: each.score(self._some_rows) for each in fit_baselines(self.task.data)}
        return [
            baseline_verdict(name, np.asarray(self._scored.log_px), np.asarray(found.log_px))
            for name, found in scored.items()
            if found.measure == self._scored.measure
        ]

    def _aggregate(self) -> list[Verdict]:
        return [aggregate_verdict(self.program, self._few_rows, self._usage.names, self.seed)]

    @cached_property
    def _usage(self) -> LatentUsage:
        return measure_latent_usage(self.program, self.rows, seed=self.seed)

    def _latents(self) -> list[Verdict]:
        try:
            moved, reason = moved_columns(self._simulations, self.rows, self.columns), ""
        except Exception as error:  # of a user's program; what else is known of its latents is not lost
            log.debug("moved columns", exc_info=True)
            moved, reason = {}, f" Which columns each moves is not known: {reason_in_words(error)}"
        verdict = usage_verdict(self._usage, moved)
        return [replace(verdict, meaning=verdict.meaning + reason)]
