"""What `pyro-vae compare` does, step by step: contenders, their fits, one table, the pictures."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from pyro_vae.atomic_write import write_atomic, write_json
from pyro_vae.cli.print_tables import print_comparison
from pyro_vae.comparison.comparison_table import Fitted, compare
from pyro_vae.comparison.fit_methods import FIT_METHODS, Budget, fit_by_name, supports
from pyro_vae.comparison.learning_curves import Point, first_rows, fit_with_curve
from pyro_vae.comparison.models_by_name import build_model
from pyro_vae.data import Dataset, Split
from pyro_vae.errors import InputError
from pyro_vae.inference.fit_result import FitResult
from pyro_vae.plots.comparison_figures import draw_comparison
from pyro_vae.programs.plates import find_plates
from pyro_vae.programs.row_inputs import probe_batch
from pyro_vae.programs.scored_rows import describe_measure
from pyro_vae.registry import build_vae
from pyro_vae.runs import new_run
from pyro_vae.serialization import load, save
from pyro_vae.workflows.data_and_likelihood import load_dataset
from pyro_vae.workflows.fit_run import say
from pyro_vae.workflows.open_run import Run

TABLE, RESULT, SETTINGS = "comparison.json", "fit.json", "settings.json"
DATA_SETTINGS = ("data", "data_root", "binarize", "dequantize", "standardize", "image_shape")


@dataclass(frozen=True)
class Entry:
    """A pair of the grid on some of the training rows."""

    model: str
    way: str
    data: Dataset
    suffix: str = ""

    @property
    def folder(self) -> str:
        return f"{self.model.replace(':', '-')}{self.suffix}-{self.way}"


def compare_models(saved: tuple[Path, ...], settings: dict[str, Any], quiet: bool) -> list[dict[str, Any]]:
    """Fit what is to be fitted, score all of it on the same rows, write and print the table and draw the pictures."""
    opened = [Run(folder) for folder in saved]
    data = _data(opened, settings)
    entries = list(_entries(settings, data))
    _check_measures(opened, entries, settings)
    rows = data.split(settings["split"])
    rows = rows if settings["num_rows"] is None else rows.head(settings["num_rows"])
    made = settings["out"] is None or not settings["out"].exists()
    if settings["out"] is not None and settings["out"].is_file():
        raise InputError(f"{settings['out']} is a file: name a folder that is new or empty")
    folder = settings["out"] or new_run(Path("runs"), "compare")
    same_settings(folder, settings, data)
    try:
        return _contest(folder, opened, entries, data, rows, settings, quiet)
    except InputError:
        if made:
            clear_away(folder, RESULT)
        raise


def clear_away(folder: Path, fitted: str) -> None:
    """Leave nothing behind where nothing was fitted."""
    if not any(folder.glob(f"*/{fitted}")):
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()


def _contest(
    folder: Path,
    opened: list[Run],
    entries: list[Entry],
    data: Dataset,
    rows: Split,
    settings: dict[str, Any],
    quiet: bool,
) -> list[dict[str, Any]]:
    began = time.perf_counter()
    if not quiet:
        sizes = ", ".join(dict.fromkeys(f"{len(entry.data.train):,}" for entry in entries))
        of = f"fitted to {sizes} of {len(data.train):,} training rows, " * bool(entries)
        say(f"{data.name}: {of}scored on {len(rows)} {rows.name} rows")
        say(f"results go to {folder}; Ctrl-C keeps what is fitted, and the same command with --out {folder} goes on")
    fitted = [Fitted("vae", "svi", run.program(), run=str(run.folder)) for run in opened]
    curves: dict[str, list[Point]] = {}
    for number, entry in enumerate(entries):
        one, points = _fitted(folder / entry.folder, entry, settings, rows, quiet, f"{number + 1}/{len(entries)}")
        fitted.append(one)
        if points:
            curves[one.name] = points
    if not quiet:
        say("scoring")
    table = compare(
        fitted,
        rows,
        method=settings["method"],
        num_samples=settings["num_samples"],
        level=settings["level"],
        seed=settings["seed"],
    )
    write_json(folder / TABLE, {"rows": table})
    apart, touches = len(settings["train_rows"]) > 1, settings["preset"] == "toy" and data.name == "pinwheel"
    pictures = draw_comparison(folder / "figures", fitted, table, data, curves, apart=apart, touches=touches)
    if not quiet:
        print_comparison(table, rows)
        click.echo(f"\nWritten to {folder}/ in {time.perf_counter() - began:.0f} s")
        click.echo(f"  {TABLE}  " + "  ".join(f"figures/{path.name}" for path in pictures))
    return table


def _data(opened: list[Run], settings: dict[str, Any]) -> Dataset:
    """The data set: the runs' own, which must be the same, or the one that was named."""
    if not opened:
        chosen = {name: settings[name] for name in DATA_SETTINGS} | {"missing": "refuse"}
        return load_dataset(chosen | {"data": settings["data"] or "pinwheel"}, settings["likelihood"])
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
            raise InputError(f"{run.folder} was fitted to other rows than {opened[0].folder}: they cannot be compared")
        if other.train.measure != first.train.measure:
            raise InputError(
                f"{run.folder} sees its rows otherwise than {opened[0].folder} (one is standardized, or another draw): "
                "fit both on the same settings of the data"
            )
    return first


def _entries(settings: dict[str, Any], data: Dataset) -> Iterator[Entry]:
    """The grid's pairs that go together; `InputError` where a model has none, or a way no model."""
    sizes = settings["train_rows"] or (len(data.train),)
    for size in sizes:
        if size > len(data.train) and len(sizes) == 1:
            raise InputError(f"there are {len(data.train)} training rows, fewer than --train-rows {size}")
        some = first_rows(data, min(size, len(data.train)))
        suffix = f"-{len(some.train)}-rows" if len(sizes) > 1 else ""
        for model, way in settings.get("pairs") or _grid(settings, data):
            yield Entry(model, way, some, suffix)


def _check_measures(opened: list[Run], entries: list[Entry], settings: dict[str, Any]) -> None:
    """`InputError`, before anything is fitted, for models that cannot be made, stand twice, or cannot be ranked."""
    pairs = [(entry.model + entry.suffix, entry.way) for entry in entries]
    if twice := sorted({f"{model} {way}" for model, way in pairs if pairs.count((model, way)) > 1}):
        raise InputError(f"{', '.join(twice)} stands twice in the comparison: leave one out")
    found = {str(run.folder): _measure_of(run.program(), run.data()) for run in opened}
    for entry in entries:
        if entry.model not in found:
            try:
                found[entry.model] = _measure_of(_program(entry.model, settings, entry.data), entry.data)
            except InputError as error:
                where = (
                    f"the preset's {entry.model} does not go with these data" if "pairs" in settings else entry.model
                )
                raise InputError(f"{where}: {error}") from error
    if len(set(found.values())) > 1:
        kinds = "; ".join(f"{name}: {measure}" for name, measure in found.items())
        raise InputError(
            f"densities against different measures cannot be ranked ({kinds}); for pictures of bits compare "
            "bernoulli-mixture with vae, for real numbers take --likelihood normal"
        )


def _measure_of(program: Any, data: Dataset) -> str:
    few = probe_batch(data)
    plates = find_plates(program, few)
    plates.check(few.x)
    return describe_measure(data.train, plates)


def _grid(settings: dict[str, Any], data: Dataset) -> list[tuple[str, str]]:
    asked, pairs = settings["ways"] or ("em", "svi", "cavi"), []
    if unknown := [way for way in asked if way not in FIT_METHODS]:
        raise InputError(f"no way called {unknown[0]!r}; try one of {', '.join(FIT_METHODS)}")
    for model in settings["models"]:
        program = _program(model, settings, data)
        ways = [way for way in asked if supports(program, way)]
        if not settings["ways"]:
            ways = ways[:1]
        if not ways:
            fitting = ", ".join(way for way in FIT_METHODS if supports(program, way))
            raise InputError(f"none of {', '.join(asked)} is a way to fit {model}; try {fitting}")
        pairs += [(model, way) for way in ways]
    if lost := [way for way in settings["ways"] if way not in {found for _, found in pairs}]:
        raise InputError(f"no model here can be fitted by {lost[0]}: leave it out, or add a model")
    return pairs


def _program(model: str, settings: dict[str, Any], data: Dataset) -> Any:
    name, _, size = model.partition(":")
    if name != "vae":
        return build_model(model, data)
    if ":" in model and not size.isdigit():
        raise InputError(f"{model!r}: the size after the colon must be a whole number, as in vae:2")
    absent = ("components", "pseudo_inputs", "rank", "flow_layers", "activation")
    chosen = dict.fromkeys(absent) | {name: settings[name] for name in ("likelihood", "scale", "network", "hidden")}
    known = {"latent_dim": int(size or 2), "prior": "standard-normal", "guide": "mean-field"}
    return build_vae(chosen | known, data, settings["seed"])


def _fitted(
    folder: Path, entry: Entry, settings: dict[str, Any], rows: Split, quiet: bool, where: str
) -> tuple[Fitted, list[Point]]:
    """One contender, fitted now or found where an interrupted comparison left it."""
    if (folder / RESULT).exists():
        kept = json.loads((folder / RESULT).read_text())
        result = FitResult(**kept["result"])
        points = [Point(**point) for point in kept["curve"]]
        return _contender(entry, load(folder), result, points), points
    if not quiet:
        say(f"{where} {entry.model}{entry.suffix} by {entry.way}: {FIT_METHODS[entry.way].words}")
    budget = Budget(
        settings["epochs"],
        settings["iterations"],
        settings["batch_size"],
        settings.get("rates", {}).get(entry.way, settings["learning_rate"]),
        settings["optimizer"],
        settings["schedule"],
        settings["starts"],
        settings["width"],
        settings["seed"],
    )
    program = _program(entry.model, settings, entry.data)
    points = []
    if settings["curve"]:
        most = max([*settings["train_rows"], len(entry.data.train)])  # all see as many rows
        share = settings.get("shares", {}).get(entry.way, 1.0)
        looks = settings.get("looks", {})
        spoken = not quiet and settings["preset"] != "toy"
        steps = replace(budget, epochs=max(1, round(share * budget.epochs * most / len(entry.data.train))))
        program, result, points = fit_with_curve(
            entry.model, program, entry.way, entry.data, steps, rows, on_point=_say_point if spoken else None, **looks
        )
    else:
        program, result = fit_by_name(program, entry.way, entry.data, budget)
    save(program, folder)
    write_json(folder / RESULT, {"result": asdict(result), "curve": [asdict(point) for point in points]})
    return _contender(entry, program, result, points), points


def _contender(entry: Entry, program: Any, result: FitResult, points: list[Point]) -> Fitted:
    reached = tuple((point.seconds, point.log_px) for point in points)
    return Fitted(entry.model + entry.suffix, entry.way, program, result, reached=reached)


def _say_point(point: Point) -> None:
    say(
        f"  {point.rows_seen:>12,} rows seen, {point.seconds:6.0f} s: log p(x) {point.train_log_px:.2f} of training "
        f"rows, {point.log_px:.2f} of held-out ones"
    )


def same_settings(folder: Path, settings: dict[str, Any], data: Dataset) -> None:
    """A comparison that goes on must be the one that was begun."""
    path = folder / SETTINGS
    named = {name: value for name, value in settings.items() if name not in ("out", "split", "method", "level")}
    plain = {n: list(v) if isinstance(v, tuple) else v for n, v in named.items() if v is not None}
    text = json.dumps(plain | {"fingerprint": data.fingerprint}, default=list, sort_keys=True)
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_text() != text + "\n":
        before, now = json.loads(path.read_text()), json.loads(text)
        other = [
            f"{n}: {before.get(n)} → {now.get(n)}" for n in before.keys() | now.keys() if before.get(n) != now.get(n)
        ]
        raise InputError(
            f"{folder} holds a comparison with other settings ({'; '.join(sorted(other))}): name another folder"
        )
    if not path.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} holds other files: name a folder that is new or empty")
    write_atomic(path, (text + "\n").encode())
