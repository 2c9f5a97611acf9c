"""What a run's `check.json` says, for the section of the report."""

from collections.abc import Mapping
from dataclasses import dataclass

from pyro_vae.diagnostics.checks.predictive_checks import format_number
from pyro_vae.diagnostics.checks.verdicts import LEVELS, WORDS


@dataclass(frozen=True)
class ShownVerdict:
    """A verdict as the report shows it: its title, level, the level in words, its p-value and its effect."""

    title: str
    level: str
    words: str
    p_value: str
    effect: str


@dataclass(frozen=True)
class ShownCheck:
    """A check as the report shows it: the rows in words, their number, and the verdicts, those that matter first."""

    rows: str
    num_rows: int
    verdicts: list[ShownVerdict]


def shown_check(kept: Mapping[str, object] | None) -> ShownCheck | None:
    """The content of `check.json` for the report.

    Args:
        kept: the content; None where the run was not checked.

    Returns:
        The check; None where there is none, or where the file is not one that this version wrote.
    """
    if kept is None:
        return None
    verdicts, rows, number = kept.get("verdicts"), kept.get("rows"), kept.get("num_rows")
    if not isinstance(verdicts, list) or not isinstance(rows, str) or not isinstance(number, int):
        return None
    shown = [_shown(each) for each in verdicts if isinstance(each, Mapping) and each.get("level") in LEVELS]
    order = list[str](LEVELS)
    return ShownCheck(rows, number, sorted(shown, key=lambda each: order.index(each.level)))


def _shown(verdict: Mapping[str, object]) -> ShownVerdict:
    level, p_value = str(verdict["level"]), verdict.get("p_value")
    number = format_number(p_value) if isinstance(p_value, float) else ""
    return ShownVerdict(str(verdict.get("title", "")), level, WORDS[level], number, str(verdict.get("effect", "")))
