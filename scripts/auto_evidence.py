"""Accuracy and cost of `pv.auto_evidence`: on MNIST against long annealing, and the coverage of its intervals.

The MNIST runs are those of `scripts/reproduce.py fit`, or any run's folder. Each slow result is stored and not
computed again:

    python scripts/auto_evidence.py annealed --data-root DIR [--arms plain-0,vamp-0] [--runs runs/mnist]
    python scripts/auto_evidence.py mnist --data-root DIR [--arms plain-0,vamp-0]       # the table
    python scripts/auto_evidence.py coverage [--repeats 2000] [--out runs/coverage.json]
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.atomic_write import read_json, write_json
from pyro_vae.evidence.auto_evidence import AutoEvidence
from pyro_vae.evidence.pareto_smoothing import khat_limit
from pyro_vae.typing import Program

CHAINS, LEAPFROG = 16, 5


def names(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
    return value.split(",")


RUNS = click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/mnist"), show_default=True)
ROOT = click.option("--data-root", type=click.Path(), help="The folder that holds torchvision's data sets.")
ARMS = click.option("--arms", default="plain-0,vamp-0,flow-prior-0,flow-guide-0", callback=names, show_default=True)
SPLIT = click.option("--split", type=click.Choice(["valid", "test"]), default="valid", show_default=True)
ROWS = click.option("--rows", default=250, show_default=True, help="The first rows of the split.")
TEMPERATURES = click.option("--temperatures", default=300, show_default=True, help="And twice as many.")


@click.group()
def cli() -> None:
    """Measure what `pv.auto_evidence` reaches, and what it costs."""


def stored(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A result from its file, computed and written where there is none."""
    if not path.exists():
        write_json(path, compute())
    found: dict[str, Any] = read_json(path)
    return found


def annealed_rows(folder: Path, x: Tensor, split: str, temperatures: int) -> dict[str, Any]:
    """log p(x) by annealing, of each row."""

    def compute() -> dict[str, Any]:
        began = time.perf_counter()
        found = pv.annealed_evidence(pv.load(folder), x, temperatures, num_chains=CHAINS, num_leapfrog=LEAPFROG)
        seconds = time.perf_counter() - began
        return {"log_px": found.log_px.tolist(), "mc_se": found.mc_se.tolist(), "seconds": seconds}

    return stored(folder / f"annealed-rows-{split}-{len(x)}-{temperatures}.json", compute)


def two_bounds(folder: Path, simulated: int, num_features: int, temperatures: int) -> dict[str, Any]:
    """By how much the two bounds of annealing differ on rows of the model."""

    def compute() -> dict[str, Any]:
        found = pv.bidirectional(
            pv.load(folder),
            simulated,
            temperatures,
            num_features=num_features,
            num_chains=CHAINS,
            num_leapfrog=LEAPFROG,
        )
        return {"gap": found.gap, "gap_se": found.gap_se}

    return stored(folder / f"two-bounds-{simulated}-{temperatures}.json", compute)


@cli.command()
@RUNS
@ROOT
@ARMS
@SPLIT
@ROWS
@TEMPERATURES
@click.option("--simulated", default=50, show_default=True, help="Rows simulated from each model.")
def annealed(
    runs: Path, data_root: str | None, arms: list[str], split: str, rows: int, temperatures: int, simulated: int
) -> None:
    """Anneal the rows with two numbers of temperatures, and simulated rows between two bounds."""
    x = pv.load_data("mnist", root=data_root).split(split)[:rows]
    for arm in arms:
        gap = two_bounds(runs / arm, simulated, x.shape[1], temperatures)
        first, second = (annealed_rows(runs / arm, x, split, n) for n in (temperatures, 2 * temperatures))
        moved = torch.tensor(second["log_px"]) - torch.tensor(first["log_px"])
        click.echo(f"{arm}: bounds {gap['gap']:.3f} apart; twice the temperatures {moved.mean():+.4f}")


@cli.command()
@RUNS
@ROOT
@ARMS
@SPLIT
@ROWS
@TEMPERATURES
@click.option("--simulated", default=50, show_default=True)
@click.option("--num-samples", default=1000, show_default=True)
@click.option("--turns", default=3, show_default=True, help="Times that both are timed, in turn.")
def mnist(
    runs: Path,
    data_root: str | None,
    arms: list[str],
    split: str,
    rows: int,
    temperatures: int,
    simulated: int,
    num_samples: int,
    turns: int,
) -> None:
    """The table: draws of the guide, `auto_evidence` and annealing for the same rows."""
    x = pv.load_data("mnist", root=data_root).split(split)[:rows]
    click.echo(
        "| model | annealing, 600 | two bounds apart | doubling moves | draws of the guide | k-hat bad | auto "
        "| below annealing | k-hat bad | rows by stage | densities | time to the guide's |\n" + "|---" * 12 + "|"
    )
    for arm in arms:
        folder = runs / arm
        gap = two_bounds(folder, simulated, x.shape[1], temperatures)
        first, second = (annealed_rows(folder, x, split, n) for n in (temperatures, 2 * temperatures))
        reference, coarse = torch.tensor(second["log_px"]), torch.tensor(first["log_px"])
        program, ratios = pv.load(folder), []
        for _ in range(turns):
            began = time.perf_counter()
            guide = pv.log_evidence(program, x, num_samples)
            middle = time.perf_counter()
            auto = pv.auto_evidence(program, x, num_samples)
            ratios.append((time.perf_counter() - middle) / (middle - began))
        assert isinstance(auto, AutoEvidence)
        apart = reference - auto.log_px
        stages = "/".join(str(auto.stages.get(stage, 0)) for stage in ("modes", "more modes", "annealing"))
        click.echo(
            f"| {arm} | {reference.mean():.2f} | {gap['gap']:.2f} ± {gap['gap_se']:.2f} "
            f"| {(reference - coarse).mean():+.3f} | {guide.log_px_mean:.2f} | {guide.khat_bad:.0%} "
            f"| {auto.log_px_mean:.2f} ± {auto.log_px_mc_se:.3f} | {apart.mean():+.3f} ± "
            f"{apart.std() / math.sqrt(len(apart)):.3f} | {auto.khat_bad:.0%} | {stages} | {auto.densities:.0f} "
            f"| {sorted(ratios)[turns // 2]:.2f} |"
        )


@dataclass(frozen=True)
class Cell:
    """A program and rows whose log p(x) is known."""

    program: Program
    x: Tensor
    exact: Tensor


def linear_gaussian(K: int, width: float, shift: float) -> Cell:
    """z ~ N(0, I_K), x | z ~ N(Wz + b, 0.5²); a guide of another width, and `shift` posterior deviations off."""
    generator = torch.Generator().manual_seed(K)
    D, noise = 12, 0.5
    W = torch.randn(D, K, generator=generator, dtype=torch.float64) / math.sqrt(K)
    precision = torch.eye(K, dtype=torch.float64) + W.T @ W / noise**2
    covariance = torch.linalg.inv(precision)
    gain, sd = (covariance @ W.T / noise**2).float(), covariance.diagonal().sqrt().float()
    W32 = W.float()

    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(K), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ W32.T, noise).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x @ gain.T + shift * sd, width * sd).to_event(1))

    marginal = torch.distributions.MultivariateNormal(
        torch.zeros(D, dtype=torch.float64), W @ W.T + noise**2 * torch.eye(D, dtype=torch.float64)
    )
    x = (
        torch.randn(20, D, generator=generator, dtype=torch.float64)
        @ torch.linalg.cholesky(marginal.covariance_matrix).mT
    ).float()
    return Cell(pv.Program(model, guide), x, marginal.log_prob(x.double()))


def by_grid(model: Callable[[Tensor], None], guide: Callable[[Tensor], None], x: Tensor) -> Cell:
    program = pv.Program(model, guide)
    return Cell(program, x, pv.exact_evidence(program, x).log_px)


def bent() -> Cell:
    """z ~ N(0, I₂), x | z ~ N(z₂ + z₁² − 1, 0.3²), and a guide that looks at one half of the parabola."""

    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal((z[..., 1] + z[..., 0].square() - 1)[..., None], 0.3).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(torch.tensor([1.0, 0.0]), 0.4).to_event(1).expand([len(x)]))

    return by_grid(model, guide, torch.linspace(-2.0, 3.0, 10)[:, None])


def funnel() -> Cell:
    """z ~ N(0, I₂), x | z ~ N(z₂, exp(z₁)²) four times: the scale is a latent."""

    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., 1:], z[..., :1].exp()).expand([*z.shape[:-1], 4]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            loc = torch.stack([x.std(-1).log(), x.mean(-1)], -1)
            pyro.sample("z", dist.Normal(loc, 0.3).to_event(1))

    return by_grid(model, guide, torch.randn(10, 4, generator=torch.Generator().manual_seed(0)))


def pixels() -> Cell:
    """A VAE with two latents and Bernoulli pixels, not fitted, whose encoder knows nothing."""
    torch.manual_seed(0)
    decoder = pv.nets.mlp(2, 16, 30)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(3.0)
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(decoder),
        pv.guides.MeanFieldNormal(pv.nets.mlp(30, 16, 4)),
    )
    x = (torch.rand(10, 30, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    return Cell(vae, x, pv.exact_evidence(vae, x).log_px)


def two_modes() -> Cell:
    """z ~ N(0, I₃), x | z ~ N((|z₁|, z₂), 0.1²): two equal modes, of which the guide knows one."""

    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            mean = torch.stack([z[..., 0].abs(), z[..., 1]], -1)
            pyro.sample("x", dist.Normal(mean, 0.1).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            loc = torch.stack([x[:, 0], x[:, 1], torch.zeros(len(x))], -1)
            pyro.sample("z", dist.Normal(loc, torch.tensor([0.1, 0.1, 1.0])).to_event(1))

    sd, correlation = math.sqrt(1.01), 0.1**2 + 1
    x = torch.tensor([[1.5, 0.3], [0.8, -1.0], [1.1, 0.0], [2.0, 1.0]])
    half = dist.Normal(0.0, sd)
    # p(x₁) = ∫ N(z) N(x₁; |z|, 0.1²) dz = 2 N(x₁; 0, 1.01) Φ(the mean of z | x₁ in its deviations)
    inside = torch.special.ndtr(x[:, 0].double() / correlation / (0.1 / sd))
    exact = math.log(2) + half.log_prob(x[:, 0].double()) + inside.log() + half.log_prob(x[:, 1].double())
    return Cell(pv.Program(model, guide), x, exact)


GUIDES = {"three times too wide": (3.0, 0.0), "0.3 of the width": (0.3, 0.0), "two deviations off": (0.7, 2.0)}
CELLS: dict[str, Callable[[], Cell]] = {
    f"linear-Gaussian, K = {K}, guide {words}": (lambda K=K, off=off: linear_gaussian(K, *off))
    for K in (1, 2, 5, 10, 20)
    for words, off in GUIDES.items()
} | {
    "bent, half of it in the guide": bent,
    "location and scale": funnel,
    "Bernoulli pixels, an encoder that knows nothing": pixels,
    "two equal modes, one in the guide": two_modes,
}


def coverage_of(cell: Cell, repeats: int, num_samples: int) -> dict[str, Any]:
    """How often 95 % intervals hold the exact value, by `auto_evidence` and by draws of the guide."""
    copies = -(-repeats // len(cell.x))
    x, exact = cell.x.repeat(copies, 1), cell.exact.repeat(copies)
    auto = pv.auto_evidence(cell.program, x, num_samples, exact=False)
    guide = pv.log_evidence(cell.program, x, num_samples)
    assert isinstance(auto, AutoEvidence)

    def share(found: Any, rows: Tensor) -> float | None:
        held = (found.log_px - exact).abs() <= 1.96 * found.mc_se
        return float(held[rows].double().mean()) if rows.any() else None

    good = guide.khat <= khat_limit(num_samples)
    return {
        "auto": share(auto, torch.ones_like(good)),
        "auto where trusted": share(auto, ~auto.is_bad),
        "bad": auto.khat_bad,
        "guide": share(guide, torch.ones_like(good)),
        "guide where k-hat is good": share(guide, good),
        "mean error": float((auto.log_px - exact).mean()),
        "largest error": float((auto.log_px - exact).abs().max()),
        "off by 0.4": float(((auto.log_px - exact).abs() > 0.4).double().mean()),
        "repeats": len(x),
        "stages": auto.stages,
    }


@cli.command()
@click.option("--repeats", default=2000, show_default=True, help="Rows of each cell, copies with draws of their own.")
@click.option("--num-samples", default=1000, show_default=True)
@click.option("--cells", default="", help="Only cells whose names contain this.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/coverage"), show_default=True)
def coverage(repeats: int, num_samples: int, cells: str, out: Path) -> None:
    """How often a row's 95 % interval holds its exact log p(x), by kind of program and of guide."""
    out.mkdir(parents=True, exist_ok=True)
    click.echo(
        "| rows | draws of the guide | of these, k-hat good | auto | mean error, nats | largest | off by 0.4 or more "
        "| rows by stage |\n" + "|---" * 8 + "|"
    )
    for number, (name, make) in enumerate(CELLS.items()):
        if cells not in name:
            continue
        path = out / f"{number:02}-{repeats}-{num_samples}.json"
        r = stored(path, lambda make=make: coverage_of(make(), repeats, num_samples))  # type: ignore[misc]
        good = r["guide where k-hat is good"]
        stages = "/".join(str(r["stages"].get(stage, 0)) for stage in ("modes", "more modes", "annealing"))
        click.echo(
            f"| {name} | {r['guide']:.3f} | {'–' if good is None else f'{good:.3f}'} | {r['auto']:.3f} "
            f"| {r['mean error']:+.4f} | {r['largest error']:.3f} | {r['off by 0.4']:.3f} | {stages} |"
        )


if __name__ == "__main__":
    cli()
