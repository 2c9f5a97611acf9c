"""What `pyro-vae fit` does, step by step: data, program, folder, climb, score, draw."""

import json
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import click

from pyro_vae import __version__
from pyro_vae.atomic_write import read_lines, read_tensors, write_json, write_lines
from pyro_vae.cli.options import plain
from pyro_vae.inference.svi.checkpoint import CHECKPOINT
from pyro_vae.runs import CONFIG, EVALUATION, METRICS, WEIGHTS, new_run, read_config, write_config
from pyro_vae.serialization import recipe_of, save

VALID_DRAWS = 200
BOARD = "tensorboard"


def fit_run(
    settings: dict[str, dict[str, Any]],
    out: Path | None,
    own: str | None = None,
    *,
    logger: str | None = None,
    resuming: bool,
    quiet: bool,
) -> dict[str, Any]:
    """Everything that one fit does, from reading the data to the last figure; the record of the validation rows.

    Of several processes all fit and score, and rank 0 alone writes, draws and speaks.
    """
    from pyro_vae import RankLostError, pick_device, process_group
    from pyro_vae.context import defer_signals, seeded
    from pyro_vae.errors import InputError
    from pyro_vae.inference.svi.train_config import TrainConfig
    from pyro_vae.programs.row_inputs import probe_batch
    from pyro_vae.registry import build_vae
    from pyro_vae.workflows.choose_objective import choose_objective
    from pyro_vae.workflows.data_and_likelihood import load_dataset
    from pyro_vae.workflows.user_program import load_builder

    objective = settings["objective"]
    training = settings["training"] | {name: objective[name] for name in ("beta", "kl_warmup")}
    training |= {"patience": training["patience"] or None}
    particles = objective["num_particles"]
    tried = {name: value for name, value in training.items() if name not in ("device", "dtype")}
    TrainConfig(**tried, num_particles=1 if particles is None else particles).check()
    pick_device(training["device"])
    make_board = _board_of(logger, out if resuming else None)
    build = None if own is None else load_builder(own)
    settings["data"] |= _absolute(settings["data"])
    data = load_dataset(settings["data"], settings["model"]["likelihood"])
    if build is None:
        program = build_vae(settings["model"], data, training["seed"], settings["data"]["missing"] == "mask")
    else:
        with seeded(training["seed"]):
            program = build(data)
    loss = choose_objective(objective, program, probe_batch(data))
    training |= {"loss": loss} if loss is not None else {"num_particles": particles or 1}
    group = process_group()
    made = [path for path in ((out, *out.parents) if out else (Path("runs"),)) if not path.exists()]
    folder = group.broadcast(out or (new_run(Path("runs"), Path(data.name).stem) if group.is_main else None))
    made = made if out else [folder, *made]
    if resuming:
        _same_data(folder, data.fingerprint)
    elif group.is_main:
        write_config(folder, _config(settings, data, own) | recipe_of(program))
    try:
        if not group.is_main:
            return _follow(folder, program, data, training)
        if not quiet:
            _introduce(folder, settings, data, program, own)
        with make_board(folder) as board:
            fitted = _climb(folder, program, data, training, board, quiet)
            return _report(folder, program, data, fitted, board, quiet)
    except InputError:
        if group.is_main and not resuming and not (folder / WEIGHTS).exists():
            _clear_away(folder, made)
        raise
    except (KeyboardInterrupt, RankLostError) as error:
        with defer_signals():
            if group.is_main:
                _keep(folder, program, _why(error, group.is_single))
        raise


def _why(error: BaseException, alone: bool) -> str:
    """How a fit was cut off, in words."""
    if not isinstance(error, KeyboardInterrupt):
        return "stopped, since another process of this run has ended,"
    return "interrupted" if alone else "interrupted, or told to end because another process of this run did,"


def _keep(folder: Path, program: Any, why: str) -> None:
    """Keep the best weights of a fit that was cut off, and say so."""

    save(program, folder)
    done = len(read_lines(folder / METRICS)) or "no"
    say(f"{why} after {done} whole epochs, the best weights so far are kept; --resume {folder} goes on from there")


def _follow(folder: Path, program: Any, data: Any, training: dict[str, Any]) -> dict[str, Any]:
    """What rank 0 does, for the others: they fit and score with it, and write and say nothing."""
    from pyro_vae import fit
    from pyro_vae.cli.evaluate import score_split
    from pyro_vae.errors import RowsError
    from pyro_vae.inference.svi.train_config import DTYPES

    fit(program, data.train, valid=data.valid, **training | {"dtype": DTYPES[training["dtype"]], "progress": "none"})
    if hasattr(program, "to"):
        program.to("cpu")
    with suppress(RowsError):  # rank 0 says so
        score_split(program, data.valid, folder, VALID_DRAWS, sizes=(1, 5, 50))
    return {}


def _board_of(logger: str | None, resumed: Path | None) -> Callable[[Path], Any]:
    """What opens the logger of a run's folder, a context around None for no logger; a resumed run keeps the one it had.

    `InputError` where its package is missing.
    """
    if logger is None and (resumed is None or not (resumed / BOARD).exists()):
        return lambda _: nullcontext()
    from pyro_vae.loggers.tensorboard import TensorBoard, summary_writer

    summary_writer()
    return lambda folder: TensorBoard(folder / BOARD)


def _config(settings: dict[str, dict[str, Any]], data: Any, own: str | None) -> dict[str, Any]:
    """What a run's `config.toml` says beside its program: version, data fingerprint, every setting, the measure."""
    about = {"pyro_vae": __version__, "data": data.name, "fingerprint": data.fingerprint}
    about |= {"num_features": data.num_features}
    about |= {"columns": list(data.columns)} if data.columns else {}
    about |= {"program": own} if own else {}  # for people: no command runs what a file names
    about |= {"image_shape": list(data.image_shape)} if data.image_shape else {}
    return {"about": about} | plain(settings) | {"measure": data.train.measure.to_dict()}


def _introduce(folder: Path, settings: dict[str, dict[str, Any]], data: Any, program: Any, own: str | None) -> None:
    from pyro_vae.programs.plates import find_plates
    from pyro_vae.programs.row_inputs import probe_batch
    from pyro_vae.programs.scored_rows import describe_measure
    from pyro_vae.workflows.data_and_likelihood import choose_likelihood, scale_of

    rows = f"{len(data.train)} training, {len(data.valid)} validation and {len(data.test)} test rows"
    labels = f", labels from {data.label_name!r}" if data.label_name else ""
    say(f"{data.name}: {rows} of {data.num_features} columns{labels}")
    measure = describe_measure(data.train, find_plates(program, probe_batch(data)))
    if own is None:
        model = settings["model"]
        likelihood, why = choose_likelihood(model["likelihood"], data)
        scale = scale_of(model, likelihood, data)
        likelihood += "" if scale is None else f" with scale {scale}"
        say(f"likelihood {likelihood}: {why}; {measure}")
        say(f"prior {model['prior']}, guide {model['guide']}, network {model['network']}, K = {model['latent_dim']}")
    else:
        say(f"program {own}; {measure}")
    say(f"run {folder}; Ctrl-C saves, pyro-vae fit --resume {folder} goes on")


def _climb(folder: Path, program: Any, data: Any, training: dict[str, Any], board: Any, quiet: bool) -> Any:
    """The fit itself, its metrics written as they come; on trouble the folder holds what is good, or is gone."""
    from pyro_vae import fit
    from pyro_vae.errors import CollapseWarning, DivergedError, HandlersWarning
    from pyro_vae.inference.svi.train_config import DTYPES

    style: Any = "none" if quiet else "bar" if sys.stderr.isatty() else "lines"
    _forget_later_epochs(folder)

    def keep(history: list[dict[str, Any]]) -> None:
        with (folder / METRICS).open("a") as file:
            file.write(json.dumps(history[-1], allow_nan=False) + "\n")
        if board is not None:
            board(history)

    options = training | {"dtype": DTYPES[training["dtype"]], "checkpoint": folder, "on_epoch": keep, "progress": style}
    try:
        with warnings.catch_warnings():  # its advice is part of the report
            warnings.simplefilter("ignore", CollapseWarning)
            warnings.filterwarnings("always", category=HandlersWarning)
            warnings.showwarning = _told(warnings.showwarning)
            fitted = fit(program, data.train, valid=data.valid, **options)
    except DivergedError:
        save(program, folder)
        raise
    write_lines(folder / METRICS, fitted.history)
    save(program, folder)
    if board is not None:
        board(fitted.history)  # a fit that had no epoch left has not called it
    return fitted


def _told(otherwise: Callable[..., None]) -> Callable[..., None]:
    """Show a warning of this package as one line, any other as before."""
    from pyro_vae.errors import HandlersWarning

    def show(message: Any, category: type[Warning], *where: Any, **options: Any) -> None:
        if issubclass(category, HandlersWarning):
            say(f"note: {message}")
        else:
            otherwise(message, category, *where, **options)

    return show


def _unscored(folder: Path, fitted: Any, why: str, quiet: bool) -> dict[str, Any]:
    """The record of a fit whose rows cannot be scored one by one: its ELBO, and nulls."""
    from pyro_vae.evidence.evidence_record import unscored

    best = fitted.history[fitted.best_epoch - 1]
    record = unscored(best["valid_elbo"], run=str(folder), split="valid", seconds=fitted.seconds)
    write_json(folder / EVALUATION, {"valid": record})
    if not quiet:
        say(f"validation ELBO {best['valid_elbo']:.2f} nats per row; no more numbers, since {why}")
        click.echo(f"Written to {folder}/")
    return record


def _clear_away(folder: Path, made: list[Path]) -> None:
    """Nothing half-written: remove the files of a run that could not begin, and the folders that were made for it."""

    for name in (CONFIG, METRICS):
        (folder / name).unlink(missing_ok=True)
    for path in made:
        path.rmdir()


def say(words: str) -> None:
    """One line of talk, on stderr."""
    click.echo(words, err=True)


def _absolute(group: dict[str, Any]) -> dict[str, Any]:
    """Paths as they will still be found from another folder; a data set's name is no path."""
    from pyro_vae.data import NAMED

    given = {name: group[name] for name in ("data", "data_root") if group[name] and group[name] not in NAMED}
    return {name: str(Path(path).resolve()) for name, path in given.items() if Path(path).exists()}


def _same_data(folder: Path, fingerprint: str) -> None:
    from pyro_vae.errors import InputError

    if read_config(folder)["about"]["fingerprint"] != fingerprint:
        raise InputError(
            f"{folder}: the data is not what it was when this run began; start a new run, or bring the old data back"
        )


def _forget_later_epochs(folder: Path) -> None:
    """Keep the metrics of the epochs that the fit will not repeat: after a crash the file may be ahead of them."""

    path = folder / CHECKPOINT
    rows = read_tensors(path)[1]["history"] if path.exists() else []
    write_lines(folder / METRICS, rows)


@contextmanager
def _sparing_the_run(what: str) -> Iterator[None]:
    """Inside, a picture that cannot be drawn is said, with its trace where asked for: what was trained is not lost."""
    try:
        yield
    except Exception as error:
        context = click.get_current_context(silent=True)
        if context is not None and context.params.get("debug"):
            traceback.print_exc()
        say(f"no more {what}: {type(error).__name__}: {' '.join(str(error).split())}; --debug shows where")


def _report(folder: Path, program: Any, data: Any, fitted: Any, board: Any, quiet: bool) -> dict[str, Any]:
    """Score the validation rows, draw the figures, and say what was found and where it lies."""
    from pyro_vae.cli.evaluate import score_split
    from pyro_vae.cli.print_tables import print_kl_apart, print_record
    from pyro_vae.errors import RowsError
    from pyro_vae.plots.fit_figures import write_figures
    from pyro_vae.plots.latent_manifold import why_no_manifold

    if hasattr(program, "to"):
        program.to("cpu")
    if board is not None:
        with _sparing_the_run("TensorBoard figures"):
            board.finish(program, data)
    try:
        record = score_split(program, data.valid, folder, VALID_DRAWS, sizes=(1, 5, 50)) | {"seconds": fitted.seconds}
    except RowsError as error:  # a program of the user's own whose rows have no weight of their own
        return _unscored(folder, fitted, str(error), quiet)
    figures = []
    with _sparing_the_run("figures"):
        figures = write_figures(folder / "figures", program, data, fitted.history, fitted.best_epoch)
    figures = figures or sorted((folder / "figures").glob("*.png"))
    path = folder / EVALUATION
    known = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, known | {"valid": record})  # last: its presence says that the run is complete
    if not quiet:
        ended = f"{len(fitted.history)} epochs in {fitted.seconds:.0f} s, stopped by {fitted.stopped}"
        print_record(record, f"Validation rows · {ended}, kept epoch {fitted.best_epoch}")
        print_kl_apart(fitted.history[fitted.best_epoch - 1].get("valid_kl_apart"))
        if fitted.advice:
            say(f"\nNote: {fitted.advice}")
        click.echo(f"\nWritten to {folder}/")
        click.echo("  config.toml  model.safetensors  metrics.jsonl  evaluation.json  checkpoint/")
        click.echo(f"  figures/     {'  '.join(path.name for path in figures)}")
        if missing := why_no_manifold(program, data):
            click.echo(f"  {missing}")
        if board is not None:
            click.echo(f"  {BOARD}/  tensorboard --logdir {folder / BOARD}")
        click.echo(f"\nNext: pyro-vae report {folder} makes a page to explore it in a browser;")
        click.echo(f"      pyro-vae evaluate {folder} scores the test rows, once all choices are made.")
    return record
