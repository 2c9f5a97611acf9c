"""Data larger than memory, measured: peak memory at two sizes, reading speed, and what a block shuffle costs the ELBO.

The results are in docs/big_data.md.
"""

import hashlib
import json
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas
import torch

import pyro_vae as pv
from pyro_vae.data.ondisk import rows_on_disk
from pyro_vae.data.ondisk.column_statistics import validate_rows
from pyro_vae.data.ondisk.split_on_disk import SplitOnDisk
from pyro_vae.data.prepare_rows import make_split
from pyro_vae.data.split import Split
from pyro_vae.data.table import Table
from pyro_vae.workflows.build_vae import build_vae
from pyro_vae.workflows.choose_likelihood import choose_likelihood
from pyro_vae.workflows.fit_settings import FitSettings

WIDTH = 784
FOLDER = click.option(
    "--folder", type=click.Path(path_type=Path), default=Path("big-data"), help="The folder for data files."
)
JSON = click.option("--json", "path", type=click.Path(path_type=Path), help="Where to write the numbers.")


@click.group()
def main() -> None:
    """Measurements of docs/big_data.md."""


NUM_COLUMNS = 20  # of the table of `scoring`


def table_rows(path: Path, num_rows: int, seed: int) -> Path:
    """Rows of 20 numbers (float32) on a curved sheet with noise, written in blocks; an existing file is used."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    rng, weights = np.random.default_rng(seed), np.random.default_rng(0).normal(size=(4, NUM_COLUMNS))
    with path.open("wb") as file:
        about: Any = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, NUM_COLUMNS)}
        np.lib.format.write_array_header_1_0(file, about)
        for start in range(0, num_rows, 100_000):
            size = min(100_000, num_rows - start)
            z, noise = rng.normal(size=(size, 2)), rng.normal(size=(size, NUM_COLUMNS))
            file.write((np.hstack([z, np.sin(2 * z)]) @ weights + 0.3 * noise).astype("<f4").data)
    return path


def synthetic(path: Path, num_rows: int) -> Path:
    """Rows of 784 bytes whose means depend on ten latents, written in blocks; an existing file is used."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(10, WIDTH)).astype(np.float32)
    with path.open("wb") as file:
        about: Any = {"descr": "|u1", "fortran_order": False, "shape": (num_rows, WIDTH)}
        np.lib.format.write_array_header_1_0(file, about)
        for start in range(0, num_rows, 10_000):
            z = rng.normal(size=(min(10_000, num_rows - start), 10)).astype(np.float32)
            file.write((255 / (1 + np.exp(-z @ weights))).astype(np.uint8).data)
    return path


MEASURED = """
import sys
from pathlib import Path
from pyro_vae.cli.main import _run
code = _run(sys.argv[2:])
Path(sys.argv[1]).write_text(Path("/proc/self/status").read_text("utf-8"), encoding="utf-8")
sys.exit(code)
"""  # a child's ru_maxrss starts at its parent's value, so VmHWM is read instead


def measure_peak(*words: str) -> tuple[float, float]:
    """Peak resident memory (MiB) and seconds of a command of pyro-vae, in a separate process; Linux only."""
    began = time.perf_counter()
    with tempfile.NamedTemporaryFile() as status:
        done = subprocess.run([sys.executable, "-c", MEASURED, status.name, *words], stdout=subprocess.DEVNULL)
        if done.returncode:
            raise click.ClickException(f"pyro-vae {' '.join(words)} ended with {done.returncode}")
        (line,) = (line for line in Path(status.name).read_text("utf-8").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024, time.perf_counter() - began


@main.command()
@FOLDER
@click.option("--rows", "sizes", type=int, multiple=True, default=(100_000, 2_000_000), help="Rows of the files.")
@click.option("--verbs", default="fit,encode,score,sample", help="Commands to measure, in this order.")
@click.option("--hidden", default=500)
@click.option("--batch-size", default=100)
@click.option("--num-samples", default=10, help="Draws for each row scored.")
@JSON
def memory(
    folder: Path, sizes: tuple[int, ...], verbs: str, hidden: int, batch_size: int, num_samples: int, path: Path | None
) -> None:
    """Fit one epoch to files of each size, then encode, score and sample as many rows: peak memory and rows/s."""
    found: dict[str, dict[int, tuple[float, float]]] = {}
    network_options = ["--hidden", str(hidden), "--batch-size", str(batch_size)]
    for num_rows in sizes:
        file, run = str(synthetic(folder / f"rows-{num_rows}.npy", num_rows)), str(folder / f"run-{num_rows}")
        shutil.rmtree(run, ignore_errors=True)
        words = {
            "fit": [
                "fit",
                "--data",
                file,
                "--stream",
                "--epochs",
                "1",
                "--latent-dim",
                "10",
                "--out",
                run,
                *network_options,
            ],
            "encode": ["encode", run, file, "--out", str(folder / "latents.npy")],
            "score": ["score", run, file, "--num-samples", str(num_samples)],
            "sample": ["sample", run, "--num", str(num_rows), "--out", str(folder / "samples.npy")],
        }
        for verb in verbs.split(","):
            peak, seconds = found.setdefault(verb, {})[num_rows] = measure_peak(*words[verb])
            click.echo(f"{verb:7} {num_rows:>10,} rows: peak {peak:6.0f} MiB, {num_rows / seconds:8.0f} rows/s")
    for verb, by_size in found.items():
        peaks = [peak for peak, _ in by_size.values()]
        click.echo(f"{verb:7} largest / smallest peak: {max(peaks) / min(peaks):.3f}")
    _write_json(path, {"threads": torch.get_num_threads(), "peak_mib_and_seconds": found})


@main.command()
@FOLDER
@click.option("--rows", "sizes", type=int, multiple=True, default=(100_000, 3_000_000), help="Rows of the files.")
@click.option("--num-samples", default=25, help="Draws for each row scored.")
@click.option("--method", default="is", help="is or auto, which takes about a hundred times as long for such rows.")
@click.option("--interrupt", default=0.3, help="At which share of the scoring's time it is interrupted, once more.")
@JSON
def scoring(
    folder: Path, sizes: tuple[int, ...], num_samples: int, method: str, interrupt: float, path: Path | None
) -> None:
    """Fit a table of 20 columns; encode and score files of each size; interrupt the last scoring, and resume it."""
    run, train = folder / "table-run", table_rows(folder / "table-train.npy", 20_000, 1)
    if not (run / "evaluation.json").exists():
        shutil.rmtree(run, ignore_errors=True)
        measure_peak("fit", "--data", str(train), "--out", str(run))
    found: dict[str, Any] = {}
    for num_rows in sizes:
        file = table_rows(folder / f"table-{num_rows}.npy", num_rows, 2)
        scores = folder / f"scores-{num_rows}.csv"
        words = ["score", str(run), str(file), "--num-samples", str(num_samples), "--out", str(scores)]
        words += ["--method", method]
        verbs = {"encode": ["encode", str(run), str(file), "--out", str(folder / "latents.npy")], "score": words}
        for verb, command in verbs.items():
            peak, seconds = measure_peak(*command)
            found[f"{verb} {num_rows}"] = {"peak_mib": peak, "seconds": seconds}
            click.echo(f"{verb:7} {num_rows:>10,} rows: peak {peak:6.0f} MiB, {num_rows / seconds:8.0f} rows/s")
    whole = hashlib.sha256(scores.read_bytes()).hexdigest()
    scores.unlink()
    process = subprocess.Popen(
        [sys.executable, "-m", "pyro_vae", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_interrupts,
    )
    time.sleep(interrupt * seconds)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1].strip().splitlines()
    click.echo(f"interrupted: exit code {process.returncode}, {said[-1]}; the file is there: {scores.exists()}")
    _, resumed = measure_peak(*words, "--resume")
    is_same = hashlib.sha256(scores.read_bytes()).hexdigest() == whole
    click.echo(f"resumed in {resumed:.0f} s, to the same bytes: {is_same}")
    found["resumed"] = {"exit_code": process.returncode, "said": said, "seconds": resumed, "same_bytes": is_same}
    _write_json(path, {"threads": torch.get_num_threads(), "num_samples": num_samples, **found})


def _heed_interrupts() -> None:
    """In a child: the signal that a process in the background of a shell ignores."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def frame_of(kind: str, num_rows: int) -> pandas.DataFrame:
    """60 columns of two latents: real ones; or 20 real, 10 each of positive, counts, two values and five levels."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(num_rows, 2)) @ rng.normal(size=(2, 60)) + rng.normal(size=(num_rows, 60))
    frame = pandas.DataFrame(values, columns=[f"c{i}" for i in range(60)])
    if kind == "real":
        return frame
    names = np.array(["red", "green", "blue", "black", "white"])
    for i in range(20, 60):
        column, group = values[:, i], i // 10
        if group == 2:
            frame[f"c{i}"] = np.exp(column / 2)
        elif group == 3:
            frame[f"c{i}"] = rng.poisson(np.exp(1 + column / 3))
        else:
            frame[f"c{i}"] = column > 0 if group == 4 else names[np.digitize(column, [-2, -0.5, 0.5, 2])]
    return frame


@main.command()
@click.option("--rows", "num_rows", default=200_000)
@click.option("--epochs", default=3, help="The first is not counted: graphs are recorded in it.")
@click.option("--turns", default=5, help="Of both, one after the other; the median of their ratios counts.")
@click.option("--compile", "compiled", is_flag=True)
@click.option("--kind", type=click.Choice(["real", "mixed"]), help="One of them, in this process.")
@JSON
def columns(num_rows: int, epochs: int, turns: int, compiled: bool, kind: str | None, path: Path | None) -> None:
    """An epoch of 60 columns of several kinds against 60 real ones, by default: processor time and peak memory."""
    if kind is None:
        _write_json(path, _ratio_in_turns(num_rows, epochs, turns, compiled))
        return
    torch.set_num_threads(1)
    data, ends = pv.load_data(frame_of(kind, num_rows)), []
    settings = FitSettings.from_options({"epochs": epochs})
    settings = settings.with_table_defaults({"epochs"}, data.num_features, len(data.train))
    vae = build_vae(settings.model, choose_likelihood(settings.model, data), data, 0, data.has_missing)
    more: dict[str, Any] = {"compile": True} if compiled else {}
    pv.fit(
        vae,
        data.train,
        settings.training,
        valid=data.valid,
        on_epoch=lambda _: ends.append(time.process_time()),
        **more,
    )
    seconds = float(np.median(np.diff(ends)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    click.echo(f"{kind}: {seconds:.1f} s of processor time an epoch of {len(data.train):,} rows, peak {peak:.0f} MiB")
    _write_json(path, {"kind": kind, "seconds": seconds, "peak_mib": peak})


def _ratio_in_turns(num_rows: int, epochs: int, turns: int, compiled: bool) -> dict[str, Any]:
    """Each kind in a process of its own, in turns, and the median of their ratios."""
    found: dict[str, list[dict[str, Any]]] = {"real": [], "mixed": []}
    for _ in range(turns):
        for kind, measured in found.items():
            with tempfile.NamedTemporaryFile(suffix=".json") as file:
                words = ["--rows", str(num_rows), "--epochs", str(epochs), "--kind", kind, "--json", file.name]
                words += ["--compile"] * compiled
                subprocess.run([sys.executable, __file__, "columns", *words], check=True)
                measured.append(json.load(file))
    ratios = [mixed["seconds"] / real["seconds"] for real, mixed in zip(found["real"], found["mixed"], strict=True)]
    click.echo(f"mixed ÷ real: {', '.join(f'{ratio:.2f}' for ratio in ratios)}; median {np.median(ratios):.2f}")
    return {"ratios": ratios, "median": float(np.median(ratios)), **found}


@main.command()
@FOLDER
@click.option("--rows", "num_rows", default=2_000_000)
@click.option("--batch-size", default=100)
@JSON
def reading(folder: Path, num_rows: int, batch_size: int, path: Path | None) -> None:
    """Rows per second that one thread reads in a block shuffle, and reads and binarizes, without a model."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    train = pv.load_data(synthetic(folder / f"rows-{num_rows}.npy", num_rows), stream=True).train
    found = {"rows": num_rows, "open_seconds": time.perf_counter() - began}
    began = time.perf_counter()
    train.mean  # noqa: B018
    found["mean_seconds"] = time.perf_counter() - began
    for name in ("order", "read", "read and binarized"):
        generator, began = torch.Generator().manual_seed(0), time.perf_counter()
        for index in train.batches(batch_size, generator):
            if name == "read":
                assert isinstance(train.stored, rows_on_disk.RowsOnDisk)
                train.stored.read_from_window(index)
            elif name != "order":
                train.batch(index, generator)
        found[name] = len(train) / (time.perf_counter() - began)
    for name, value in found.items():
        click.echo(f"{name:20} {value:12,.1f}")
    _write_json(path, found)


@dataclass(frozen=True, eq=False, repr=False)
class InFileOrder(SplitOnDisk):
    """No shuffle at all, for comparison."""

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
        return iter(torch.arange(len(self)).split(batch_size))


@main.command()
@FOLDER
@click.option("--data-root", type=click.Path(), help="The folder that holds torchvision's MNIST.")
@click.option("--epochs", default=5)
@click.option("--seeds", default=3)
@JSON
def shuffle(folder: Path, data_root: str | None, epochs: int, seeds: int, path: Path | None) -> None:
    """The effect of the order of rows on the validation ELBO: full MNIST, in original order and sorted by label."""
    mnist, found = pv.load_data("mnist", root=data_root), {}
    assert mnist.train.labels is not None
    for words, order in {"sorted by label": mnist.train.labels.argsort(stable=True), "original order": None}.items():
        rows = mnist.train.stored if order is None else mnist.train.stored[order]
        for windows, blocks in ((1, 64), (8, 64), (100, 64), (8, 8), (0, 0)):
            if order is None and windows not in (8, 0):
                continue
            name = f"{words}, {_describe_order(windows, blocks)}"
            scores = [
                _elbo(_split_on_disk(folder, rows, mnist.train, windows, blocks), mnist.valid, epochs, seed)
                for seed in range(seeds)
            ]
            found[name] = scores
            apart = np.subtract(scores, next(iter(found.values())))
            se = apart.std(ddof=1) / seeds**0.5
            click.echo(f"{name:60} {np.mean(scores):8.2f}   from full shuffle {apart.mean():+.2f} ± {se:.2f}")
    _write_json(path, found)


def _describe_order(windows: int, blocks: int) -> str:
    if not windows:
        return "no shuffle"
    return "full shuffle" if windows == 1 else f"{windows} windows of {blocks} blocks"


def _split_on_disk(folder: Path, rows: torch.Tensor, like: Split, windows: int, blocks: int) -> Split:
    """Rows in a file, in a block shuffle with this number of windows in an epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "mnist.npy"
    np.save(file, rows.numpy())
    rows_on_disk.BLOCK_BYTES = max(1, round(len(rows) / max(1, windows * blocks))) * WIDTH
    rows_on_disk.WINDOW_BYTES = max(1, blocks) * rows_on_disk.BLOCK_BYTES
    split = make_split("train", Table(validate_rows(rows_on_disk.rows_from_npy(file), file)), like.measure)
    split = replace(split, image_shape=like.image_shape)
    return split if windows else InFileOrder(**{name: getattr(split, name) for name in Split.__dataclass_fields__})


def _elbo(train: Split, valid: Split, epochs: int, seed: int) -> float:
    torch.manual_seed(seed)
    likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(10, 200, WIDTH))
    vae = pv.VAE(pv.priors.StandardNormal(10), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(WIDTH, 200, 20)))
    fitted = pv.fit(vae, train, valid=valid, epochs=epochs, seed=seed, progress="none")
    return float(fitted.history[-1]["valid_elbo"])


def _write_json(path: Path | None, found: Any) -> None:
    if path is not None:
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
