"""Predictive checks: statistics of rows beside those of replicates, data sets of as many rows drawn from the model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np

from pyro_vae.data import Split
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.diagnostics.checks.replicates import draw_replicates
from pyro_vae.diagnostics.checks.row_statistics import RowStatistics, Statistic, original_values
from pyro_vae.diagnostics.checks.verdicts import Finding, Verdict
from pyro_vae.errors import InputError
from pyro_vae.typing import Program

NORMAL_QUANTILE = 1.959963984540054  # 97.5 %
SHOWN = 20  # findings that a verdict keeps
REFIT_SHARE = 4  # a refit has this share of the replicates
ROUNDING = 1e-6  # of what matters: a statistic below it is zero


PREDICTIVE_WORDS = {
    "columns": (
        "Mean, standard deviation, share of zeros, quantiles and extremes of each column, and the shares of its "
        "levels, in the rows and in data sets of as many rows drawn from the model.",
        "A column whose shape is wrong needs another family: --column NAME=KIND (positive, count, bounded, …), a "
        "student-t likelihood for heavy tails, or a positive column with zeros for a share of zeros.",
    ),
    "mean picture": (
        "The mean of each pixel, in the rows and in data sets of as many pictures drawn from the model.",
        "The model draws some kinds of pictures too often or too rarely: a prior that can follow the rows (--prior "
        "vamp or flow), more latents, or more epochs.",
    ),
    "pairs": (
        "Correlations of each pair of columns (numbers by their normal scores, levels by their indicators), in the "
        "rows and in data sets of as many rows drawn from the model.",
        "The model lacks dependence between these columns: more latents (--latent-dim), a fit that runs longer, or "
        "--likelihood multivariate-normal, whose residuals are correlated.",
    ),
    "pictures": (
        "Brightness, contrast and the number of connected strokes of pictures, in the rows and in draws.",
        "Too many strokes are isolated pixels: pixels are drawn independently given z. More latents, a convolutional "
        "network (--network), or a likelihood of grey levels.",
    ),
    "statistics": ("Statistics of your own, in the rows and in data sets drawn from the model.", ""),
}


def _finite(values: Array) -> Array:
    """Statistics (R, S) with the largest finite value of each in place of those that are infinite or no number."""
    finite = np.isfinite(values)
    if finite.all():
        return values
    largest = np.where(finite, np.abs(values), 0.0).max(0)
    return np.where(finite, values, np.where(values == -np.inf, -largest, largest))


@dataclass(frozen=True)
class ReplicateTest:
    r"""Statistics of rows beside those of replicates.

    Each statistic is standardized by the replicates' median and by the half width of their central 95 % on its side;
    $\max_s |z_s|$ is compared with that of each replicate. Rows and replicates are standardized together, so that they
    are exchangeable if the model is right, and the p-value $(1 + \#\{r: \max|z^r| \geq \max|z|\}) / (R + 1)$ is exact,
    apart from the correction for estimated parameters.

    Attributes:
        statistics: the S statistics.
        rows: their values in the rows (S,).
        replicates: those in the replicates (R, S).
        inflation: the variance of the rows' difference from the model over that of the replicates, one for all
            statistics or for each (S,): 1 + n / N where N rows estimated the parameters, or from refits.
    """

    statistics: Sequence[Statistic]
    rows: Array
    replicates: Array
    inflation: float | Array = 1.0

    @cached_property
    def _z(self) -> Array:
        """The standardized statistics of the rows and of the replicates, (R + 1, S)."""
        together = _finite(np.concatenate([self.rows[None], self.replicates]))
        centre = np.median(together, 0)
        low, high = np.quantile(together, [0.025, 0.975], 0)
        smallest = np.asarray([max(each.resolution, 1e-12) for each in self.statistics])
        down, up = (np.maximum(side / NORMAL_QUANTILE, smallest) for side in (centre - low, high - centre))
        deviations = together - centre
        z: Array = deviations / np.where(deviations < 0, down, up)
        z[0] /= np.sqrt(self.inflation)
        return z

    @cached_property
    def _null(self) -> Array:
        """The largest |z| of each replicate, (R,)."""
        return np.asarray(np.abs(self._z[1:]).max(1))

    @property
    def p_value(self) -> float:
        """The p-value of the largest |z|."""
        return float((1 + (~(self._null < self.largest)).sum()) / (1 + len(self._null)))

    @property
    def largest(self) -> float:
        """The largest |z| of the rows."""
        return float(np.abs(self._z[0]).max())

    def findings(self) -> tuple[Finding, ...]:
        """The statistics, those whose difference matters most first, the significant ones before the others."""
        z, null = self._z[0], self._null
        limit = np.sort(null)[min(len(null) - 1, math.ceil(0.95 * (len(null) + 1)) - 1)]
        known = _finite(self.replicates)
        model, spread = known.mean(0), known.std(0)
        matters = np.asarray([each.matters for each in self.statistics])
        relative = np.abs(self.rows - model) / matters
        is_significant = np.abs(z) >= limit
        least = np.where(np.isfinite(matters), ROUNDING * matters, 0.0)  # x has the digits of float32
        rows = np.where(np.abs(self.rows) < least, 0.0, self.rows)
        order = np.lexsort((-np.abs(z), -relative, ~is_significant))[:SHOWN]
        return tuple(
            Finding(
                self.statistics[s].name,
                float(rows[s]),
                float(model[s]),
                float(spread[s]),
                float(z[s]),
                self.statistics[s].unit,
                float(relative[s]),
                bool(is_significant[s]),
            )
            for s in order
        )


def compare_statistics(
    program: Program,
    rows: Split,
    kinds: dict[str, RowStatistics],
    num_replicates: int,
    num_training: int,
    seed: int,
    decimals: Mapping[int, int] = MappingProxyType({}),
    refits: Sequence[Program] = (),
) -> dict[str, ReplicateTest | InputError]:
    """Kinds of statistics of rows, each beside its replicates, from the same draws.

    Args:
        program: the program.
        rows: rows held out (n).
        kinds: the statistics by kind.
        num_replicates: the number R of replicates.
        num_training: the number N of rows that estimated the program's parameters; 0 where they are known.
        seed: of the draws.
        decimals: the number of decimals of some columns' values.
        refits: the program fitted to training rows drawn with replacement, several times: what estimated parameters
            add to the variance of each statistic is that of its mean between them; without them 1 + n / N bounds it.

    Returns:
        The tests by kind, or why there is none.
    """
    values = original_values(rows)[None]
    found = _replicate_statistics(program, rows, kinds, num_replicates, seed, decimals)
    errors = {name: each for name, each in found.items() if isinstance(each, InputError)}
    replicates = {name: each for name, each in found.items() if not isinstance(each, InputError)}
    bound = 1 + len(rows) / num_training if num_training else 1.0
    inflation: dict[str, float | Array] = dict.fromkeys(replicates, bound)
    if refits:
        known = {name: kinds[name] for name in replicates}
        drawn = [
            _replicate_statistics(each, rows, known, max(1, num_replicates // REFIT_SHARE), seed + i + 1, decimals)
            for i, each in enumerate(refits)
        ]
        for name in known:
            inflation[name] = refit_inflation(replicates[name], [_require(each[name]) for each in drawn])
    return errors | {
        name: ReplicateTest(kinds[name].statistics, kinds[name](values)[0], each, inflation[name])
        for name, each in replicates.items()
        if len(kinds[name].statistics)
    }


def _replicate_statistics(
    program: Program,
    rows: Split,
    kinds: Mapping[str, RowStatistics],
    num_replicates: int,
    seed: int,
    decimals: Mapping[int, int],
) -> dict[str, Array | InputError]:
    """Kinds of statistics of replicates (R, S), from the same draws; or why there are none."""
    parts: dict[str, list[Array]] = {name: [] for name in kinds}
    errors: dict[str, InputError] = {}
    for block in draw_replicates(program, rows, num_replicates, seed, decimals):
        for name, kind in kinds.items():
            if name not in errors:
                try:
                    parts[name].append(kind(block))
                except InputError as error:
                    errors[name] = error
    return errors | {name: np.concatenate(each) for name, each in parts.items() if name not in errors}


def _require(found: Array | InputError) -> Array:
    if isinstance(found, InputError):
        raise found
    return found


def refit_inflation(replicates: Array, refitted: Sequence[Array]) -> Array:
    r"""What estimated parameters do to the variance of each statistic's difference from the model.

    $1 + \mathrm{Var}_b(\bar T_b) / \mathrm{Var}(T)$, less the Monte-Carlo variance of the means, and at least 1.

    Args:
        replicates: statistics of the model's replicates (R, S).
        refitted: for each refit b those of its own replicates (R_b, S).

    Returns:
        The factors (S,).
    """
    variance = _finite(replicates).var(0)
    finite = [_finite(each) for each in refitted]
    between = np.stack([each.mean(0) for each in finite]).var(0, ddof=1)
    noise = np.mean([each.var(0, ddof=1) / len(each) for each in finite], 0)
    added = np.maximum(between - noise, 0.0)
    return np.asarray(1 + np.divide(added, variance, out=np.zeros_like(added), where=variance > 0))


def predictive_verdict(name: str, title: str, meaning: str, advice: str, test: ReplicateTest) -> Verdict:
    """The verdict of a test of statistics.

    Args:
        name: the check's name.
        title: the check in words.
        meaning: what it looks at.
        advice: what to try where something was found.
        test: the test.

    Returns:
        The verdict, without a level.
    """
    findings = test.findings()
    found = [finding for finding in findings if finding.is_significant]
    first = (found or findings)[0]
    return Verdict(
        name,
        title,
        effect=describe_finding(first),
        meaning=meaning,
        advice=advice,
        statistic=test.largest,
        p_value=test.p_value,
        smallest_p=1 / (1 + len(test.replicates)),
        findings=findings,
        relative=max((finding.relative for finding in found), default=0.0),
    )


def describe_finding(finding: Finding) -> str:
    """A finding in words, as in "mean of age: 40.1 in the rows, 38.2 ± 0.4 in the model"."""
    unit = f" {finding.unit}" if finding.unit else ""
    model = f"{format_number(finding.model)} ± {format_number(finding.model_se)}"
    return f"{finding.name}: {format_number(finding.rows)}{unit} in the rows, {model} in the model"


def format_number(value: float) -> str:
    """A number with three significant digits, and all digits before its point.

    >>> format_number(1234.5), format_number(0.012345), format_number(2.0)
    ('1234', '0.0123', '2')
    """
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:.3g}"
