"""One self-contained page about a check: each verdict with its number, its picture, what it means and what to try."""

import base64
import io
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from pyro_vae.diagnostics.checks.model_check import ModelCheck
from pyro_vae.diagnostics.checks.predictive_checks import format_number
from pyro_vae.diagnostics.checks.verdicts import WORDS, Verdict
from pyro_vae.plots.check_figures import check_figure

SHOWN = 8  # statistics in a verdict's table


@dataclass(frozen=True)
class _Shown:
    """A verdict with its picture as a data URI, empty where it has none."""

    verdict: Verdict
    words: str
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
    assets = resources.files("pyro_vae.report") / "page"
    css, template = ((assets / name).read_text("utf-8") for name in ("report.css", "check.html"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda value: "" if value is None or value != value else format_number(value)
    shown = [_Shown(verdict, WORDS[verdict.level], _picture(verdict)) for verdict in found.by_level]
    return environment.from_string(template).render(
        title=title, subtitle=subtitle, found=found, shown=shown, summary=summary(found), most=SHOWN, css=Markup(css)
    )


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
    if figure is None:
        return ""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
