"""What `pyro-vae compare --preset ae-vs-vae` does: encoders of several sizes on the same rows, tables and pictures."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import click

from pyro_vae.atomic_write import read_tensors, write_json, write_tensors
from pyro_vae.cli.print_tables import print_by_size, print_rolls
from pyro_vae.comparison.learning_curves import first_rows
from pyro_vae.data import Dataset, Split
from pyro_vae.errors import InputError
from pyro_vae.evidence.evidence_record import KEYS
from pyro_vae.models.pca import MAX_ROWS
from pyro_vae.runs import new_run
from pyro_vae.serialization import load, save
from pyro_vae.studies.autoencoder_vs_vae import (
    KINDS,
    Training,
    evaluate_encoder,
    fit_encoder,
    in_pixels,
    num_parameters,
    over_seeds,
)
from pyro_vae.studies.autoencoder_vs_vae_figures import draw_encoders
from pyro_vae.studies.swiss_roll import UnrolledSheet, fit_swiss_roll
from pyro_vae.workflows.compare_models import DATA_SETTINGS, clear_away, same_settings
from pyro_vae.workflows.data_and_likelihood import load_dataset
from pyro_vae.workflows.fit_run import say

TABLE, FITTED = "comparison.json", "fit.json"
NETWORKS = ("ae", "vae")  # whose fit depends on a seed
MIN_ROWS = 10  # of the split, for neighbours


def compare_encoders(settings: dict[str, Any], quiet: bool) -> list[dict[str, Any]]:
    """Fit every kind of encoder in every size, measure its latent space, write and print tables, draw the pictures."""
    began = time.perf_counter()
    data = _data(settings)
    rows = data.split(settings["split"])
    rows = rows if settings["num_rows"] is None else rows.head(settings["num_rows"])
    sizes = sorted(set(settings["latent_dim"]))
    _check(data, rows, sizes)
    if settings["out"] is not None and settings["out"].is_file():
        raise InputError(f"{settings['out']} is a file: name a folder that is new or empty")
    made = settings["out"] is None or not settings["out"].exists()
    folder = settings["out"] or new_run(Path("runs"), "ae-vs-vae")
    same_settings(folder, settings, data)
    talk: Callable[[str], None] = (lambda words: None) if quiet else say
    talk(f"{data.name}: fitted to {len(data.train):,} rows, measured on {len(rows):,} {rows.name} rows")
    talk(f"results go to {folder}; Ctrl-C keeps what is done, and the same command with --out {folder} goes on")
    training = Training(
        hidden=tuple(settings["hidden"]),
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        denoising=settings["denoising"],
    )
    try:
        found = list(_measured(folder, data, rows, sizes, settings, training, talk))
    except InputError:
        if made:
            clear_away(folder, FITTED)
        raise
    pixels = in_pixels(data, rows)
    rolls = [_rolled(folder / f"roll-{kind}", kind, settings["seed"], talk) for kind in KINDS * settings["roll"]]
    table = over_seeds(found)
    records = [_record(one, rows) for one in found]
    write_json(folder / TABLE, {"rows": records, "knn_accuracy_in_x": pixels})
    if not quiet:
        print_by_size(table, rows, pixels)
        if rolls:
            print_rolls(rolls)
    models = {kind: _model(folder, kind, sizes[0], settings["seed"], data, training)[0] for kind in KINDS}
    pictures = draw_encoders(folder / "figures", table, models, data, rows, rolls, pixels)
    if not quiet:
        click.echo(f"\nWritten to {folder}/ in {time.perf_counter() - began:.0f} s")
        click.echo(f"  {TABLE}  " + "  ".join(f"figures/{path.name}" for path in pictures))
    return records


def _data(settings: dict[str, Any]) -> Dataset:
    """Pictures in grey levels, tables standardized; the first training rows where fewer are asked for."""
    chosen = {name: settings[name] for name in DATA_SETTINGS} | {"missing": "refuse", "dequantize": False}
    data = load_dataset(chosen, "normal")
    if len(settings["train_rows"]) > 1:
        raise InputError("ae-vs-vae goes through sizes of the latent space: give --train-rows once")
    for number in settings["train_rows"]:
        if number > len(data.train):
            raise InputError(f"there are {len(data.train)} training rows, fewer than --train-rows {number}")
        data = first_rows(data, number)
    return data


def _check(data: Dataset, rows: Split, sizes: list[int]) -> None:
    if data.train.measure.binarize != "none":
        raise InputError(
            f"{data.name}: squared errors are of grey levels or real numbers, not of drawn bits: leave out --binarize"
        )
    if rows.mask is not None:
        raise InputError(
            f"{data.name}: values are missing, which principal components cannot see past: fill them first"
        )
    if len(rows) <= max(MIN_ROWS, sizes[-1]):
        raise InputError(
            f"{len(rows)} {rows.name} rows are too few to see {sizes[-1]} latents by: take more rows, or a smaller "
            "--latent-dim"
        )
    most = min(data.num_features, len(data.train)) - 1
    if sizes[-1] > most:
        raise InputError(f"{sizes[-1]} latents for {data.num_features} columns: try --latent-dim {most} or fewer")
    if len(data.train) > MAX_ROWS:
        raise InputError(
            f"kernel PCA needs a matrix of N × N numbers, too many for {len(data.train):,} rows: add --train-rows 5000"
        )


def _measured(
    folder: Path,
    data: Dataset,
    rows: Split,
    sizes: list[int],
    settings: dict[str, Any],
    training: Training,
    talk: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """What is found of every encoder with every seed; networks are fitted anew for each, principal components once."""
    for number, (size, kind) in enumerate(product(sizes, KINDS)):
        model, seconds = None, 0.0
        for seed in range(settings["seed"], settings["seed"] + settings["seeds"]):
            path = folder / f"{kind}-{size}-{seed}" / f"{rows.name}.json"
            if not path.exists():
                if model is None or kind in NETWORKS:
                    talk(f"{number + 1}/{len(sizes) * len(KINDS)} {kind}, {size} latents, seed {seed}")
                    model, seconds = _model(folder, kind, size, seed, data, training)
                about = {"kind": kind, "num_latents": size, "seed": seed, "seconds": seconds}
                numbers = evaluate_encoder(model, data, rows, seed=seed)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, about | {"num_parameters": num_parameters(model)} | numbers)
            yield json.loads(path.read_text())


def _model(folder: Path, kind: str, size: int, seed: int, data: Dataset, training: Training) -> tuple[Any, float]:
    """An encoder and the seconds its fit took, now or by a comparison that was interrupted."""
    place = folder / f"{kind}-{size}-{seed}"
    if (place / FITTED).exists():
        return load(place), json.loads((place / FITTED).read_text())["seconds"]
    model, seconds = fit_encoder(kind, size, data, training, seed)
    if kind in NETWORKS:
        save(model, place)
        write_json(place / FITTED, {"seconds": seconds})
    return model, seconds


def _rolled(folder: Path, kind: str, seed: int, talk: Callable[[str], None]) -> UnrolledSheet:
    path = folder / "roll.safetensors"
    if path.exists():
        tensors, about = read_tensors(path)
        return UnrolledSheet(codes=tensors["codes"], sheet=tensors["sheet"], **about)
    talk(f"the swiss roll by {kind}")
    found = fit_swiss_roll(kind, seed)
    about = {name: value for name, value in asdict(found).items() if name not in ("codes", "sheet")}
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(path, {"codes": found.codes, "sheet": found.sheet}, about)
    return found


def _record(found: dict[str, Any], rows: Split) -> dict[str, Any]:
    way = "svi" if found["kind"] in NETWORKS else "closed-form"
    known = {"model": f"{found['kind']}:{found['num_latents']}", "way": way, "split": rows.name, "num_data": len(rows)}
    return dict.fromkeys(KEYS) | known | {name: value for name, value in found.items() if name != "kind"}
