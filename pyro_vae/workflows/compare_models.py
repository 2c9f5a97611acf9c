"""Models and fit methods, or saved runs, compared on the same rows: fits, one table, the figures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pyro_vae.atomic_write import DeferUnwritable, read_json, write_json
from pyro_vae.comparison.build_model import build_model, choose_model
from pyro_vae.comparison.comparison_table import ComparisonRow, Fitted, compare
from pyro_vae.comparison.fit_by_name import fit_by_name, supports
from pyro_vae.comparison.fit_methods import FIT_METHODS, Budget
from pyro_vae.comparison.learning_curves import Point, first_rows, fit_with_curve
from pyro_vae.data import Dataset, Split
from pyro_vae.data.data_config import DataConfig
from pyro_vae.errors import InputError, UnwritableError
from pyro_vae.inference.em.select_mixture import MixtureScore, best_score
from pyro_vae.inference.fit_result import FitResult
from pyro_vae.inference.svi.train_config import TrainConfig
from pyro_vae.plots.comparison_figures import draw_comparison, draw_selections
from pyro_vae.programs.find_plates import find_plates
from pyro_vae.programs.row_batches import describe_measure
from pyro_vae.programs.row_inputs import probe_batch, require_taken
from pyro_vae.registry import ModelConfig
from pyro_vae.run_folder import claim_folder, lock_new_folder, remove_if_empty
from pyro_vae.serialization import load, save
from pyro_vae.typing import Program
from pyro_vae.workflows.build_vae import build_vae
from pyro_vae.workflows.choose_likelihood import choose_likelihood, load_dataset
from pyro_vae.workflows.comparison_settings import (
    COLUMNS_MODELS,
    DATA_SETTINGS,
    TRAIN_SETTINGS,
    VAE_SETTINGS,
    Settings,
    comparison_settings,
)
from pyro_vae.workflows.read_run import Run

TABLE, RESULT, CHOICE = "comparison.json", "fit.json", "choice.json"
NOT_REPEATED = ("split", "method", "level", "gray", "resize")
Log = Callable[[str], None]


@dataclass(frozen=True)
class PlannedFit:
    """A model and a fit method, on some of the training rows."""

    model: str
    fit_method: str
    data: Dataset
    suffix: str = ""

    @property
    def folder(self) -> str:
        return f"{self.model.replace(':', '-')}{self.suffix}-{self.fit_method}"


@dataclass(frozen=True)
class Choice:
    """The model that cross-validation chose where a name or a size says "auto", and the scores it was chosen by."""

    model: str
    scores: tuple[MixtureScore, ...] = ()

    @property
    def best(self) -> MixtureScore:
        """The score of the model that was chosen."""
        return best_score(self.scores)

    @classmethod
    def read(cls, path: Path) -> "Choice":
        kept = read_json(path)
        scores = [MixtureScore(**score | {"folds": tuple(score["folds"])}) for score in kept["scores"]]
        return cls(kept["model"], tuple(scores))


@dataclass(frozen=True)
class Comparison:
    """A comparison that was made: its folder, its table with the best first, the rows scored and the figures.

    `chosen` holds the models that cross-validation chose, by the name that was asked for; `unwritten` is why the table
    or figures are not in the folder, None where they are.
    """

    folder: Path
    table: list[ComparisonRow]
    rows: Split
    figures: list[Path]
    chosen: Mapping[str, Choice]
    unwritten: UnwritableError | None = None


def compare_models(
    runs: Sequence[str | Path] = (),
    *,
    preset: str | None = None,
    out: str | Path | None = None,
    extra_figures: Callable[[Path], list[Path]] | None = None,
    log: Log = lambda line: None,
    **settings: Any,
) -> Comparison:
    """Fit what is to be fitted, score all of it on the same rows, write the table and draw the figures.

    Raises `InputError` for densities on different measures before anything is fitted.

    Args:
        runs: folders of saved runs.
        preset: a comparison by its name in `PRESETS`.
        out: a folder, by default a new one under `runs/`; an interrupted comparison is resumed there.
        extra_figures: draws more into the folder of figures.
        log: called with each line of progress.
        **settings: the options of `pyro-vae compare` with underscores (`comparison_settings.comparison_options()`),
            with `models` and `fit_methods` for a grid.

    Returns:
        The folder, the table and the figures.
    """
    chosen = comparison_settings(preset, settings, bool(runs))
    opened = [Run(Path(folder)) for folder in runs]
    data = _dataset(opened, chosen)
    if chosen["preset"] == "toy" and preset is None and data.schema.coding == "columns":
        chosen = comparison_settings(None, settings | {"models": COLUMNS_MODELS}, has_runs=False)
    entries = list(_entries(chosen, data))
    _require_one_measure(opened, entries, chosen)
    rows = data.split(chosen["split"])
    rows = rows if chosen["num_rows"] is None else rows.head(chosen["num_rows"])
    is_new = out is None or not Path(out).exists()
    with lock_new_folder(None if out is None else Path(out), "compare") as folder:
        claim_folder(folder, _repeated_settings(chosen), data.fingerprint)
        try:
            return _compare(folder, opened, entries, data, rows, chosen, extra_figures, log)
        except InputError:
            if is_new:
                remove_if_empty(folder, RESULT)
            raise


def _compare(
    folder: Path,
    opened: list[Run],
    entries: list[PlannedFit],
    data: Dataset,
    rows: Split,
    settings: Settings,
    extra_figures: Callable[[Path], list[Path]] | None,
    log: Log,
) -> Comparison:
    sizes = ", ".join(dict.fromkeys(f"{len(entry.data.train):,}" for entry in entries))
    of = f"fitted to {sizes} of {len(data.train):,} training rows, " * bool(entries)
    log(f"{data.name}: {of}scored on {len(rows)} {rows.name} rows")
    log(f"results go to {folder}; Ctrl-C keeps what is fitted, and the same command with --out {folder} resumes it")
    fitted = [Fitted("vae", "svi", run.program(), run=str(run.folder)) for run in opened]
    curves: dict[str, list[Point]] = {}
    chosen: dict[str, Choice] = {}
    for number, entry in enumerate(entries):
        label = f"{number + 1}/{len(entries)} {entry.model}{entry.suffix} by {entry.fit_method}"
        name = entry.model + entry.suffix
        if name not in chosen:
            chosen[name] = _choose(folder / f"{name.replace(':', '-')}-{CHOICE}", entry, log)
        one, points = _fit_or_load(folder / entry.folder, entry, chosen[name].model, settings, rows, label, log)
        fitted.append(one)
        if points:
            curves[one.name] = points
    log("scoring")
    options = {name: settings[name] for name in ("method", "num_samples", "level", "seed")}
    table = compare(fitted, rows, **options)
    several_sizes = len(settings["train_rows"]) > 1
    chosen = {name: choice for name, choice in chosen.items() if choice.scores}
    figures: list[Path] = []
    with DeferUnwritable() as unwritten:
        write_json(folder / TABLE, {"rows": [dict(row) for row in table]})
        figures += draw_comparison(folder / "figures", fitted, table, data, curves, by_train_rows=several_sizes)
        figures += draw_selections(folder / "figures", {name: choice.scores for name, choice in chosen.items()})
        figures += [] if extra_figures is None else extra_figures(folder / "figures")
    return Comparison(folder, table, rows, figures, chosen, unwritten.error)


def _repeated_settings(settings: Settings) -> Settings:
    """What a comparison that is resumed must share with the one that was begun; the data say how images were read."""
    return {name: value for name, value in settings.items() if name not in NOT_REPEATED}


def _dataset(opened: list[Run], settings: Settings) -> Dataset:
    """The data set: the runs' own, which must be the same, or the one that was named."""
    if not opened:
        chosen = {name: settings[name] for name in DATA_SETTINGS}
        return load_dataset(DataConfig(**chosen | {"data": settings["data"] or "pinwheel"}), settings["likelihood"])
    if settings["data"] is not None:
        raise InputError("runs are scored on their own data: leave out --data")
    first = opened[0].data()
    for run in opened[1:]:
        other = run.data()
        if other.measure != first.measure:
            raise InputError(
                f"{run.folder} is a density against another measure ({other.measure}) than {opened[0].folder} "
                f"({first.measure}): they cannot be ranked"
            )
        ours, theirs = first.split(settings["split"]), other.split(settings["split"])
        if ours.shape != theirs.shape or ours.fingerprint != theirs.fingerprint:
            same = settings["split"] != "test" and first.test.fingerprint == other.test.fingerprint
            remedy = "; their test rows are the same (--split test)" if same else ""
            raise InputError(
                f"{run.folder} has other {settings['split']} rows than {opened[0].folder}: they cannot be "
                f"compared{remedy}"
            )
        if other.train.measure != first.train.measure:
            raise InputError(
                f"{run.folder} prepares its rows differently from {opened[0].folder} (one is standardized, or another "
                "draw): fit both on the same settings of the data"
            )
    return first


def _entries(settings: Settings, data: Dataset) -> Iterator[PlannedFit]:
    """The pairs of the grid or preset for each number of training rows."""
    sizes = settings["train_rows"] or (len(data.train),)
    for size in sizes:
        if size > len(data.train) and len(sizes) == 1:
            raise InputError(f"there are {len(data.train)} training rows, fewer than --train-rows {size}")
        some = first_rows(data, min(size, len(data.train)))
        suffix = f"-{len(some.train)}-rows" if len(sizes) > 1 else ""
        for model, fit_method in settings.get("pairs") or _grid(settings, data):
            yield PlannedFit(model, fit_method, some, suffix)


def _grid(settings: Settings, data: Dataset) -> list[tuple[str, str]]:
    """Each model with the fit methods it supports; `InputError` where a model has none, or a method no model."""
    asked, pairs = settings["fit_methods"] or ("em", "svi", "cavi"), []
    if unknown := [name for name in asked if name not in FIT_METHODS]:
        raise InputError(f"no fit method called {unknown[0]!r}; try one of {', '.join(FIT_METHODS)}")
    for model in settings["models"]:
        program = _program(model, settings, data)
        methods = [name for name in asked if supports(program, name)]
        if not settings["fit_methods"]:
            methods = methods[:1]
        if not methods:
            fitting = ", ".join(name for name in FIT_METHODS if supports(program, name))
            raise InputError(f"{model} cannot be fitted by {', '.join(asked)}; try {fitting}")
        pairs += [(model, name) for name in methods]
    if unused := [name for name in settings["fit_methods"] if name not in {found for _, found in pairs}]:
        raise InputError(f"no model here can be fitted by {unused[0]}: leave it out, or add a model")
    return pairs


def _require_one_measure(opened: list[Run], entries: list[PlannedFit], settings: Settings) -> None:
    """`InputError` for models that cannot be built, appear twice, or are densities on different measures."""
    pairs = [(entry.model + entry.suffix, entry.fit_method) for entry in entries]
    if twice := sorted({f"{model} {name}" for model, name in pairs if pairs.count((model, name)) > 1}):
        raise InputError(f"{', '.join(twice)} occurs twice in the comparison: leave one out")
    found = {str(run.folder): _measure_of(run.program(), run.data()) for run in opened}
    for entry in entries:
        if entry.model not in found:
            try:
                found[entry.model] = _measure_of(_program(entry.model, settings, entry.data), entry.data)
            except InputError as error:
                preset = f"the preset's {entry.model} does not go with these data"
                raise InputError(f"{preset if 'pairs' in settings else entry.model}: {error}") from error
    if len(set(found.values())) > 1:
        kinds = "; ".join(f"{name}: {measure}" for name, measure in found.items())
        raise InputError(
            f"densities against different measures cannot be ranked ({kinds}); for pictures of bits compare "
            "bernoulli-mixture with vae, for real numbers take --likelihood normal"
        )


def _measure_of(program: Program, data: Dataset) -> str:
    batch = probe_batch(data)
    require_taken(program, batch.inputs)
    plates = find_plates(program, batch)
    plates.check(batch.x, batch.mask)
    return describe_measure(data.train, plates)


def _program(model: str, settings: Settings, data: Dataset) -> Program:
    """A new program from `NAME` or `NAME:SIZE`."""
    name, _, size = model.partition(":")
    if name != "vae":
        return build_model(model, data)
    if ":" in model and not size.isdigit():
        raise InputError(f"{model!r}: after the colon comes a whole number, as in vae:2")
    own = {name: settings[name] for name in VAE_SETTINGS}
    chosen = ModelConfig.from_settings(own | {"latent_dim": int(size or 2)})
    return build_vae(chosen, choose_likelihood(chosen, data), data, settings["seed"])


def _choose(path: Path, entry: PlannedFit, log: Log) -> Choice:
    """The model of an entry, by cross-validation where its name or size says so, now or when it was interrupted."""
    if path.exists():
        return Choice.read(path)
    if entry.model.partition(":")[0] == "vae":
        return Choice(entry.model)

    def on_scored(score: MixtureScore) -> None:
        log(f"  {score}: {score.mean:.2f} by cross-validation")

    choice = Choice(*choose_model(entry.model, entry.data, on_scored))
    if choice.scores:
        log(f"{entry.model}{entry.suffix}: {choice.best}")
        write_json(path, {"model": choice.model, "scores": [asdict(score) for score in choice.scores]})
    return choice


def _fit_or_load(
    folder: Path, entry: PlannedFit, model: str, settings: Settings, rows: Split, label: str, log: Log
) -> tuple[Fitted, list[Point]]:
    """One entry, fitted now or loaded where an interrupted comparison has fitted it."""
    if (folder / RESULT).exists():
        kept = read_json(folder / RESULT)
        result, points = FitResult.from_dict(kept["result"]), [Point(**point) for point in kept["curve"]]
        return _fitted(entry, load(folder), result, points), points
    log(f"{label}: {FIT_METHODS[entry.fit_method].help}")
    program, result, points = _fit(entry, model, settings, rows, log)
    save(program, folder)
    write_json(folder / RESULT, {"result": result.to_dict(), "curve": [asdict(point) for point in points]})
    return _fitted(entry, program, result, points), points


def _fit(
    entry: PlannedFit, model: str, settings: Settings, rows: Split, log: Log
) -> tuple[Program, FitResult, list[Point]]:
    rate = settings.get("learning_rates", {}).get(entry.fit_method, settings["learning_rate"])
    config = TrainConfig(**{name: settings[name] for name in TRAIN_SETTINGS} | {"learning_rate": rate})
    budget = Budget(config, settings["iterations"], settings["starts"], settings["width"])
    program = _program(model, settings, entry.data)
    if not settings["curve"]:
        return *fit_by_name(program, entry.fit_method, entry.data, budget), []
    most_rows = max([*settings["train_rows"], len(entry.data.train)])  # each entry goes through as many rows
    share = settings.get("epoch_shares", {}).get(entry.fit_method, 1.0)
    epochs = max(1, round(share * config.epochs * most_rows / len(entry.data.train)))
    return fit_with_curve(
        entry.model,
        program,
        entry.fit_method,
        entry.data,
        replace(budget, config=replace(config, epochs=epochs)),
        rows,
        on_point=None if settings["preset"] == "toy" else lambda point: log(_describe_point(point)),
        **settings.get("curve_options", {}),
    )


def _fitted(entry: PlannedFit, program: Program, result: FitResult, points: list[Point]) -> Fitted:
    reached = tuple((point.seconds, point.log_px) for point in points)
    return Fitted(entry.model + entry.suffix, entry.fit_method, program, result, reached=reached)


def _describe_point(point: Point) -> str:
    return (
        f"  {point.rows_seen:>12,} rows seen, {point.seconds:6.0f} s: log p(x) {point.train_log_px:.2f} of training "
        f"rows, {point.log_px:.2f} of held-out ones"
    )
