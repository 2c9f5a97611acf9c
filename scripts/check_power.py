"""The sizes and powers of `pyro_vae.diagnostics.check`: the tables of docs/check.md.

    python scripts/check_power.py size FOLDER      # 1,000 checks of a model that is right
    python scripts/check_power.py refits FOLDER    # 1,000 refits of a linear-Gaussian model
    python scripts/check_power.py guides FOLDER    # guides with a known fault: how often is it found
    python scripts/check_power.py models FOLDER    # models with a known fault
    python scripts/check_power.py tables FOLDER    # print what is there

Every repetition is a line of FOLDER/NAME.jsonl; a command that is started again goes on where it ended.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.diagnostics.checks.verdicts import SIGNIFICANCE
from pyro_vae.programs.sample_rows import sample

K, D = 2, 5
MOST_VERDICTS = 16  # of a whole page: a single family is held to 0.05 / 16, which is stricter than the page
NUM_REFITS = 24
Record = dict[str, Any]


def linear_model(seed: int) -> pv.PPCA:
    """A linear-Gaussian model whose guide is its posterior."""
    g = torch.Generator().manual_seed(seed)
    model = pv.PPCA(K, D)
    with torch.no_grad():
        model.weight.copy_(torch.randn(D, K, generator=g))
        model.loc.copy_(torch.randn(D, generator=g))
        model.log_scale.fill_(-0.5)
    return model


class FaultyGuide:
    """A linear-Gaussian model with a guide that is its posterior but for a shift and a factor of its spread.

    Args:
        model: the model.
        shift: standard deviations that the guide is off.
        factor: of its standard deviations.
        is_prior: whether the guide is the prior instead.
    """

    def __init__(self, model: pv.PPCA, shift: float = 0.0, factor: float = 1.0, is_prior: bool = False) -> None:
        self.weight, self.loc = model.weight.detach().float(), model.loc.detach().float()
        self.noise = float(model.log_scale.detach().exp())
        self.shift, self.factor, self.is_prior = shift, factor, is_prior
        precision = torch.eye(K) + self.weight.T @ self.weight / self.noise**2
        self.covariance = torch.linalg.inv(precision)

    def model(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(K), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T + self.loc, self.noise).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            if self.is_prior:
                pyro.sample("z", dist.Normal(torch.zeros(K), 1.0).expand([len(x), K]).to_event(1))
                return
            mean = (x - self.loc) @ self.weight @ self.covariance / self.noise**2
            spread = self.covariance.diagonal().sqrt()
            scale = torch.linalg.cholesky(self.covariance) * self.factor
            pyro.sample("z", dist.MultivariateNormal(mean + self.shift * spread, scale_tril=scale))


class TwoModes:
    """z ~ N(0, 1) and x ~ N(z², 0.3²), whose posterior has two modes; the guide has one, or both.

    Args:
        both: whether the guide has both.
    """

    def __init__(self, both: bool) -> None:
        self.both = both
        self.grid = torch.linspace(-5, 5, 501)

    def model(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z**2, 0.3).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        grid = self.grid if self.both else self.grid[self.grid > 0]
        log_p = dist.Normal(0.0, 1.0).log_prob(grid) + dist.Normal(grid**2, 0.3).log_prob(x)  # (n, points)
        width = float(grid[1] - grid[0])
        mixture = dist.MixtureSameFamily(
            dist.Categorical(logits=log_p), dist.Normal(grid.expand(len(x), -1)[..., None], width / 2).to_event(1)
        )
        with pyro.plate("rows", len(x)):
            pyro.sample("z", mixture)


def page(seed: int) -> Record:
    """A whole check of a model that is right, at known parameters."""
    model = linear_model(seed)
    x = sample(model, 400, num_features=D, seed=10_000 + seed)
    size = pv.diagnostics.CheckSize(num_replicates=300, num_simulations=400, num_draws=49, num_samples=50)
    found = pv.diagnostics.check(model, x[:200], training=x[200:], num_training=0, size=size, seed=seed)
    verdicts = {each.name: each.p_value for each in found.verdicts}
    return {"p_values": verdicts, "found": [each.name for each in found.verdicts if each.level in ("small", "matters")]}


def refit(seed: int, num_refits: int) -> Record:
    """Predictive p-values of a model fitted to rows of the truth, with the corrections for that and without."""
    found: Record = {}
    truth = linear_model(seed)
    for num_training, num_rows in ((70, 15), (4000, 500)):
        x = sample(truth, num_training + num_rows, num_features=D, seed=20_000 + seed)
        model = pv.PPCA(K, D)
        pv.fit_closed_form(model, x[:num_training])
        g = np.random.default_rng(seed)
        resampled = [x[torch.from_numpy(g.integers(0, num_training, num_training))] for _ in range(num_refits)]
        refits = [pv.PPCA(K, D) for _ in resampled]
        for each, rows in zip(refits, resampled, strict=True):
            pv.fit_closed_form(each, rows)
        ways = [("corrected", None, []), ("uncorrected", 0, []), *([("by refits", None, refits)] if refits else [])]
        for name, number, programs in ways:
            checked = pv.diagnostics.check(
                model,
                x[num_training:],
                training=x[:num_training],
                num_training=number,
                refits=programs,
                families=["columns", "pairs"],
                size=pv.diagnostics.CheckSize(num_replicates=300),
                seed=seed,
            )
            p_values = {each.name: each.p_value for each in checked.verdicts}
            found[f"{num_rows}/{num_training} {name}"] = p_values
    return found


GUIDES: dict[str, Callable[[int], FaultyGuide | TwoModes]] = {
    "right": lambda seed: FaultyGuide(linear_model(seed)),
    "spread × 0.7": lambda seed: FaultyGuide(linear_model(seed), factor=0.7),
    "spread × 1.5": lambda seed: FaultyGuide(linear_model(seed), factor=1.5),
    "shift of 0.3 sd": lambda seed: FaultyGuide(linear_model(seed), shift=0.3),
    "guide = prior": lambda seed: FaultyGuide(linear_model(seed), is_prior=True),
    "both modes": lambda seed: TwoModes(both=True),
    "a missing mode": lambda seed: TwoModes(both=False),
}


def guide(name: str, seed: int) -> Record:
    """Calibration of a guide with a known fault."""
    program = GUIDES[name](seed)
    width = 1 if isinstance(program, TwoModes) else D
    rows = sample(program, 50, num_features=width, seed=seed)
    found = pv.diagnostics.check(program, rows, families=["guide"], seed=seed)
    return {"p_values": {each.name: each.p_value for each in found.verdicts}}


def zeros(x: Tensor, g: torch.Generator) -> Tensor:
    """A tenth of the values of one column are 0."""
    x = x.clone()
    x[torch.rand(len(x), generator=g) < 0.1, 0] = 0.0
    return x


def tails(x: Tensor, g: torch.Generator) -> Tensor:
    """One column multiplied by a chi-square factor: Student's t with three degrees of freedom, the same variance."""
    chi = torch.from_numpy(np.random.default_rng(int(torch.randint(2**31, (1,), generator=g))).chisquare(3, len(x)))
    x, mean = x.clone(), x[:, 0].mean()
    x[:, 0] = mean + (x[:, 0] - mean) * (1 / chi).sqrt().float()  # variance 3 / (3 − 2) / 3
    return x


def uncorrelated(x: Tensor, g: torch.Generator) -> Tensor:
    """Rows of one column in another order: its correlations are gone, as the model's would be were they left out."""
    x = x.clone()
    x[:, 0] = x[torch.randperm(len(x), generator=g), 0]
    return x


def swapped(x: Tensor, g: torch.Generator) -> Tensor:
    """Two columns in each other's place."""
    return x[:, [1, 0, 2, 3, 4]]


MODELS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "right": lambda x, g: x,
    "zeros in 10 % of a column": zeros,
    "a column with heavy tails (t, 3)": tails,
    "a correlation left out": uncorrelated,
    "two columns swapped": swapped,
}


def model(name: str, seed: int) -> Record:
    """Predictive checks of a fitted model whose rows held out differ from its training rows in a known way."""
    truth = linear_model(seed)
    x = sample(truth, 4500, num_features=D, seed=30_000 + seed)
    fitted = pv.PPCA(K, D)
    pv.fit_closed_form(fitted, x[:4000])
    rows = MODELS[name](x[4000:], torch.Generator().manual_seed(seed))
    found = pv.diagnostics.check(
        fitted,
        rows,
        training=x[:4000],
        families=["columns", "pairs", "classifier", "kernel", "densities"],
        seed=seed,
    )
    return {"p_values": {each.name: each.p_value for each in found.verdicts}}


def missing(path: Path, wanted: list[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """The repetitions that a file does not have."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done = {(row["case"], row["seed"]) for row in map(json.loads, lines)}
    yield from (pair for pair in wanted if pair not in done)


def read(path: Path) -> list[Record]:
    """The lines of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def share(hits: list[bool]) -> str:
    """A share with its standard error, in words."""
    p = float(np.mean(hits))
    return f"{p:.1%} ± {np.sqrt(p * (1 - p) / len(hits)):.1%} ({len(hits)})"


def print_tables(folder: Path) -> None:
    """The tables of what is there."""
    if pages := read(folder / "size.jsonl"):
        click.echo(f"whole page, something found: {share([bool(row['found']) for row in pages])}")
        for name in pages[0]["p_values"]:
            p = [row["p_values"][name] for row in pages if row["p_values"].get(name) is not None]
            if p:
                click.echo(f"  {name:<16} p ≤ 0.05: {share([value <= 0.05 for value in p])}")
    if refits := read(folder / "refits.jsonl"):
        for case in sorted(refits[0].keys() - {"case", "seed"}):
            for family in ("columns", "pairs"):
                p = [row[case][family] for row in refits if case in row]
                click.echo(f"refit {case:<24} {family:<8} {share([value <= 0.05 for value in p])}")
    for kind in ("guides", "models"):
        rows = read(folder / f"{kind}.jsonl")
        for case in dict.fromkeys(row["case"] for row in rows):
            some = [row["p_values"] for row in rows if row["case"] == case]
            each = {name: share([row[name] <= SIGNIFICANCE / MOST_VERDICTS for row in some]) for name in some[0]}
            whole = share([min(row.values()) <= SIGNIFICANCE / MOST_VERDICTS for row in some])
            click.echo(
                f"{kind} {case:<34} any {whole}   " + "   ".join(f"{name} {words}" for name, words in each.items())
            )


@click.command(help=__doc__)
@click.argument("what", type=click.Choice(["size", "refits", "guides", "models", "tables"]))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--repetitions", type=int, help="1,000 of sizes, 200 of powers.")
@click.option("--refits", default=NUM_REFITS, show_default=True, help="Fits to resampled rows of each refit; 0: none.")
def main(what: str, folder: Path, repetitions: int | None, refits: int) -> None:
    """Run what is missing, and print the tables."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    repeat: dict[str, tuple[list[str], int, Callable[[str, int], Record]]] = {
        "size": (["right"], 1000, lambda _, seed: page(seed)),
        "refits": (["right"], 1000, lambda _, seed: refit(seed, refits)),
        "guides": (list(GUIDES), 200, guide),
        "models": (list(MODELS), 200, model),
    }
    if what != "tables":
        cases, number, function = repeat[what]
        path = folder / f"{what}.jsonl"
        wanted = [(case, seed) for seed in range(repetitions or number) for case in cases]
        for case, seed in missing(path, wanted):
            found = {"case": case, "seed": seed, **function(case, seed)}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
    print_tables(folder)


if __name__ == "__main__":
    main()
