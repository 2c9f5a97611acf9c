"""Measurements of docs/em_vs_vi.md: EM compared with VI.

Slow commands store their results in a folder and resume from there:

    python scripts/em_vs_vi.py bits fit --data-root DIR [--out runs/em]      # Bernoulli mixtures of MNIST, 10 to 500
    python scripts/em_vs_vi.py bits table --data-root DIR --vaes runs/mnist  # ... and VAEs of scripts/reproduce.py
    python scripts/em_vs_vi.py gaps                                          # q(c|x) of four widths, three seeds
    python scripts/em_vs_vi.py linear                                        # a linear VAE and PPCA's maximum
    python scripts/em_vs_vi.py new-rows --data-root DIR --vae runs/mnist/plain-0   # time and gap of q for a new row
    python scripts/em_vs_vi.py reals                                         # grey digits and a table: the best model
    python scripts/em_vs_vi.py speed                                         # an iteration, and scikit-learn's
"""

import copy
import itertools
import json
import math
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.context_managers import seeded

ROOT_OPTION = click.option("--data-root", type=click.Path(), help="The folder that holds torchvision's data sets.")
OUT_OPTION = click.option("--out", type=click.Path(path_type=Path), default=Path("runs/em"), show_default=True)
SIZES = (10, 20, 50, 100, 200, 500)


@click.group()
def cli() -> None:
    """Compare EM with VI."""


@cli.group()
def bits() -> None:
    """Mixtures of independent Bernoulli variables on binarized MNIST."""


@bits.command("fit")
@ROOT_OPTION
@OUT_OPTION
@click.option("--sizes", default=",".join(map(str, SIZES)))
@click.option(
    "--prior-rows", default="1.0", help="Weight of the prior in rows; several values are compared on validation rows."
)
@click.option("--iterations", default=100, show_default=True)
def fit_bits(data_root: str | None, out: Path, sizes: str, prior_rows: str, iterations: int) -> None:
    """EM on one draw of the 55,000 training rows; and log p(x) of the validation rows."""
    data = pv.load_data("mnist", root=data_root)
    for size, rows in itertools.product(map(int, sizes.split(",")), map(float, prior_rows.split(","))):
        folder = out / f"bits-{size}-{rows:g}"
        if (folder / "fit.json").exists():
            continue
        mixture = pv.BernoulliMixture(size, 784, prior_rows=rows)
        fitted = pv.fit_em(mixture, data.train, epochs=iterations, tolerance=1e-3, seed=0)
        valid = float(mixture.log_prob(data.valid).mean())
        pv.save(mixture, folder)
        found: dict[str, object] = {"size": size, "prior_rows": rows, "valid": valid, "seconds": fitted.seconds}
        found |= {"history": [dict(row) for row in fitted.history]}
        (folder / "fit.json").write_text(json.dumps(found), encoding="utf-8")
        click.echo(f"{size} components, prior of {rows:g} rows: {fitted}; validation {valid:.2f}")


@bits.command("table")
@ROOT_OPTION
@OUT_OPTION
@click.option("--vaes", type=click.Path(path_type=Path), default=Path("runs/mnist"), show_default=True)
@click.option("--arms", default="plain,vamp", show_default=True)
@click.option("--split", type=click.Choice(["valid", "test"]), default="valid", show_default=True)
@click.option("--num-samples", default=500, show_default=True, help="Draws for each row, for the VAEs.")
@click.option("--num-rows", default=1000, show_default=True, help="Rows that VAEs are scored on; mixtures on all.")
def table_of_bits(
    data_root: str | None, out: Path, vaes: Path, arms: str, split: str, num_samples: int, num_rows: int
) -> None:
    """The same draw of the same rows: mixtures exactly, VAEs by `auto_evidence`."""
    rows = pv.load_data("mnist", root=data_root).split(split)
    first_rows = rows.head(num_rows)
    found: dict[str, Tensor] = {}
    for folder in sorted(out.glob("bits-*-1"), key=lambda path: int(path.name.split("-")[1])):
        kept, mixture = json.loads((folder / "fit.json").read_text("utf-8")), pv.load(folder)
        assert isinstance(mixture, pv.BernoulliMixture)
        began = time.perf_counter()
        log_px = mixture.log_prob(rows)
        each = (time.perf_counter() - began) / len(rows)
        found[folder.name] = log_px[:num_rows]
        click.echo(
            f"{kept['size']} components: {log_px.mean():.2f} ± {log_px.std() / math.sqrt(len(rows)):.2f} (all rows), "
            f"first {num_rows} {found[folder.name].mean():.2f}; fit {kept['seconds']:.0f} s, "
            f"{len(kept['history'])} iterations, {mixture.num_free:,} parameters, {1e6 * each:.0f} µs a row"
        )
    for arm in arms.split(","):
        vae = pv.load(vaes / f"{arm}-0")
        by_guide = pv.log_evidence(vae, first_rows, num_samples, seed=0)
        best = pv.auto_evidence(vae, first_rows, num_samples, seed=0)
        found[arm] = best.log_px
        click.echo(f"VAE {arm}: guide {by_guide}, k-hat bad {by_guide.khat_bad:.0%}\n  auto {best}")
    best_name = max(found, key=lambda name: float(found[name].mean()))
    for name, values in found.items():
        ahead = float((values > found[best_name]).double().mean())
        click.echo(f"{name}: {_below_best(values, found, best_name)}; ahead in {ahead:.1%} of rows")


@cli.command()
@click.option("--widths", default="2,8,32,128")
@click.option("--seeds", default="0,1,2")
@click.option("--epochs", default=100, show_default=True)
def gaps(widths: str, seeds: str, epochs: int) -> None:
    """q(c|x) by a network of one hidden layer, on pinwheel: KL(q ‖ p(c|x)) of held-out rows, summed exactly."""
    data = pv.load_data("pinwheel")
    for held in (True, False):
        for width, seed in itertools.product(map(int, widths.split(",")), map(int, seeds.split(","))):
            mixture = pv.GaussianMixture(5, 2)
            pv.fit_em(mixture, data.train, seed=seed, epochs=500 if held else 1)
            with seeded(seed):
                net = pv.nets.mlp(2, width, 5).double()
            amortized = pv.GaussianMixture(5, 2, guide=pv.guides.CategoricalGuide(net))
            amortized.load_state_dict(mixture.state_dict(), strict=False)
            if held:
                for name in ("logits", "loc", "raw_scale"):
                    getattr(amortized, name).requires_grad_(False)
            pv.fit(amortized, data, epochs=epochs, learning_rate=0.01, seed=seed, progress="none")
            gap = amortized.log_prob(data.valid) - amortized.elbo(data.valid)
            log_px = amortized.log_prob(data.valid)
            click.echo(
                f"{'EM’s θ held' if held else 'θ and q together'}, width {width}, seed {seed}: gap {gap.mean():.4f} "
                f"(smallest row {gap.min():.1e}), log p(x) {log_px.mean():.4f}"
            )


@cli.command()
@click.option("--latents", default=8, show_default=True)
@click.option("--seeds", default="0,1,2")
@click.option("--epochs", default=300, show_default=True)
def linear(latents: int, seeds: str, epochs: int) -> None:
    """A linear VAE with one learned scale, trained by SVI, against PPCA's maximum: grey digits, dequantized."""
    data = pv.load_data("digits", binarize="none", dequantize=True)
    ppca = pv.PPCA(latents, data.num_features)
    pv.fit_closed_form(ppca, data)
    for seed in map(int, seeds.split(",")):
        with seeded(seed):
            decoder = pv.nets.linear(latents, 64)
            vae = pv.VAE(
                pv.priors.StandardNormal(latents),
                pv.likelihoods.Normal(decoder, scale="learned"),
                pv.guides.MeanFieldNormal(pv.nets.linear(64, 2 * latents)),
            )
        fitted = pv.fit(vae, data, epochs=epochs, learning_rate=0.01, schedule="cosine", seed=seed, progress="none")
        weight = next(decoder.parameters())
        bases = [torch.linalg.qr(w.detach().double())[0] for w in (weight, ppca.weight)]
        angles = torch.linalg.svdvals(bases[0].T @ bases[1]).clamp(max=1).acos().rad2deg()
        for split in (data.valid, data.test):
            exact, best = pv.exact_evidence(vae, split), ppca.log_prob(split)
            elbo = pv.log_evidence(vae, split, 200).elbo
            click.echo(
                f"seed {seed}, {split.name}: PPCA {best.mean():.3f}, linear VAE {exact.log_px.mean():.3f} "
                f"({exact.method}), behind {(best - exact.log_px).mean():.4f}; ELBO {elbo.mean():.3f}; largest angle "
                f"{angles.max():.2f}°, the others up to {angles.sort().values[-2]:.2f}°; {fitted.seconds:.0f} s"
            )


@cli.command("new-rows")
@ROOT_OPTION
@click.option("--vae", type=click.Path(path_type=Path), default=Path("runs/mnist/plain-0"), show_default=True)
@click.option("--num-rows", default=200, show_default=True)
def new_rows(data_root: str | None, vae: Path, num_rows: int) -> None:
    """What q costs for a row never seen, and how far below log p(x) its bound stays: encoder, refinement, Laplace."""
    program, rows = pv.load(vae), pv.load_data("mnist", root=data_root).valid.head(num_rows)
    places = torch.arange(num_rows)
    best = pv.auto_evidence(program, rows, 1000, seed=0)
    click.echo(f"log p(x) by auto: {best}")
    makers: dict[str, Any] = {
        "encoder": lambda: (program.encode(rows.x), None)[1],
        "refined, 20 steps": lambda: pv.refine(program, rows, 20),
        "refined, 500 steps": lambda: pv.refine(program, rows, 500),
        "Laplace": lambda: pv.laplace_approximation(program, rows, starts=1),
    }
    for name, make in makers.items():
        began = time.perf_counter()
        made = make()
        seconds = (time.perf_counter() - began) / num_rows
        if made is None:
            found = pv.log_evidence(program, rows, 200, seed=0)
        else:
            found = pv.log_evidence(made, rows, 200, rows=places, seed=0)
        gap = (best.log_px - found.elbo).mean()
        click.echo(f"{name}: {1e3 * seconds:.2f} ms a row, ELBO {found.elbo.mean():.2f}, gap {gap:.2f}")


@cli.command()
@click.option("--split", type=click.Choice(["valid", "test"]), default="valid", show_default=True)
def reals(split: str) -> None:
    """Mixtures of normals, PPCA, factor analysis and VAEs on real numbers; sizes are chosen on validation rows, the
    mixture's by cross-validation on training rows."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    sets = {
        "digits, grey, dequantized": pv.load_data("digits", binarize="none", dequantize=True),
        "breast cancer, 30 columns": pv.load_data(table.data),
    }
    for name, data in sets.items():
        best: dict[str, tuple[float, str, Any, float]] = {}
        for kind, what, program in itertools.chain(_mixtures(data), _factors(data), _vaes(data)):
            began = time.perf_counter()
            if kind == "VAE":
                pv.fit(program, data, epochs=200, seed=0, progress="none")
            elif program is None:
                sizes, forms = (1, 3, 10, 30), ("full", "tied", "diagonal")
                selection = pv.select_mixture(data, components=sizes, covariance=forms, num_starts=5, seed=0)
                what, program = str(selection.best), selection.mixture
            else:
                pv.fit_em(program, data.train, seed=0)
            seconds = time.perf_counter() - began
            value = float(_log_px(program, data.valid).mean())
            click.echo(f"  {name}: {kind}, {what}: {value:.2f} on validation rows, {seconds:.1f} s")
            if kind not in best or value > best[kind][0]:
                best[kind] = value, what, program, seconds
        if split == "valid":
            continue
        scored = {kind: _log_px(program, data.test) for kind, (_, _, program, _) in best.items()}
        top = max(scored, key=lambda kind: float(scored[kind].mean()))
        for kind, values in scored.items():
            words = _below_best(values, scored, top)
            click.echo(f"{name}, test: {kind} ({best[kind][1]}) {words}; {best[kind][3]:.1f} s; {data.measure}")


def _below_best(values: Tensor, found: dict[str, Tensor], best: str) -> str:
    """The mean, and its paired difference from the best."""
    behind = found[best] - values
    error = float(behind.std()) / math.sqrt(len(behind))
    return f"{values.mean():.2f}, behind {best} {behind.mean():.2f} ± {error:.2f}"


def _mixtures(data: pv.Dataset) -> Any:
    yield "Gaussian mixture", "", None  # chosen by cross-validation on training rows


def _factors(data: pv.Dataset) -> Any:
    for latents in (2, 5, 10, 20):
        yield "PPCA", f"{latents} latents", pv.PPCA(latents, data.num_features)
        yield "factor analysis", f"{latents} latents", pv.FactorAnalysis(latents, data.num_features)


def _vaes(data: pv.Dataset) -> Any:
    D = data.num_features
    for latents, scale in itertools.product((2, 5, 10), ("per-feature", "network")):
        with seeded(0):
            net = pv.nets.mlp(latents, 200, (2 if scale == "network" else 1) * D)
            likelihood = pv.likelihoods.Normal(net, scale, D if scale == "per-feature" else None)
            guide = pv.guides.MeanFieldNormal(pv.nets.mlp(D, 200, 2 * latents))
            vae = pv.VAE(pv.priors.StandardNormal(latents), likelihood, guide)
        yield "VAE", f"{latents} latents, scale {scale}", vae


def _log_px(program: Any, rows: pv.Split) -> Tensor:
    """Exact, or for a VAE by `auto_evidence`."""
    found = (
        program.log_prob(rows)
        if isinstance(program, pv.Density)
        else pv.auto_evidence(program, rows, 1000, seed=0).log_px
    )
    return torch.as_tensor(found)


@cli.command()
@click.option("--rows", default=60_000, show_default=True)
@click.option("--columns", default=50, show_default=True)
@click.option("--components", default=50, show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--spread", default=1.0, show_default=True, help="Of the means, in units of the components' scale.")
def speed(rows: int, columns: int, components: int, repeats: int, spread: float) -> None:
    """Seconds of an iteration, interleaved with scikit-learn's: features kept, rebuilt in blocks, and memory."""
    x = simulated_mixture(rows, columns, components, spread)
    start = pv.GaussianMixture(components, columns)
    pv.fit_em(start, x, epochs=2)
    found: dict[str, list[float]] = {"scikit-learn": [], "kept": [], "rebuilt": []}
    for _ in range(repeats):
        found["scikit-learn"].append(_scikit_learn_seconds(start, x))
        for name, memory in (("kept", 2048.0), ("rebuilt", 1.0)):
            mixture = copy.deepcopy(start)
            fitted = pv.fit_em(mixture, x, start="current", epochs=4, tolerance=0, memory_mib=memory)
            seconds = [row["seconds"] for row in fitted.history]
            found[name].append(statistics.median(np.diff(seconds).tolist()))
    medians = {name: statistics.median(values) for name, values in found.items()}
    trusted = "features trusted" if start.table() is not None else "solved for each component"
    click.echo(f"{rows} × {columns}, {components} components, float64, {torch.get_num_threads()} threads, {trusted}")
    for name, value in medians.items():
        low, high = min(found[name]), max(found[name])
        ratios = [theirs / ours for theirs, ours in zip(found["scikit-learn"], found[name], strict=True)]
        click.echo(
            f"  {name}: {value:.2f} s ({low:.2f} to {high:.2f}) an iteration, "
            f"{statistics.median(ratios):.1f} times as fast as scikit-learn (median of paired ratios)"
        )


def simulated_mixture(rows: int, columns: int, components: int, spread: float) -> Tensor:
    g = torch.Generator().manual_seed(0)
    mix = torch.eye(columns) + 0.5 * torch.randn(components, columns, columns, generator=g) / math.sqrt(columns)
    mean = spread * torch.randn(components, columns, generator=g)
    label = torch.randint(0, components, (rows,), generator=g).sort().values
    counts = torch.bincount(label, minlength=components).tolist()
    noise = torch.randn(rows, columns, generator=g).split(counts)
    parts = [m + e @ a.T for m, e, a in zip(mean, noise, mix, strict=True)]
    return torch.cat(parts)[torch.randperm(rows, generator=g)].double()


def _scikit_learn_seconds(start: pv.GaussianMixture, x: Tensor, iterations: int = 2) -> float:
    """Seconds of one of scikit-learn's iterations: its own E- and M-step, from the same parameters."""
    from sklearn.mixture import GaussianMixture

    inverse = torch.linalg.inv(start.covariances).numpy()
    theirs = GaussianMixture(
        start.num_components,
        weights_init=start.weights.numpy(),
        means_init=start.means.numpy(),
        precisions_init=inverse,
        max_iter=1,
        tol=0.0,
        init_params="random",
    )
    values = x.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(values[: 10 * start.num_components * x.shape[1]])
    found = []
    for _ in range(iterations):
        began = time.perf_counter()
        _, log_shares = theirs._e_step(values)
        theirs._m_step(values, log_shares)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


if __name__ == "__main__":
    cli()
