"""One self-contained page about a run: its numbers and what they mean, its figures, and an explorer of its latents."""

import io
import logging
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from PIL import Image

from pyro_vae.argument_checks import check_call
from pyro_vae.atomic_write import require_file_path, write_atomic
from pyro_vae.data import Dataset, Split
from pyro_vae.errors import InputError
from pyro_vae.evidence.auto_evidence import AutoEvidence, auto_evidence
from pyro_vae.evidence.evidence_record import EvidenceRecord
from pyro_vae.evidence.importance_sampling import Evidence, log_evidence
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.evidence.pareto_smoothing import khat_limit
from pyro_vae.file_digests import is_whole_png
from pyro_vae.inference.fit_result import EpochRecord
from pyro_vae.plots import style
from pyro_vae.plots.fit_figures import write_figures
from pyro_vae.plots.latent_figures import draw_latent_figures
from pyro_vae.plots.latent_view import require_program
from pyro_vae.report.check_summary import ShownCheck, shown_check
from pyro_vae.report.improbable_rows import ImprobableRows, improbable_rows
from pyro_vae.report.latent_explorer import Explorer, explorer, fitting_rows, reason_for_no_explorer
from pyro_vae.report.numbers_in_words import Number, number, numbers
from pyro_vae.report.page_template import png_address, png_of, render_page
from pyro_vae.report.settings_in_words import Table, describe_run, recipe, settings
from pyro_vae.typing import Program

NUM_ROWS, NUM_SAMPLES = 500, 200
log = logging.getLogger(__name__)
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


@dataclass(frozen=True)
class _Run:
    """What a page is about: a fitted program, its data, the rows to show, and what its run's files hold."""

    folder: Path
    program: Program
    data: Dataset
    rows: Split
    config: Table
    records: Mapping[str, EvidenceRecord]
    history: Sequence[EpochRecord]
    split: str
    num_samples: int
    seed: int
    check: Table | None = None

    @property
    def best_epoch(self) -> int:
        """The epoch with the highest validation ELBO, whose weights were kept; the last one without such rows."""
        values = [row.epoch if row.selection_value is None else row.selection_value for row in self.history]
        return values.index(max(values)) + 1 if values else 0


@dataclass(frozen=True)
class PageContent:
    """What the page's template shows, under the names that it uses."""

    title: str
    subtitle: str
    trained: str
    split: str
    num_rows: int
    log_px_words: str
    numbers: list[Number]
    measure: str
    recorded: bool
    others: list[tuple[str, EvidenceRecord]]
    unscored: str
    improbable: ImprobableRows | None
    check: ShownCheck | None
    figures: list[PageFigure]
    left_out: str
    explorer: Explorer | None
    groups: list[tuple[str, list[tuple[str, str]]]]
    recipe: str
    folder: str
    version: str
    description: str


@check_call
def write_report(
    folder: Path,
    program: object,
    data: Dataset,
    *,
    config: Table,
    records: Mapping[str, Table],
    history: Sequence[Table],
    check: Table | None = None,
    split: str = "valid",
    num_rows: int = NUM_ROWS,
    num_samples: int = NUM_SAMPLES,
    out: Path | None = None,
    seed: int = 0,
) -> Path:
    """Write one page about a fitted program: one file that needs no network and no server.

    Where the program has no log p(x) for a row, or no latent plane, the page says why and leaves it out. Raises
    `InputError` for a split without rows, for what has no model, and where `out` is a folder.

    Args:
        folder: a run's folder, whose `figures/` are shown.
        program: the fitted program.
        data: the data set it was fitted to.
        config: what the run's `config.toml` holds.
        records: what its `evaluation.json` holds: the records of the evidence by split and method.
        history: what its `metrics.jsonl` holds: the epochs of the fit.
        check: what its `check.json` holds, if it was checked.
        split: the split whose rows can be clicked on.
        num_rows: so many of them at most.
        num_samples: draws for log p(x) of each of them, where it is not exact.
        out: the file to write, `folder/report.html` by default.
        seed: of all draws.

    Returns:
        The path of the page.

    >>> import pyro_vae as pv
    >>> data, nets = pv.load_data("digits"), (pv.nets.mlp(2, 20, 64), pv.nets.mlp(64, 20, 4))
    >>> guide = pv.guides.MeanFieldNormal(nets[1])
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(nets[0]), guide)
    >>> history = pv.fit(vae, data, epochs=2).history
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_report(Path(folder), vae, data, config={}, records={}, history=history, num_rows=20)
    ...     path.name, "<h2" in path.read_text("utf-8")
    ('report.html', True)
    """
    path = out or folder / "report.html"
    program = require_program(program)
    require_file_path(path)
    if not len(data.split(split)):
        raise InputError(f"{data.name} has no {SPLITS[split]} rows; try another split")
    rows = fitting_rows(data.split(split), num_rows)
    known = {name: EvidenceRecord.from_dict(record) for name, record in records.items()}
    epochs = [EpochRecord.from_dict(row) for row in history]
    run = _Run(folder, program, data, rows, config, known, epochs, split, num_samples, seed, check)
    write_atomic(path, page(_content(run)).encode())
    return path


def _content(run: _Run) -> PageContent:
    found, unscored = _scored(run.program, run.rows, run.num_samples, run.seed)
    names = [name for name in (run.split, *run.records) if name in run.records]
    main = next((run.records[name] for name in names if run.records[name].split == run.split), None)
    shown = main or EvidenceRecord()
    if main is None and found is not None:
        about = EvidenceRecord(run=str(run.folder), model="vae", fit_method="svi", split=run.split, method="auto")
        drawn = (
            found
            if isinstance(found, Evidence)
            else log_evidence(run.program, run.rows, run.num_samples, seed=run.seed)
        )
        shown = drawn.to_record(about, found)
    left_out, config = reason_for_no_explorer(run.program, run.rows), run.config
    return PageContent(
        title=run.folder.resolve().name,
        subtitle=describe_run(config, run.data),
        trained=_trained(run),
        split=SPLITS[run.split],
        num_rows=len(run.rows),
        log_px_words="" if found is None else _log_px_words(found),
        numbers=numbers(shown),
        measure=shown.measure or run.rows.measure_name,
        recorded=main is not None,
        others=[(name, record) for name, record in run.records.items() if record is not main],
        unscored=unscored,
        improbable=improbable_rows(run.program, run.data, run.rows, found, run.seed),
        check=shown_check(run.check),
        figures=_page_figures(run, found),
        left_out=left_out,
        explorer=None if left_out else explorer(run.program, run.data, run.rows, found, run.seed),
        groups=[(title, settings(config[group])) for group, title in GROUPS.items() if config.get(group)],
        recipe=recipe(config["program"]) if "program" in config else config.get("program_needs", ""),
        folder=str(run.folder),
        version=config.get("about", {}).get("pyro_vae", ""),
        description=run.data.description,
    )


def _scored(program: Program, rows: Split, num_samples: int, seed: int) -> tuple[LogPx | None, str]:
    try:
        return auto_evidence(program, rows, num_samples, seed=seed), ""
    except InputError as error:
        return None, str(error)


def _log_px_words(found: LogPx) -> str:
    """What log p(x) of a single row on the page is."""
    if not isinstance(found, Evidence):
        return "is exact"
    where = "around the modes of the row's posterior" if isinstance(found, AutoEvidence) else "of the guide"
    return (
        f"is importance sampling's with {found.num_samples} draws {where}, a lower bound on average; above its limit "
        f"of {khat_limit(found.num_samples):.2f}, k-hat means that it is likely too low"
    )


def page(content: PageContent) -> str:
    """The page with style, script and data inside."""
    return render_page("report.html", vars(content), number, script="report.js")


def _trained(run: _Run) -> str:
    if not run.history:
        return ""
    return f"Trained for {len(run.history)} epochs; the weights of epoch {run.best_epoch} were kept."


def _page_figures(run: _Run, found: LogPx | None) -> list[PageFigure]:
    """The figures that the fit wrote, drawn again where they are gone or damaged, and the latent figures."""
    shown = {}
    with tempfile.TemporaryDirectory() as drawn:
        paths, lost = _whole_figures(run.folder / "figures")
        if lost or not any(path.stem in CAPTIONS for path in paths):
            with suppress(InputError):  # what cannot be drawn of this program is left out
                write_figures(Path(drawn), run.program, run.data, run.history, run.best_epoch)
            there = {path.stem for path in paths}
            paths += [path for path in sorted(Path(drawn).glob("*.png")) if path.stem not in there]
        for path in sorted(paths, key=lambda path: [*CAPTIONS, path.stem].index(path.stem)):
            title, caption = CAPTIONS.get(path.stem, (path.stem.replace("-", " ").capitalize(), ""))
            shown[path.stem] = _page_figure(path.stem, title, caption, path.read_bytes())
    log_px = None if found is None else found.log_px
    with style.figure_style(), mpl.rc_context({"backend": "agg"}):
        for drawing in draw_latent_figures(run.program, run.data, run.rows, log_px, seed=run.seed):
            shown[drawing.name] = _page_figure(drawing.name, drawing.title, drawing.caption, png_of(drawing.figure))
    return list(shown.values())


def _whole_figures(folder: Path) -> tuple[list[Path], list[Path]]:
    """The figures in a folder, and those of them that are damaged, each of which is noted; links are not followed."""
    paths = [] if folder.is_symlink() else [path for path in sorted(folder.glob("*.png")) if _is_own(path)]
    lost = [path for path in paths if not is_whole_png(path.read_bytes())]
    for path in lost:
        again = "it is drawn again" if path.stem in CAPTIONS else "it is left out; delete it, or draw it again"
        log.warning("note: %s: damaged (not a whole PNG); %s", path, again)
    return [path for path in paths if path not in lost], lost


def _is_own(path: Path) -> bool:
    """Whether a figure is a file of the run, and no link to another, which is noted."""
    if path.is_file() and not path.is_symlink():
        return True
    log.warning("note: %s: a link, or no file; it is left out", path)
    return False


def _page_figure(name: str, title: str, caption: str, png: bytes) -> PageFigure:
    with Image.open(io.BytesIO(png)) as image:
        width, height = image.size
    return PageFigure(name, title, caption, png_address(png), width, height)
