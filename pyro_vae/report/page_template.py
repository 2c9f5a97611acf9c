"""Pages of one file: a template with the style, a script and pictures inside."""

import base64
import hashlib
import io
from collections.abc import Callable, Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure


def render_page(
    name: str, values: Mapping[str, object], number: Callable[[float | None], str], script: str | None = None
) -> str:
    """A page from a template of `report/page`; what JSON holds cannot end the script it stands in.

    Args:
        name: the template's file.
        values: what the template shows, by the names that it uses.
        number: how numbers are written, the template's filter `number`.
        script: the file of the only script that may run; None for none.

    Returns:
        HTML.
    """
    loader = PackageLoader("pyro_vae.report", "page")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    parts = {"css": loader.get_source(environment, "report.css")[0], "script": "", "script_digest": ""}
    if script is not None:
        parts["script"] = loader.get_source(environment, script)[0]
        parts["script_digest"] = base64.b64encode(hashlib.sha256(parts["script"].encode()).digest()).decode()
    safe = {key: Markup(value) for key, value in parts.items()}
    return environment.get_template(name).render(values, **safe)


def png_of(figure: Figure, dpi: float | None = None) -> bytes:
    """A figure as a PNG file's bytes.

    Args:
        figure: the figure.
        dpi: pixels an inch, by default the figure's own.

    Returns:
        The bytes.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi or "figure")
    return content.getvalue()


def png_address(png: bytes) -> str:
    """The address of a picture that is inside the page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
