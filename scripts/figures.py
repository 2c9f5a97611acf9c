"""Figures of the documentation; a tutorial's figure is drawn from the variables of its own examples.

    python scripts/figures.py your-data            # docs/images/your_data.png
    python scripts/figures.py your-table           # docs/images/your_table.png
    python scripts/figures.py swap                 # docs/images/swap.png
    python scripts/figures.py trust                # docs/images/trust.png
    python scripts/figures.py your-program         # docs/images/your_program.png
    python scripts/figures.py selection            # docs/images/selection.png
    python scripts/figures.py inside RUN NAME …    # docs/images/NAME.png, as the report of a run shows them
    python scripts/figures.py page RUN             # docs/images/report.png, a screenshot by Chromium

A further figure is a function with @cli.command() here, and a line in docs/gallery.md.
"""

import doctest
import subprocess
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from matplotlib.figure import Figure

import pyro_vae as pv
from pyro_vae.diagnostics.density_grid import density_on_grid
from pyro_vae.plots import draw_on_axes, style
from pyro_vae.workflows.read_run import Run

DOCS = Path(__file__).parent.parent / "docs"
IMAGES = DOCS / "images"


@click.group()
def cli() -> None:
    """Figures of the documentation."""


def left_by(page: str) -> dict[str, Any]:
    """Run a page's examples and return their variables."""
    names: dict[str, Any] = {}
    for example in doctest.DocTestParser().get_examples((DOCS / page).read_text("utf-8")):
        exec(compile(example.source, page, "exec"), names)
    return names


@cli.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.argument("names", nargs=-1, required=True)
def inside(run: Path, names: tuple[str, ...]) -> None:
    """Latent figures of a fitted program, from its validation rows."""
    opened = Run(run)
    program, data = opened.program(), opened.data()
    rows = data.valid.head(500)
    log_px = pv.auto_evidence(program, rows, num_samples=200).log_px
    for one in pv.plots.draw_latent_figures(program, data, rows, log_px):
        if one.name in names:
            one.figure.savefig(IMAGES / f"{one.name}.png", dpi=110, bbox_inches="tight")


@cli.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--name", type=click.Choice(["report", "check"]), default="report", help="Which page.")
def page(run: Path, name: str) -> None:
    """The top of a run's report or check as a browser shows it; write it first (pyro-vae report RUN, or check RUN)."""
    options = ["--headless=new", "--no-sandbox", "--hide-scrollbars", "--window-size=1280,1400"]
    address = (run / f"{name}.html").resolve().as_uri()
    subprocess.run(["chromium", *options, f"--screenshot={IMAGES / f'{name}.png'}", address], check=True)


@cli.command("your-data")
def your_data() -> None:
    """Latent means of the tumours, coloured by kind, by the size of their nuclei, by log p(x)."""
    names = left_by("tutorials/your_data.md")
    vae, data = names["vae"], names["data"]
    splits = (data.train, data.valid, data.test)
    z = torch.cat([vae.encode(split.x) for split in splits]).numpy()
    benign = torch.cat([split.labels for split in splits]).bool()
    column = data.columns.index("worst perimeter")
    shades = {
        "Worst perimeter": torch.cat([split.stored[:, column] for split in splits]),
        "log p(x), nats": torch.cat([pv.auto_evidence(vae, split).log_px for split in splits]),
    }
    with style.figure_style():
        figure = Figure(figsize=(12, 3.9))
        first, *others = figure.subplots(1, 3, sharey=True)
        for kind, name, colour in ((benign, "benign", style.BLUE), (~benign, "malignant", style.ORANGE)):
            first.scatter(*z[kind].T, s=10, color=colour, alpha=0.7, linewidths=0, label=name)
        first.set(title="Kind, which the model never saw", ylabel="$z_2$")
        first.legend(loc="best", markerscale=1.5)
        for axes, (name, values) in zip(others, shades.items(), strict=True):
            low, high = np.percentile(values, [5, 95])
            dots = axes.scatter(
                *z.T, c=values, cmap=style.SHADES, vmin=low, vmax=high, s=14, edgecolors="0.6", linewidths=0.3
            )
            axes.set_title(name)
            figure.colorbar(dots, ax=axes, extend="both").outline.set_visible(False)
        for axes in (first, *others):
            axes.set_xlabel("$z_1$")
        figure.savefig(IMAGES / "your_data.png", dpi=150)


@cli.command("your-table")
def your_table() -> None:
    """Latent means of the customers, coloured by two columns, by the label, and by log p(x)."""
    names = left_by("tutorials/your_table.md")
    table, scores = names["table"], names["scores"]
    z = names["codes"][["z1", "z2"]].to_numpy()
    shades = {
        "Revenue, logarithm": np.log(table["revenue"]),
        "Orders, square root": np.sqrt(table["orders"]),
        "log p(x), nats": scores["log_px"],
    }
    with style.figure_style():
        figure = Figure(figsize=(13, 3.6))
        first, *others = figure.subplots(1, 4, sharey=True)
        for answer, colour in (("no", style.BLUE), ("yes", style.ORANGE)):
            rows = (table["churned"] == answer).to_numpy()
            first.scatter(*z[rows].T, s=8, color=colour, alpha=0.6, linewidths=0, label=answer)
        first.set(title="Churned (not modelled)", ylabel="$z_2$")
        first.legend(loc="best", markerscale=1.5)
        for axes, (name, values) in zip(others, shades.items(), strict=True):
            low, high = np.percentile(values, [5, 95])
            dots = axes.scatter(
                *z.T, c=values, cmap=style.SHADES, vmin=low, vmax=high, s=10, edgecolors="0.6", linewidths=0.3
            )
            axes.set_title(name)
            figure.colorbar(dots, ax=axes, extend="both").outline.set_visible(False)
        for axes in (first, *others):
            axes.set_xlabel("$z_1$")
        figure.savefig(IMAGES / "your_table.png", dpi=130)


@cli.command()
def swap() -> None:
    """Two moons: densities of the mixture and of four VAEs (a full-rank guide makes no visible change)."""
    names = left_by("tutorials/swap.md")
    data, programs = names["data"], {"mixture of normals": names["mixture"], **names["vaes"]}
    del programs["full-rank guide"]
    with style.figure_style():
        figure = Figure(figsize=(9.5, 4.8))
        first, *others = figure.subplots(2, 3, sharex=True, sharey=True).flat
        first.scatter(*data.test.stored.T, s=5, color="0.4", linewidths=0)
        style.title(first, "rows", "500 test rows")
        for axes, (name, program) in zip(others, programs.items(), strict=True):
            plane = density_on_grid(program, (-1.8, -1.3), (2.8, 1.8), like=data)
            xx, yy, log_px = (side.numpy() for side in plane)
            shades = draw_on_axes.log_density_contours(axes, xx, yy, log_px, top=0, depth=8)
            held_out = f"{names['found'][name].log_px.mean():.2f}".replace("-", "−")
            style.title(axes, name, f"log p(x) {held_out} nats")
        bar = figure.colorbar(shades, ax=figure.axes, shrink=0.6, pad=0.02)
        bar.ax.set_title("nats", fontsize=9, fontweight="normal")
        bar.ax.spines["outline"].set_visible(False)
        for axes in (first, *others):
            axes.set_aspect("equal")
        figure.savefig(IMAGES / "swap.png", dpi=150)


@cli.command()
def trust() -> None:
    """Importance-sampled minus exact log p(x) against the number of draws, for digits and for their negatives."""
    names = left_by("tutorials/trust.md")
    vae, x = names["vae"], names["x"]
    panels = {"Digits": (x, names["truth"]), "Their negatives": (1 - x, names["true_negative"])}
    sizes = (30, 100, 300, 1000, 3000, 10_000)
    with style.figure_style():
        figure = Figure(figsize=(9.5, 3.6))
        for axes, (name, (rows, truth)) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            exact = truth.log_px.mean()
            found = [pv.log_evidence(vae, rows, S) for S in sizes]
            error, half = (np.array(values) for values in zip(*[
                (float(some.log_px.mean() - exact), 2 * some.log_px_mc_se) for some in found
            ], strict=True))  # fmt: skip
            annealed = pv.annealed_evidence(vae, rows, 100, start="prior")
            axes.axhline(0, color=style.DARK, linewidth=1.2, label="exact")
            axes.fill_between(sizes, error - half, error + half, color=style.BLUE, alpha=0.2, linewidth=0)
            axes.plot(sizes, error, "o-", color=style.BLUE, markersize=4, label="draws from the guide, ± 2 mc_se")
            axes.axhline(
                float(annealed.log_px.mean() - exact),
                color=style.ORANGE,
                linestyle="--",
                label="annealed from the prior",
            )
            axes.set(xscale="log", xlabel="draws S")
            style.title(axes, name, f"k-hat is bad for {found[3].khat_bad:.0%} of the rows at S = 1,000")
        figure.axes[0].set(ylabel="error of mean log p(x), nats", ylim=(-0.5, 0.5))
        figure.axes[1].legend(loc="lower right")
        figure.savefig(IMAGES / "trust.png", dpi=150)


@cli.command("your-program")
def your_program() -> None:
    """Children's heights with the fitted lines, and the inferred pace against the simulated one."""
    names = left_by("tutorials/your_program.md")
    x, ages, growth = names["data"].test.x, names["ages"], names["growth"]
    lines = names["program"].encode(torch.cat([x, names["stopped"]]))
    drawn = (growth.curve + lines @ names["design"]).detach()
    with style.figure_style():
        figure = Figure(figsize=(9.5, 3.8))
        left, right = figure.subplots(1, 2)
        left.plot(ages, x.T, color="0.85", linewidth=1)
        for row, fitted, colour, name in (
            (x[4], drawn[4], style.BLUE, "a child"),
            (names["stopped"][0], drawn[-1], style.RED, "one that stopped"),
        ):
            left.plot(ages, row, "o", color=colour, markersize=4, label=name)
            left.plot(ages, fitted, color=colour, linewidth=1.5, label=f"E[x | z] of {name}")
        left.set(xlabel="age, years", ylabel="height, cm", title="30 test rows")
        left.legend(loc="upper left")
        truth = names["lines"][names["data"].test.index, 1]
        ends = [float(truth.min()), float(truth.max())]
        right.plot(ends, ends, color="0.7", linewidth=1)
        right.scatter(truth, names["pace"], s=18, color=style.BLUE, linewidths=0)
        right.set(xlabel="pace that was put in, cm a year", ylabel="posterior mean", title="What the latent means")
        figure.savefig(IMAGES / "your_program.png", dpi=150)


@cli.command()
def selection() -> None:
    """Mixtures of the 178 wines, standardized, by cross-validation."""
    from sklearn.datasets import load_wine

    found = pv.select_mixture(pv.load_data(load_wine().data), on_scored=lambda s: click.echo(f"{s}: {s.mean:.2f}"))
    pv.plots.plot_selection(found.scores).savefig(IMAGES / "selection.png")


if __name__ == "__main__":
    cli()
