"""Time pyro_vae and other implementations of the same model (arms) alternately, each in a separate process.

    python scripts/benchmark.py epoch [--data mnist --data-root DIR] [--rows 60000] [--turns 7] [--figure FILE]
    python scripts/benchmark.py elbo --out elbo.jsonl        # seconds to a validation ELBO, at five learning rates
    python scripts/benchmark.py sizes --out sizes.jsonl      # batch, latents, hidden units; resumes from the file
    python scripts/benchmark.py evidence                     # log_evidence against the decoder's products
    python scripts/benchmark.py em                           # EM and scikit-learn's, over rows and components
    python scripts/benchmark.py start-up                     # --help, import, a first step

The other libraries come with `pip install -c constraints.txt -e '.[bench]'`; one that is not installed is named in
the output. The arms are timed alternately, once in each turn, and figures are medians over turns: timings are noisy,
and only ratios carry over to other machines. docs/speed.md says what is compared, and how.
"""

import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import benchmark_arms as arms
import benchmark_peers as peers
import click
from benchmark_report import BARS, machine, plot_medians, ratio, record, table, tables_of_marks, verdict
from benchmark_turns import Arm, Case, MixtureCase, interleave

EPOCH: dict[str, Arm] = {
    "floor": arms.products,
    "by hand": arms.by_hand,
    "by hand, compiled": partial(arms.by_hand, compiled=True),
    "pyro_vae": arms.ours,
    "pyro_vae --compile": partial(arms.ours, compiled=True),
    "pyro_vae (handlers)": partial(arms.ours, compiled=False),
    "pyro": peers.stock_pyro,
    "pyro, jit": partial(peers.stock_pyro, jit=True),
    "pyro, fused": partial(peers.stock_pyro, fused=True),
    "numpyro": peers.numpyro_jitted,
    "pythae": peers.pythae_trainer,
    "pythae, fused": partial(peers.pythae_trainer, fused=True),
}
ELBO = {name: arm for name, arm in EPOCH.items() if name != "floor"} | {
    "pyro_vae, one-cycle": partial(arms.ours, schedule="one-cycle")
}
EVIDENCE: dict[str, Arm] = {"floor": arms.decoder_products, "pyro_vae": arms.evidence}
EM: dict[str, Arm] = {
    "scikit-learn": peers.scikit_learn,
    "pyro_vae": arms.em,
    "pyro_vae, rebuilt": partial(arms.em, memory_mib=1.0),
}
SIZES = {
    "batch_size": (32, 100, 256, 1024, 4096),
    "latent_dim": (2, 20, 50, 200),
    "hidden": (200, 500, 1000, 2000),
}
FIRST_STEP = """
import pyro_vae as pv
data = pv.load_data("mnist-5k")
guide, decoder = pv.guides.MeanFieldNormal(pv.nets.mlp(784, 500, 4)), pv.nets.mlp(2, 500, 784)
vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(decoder), guide)
pv.fit(vae, data.train.head(100), epochs=1, progress="none")
"""
START_UP = {
    "pyro-vae --help": ["-m", "pyro_vae", "--help"],
    "import pyro": ["-c", "import pyro"],
    "import pyro_vae": ["-c", "import pyro_vae"],
    "a first step": ["-c", FIRST_STEP],
}


def time_cases(
    command: str,
    table_of_arms: dict[str, Arm],
    cases: list[Any],
    names: str | None,
    turns: int,
    out: Path | None,
    as_json: bool,
    figure_path: Path | None,
    report: Callable[[dict[str, Any]], str] = table,
) -> list[dict[str, Any]]:
    """Time each case, or read its result from the file; print, store and plot the results, and return them."""
    wanted = [name.strip() for name in names.split(";")] if names else list(table_of_arms)
    if unknown := [name for name in wanted if name not in table_of_arms]:
        raise click.BadParameter(f"no arm called {unknown[0]!r}; try {'; '.join(table_of_arms)}")
    chosen, results = {name: table_of_arms[name] for name in wanted}, []
    kept = (
        [json.loads(line) for line in out.read_text("utf-8").splitlines()] if out is not None and out.exists() else []
    )
    for case in cases:
        same = [k for k in kept if (k["command"], k["case"], k["turns"], [*k["arms"]]) ==
                (command, asdict(case), turns, wanted)]  # fmt: skip
        result = same[0] if same else record(command, case, interleave(chosen, case, turns), turns)
        if out is not None and not same:
            with out.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(result) + "\n")
        results.append(result)
        click.echo(json.dumps(result) if as_json else report(result) + "\n")
    if figure_path is not None:
        plot_medians(results, figure_path)
    return results


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of every timing."""
    for option in (
        click.option("--arms", "names", help="Only these arms, separated by semicolons."),
        click.option("--turns", default=5, show_default=True, help="Timed turns, after one that is not counted."),
        click.option("--threads", default=2, show_default=True, help="Threads and cores of every process."),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            help="Write each result as a line of JSON, and resume from this file.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table."),
        click.option("--figure", "figure_path", type=click.Path(path_type=Path), help="Where to write a figure."),
    ):
        command = option(command)
    return command


def data_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--data",
            default="mnist-5k",
            show_default=True,
            help="A data set; its rows are repeated where --rows is larger.",
        ),
        click.option("--data-root", type=click.Path(exists=True)),
        click.option("--latent-dim", default=20, show_default=True),
        click.option("--hidden", default=500, show_default=True),
        click.option("--device", default="cpu", show_default=True),
    ):
        command = option(command)
    return command


def numbers(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    return [int(part) for part in value.split(",")]


@click.group()
def cli() -> None:
    """Time pyro_vae and other implementations of the same model."""


@cli.command()
@options
@data_options
@click.option("--rows", default=60_000, show_default=True, help="Training rows; validation has a twelfth as many.")
@click.option("--batch-size", default=100, show_default=True)
def epoch(rows: int, batch_size: int, latent_dim: int, hidden: int, data: str, data_root: str | None, threads: int,
          device: str, **how: Any) -> None:  # fmt: skip
    """A whole training epoch, with binarization and validation. Value: the validation ELBO after the last turn."""
    case = Case(rows, batch_size, latent_dim, hidden, 0, data, data_root, threads, device)
    time_cases("epoch", EPOCH, [case], **how)


def decimals(ctx: click.Context, param: click.Parameter, value: str) -> list[float]:
    return [float(part) for part in value.split(",")]


@cli.command()
@options
@data_options
@click.option("--rows", default=55_000, show_default=True, help="Training rows; validation has a twelfth as many.")
@click.option("--batch-size", default=100, show_default=True)
@click.option("--rates", default="0.0005,0.001,0.002,0.005,0.01", show_default=True, callback=decimals)
@click.option("--marks", default="-105,-101,-99.5", show_default=True, callback=decimals, help="Validation ELBOs.")
def elbo(rows: int, batch_size: int, rates: list[float], marks: list[float], latent_dim: int, hidden: int, data: str,
         data_root: str | None, threads: int, device: str, as_json: bool, **how: Any) -> None:  # fmt: skip
    """Seconds to a validation ELBO, with the same optimizer, batch and rate, and at each arm's best rate.

    A turn is an epoch; the time of the first, with compilation, counts too. Rates are constant, but for one arm.
    """
    cases = [Case(rows, batch_size, latent_dim, hidden, 0, data, data_root, threads, device, rate) for rate in rates]
    about = lambda result: f"learning rate {result['case']['learning_rate']:g}: measured"  # noqa: E731
    results = time_cases("elbo", ELBO, cases, as_json=as_json, report=about, **how)
    if not as_json:
        click.echo(tables_of_marks(results, marks))


@cli.command()
@options
@data_options
@click.option("--rows", default=20_000, show_default=True)
@click.option("--batch-size", default=100, show_default=True)
@click.option("--vary", default=",".join(SIZES), show_default=True, help="Vary each of these, the others fixed.")
def sizes(rows: int, batch_size: int, latent_dim: int, hidden: int, data: str, data_root: str | None, threads: int,
          device: str, vary: str, **how: Any) -> None:  # fmt: skip
    """An epoch over batch sizes, latents and hidden units, one varied at a time."""
    given = {"batch_size": batch_size, "latent_dim": latent_dim, "hidden": hidden}
    cells = [given, *(given | {name: size} for name in vary.split(",") for size in SIZES[name])]
    cases = dict.fromkeys(Case(rows, **cell, data=data, data_root=data_root, threads=threads, device=device)
                          for cell in cells)  # fmt: skip
    time_cases("sizes", EPOCH, list(cases), **how)


@cli.command()
@options
@data_options
@click.option("--rows", default=500, show_default=True)
@click.option("--num-samples", default=1000, show_default=True)
def evidence(rows: int, num_samples: int, latent_dim: int, hidden: int, data: str, data_root: str | None, threads: int,
             device: str, **how: Any) -> None:  # fmt: skip
    """`log_evidence` and the decoder's matrix products. Value: mean log p(x) of a briefly trained VAE."""
    case = Case(rows, 100, latent_dim, hidden, num_samples, data, data_root, threads, device)
    time_cases("evidence", EVIDENCE, [case], **how)


@cli.command()
@options
@click.option("--rows", default="60000", show_default=True, callback=numbers)
@click.option("--components", default="50", show_default=True, callback=numbers)
@click.option("--columns", default=50, show_default=True)
def em(rows: list[int], components: list[int], columns: int, threads: int, **how: Any) -> None:
    """An iteration of EM for a mixture of normals with full covariances, for every combination of sizes."""
    time_cases(
        "em", EM, [MixtureCase(N, columns, K, threads=threads) for N, K in itertools.product(rows, components)], **how
    )


@cli.command("start-up")
@click.option("--turns", default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def start_up(turns: int, as_json: bool) -> None:
    """Seconds of short processes from start to end, one with a first training step."""
    found: dict[str, Any] = {name: {"seconds": []} for name in START_UP}
    for _ in range(turns + 1):
        for name, arguments in START_UP.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            found[name]["seconds"].append(time.perf_counter() - began)
    for values in found.values():
        values["first"] = values["seconds"].pop(0)  # files were read from the disk
        values["median"] = statistics.median(values["seconds"])
    bars = [ratio(found, *bar) for bar in BARS["start-up"]]
    if as_json:
        click.echo(json.dumps({"command": "start-up", "arms": found, "bars": bars, "machine": machine()}))
        return
    for name, values in found.items():
        low, high = min(values["seconds"]), max(values["seconds"])
        click.echo(f"{name}: {values['median']:.2f} s (turns {low:.2f} to {high:.2f})")
    click.echo("\n".join(map(verdict, bars)))


if __name__ == "__main__":
    cli()
