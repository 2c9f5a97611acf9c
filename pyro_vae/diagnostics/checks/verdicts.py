"""What a check found: verdicts with a p-value, an effect in units that mean something, and a level."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import numpy as np

from pyro_vae.data.ondisk.rows_on_disk import Array

SIGNIFICANCE = 0.05  # the false discovery rate over the verdicts of one check
Level = Literal["none", "small", "matters", "not computed"]
LEVELS: tuple[Level, ...] = ("matters", "small", "none", "not computed")
WORDS = {
    "none": "nothing found",
    "small": "found, and small",
    "matters": "found, and it matters",
    "not computed": "not computed",
}


@dataclass(frozen=True)
class Finding:
    """One statistic of a check, in the rows and in the model.

    Attributes:
        name: the statistic in words, as in "mean of age".
        rows: its value in the rows.
        model: what the model gives; its mean over replicates.
        model_se: its standard deviation over replicates of as many rows.
        z: the difference in standard errors, corrected for estimated parameters; signed.
        unit: of the values; empty for shares, correlations and other pure numbers.
        relative: the size of the difference, in multiples of what matters.
        is_significant: whether it is more than a model that is right shows anywhere, in 95 of 100 checks.
    """

    name: str
    rows: float
    model: float
    model_se: float
    z: float
    unit: str = ""
    relative: float = 0.0
    is_significant: bool = False

    def to_dict(self) -> dict[str, object]:
        return {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: object) -> object:
    """A value as JSON has it: numbers that are not finite are null."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


@dataclass(frozen=True)
class Verdict:
    """What one check says.

    Attributes:
        name: its own; a family (`families`) has one verdict or several.
        title: the check in words.
        level: `none` where nothing was found; `small` where there is a difference that is too small to matter, and
            `matters` where it is not; `not computed` where the program or the rows do not allow the check.
        effect: the size of what was found, in words, with units.
        meaning: what the check looks at, and what it says here.
        advice: what to try; empty where there is nothing to mend.
        statistic: the statistic that was tested.
        p_value: the probability of one as large if the model is right; None where nothing was tested.
        smallest_p: the smallest p-value that the test can have, where that is not next to nothing.
        adjusted: the p-value adjusted by Benjamini and Hochberg over the verdicts of the check.
        findings: the statistics behind it, those that matter most first.
        relative: the size of the effect, in multiples of what matters.
        curves: what its picture shows, by name.
    """

    name: str
    title: str
    level: Level = "none"
    effect: str = ""
    meaning: str = ""
    advice: str = ""
    statistic: float | None = None
    p_value: float | None = None
    smallest_p: float | None = None
    adjusted: float | None = None
    findings: tuple[Finding, ...] = ()
    relative: float = 0.0
    curves: Mapping[str, Array] = field(default_factory=dict, repr=False, compare=False)

    def to_dict(self) -> dict[str, object]:
        """The verdict as plain values, for JSON."""
        left = {"curves", "findings"}
        values: dict[str, object] = {key: _plain(value) for key, value in vars(self).items() if key not in left}
        values["findings"] = [finding.to_dict() for finding in self.findings]
        return values


def adjust(p_values: Sequence[float]) -> list[float]:
    r"""P-values adjusted for the false discovery rate (Benjamini and Hochberg 1995).

    $\tilde p_{(i)} = \min_{j \geq i} \min(1, m p_{(j)} / j)$ for the sorted p-values.

    Args:
        p_values: the m p-values.

    Returns:
        The adjusted ones, in the same order.

    >>> [round(value, 4) for value in adjust([0.01, 0.04, 0.03, 0.5])]
    [0.04, 0.0533, 0.0533, 0.5]
    """
    from scipy.stats import false_discovery_control

    return [float(value) for value in false_discovery_control(p_values)] if p_values else []


def with_levels(verdicts: Sequence[Verdict], significance: float = SIGNIFICANCE) -> tuple[Verdict, ...]:
    """The verdicts with adjusted p-values, and a level from these and the sizes of their effects.

    Args:
        verdicts: the verdicts of a check. One without a p-value keeps its level.
        significance: the false discovery rate.

    Returns:
        The same verdicts in their order, each with its level; what was not found has no advice.
    """
    tested = [verdict for verdict in verdicts if verdict.p_value is not None]
    adjusted = adjust([cast("float", verdict.p_value) for verdict in tested])
    found = {verdict.name: value for verdict, value in zip(tested, adjusted, strict=True)}
    return tuple(_with_level(each, found[each.name], significance) if each.name in found else each for each in verdicts)


def _with_level(verdict: Verdict, adjusted: float, significance: float) -> Verdict:
    if adjusted > significance and verdict.smallest_p is not None and (verdict.p_value or 0) <= verdict.smallest_p:
        few = f"{verdict.effect}; no data set drawn from the model is as far off, of too few: --num-replicates 320"
        return replace(verdict, adjusted=adjusted, level="not computed", effect=few, advice="")
    level: Level = "none" if adjusted > significance else "matters" if verdict.relative >= 1 else "small"
    advice = "" if level == "none" else verdict.advice
    return replace(verdict, adjusted=adjusted, level=level, advice=advice)


def not_computed(name: str, title: str, reason: str | Exception) -> Verdict:
    """The verdict of a check that this program or these rows do not allow.

    Args:
        name: the check's name.
        title: the check in words.
        reason: why.

    Returns:
        The verdict.
    """
    return Verdict(name, title, "not computed", effect=reason_in_words(reason))


def reason_in_words(reason: str | Exception) -> str:
    """A reason without what an error's message has for other places: the shapes of sites, and where a traceback is."""
    words = " ".join(str(reason).split()).partition(" Trace Shapes:")[0]
    return words.removesuffix("; --debug shows where")
