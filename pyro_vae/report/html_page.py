"""One self-contained page about a run: its numbers and what they mean, its figures, and an explorer of its latents."""

import base64
import io
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from pyro_vae.atomic_write import write_atomic
from pyro_vae.data import Dataset, Split
from pyro_vae.errors import InputError
from pyro_vae.evidence.evidence_record import EvidenceRecord
from pyro_vae.evidence.importance_sampling import Evidence, log_evidence
from pyro_vae.plots import style
from pyro_vae.plots.fit_figures import write_figures
from pyro_vae.plots.latent_figures import latent_figures
from pyro_vae.plots.latent_view import require_program
from pyro_vae.report.latent_explorer import explorer, fitting_rows, reason_for_no_explorer
from pyro_vae.report.numbers_in_words import number, numbers

NUM_ROWS, NUM_SAMPLES = 500, 200
SPLITS = {"train": "training", "valid": "validation", "test": "test"}
CAPTIONS = {  # of the figures that every fit writes: title, what to look for
    "training": (
        "Learning",
        "The ELBO and its two terms over epochs. Where validation falls below training, the networks overfit.",
    ),
    "reconstructions": (
        "Rows and their reconstructions",
        "Each row is encoded to its latent mean and decoded. What is lost is what the latents do not represent.",
    ),
    "samples": (
        "Draws from the model",
        "New rows, made from latents drawn from the prior. They should look like the data, and be as varied.",
    ),
    "manifold": (
        "The manifold",
        "E[x | z] on a grid that spreads evenly over the prior's probability. Neighbours should change smoothly.",
    ),
    "latents": (
        "Latent means",
        "The latent mean of each row. Similar rows should lie together; colours are labels, which a plain VAE is not "
        "given.",
    ),
}
GROUPS = {
    "about": "Data",
    "data": "How it was read",
    "model": "Model",
    "objective": "Objective",
    "training": "Training",
}


@dataclass(frozen=True)
class PageFigure:
    """A figure on the page: its `name`, `title`, `caption`, the PNG as a data URI, and its size in pixels."""

    name: str
    title: str
    caption: str
    uri: str
    width: int
    height: int


def write_report(
    folder: Path,
    program: Any,
    data: Dataset,
    *,
    config: dict[str, Any],
    records: dict[str, dict[str, Any]],
    history: list[dict[str, Any]],
    split: str = "valid",
    num_rows: int = NUM_ROWS,
    num_samples: int = NUM_SAMPLES,
    out: Path | None = None,
    seed: int = 0,
) -> Path:
    """Write `folder/report.html`, or `out`: one file that needs no network and no server; its path.

    `config`, `records` and `history` are what a run's `config.toml`, `evaluation.json` and `metrics.jsonl` hold. Rows
    of `split` to click on, `num_rows` at most, are scored by importance sampling with `num_samples` draws from the
    guide; where the program has no log p(x) for a row, or no latent plane, the page says why and leaves it out.
    Raises `InputError` for a split without rows, for what has no model, and where `out` is a folder.

    >>> import pyro_vae as pv
    >>> data, nets = pv.load_data("digits"), (pv.nets.mlp(2, 20, 64), pv.nets.mlp(64, 20, 4))
    >>> guide = pv.guides.MeanFieldNormal(nets[1])
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(nets[0]), guide)
    >>> history = pv.fit(vae, data, epochs=2).history
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_report(Path(folder), vae, data, config={}, records={}, history=history, num_rows=20)
    ...     path.name, "<h2" in path.read_text()
    ('report.html', True)
    """
    path = out or folder / "report.html"
    require_program(program)
    _require_writable(path)
    if not len(data.split(split)):
        raise InputError(f"{data.name} has no {SPLITS[split]} rows; try another split")
    rows = fitting_rows(data.split(split), num_rows)
    content = _content(folder, program, data, rows, config, records, history, split, num_samples, seed)
    write_atomic(path, page(content).encode())
    return path


def _content(
    folder: Path,
    program: Any,
    data: Dataset,
    rows: Split,
    config: dict[str, Any],
    records: dict[str, dict[str, Any]],
    history: list[dict[str, Any]],
    split: str,
    num_samples: int,
    seed: int,
) -> dict[str, Any]:
    """What the page's template needs."""
    found, unscored = _scored(program, rows, num_samples, seed)
    about = EvidenceRecord(run=str(folder), model="vae", fit_method="svi", split=split, method="is")
    own = {} if found is None else dict(found.to_record(about))
    main = next((records[name] for name in (split, *records) if records.get(name, {}).get("split") == split), None)
    left_out = reason_for_no_explorer(program, rows)
    return {
        "title": folder.resolve().name,
        "subtitle": describe_run(config, data),
        "trained": _trained(history),
        "split": SPLITS[split],
        "num_rows": len(rows),
        "num_samples": num_samples,
        "numbers": numbers(main or own),
        "measure": (main or own).get("measure") or rows.measure_name,
        "recorded": main is not None,
        "others": [(name, record) for name, record in records.items() if record is not main],
        "unscored": unscored,
        "figures": page_figures(folder, program, data, rows, found, history, seed),
        "left_out": left_out,
        "explorer": None if left_out else explorer(program, data, rows, found, seed),
        "groups": [(title, settings(config[group])) for group, title in GROUPS.items() if config.get(group)],
        "recipe": recipe(config["program"]) if "program" in config else config.get("program_needs", ""),
        "folder": str(folder),
        "version": config.get("about", {}).get("pyro_vae", ""),
        "description": data.description,
    }


def _require_writable(path: Path) -> None:
    """`InputError` where no file can be written."""
    if path.is_dir():
        raise InputError(f"{path} cannot be written: it is a folder; try another name")
    if taken := next((parent for parent in path.parents if parent.is_file()), None):
        raise InputError(f"{path} cannot be written: {taken} is a file, not a folder; try another path")


def _scored(program: Any, rows: Split, num_samples: int, seed: int) -> tuple[Evidence | None, str]:
    try:
        return log_evidence(program, rows, num_samples, seed=seed), ""
    except InputError as error:
        return None, str(error)


def page(content: dict[str, Any]) -> str:
    """The page with style, script and data inside; what JSON holds cannot end the script it stands in."""
    assets = resources.files("pyro_vae.report") / "page"
    css, script, template = ((assets / name).read_text("utf-8") for name in ("report.css", "report.js", "report.html"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    return environment.from_string(template).render(content | {"css": Markup(css), "script": Markup(script)})


def describe_run(config: dict[str, Any], data: Dataset) -> str:
    """One sentence on the program and its data."""
    model, rows = config.get("model", {}), f"{len(data.train):,} rows of {data.num_features} columns"
    if data.image_shape:
        rows = f"{len(data.train):,} images of {data.image_shape[0]}×{data.image_shape[1]} pixels"
    if own := config.get("about", {}).get("program"):
        return f"{own}, a program of its author's own, fitted to {data.name}: {rows}."
    if not model:
        return f"A program fitted to {data.name}: {rows}."
    K = model.get("latent_dim", 0)
    return f"A variational autoencoder with {K} latent dimension{'s' if K != 1 else ''}, fitted to {data.name}: {rows}."


def _trained(history: list[dict[str, Any]]) -> str:
    if not history:
        return ""
    return f"Trained for {len(history)} epochs; the weights of epoch {_best_epoch(history)} were kept."


def page_figures(
    folder: Path,
    program: Any,
    data: Dataset,
    rows: Split,
    found: Evidence | None,
    history: list[dict[str, Any]],
    seed: int,
) -> list[PageFigure]:
    """The figures that the fit wrote, drawn again where they are gone, and the latent figures."""
    shown = {}
    with tempfile.TemporaryDirectory() as drawn:
        paths = sorted((folder / "figures").glob("*.png"))
        if not any(path.stem in CAPTIONS for path in paths):
            with suppress(InputError):  # what cannot be drawn of this program is left out
                write_figures(Path(drawn), program, data, history, _best_epoch(history))
            paths += sorted(Path(drawn).glob("*.png"))
        for path in sorted(paths, key=lambda path: [*CAPTIONS, path.stem].index(path.stem)):
            title, caption = CAPTIONS.get(path.stem, (path.stem.replace("-", " ").capitalize(), ""))
            shown[path.stem] = _page_figure(path.stem, title, caption, path.read_bytes())
    log_px = None if found is None else found.log_px
    with style.figure_style(), mpl.rc_context({"backend": "agg"}):
        for drawing in latent_figures(program, data, rows, log_px, seed=seed):
            shown[drawing.name] = _page_figure(drawing.name, drawing.title, drawing.caption, _png(drawing.figure))
    return list(shown.values())


def _best_epoch(history: list[dict[str, Any]]) -> int:
    values = [row["epoch"] if row.get("valid_elbo") is None else row["valid_elbo"] for row in history]
    return values.index(max(values)) + 1 if values else 0


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _page_figure(name: str, title: str, caption: str, png: bytes) -> PageFigure:
    with Image.open(io.BytesIO(png)) as image:
        width, height = image.size
    return PageFigure(name, title, caption, "data:image/png;base64," + base64.b64encode(png).decode(), width, height)


def settings(group: dict[str, Any]) -> list[tuple[str, str]]:
    """A group of settings as names and short text."""
    return [(name.replace("_", " "), _short(value)) for name, value in group.items()]


def _short(value: Any, most: int = 12) -> str:
    if isinstance(value, list):
        return ", ".join(_short(one) for one in value[:most]) + (f", … ({len(value)})" if len(value) > most else "")
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _format(value: Any) -> str:
    return f"[{_short(value)}]" if isinstance(value, list) else repr(value)


def recipe(made: Any, depth: int = 0) -> str:
    """A program's recipe as text, part inside part.

    >>> recipe({"make": "priors.StandardNormal", "num_latents": 2})
    'StandardNormal(num_latents=2)'
    """
    if not (isinstance(made, dict) and "make" in made):
        return str(made.get("same_as", made)) if isinstance(made, dict) else _format(made)
    inside = {name: recipe(value, depth + 1) for name, value in made.items() if name != "make"}
    if all(not isinstance(value, dict) for value in made.values()):
        arguments = ", ".join(f"{name}={text}" for name, text in inside.items())
    else:
        step = "\n" + "    " * (depth + 1)
        arguments = "".join(f"{step}{name}={text}," for name, text in inside.items()) + "\n" + "    " * depth
    return f"{made['make'].rsplit('.', 1)[-1]}({arguments})"
