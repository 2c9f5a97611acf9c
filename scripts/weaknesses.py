"""Measurements for docs/notes: EM's monotone objective, blur and holes of VAEs, and a search for z without an encoder.

    python scripts/weaknesses.py em-rises          # docs/images/em_rises.png
    python scripts/weaknesses.py blur              # the tables of docs/notes/weaknesses.md
    python scripts/weaknesses.py holes
    python scripts/weaknesses.py figure            # docs/images/weaknesses.png, from the models above
    python scripts/weaknesses.py where             # docs/images/where_a_row_lies.png, docs/notes/vae_and_gan.md

Fitted models are saved under --runs and loaded from there the next time. Everything is measured on validation rows.
"""

import itertools
import math
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyro
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

import pyro_vae as pv
from pyro_vae.context_managers import seeded
from pyro_vae.diagnostics.aggregate_posterior import log_aggregate
from pyro_vae.diagnostics.latent_codes import sample_codes, sample_prior_codes
from pyro_vae.diagnostics.latent_space_metrics import nearest_code, precision_and_coverage
from pyro_vae.plots import draw_on_axes, style
from pyro_vae.studies.autoencoder_vs_vae_encoders import new_codes

IMAGES = Path(__file__).parent.parent / "docs" / "images"
RUNS = click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/weaknesses"), show_default=True)
SIZES = (2, 10, 50)
HIDDEN = 500
TRAINING: dict[str, Any] = {"epochs": 30, "learning_rate": 2e-3, "seed": 0, "progress": "none"}
PRIORS = ("standard normal", "VampPrior")


@click.group()
def cli() -> None:
    """Measurements for the pages of the study notes."""


@cli.command("em-rises")
@click.option("--starts", default=8, show_default=True)
@click.option("--iterations", default=400, show_default=True)
def em_rises(starts: int, iterations: int) -> None:
    """The penalized log-likelihood of a mixture over EM's iterations, and its increments on a logarithmic axis."""
    data, runs_of_em = pv.load_data("pinwheel"), []
    for seed in range(starts):
        mixture = pv.GaussianMixture(num_components=5, num_features=2)
        fitted = pv.fit_em(mixture, data.train, start="random", seed=seed, epochs=iterations, tolerance=0)
        runs_of_em.append([(row["segment"], row["objective"]) for row in fitted.history])
    gains = [increments(objectives) for objectives in runs_of_em]
    everything = np.concatenate(gains)
    click.echo(
        f"{len(everything)} iterations from {starts} starts: the smallest increment is {everything.min():.1e} nats per "
        f"row, {int((everything < 0).sum())} are negative; ends from {min(c[-1][1] for c in runs_of_em):.4f} to "
        f"{max(c[-1][1] for c in runs_of_em):.4f}; {sum(c[-1][0] for c in runs_of_em)} times a component was moved"
    )
    with style.figure_style():
        figure = Figure(figsize=(9.5, 3.6))
        left, right = figure.subplots(1, 2)
        floor = np.finfo(float).eps * abs(runs_of_em[0][-1][1])
        for objectives, gained, colour in zip(runs_of_em, gains, style.distinct_colours(starts), strict=True):
            left.plot(
                np.arange(1, len(objectives) + 1), [value for _, value in objectives], color=colour, linewidth=1.4
            )
            right.plot(np.arange(2, len(gained) + 2), gained.clip(floor / 3), color=colour, linewidth=1, alpha=0.9)
            below = np.flatnonzero(gained < 0)
            right.plot(below + 2, -gained[below], "x", color=style.RED, markersize=5)
        right.axhline(floor, color="0.6", linewidth=1, linestyle=":")
        right.text(2, 1.6 * floor, "rounding error of one value", fontsize=8, color="0.35")
        right.plot([], [], "x", color=style.RED, label="decrease")
        right.legend(loc="upper right")
        left.set(xscale="log", xlabel="iteration", ylabel="nats per row")
        right.set(yscale="log", xlabel="iteration", ylabel="nats per row")
        style.title(left, "Penalized log-likelihood", f"five normals on pinwheel, {starts} random starts")
        style.title(right, "Increment of each iteration", f"{len(everything):,} iterations")
        figure.savefig(IMAGES / "em_rises.png", dpi=150)


def increments(objectives: list[tuple[int, float]]) -> np.ndarray:
    """The increments of the objective, except where a component was moved between two iterations."""
    return np.array([b - a for (old, a), (new, b) in itertools.pairwise(objectives) if old == new])


def squared_gradient(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """The sum of squared differences of neighbouring pixels of each image (N, D): (N,), float64."""
    images = x.double().reshape(-1, *shape)
    return images.diff(dim=1).square().sum((1, 2)) + images.diff(dim=2).square().sum((1, 2))


def sharpness(x: Tensor, rows: Any) -> tuple[float, float]:
    """The mean squared gradient of images divided by that of the rows, and its standard error over the images."""
    ratio = squared_gradient(x, rows.image_shape) / squared_gradient(rows.x, rows.image_shape).mean()
    return float(ratio.mean()), float(ratio.std() / math.sqrt(len(ratio)))


def greys() -> Any:
    return pv.load_data("mnist-5k", binarize="none", standardize=False)


def fitted(runs: Path, data: Any, kind: str, K: int, scale: float | str = "learned", prior: str = PRIORS[0]) -> Any:
    """An autoencoder or a VAE with K latents, fitted, or loaded if it was saved before."""
    name = f"{kind}-{K}-{scale}-{prior.replace(' ', '-')}"
    if (runs / name).exists():
        return pv.load(runs / name)
    began, D = time.perf_counter(), data.num_features
    with seeded(0):
        decoder, encoder = pv.nets.mlp(K, HIDDEN, D), pv.nets.mlp(D, HIDDEN, K if kind == "ae" else 2 * K)
        if kind == "ae":
            model: Any = pv.Autoencoder(encoder, pv.likelihoods.Normal(decoder, scale=1.0), K)
        else:
            guide = pv.guides.MeanFieldNormal(encoder)
            likelihood = pv.likelihoods.Bernoulli(decoder) if scale == "bits" else pv.likelihoods.Normal(decoder, scale)
            model = pv.VAE(prior_of(prior, K, guide, D), likelihood, guide)
    pv.fit(model, data.train, valid=data.valid, **TRAINING)
    pv.save(model, runs / name)
    click.echo(f"{name}: fitted in {time.perf_counter() - began:.0f} s", err=True)
    return model


def prior_of(name: str, K: int, guide: Any, D: int) -> Any:
    if name == "VampPrior":
        return pv.priors.VampPrior(guide, num_pseudo=100, num_features=D)
    return pv.priors.StandardNormal(K)


@cli.command()
@RUNS
def blur(runs: Path) -> None:
    """Sharpness of reconstructions and draws relative to the data, and its dependence on the likelihood's scale."""
    data = greys()
    rows = data.valid
    click.echo("| K | model | scale | KL | squared error | reconstructions | draws |\n|---|---|---|---|---|---|---|")
    plan: list[tuple[int, str, float | str]] = [(K, kind, "learned") for K in SIZES for kind in ("ae", "vae")]
    for K, kind, scale in plan + [(10, "vae", scale) for scale in (0.1, 0.3, 1.0)]:
        model = fitted(runs, data, kind, K, scale)
        again = model.reconstruct(rows.x)
        drawn = model.decode(new_codes(model, rows, 1000))
        found = [f"{value:.2f} ± {se:.2f}" for value, se in (sharpness(again, rows), sharpness(drawn, rows))]
        sigma, kl = "", ""
        if kind == "vae":
            sigma = f"{model.likelihood.loc_and_scale(torch.zeros(1, K))[1].item():.2f}"
            kl = f"{pv.log_evidence(model, rows, 20).kl.mean():.1f}"
        error = float(pv.studies.reconstruction_error(model, rows).mean())
        click.echo(f"| {K} | {kind} | {sigma} | {kl} | {error:.4f} | {found[0]} | {found[1]} |")
    vae = fitted(runs, data, "vae", 2)
    z = sample_codes(vae, rows)
    click.echo(
        f"K = 2, at a draw of q for each row: decoder {sharpness(vae.decode(z), rows)[0]:.2f}, "
        f"E[x | z] {sharpness_given(vae, data.train, z, rows):.2f}; draws of x, K = 10: "
        f"{sharpness(fitted(runs, data, 'vae', 10).sample(1000, seed=0), rows)[0]:.2f}"
    )


@torch.no_grad()
def sharpness_given(vae: Any, train: Any, z: Tensor, rows: Any) -> float:
    """The sharpness that the best decoder for this encoder would have at z (M, K), unbiased.

    In squared error the optimum is the mean of rows weighted by q(z | x). With finitely many training rows this mean is
    too sharp, so products of a row with itself are left out: (|∇m|² − Σ w² |∇x|²) / (1 − Σ w²).
    """
    q, shape = vae.posterior(train.x), rows.image_shape
    weights = torch.stack([q.log_prob(some) for some in z]).double().softmax(1)
    own = weights.square() @ squared_gradient(train.x, shape)
    mean = squared_gradient(weights @ train.x.double(), shape)
    unbiased = (mean - own) / (1 - weights.square().sum(1))
    return float(unbiased.mean() / squared_gradient(rows.x, shape).mean())


@cli.command()
@RUNS
def holes(runs: Path) -> None:
    """The aggregate posterior and the prior, and precision and coverage of draws, for two priors."""
    data = pv.load_data("mnist-5k")
    rows, N = data.valid, len(data.train)
    click.echo(f"I(x; z) is at most log {N} = {math.log(N):.2f}")
    click.echo(
        "| K | prior | log p(x), S = 500 | KL | I(i; z) | KL(aggregate ‖ prior) | precision: prior, codes "
        "| coverage: prior, codes | nearest code: prior, codes |\n|---|---|---|---|---|---|---|---|---|"
    )
    for K, prior in [*((K, PRIORS[0]) for K in SIZES), *itertools.product((2, 10), PRIORS[1:])]:
        model = fitted(runs, data, "vae", K, "bits", prior)
        found, scored = pv.diagnostics.aggregate(model, data.train, 1000), pv.log_evidence(model, rows, 500)
        codes, again = sample_codes(model, rows), model.reconstruct(rows.x)
        draws = new_codes(model, rows, 1000), sample_codes(model, data.train.head(1000))
        near = [precision_and_coverage(model.decode(z), again) for z in draws]
        click.echo(
            f"| {K} | {prior} | {scored.log_px.mean():.1f} | {found.kl:.2f} | {found.mutual_information:.2f} "
            f"| {found.marginal_kl:.2f} ± {found.marginal_kl_mc_se:.2f} "
            f"| {', '.join(f'{one.precision.value:.0%}' for one in near)} "
            f"| {', '.join(f'{one.coverage.value:.0%}' for one in near)} "
            f"| {', '.join(f'{nearest_code(z, codes):.2f}' for z in draws)} |"
        )


def search(decoder: Any, x: Tensor, start: Tensor, steps: int = 200, rate: float = 0.1) -> Tensor:
    """Minimize $|x - E[x|z]|^2$ over z by Adam from starts (M, K), with a row of x (M, D) for each; returns z (M, K).

    This is how z is found for a generator without an encoder.
    """
    z = start.clone().requires_grad_()
    adam = torch.optim.Adam([z], rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        adam.zero_grad()
        (decoder(z).mean - x).square().sum().backward(inputs=[z])
        adam.step()
        schedule.step()
    return z.detach()


@cli.command()
@RUNS
def figure(runs: Path) -> None:
    """Digits reconstructed from 2, 10 and 50 latents; aggregate posterior and prior in the latent plane."""
    data, bits = greys(), pv.load_data("mnist-5k")
    rows = data.valid
    x = rows.x[:10]
    lines, names = [x], ["data"]
    for K, kind in itertools.product(SIZES, ("ae", "vae")):
        model = fitted(runs, data, kind, K)
        lines.append(model.reconstruct(x))
        names.append(f"{kind.upper()}, K = {K}:  {sharpness(model.reconstruct(rows.x), rows)[0]:.2f}")
    with style.figure_style():
        drawn = Figure(figsize=(12.5, 4.3))
        left, *others = drawn.subplots(1, 3, width_ratios=[1.35, 1, 1])
        draw_on_axes.image_grid(left, torch.cat(lines).numpy(), rows.image_shape, columns=len(x))
        style.label_rows(left, names, rows.image_shape[0])
        style.title(left, "Blur", "reconstructed validation rows; sharpness, data = 1")
        for axes, prior in zip(others, PRIORS, strict=True):
            model = fitted(runs, bits, "vae", 2, "bits", prior)
            limit = 1.15 * float(sample_prior_codes(model, 5000, like=bits.train).abs().quantile(0.995))
            side = torch.linspace(-limit, limit, 121)
            at = torch.cartesian_prod(side, side)
            with torch.no_grad():
                densities = [log_aggregate(model, bits.train, at), model.prior().log_prob(at)]
            shaded, under = (density.exp().reshape(121, 121).T.numpy() for density in densities)
            draw_on_axes.density_and_contours(axes, side.numpy(), side.numpy(), shaded, under, (0.5, 0.95), hole=0.2)
            kl = pv.diagnostics.aggregate(model, bits.train, 1000).marginal_kl
            axes.set(xlabel="$z_1$", aspect="equal")
            style.title(axes, f"Holes: {prior}", f"shades: aggregate posterior; KL {kl:.2f} nats")
        others[0].set_ylabel("$z_2$")
        others[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        drawn.savefig(IMAGES / "weaknesses.png", dpi=150)


@cli.command()
@RUNS
@click.option("--rows", default=100, show_default=True)
@click.option("--starts", default=10, show_default=True)
def where(runs: Path, rows: int, starts: int) -> None:
    """Latent codes of held-out rows by the encoder and by a search with the decoder alone; and their log p(x)."""
    data = pv.load_data("mnist-5k")
    x, found = data.valid.x[:rows], {}
    click.echo(
        "| K | squared error: encoder | one search | best of ten | from the encoder | ms a row: encoder | one search "
        "| searches that fail | rows where most searches fail | distance of two that succeed |\n" + "|---" * 10 + "|"
    )
    for K in SIZES:
        vae = fitted(runs, data, "vae", K, "bits")
        found[K] = search_codes(vae, x, starts)
        click.echo(f"| {K} | " + " | ".join(found[K]["words"]) + " |")
    vae = fitted(runs, data, "vae", 10, "bits")
    scored = log_px_by_method(vae, x)
    click.echo("| log p(x) by | how much | ms a row | nats |\n|---|---|---|---|")
    for name, points in scored.items():
        for budget, cost, log_px in points:
            click.echo(f"| {name} | {budget} | {cost:.1f} | {log_px:.1f} |")
    draw_where(fitted(runs, data, "vae", 2, "bits"), x, data.valid.image_shape, found[2], scored)


def search_codes(vae: Any, x: Tensor, starts: int) -> dict[str, Any]:
    """Codes by the encoder (N, K) and by searches from the prior (starts, N, K), and a table row of their errors."""
    N, K = len(x), vae.encode(x).shape[1]
    encoded, first = timed(lambda: vae.encode(x))
    with seeded(0):
        begin = torch.randn(starts * N, K)
    ends, seconds = timed(lambda: search(vae.likelihood, x.repeat(starts, 1), begin))
    errors = squared_error(vae, ends, x.repeat(starts, 1)).reshape(starts, N)
    ends, known = ends.reshape(starts, N, K), squared_error(vae, encoded, x)
    polished = squared_error(vae, search(vae.likelihood, x, encoded), x)
    wrong = errors > 1.1 * torch.minimum(errors.amin(0), polished)
    both = ~wrong[0] & ~wrong[1]
    apart = (ends[0] - ends[1])[both].norm(dim=1).median()
    means = [f"{error.mean():.4f}" for error in (known, errors[0], errors.amin(0), polished)]
    times = [f"{1e3 * seconds / N:.2f}" for seconds in (first, seconds / starts)]
    words = [*means, *times, share(wrong), share(wrong.double().mean(0) > 0.5), f"{apart:.2f}"]
    return {"encoded": encoded, "ends": ends, "wrong": wrong, "words": words}


def without_encoder(vae: Any) -> Any:
    """The same model with its prior as guide."""

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", vae.prior())

    return pv.Program(lambda x: vae.model(x), guide)


def log_px_by_method(vae: Any, x: Tensor) -> dict[str, list[tuple[int, float, float]]]:
    """(draws or temperatures, ms a row, mean log p(x)) with the decoder alone, by draws and by annealing, and by q."""

    alone = without_encoder(vae)
    pv.log_evidence(alone, x[:2], 2)  # modules imported at the first call are not timed

    def annealed(T: int) -> Any:
        return pv.annealed_evidence(alone, x, T, start="prior", num_chains=4, num_leapfrog=5)

    methods: dict[str, tuple[Any, tuple[int, ...]]] = {
        "decoder alone, draws of the prior": (lambda S: pv.log_evidence(alone, x, S), (10, 100, 1000)),
        "decoder alone, annealed from the prior": (annealed, (10, 30, 100)),
        "encoder, draws of q": (lambda S: pv.log_evidence(vae, x, S), (10, 100, 1000)),
    }
    found: dict[str, list[tuple[int, float, float]]] = {}
    for name, (method, budgets) in methods.items():
        for budget in budgets:
            scored, cost = timed(lambda method=method, budget=budget: method(budget))
            found.setdefault(name, []).append((budget, 1e3 * cost / len(x), float(scored.log_px.mean())))
    return found


def timed(method: Any) -> tuple[Any, float]:
    """The result of a call, and the seconds of processor time that it took."""
    began = time.process_time()
    return method(), time.process_time() - began


def squared_error(vae: Any, z: Tensor, x: Tensor) -> Tensor:
    return (vae.decode(z) - x).square().mean(1)


def share(hits: Tensor) -> str:
    return f"{float(hits.double().mean()):.0%}"


def draw_where(vae: Any, x: Tensor, shape: Any, found: dict[str, Any], scored: dict[str, Any]) -> None:
    """Some rows with their decodings by the encoder and three searches; log p(x) against processor time."""
    order = found["wrong"][:3].sum(0).argsort(descending=True, stable=True)
    some = order[torch.linspace(0, len(x) - 1, 6).long()]
    columns = [x[some], vae.decode(found["encoded"][some]), *(vae.decode(end[some]) for end in found["ends"][:3])]
    sheet = torch.stack(columns, 1).flatten(0, 1)
    with style.figure_style():
        figure = Figure(figsize=(10, 4.4))
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.25])
        draw_on_axes.image_grid(left, sheet.numpy(), shape, columns=len(columns))
        names = ("row", "encoder", "search 1", "search 2", "search 3")
        style.label_columns(left, dict(enumerate(names)), shape)
        for i, j in (found["wrong"][:3, some].T).nonzero().tolist():
            top, across = i * (shape[0] + 2), (j + 2) * (shape[1] + 2)
            frame = Rectangle((across - 1.5, top - 1.5), shape[1] + 2, shape[0] + 2, fill=False, edgecolor=style.RED)
            frame.set_clip_on(False)
            left.add_patch(frame)
        left.set_title("Codes of rows (two latents)", pad=20)
        for (name, points), colour in zip(scored.items(), (style.RED, style.ORANGE, style.BLUE), strict=True):
            _, cost, log_px = zip(*points, strict=True)
            right.plot(cost, log_px, "o-", color=colour, markersize=5, label=name)
            for budget, *at in points:
                right.annotate(str(budget), at, (0, 6), textcoords="offset points", ha="center", fontsize=8)
        right.set(xscale="log", xlabel="processor time, ms a row", ylabel="log p(x), nats per row")
        right.margins(y=0.12)
        right.legend(loc="lower right")
        style.title(right, "log p(x) (ten latents)", f"{len(x)} validation rows; draws or temperatures")
        figure.savefig(IMAGES / "where_a_row_lies.png", dpi=150)


if __name__ == "__main__":
    cli()
