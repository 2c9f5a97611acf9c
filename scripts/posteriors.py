"""Four guides for posteriors that are not normal: the gap to the exact log p(x), as a table and a figure.

Two toy models with two latents, z ~ N(0, I), and a likelihood without parameters. In `bent` the one value z2 + z1²/2
has a curved posterior; in `two modes` the values √(z1² + ¼) and z2 + z1/2 hardly determine the sign of z1. With so few
latents a grid gives log p(x) exactly. Only the guide is fitted, on rows drawn from the toy; other rows are scored:

    python scripts/posteriors.py [--out docs/images/posteriors.png] [--epochs 120] [--seeds 0,1,2] [--json]

The gap is log p(x) − ELBO = KL(q(z|x) ‖ p(z|x)), nats per row, lower is better; its error is over rows, each row's
seeds averaged. The figure shows one scored row of each toy, chosen by its exact posterior alone, and the first seed.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyro.distributions as dist
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import guides, nets
from pyro_vae.context_managers import seeded
from pyro_vae.plots.style import figure_style

K, H, NOISE, COMPONENTS = 2, 64, 0.3, 4
TRAIN_ROWS, ROWS, DRAWS = 2000, 500, 1000
FIT = pv.TrainConfig(batch_size=200, num_particles=4, learning_rate=5e-3, clip=1.0)
EDGE, POINTS, TOLERANCE = 5.0, 301, 1e-3  # the grid is 601 × 601 points on [−5, 5]²; 301 × 301 must agree
SHOWN, LIMIT = 0.9, 2.8  # the row of the figure: nine in ten posteriors have less entropy
Part = Any


class Toy(nn.Module):
    """A likelihood without parameters, p(x|z) = N(x; f(z), 0.3²)."""

    def __init__(self, mean: Callable[[Tensor, Tensor], list[Tensor]]) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, z: Tensor) -> Any:
        return dist.Normal(torch.stack(self.mean(*z.unbind(-1)), -1), NOISE).to_event(1)


TOYS: dict[str, Toy] = {
    "bent": Toy(lambda z1, z2: [z2 + z1.square() / 2]),
    "two modes": Toy(lambda z1, z2: [(z1.square() + 0.25).sqrt(), z2 + z1 / 2]),
}


def net(D: int, outputs: int) -> nn.Module:
    return nets.mlp(D, H, H, outputs)


ARMS: dict[str, Callable[[int], Part]] = {
    "mean-field": lambda D: guides.MeanFieldNormal(net(D, guides.MeanFieldNormal.outputs(K))),
    "full-rank": lambda D: guides.FullRankNormal(net(D, guides.FullRankNormal.outputs(K)), K),
    "mixture": lambda D: guides.MixtureGuide(net(D, guides.MixtureGuide.outputs(K, COMPONENTS)), K, COMPONENTS),
    "flow": lambda D: guides.FlowGuide(net(D, guides.FlowGuide.outputs(K)), K),
}


def build_vae(toy: Toy, arm: str, seed: int) -> pv.VAE:
    D = toy(torch.zeros(K)).event_shape[0]
    with seeded(seed):
        return pv.VAE(pv.priors.StandardNormal(K), toy, ARMS[arm](D))


def grid(points: int) -> tuple[Tensor, float]:
    """The points z (points², K) of a square grid in float64, and the log of a cell's area."""
    side = torch.linspace(-EDGE, EDGE, points, dtype=torch.float64)
    return torch.cartesian_prod(side, side), 2 * math.log(2 * EDGE / (points - 1))


def log_joint(toy: Toy, x: Tensor, z: Tensor) -> list[Tensor]:
    """log p(x, z) at every point of the grid, for each row."""
    prior, likelihood = pv.priors.StandardNormal(K).double()().log_prob(z), toy(z)
    return [prior + likelihood.log_prob(row) for row in x.double()]


def exact_log_px(toy: Toy, x: Tensor, points: int) -> Tensor:
    z, log_cell = grid(points)
    return torch.stack([joint.logsumexp(0) for joint in log_joint(toy, x, z)]) + log_cell


def entropies(toy: Toy, x: Tensor) -> Tensor:
    """The entropy of each exact posterior in nats, (N,): largest for wide, curved and multimodal posteriors."""
    z, log_cell = grid(POINTS)
    log_shares = (joint.log_softmax(0) for joint in log_joint(toy, x, z))
    return torch.stack([-(share.exp() * share).sum() for share in log_shares]) + log_cell


def compare(name: str, epochs: int, seeds: list[int]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The records of one toy's arms, and the densities to draw: the exact posterior's, then each guide's."""
    toy = TOYS[name]
    source = build_vae(toy, "mean-field", seed=0)
    train, x = source.sample(TRAIN_ROWS, seed=0), source.sample(ROWS, seed=1)
    exact = exact_log_px(toy, x, 2 * POINTS - 1)
    grid_error = float((exact - exact_log_px(toy, x, POINTS)).abs().max())
    if grid_error > TOLERANCE:
        raise click.ClickException(f"{name}: half the grid's points change log p(x) by {grid_error:.1e} nats")
    shown = x[entropies(toy, x).argsort()[int(SHOWN * ROWS)]][None]
    records, densities = [], {"exact": posterior(toy, shown)}
    for arm in ARMS:
        gaps, elbos, seconds = [], [], 0.0
        for seed in seeds:
            vae = build_vae(toy, arm, seed)
            seconds += pv.fit(vae, train, FIT, epochs=epochs, seed=seed, progress="none").seconds
            elbos.append(pv.log_evidence(vae, x, DRAWS, seed=0).elbo)
            gaps.append(exact - elbos[-1])
            densities.setdefault(arm, guide_density(vae, shown))
        over_rows = torch.stack(gaps).mean(0)
        records.append(
            {
                "toy": name,
                "arm": arm,
                "log_px": float(exact.mean()),
                "elbo": float(torch.stack(elbos).mean()),
                "gap": float(over_rows.mean()),
                "gap_se": float(over_rows.std() / math.sqrt(ROWS)),
                "gap_by_seed": [float(gap.mean()) for gap in gaps],
                "seconds": seconds / len(seeds),
                "grid_error": grid_error,
            }
        )
        click.echo(f"{name}, {arm}: {records[-1]['gap']:.3f} nats", err=True)
    return records, densities


def posterior(toy: Toy, row: Tensor) -> np.ndarray:
    """p(z|x) of one row on the grid, z1 along the columns."""
    z, log_cell = grid(POINTS)
    return on_plane(log_joint(toy, row, z)[0].log_softmax(0) - log_cell)


@torch.no_grad()
def guide_density(vae: pv.VAE, row: Tensor) -> np.ndarray:
    return on_plane(vae.posterior(row).log_prob(grid(POINTS)[0].float()[:, None]))


def on_plane(log_density: Tensor) -> np.ndarray:
    return log_density.exp().reshape(POINTS, POINTS).T.numpy()


def holding(density: np.ndarray, share: float) -> float:
    """The level above which a density on the grid holds this share of its mass."""
    falling = np.sort(density, axis=None)[::-1]
    held = np.cumsum(falling) / falling.sum()
    return float(falling[np.searchsorted(held, share)])


def draw(densities: dict[str, dict[str, np.ndarray]], records: list[dict[str, Any]]) -> Figure:
    """One line of panels for each toy: the exact posterior, then the guides' densities under its outline."""
    gaps = {(record["toy"], record["arm"]): record["gap"] for record in records}
    figure = Figure(figsize=(2.4 * (1 + len(ARMS)), 2.6 * len(densities)))
    panels = figure.subplots(len(densities), 1 + len(ARMS), sharex=True, sharey=True)
    for line, (toy, of) in zip(panels, densities.items(), strict=True):
        for axes, (arm, density) in zip(line, of.items(), strict=True):
            panel(axes, density, of["exact"])
            axes.set_title(f"{toy}: exact p(z | x)" if arm == "exact" else arm)
            if arm != "exact":
                axes.set_title(f"gap {gaps[toy, arm]:.2f} nats", loc="right", fontsize=9, fontweight="normal")
        line[0].set_ylabel("$z_2$")
    for axes in panels[-1]:
        axes.set_xlabel("$z_1$")
    return figure


def panel(axes: Axes, density: np.ndarray, exact: np.ndarray) -> None:
    """A density by the levels of the exact one's peak, and the outline of 95% of the exact one's mass."""
    side = np.linspace(-EDGE, EDGE, POINTS)
    levels = exact.max() * np.linspace(0.15, 1.15, 15) ** 2
    axes.contourf(side, side, density, levels=levels, cmap="GnBu", extend="max")
    axes.contour(side, side, exact, levels=[holding(exact, 0.95)], colors="0.45", linewidths=0.8)
    axes.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), aspect="equal", xticks=(-2, 0, 2), yticks=(-2, 0, 2))


def listed(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    return [int(seed) for seed in value.split(",")]


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/images/posteriors.png"), show_default=True)
@click.option("--epochs", default=120, show_default=True)
@click.option(
    "--seeds", default="0,1,2", show_default=True, callback=listed, help="Seeds of the fits, separated by commas."
)
@click.option("--json", "as_json", is_flag=True)
def main(out: Path, epochs: int, seeds: list[int], as_json: bool) -> None:
    records, densities = [], {}
    for toy in TOYS:
        found, densities[toy] = compare(toy, epochs, seeds)
        records += found
    with figure_style():
        draw(densities, records).savefig(out, dpi=150)
    if as_json:
        click.echo(json.dumps({"rows": records}))
        return
    click.echo("| toy | guide | log p(x), exact | ELBO | gap | by seed | fit |\n|---|---|---|---|---|---|---|")
    for r in records:
        by_seed = ", ".join(f"{gap:.3f}" for gap in r["gap_by_seed"])
        click.echo(
            f"| {r['toy']} | {r['arm']} | {r['log_px']:.3f} | {r['elbo']:.3f} | {r['gap']:.3f} ± {r['gap_se']:.3f} "
            f"| {by_seed} | {r['seconds']:.0f} s |"
        )


if __name__ == "__main__":
    main()
