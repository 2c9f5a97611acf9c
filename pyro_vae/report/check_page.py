"""One self-contained page about a check: each verdict with its number, its picture, what it means and what to try."""

import re
from dataclasses import dataclass

from markupsafe import Markup, escape

from pyro_vae.diagnostics.checks.model_check import ModelCheck
from pyro_vae.diagnostics.checks.predictive_checks import format_number
from pyro_vae.diagnostics.checks.verdicts import WORDS, Verdict
from pyro_vae.plots.check_figures import check_figure
from pyro_vae.report.page_template import png_address, png_of, render_page

SHOWN = 8  # statistics in a verdict's table


@dataclass(frozen=True)
class _Shown:
    """A verdict with its advice as HTML, and its picture as a data URI, empty where it has none."""

    verdict: Verdict
    words: str
    advice: Markup
    picture: str


def check_page(found: ModelCheck, title: str, subtitle: str = "") -> str:
    """The page of a check, one file that loads nothing.

    Args:
        found: the check.
        title: the run.
        subtitle: what was fitted to what.

    Returns:
        HTML.
    """
    shown = [
        _Shown(verdict, WORDS[verdict.level], _with_options(verdict.advice), _picture(verdict))
        for verdict in found.by_level
    ]
    values = {"title": title, "subtitle": subtitle, "found": found, "shown": shown, "summary": summary(found)}
    return render_page("check.html", values | {"most": SHOWN}, _number)


def _with_options(advice: str) -> Markup:
    """Advice with its options as code, which does not break at their hyphens."""
    return Markup(re.sub(r"(--[a-z][a-z-]*)", r'<code class="whole">\1</code>', str(escape(advice))))


def _number(value: float | None) -> str:
    return "" if value is None or value != value else format_number(value)


def summary(found: ModelCheck) -> str:
    """What a check says, in one sentence."""
    levels = [verdict.level for verdict in found.verdicts]
    tested = len(levels) - levels.count("not computed")
    if not levels.count("matters") and not levels.count("small"):
        return f"None of {tested} checks found a difference between the model and the rows."
    return (
        f"{levels.count('matters')} of {tested} checks found a difference that matters, "
        f"{levels.count('small')} one that is small."
    )


def _picture(verdict: Verdict) -> str:
    figure = check_figure(verdict)
    return "" if figure is None else png_address(png_of(figure, dpi=130))
