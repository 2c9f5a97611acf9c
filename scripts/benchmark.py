"""Time a training epoch of `pyro_vae.fit` against the same VAE written by hand, side by side in one process.

Every arm trains 784-500-K-500-784 with tanh units, batch 100 and Adam on the same rows, binarizing as it goes. The arms
take turns and the figures are medians over turns: machines are noisy, and only ratios travel. Run from anywhere:

    python scripts/benchmark.py [--data mnist --data-root DIR] [--rows 20000] [--turns 5] [--latent-dim 20] [--json]

Arms: `floor` the matrix products of a step alone, forward and backward; `by hand` a plain PyTorch loop with fused Adam;
`pyro_vae` the whole of `pv.fit`, without validation rows, as the others; `validated` with them; `pyro stock` Pyro's SVI
with its own Adam.
"""

import json
import statistics
import time
from collections.abc import Callable

import click
import pyro
import torch
import torch.nn.functional as F
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam  # type: ignore[attr-defined]  # Pyro makes its optimizers at import
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.data import Measure, Split

BATCH, HIDDEN, RATE = 100, 500, 2e-3
PIXELS = Measure(levels=255, binarize="stochastic")


def vae_of(latent_dim: int, num_features: int) -> pv.VAE:
    return pv.VAE(
        prior=pv.priors.StandardNormal(latent_dim),
        likelihood=pv.likelihoods.Bernoulli(pv.nets.mlp(latent_dim, HIDDEN, num_features)),
        guide=pv.guides.MeanFieldNormal(pv.nets.mlp(num_features, HIDDEN, 2 * latent_dim)),
    )


def batches(pixels: Tensor) -> list[Tensor]:
    return list(torch.randperm(len(pixels)).split(BATCH))


def floor(pixels: Tensor, latent_dim: int) -> float:
    """The products of one step: each of four layers' output, its weight's gradient, and its input's but the first."""
    sizes = [(pixels.shape[1], HIDDEN), (HIDDEN, 2 * latent_dim), (latent_dim, HIDDEN), (HIDDEN, pixels.shape[1])]
    layers = [(torch.randn(BATCH, a), torch.randn(a, b), torch.randn(BATCH, b)) for a, b in sizes]
    began = time.perf_counter()
    for _ in batches(pixels):
        for i, (x, weight, grad) in enumerate(layers):
            x @ weight
            x.T @ grad
            if i:
                grad @ weight.T
    return time.perf_counter() - began


def by_hand(pixels: Tensor, latent_dim: int) -> float:
    """A plain PyTorch training loop, as one would write it."""
    encoder = nn.Sequential(nn.Linear(pixels.shape[1], HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2 * latent_dim))
    decoder = nn.Sequential(nn.Linear(latent_dim, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, pixels.shape[1]))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE, fused=True)
    total = 0.0
    began = time.perf_counter()
    for index in batches(pixels):
        x = torch.bernoulli(pixels[index].float() / 255)
        loc, log_scale = encoder(x).chunk(2, -1)
        z = loc + log_scale.exp() * torch.randn_like(loc)
        reconstruction = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        kl = 0.5 * (loc.square() + (2 * log_scale).exp() - 1 - 2 * log_scale).sum()
        loss = (reconstruction + kl) / len(x)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return time.perf_counter() - began


def ours(pixels: Tensor, latent_dim: int, valid: Split | None = None) -> float:
    split = Split("train", pixels, PIXELS)
    vae = vae_of(latent_dim, pixels.shape[1])
    vae.start_at(split.mean)
    _ = split[:1]  # the fixed draw that scores refer to is made once for a data set, not once for an epoch
    return pv.fit(vae, split, epochs=1, batch_size=BATCH, learning_rate=RATE, progress="none", valid=valid).seconds


def validated(pixels: Tensor, latent_dim: int) -> float:
    """The same with validation rows, one for every eleven trained on, as `--data mnist` has them."""
    valid = Split("valid", pixels[: len(pixels) // 11], PIXELS)
    _ = valid[:1]
    return ours(pixels, latent_dim, valid)


def stock(pixels: Tensor, latent_dim: int) -> float:
    vae = vae_of(latent_dim, pixels.shape[1])
    pyro.clear_param_store()
    svi = SVI(vae.model, vae.guide, Adam({"lr": RATE}), Trace_ELBO())
    began = time.perf_counter()
    for index in batches(pixels):
        svi.step(torch.bernoulli(pixels[index].float() / 255))
    return time.perf_counter() - began


ARMS: dict[str, Callable[[Tensor, int], float]] = {
    "floor": floor,
    "by hand": by_hand,
    "pyro_vae": ours,
    "validated": validated,
    "pyro stock": stock,
}


@click.command()
@click.option("--data", default="mnist-5k", show_default=True)
@click.option("--data-root", type=click.Path(exists=True))
@click.option("--rows", default=4000, show_default=True, help="Training rows in an epoch.")
@click.option("--turns", default=5, show_default=True)
@click.option("--latent-dim", default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(data: str, data_root: str | None, rows: int, turns: int, latent_dim: int, as_json: bool) -> None:
    pixels = pv.load_data(data, root=data_root).train.stored[:rows]
    steps = -(-len(pixels) // BATCH)
    for arm in ARMS.values():  # a warm-up turn that does not count
        arm(pixels[:1000], latent_dim)
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    for _ in range(turns):
        for name, arm in ARMS.items():
            seconds[name].append(arm(pixels, latent_dim))
    milliseconds = {name: 1000 * statistics.median(values) / steps for name, values in seconds.items()}
    ratios = {
        name: statistics.median(a / b for a, b in zip(values, seconds["by hand"], strict=True))
        for name, values in seconds.items()
    }
    if as_json:
        click.echo(
            json.dumps({"ms_per_step": milliseconds, "ratio_to_by_hand": ratios, "turns": turns, "steps": steps})
        )
        return
    about = f"({torch.get_num_threads()} threads, {turns} turns of {steps} steps)"
    click.echo(f"{'':<12}{'ms per step':>12}{'to by hand':>12}   {about}")
    for name in ARMS:
        click.echo(f"{name:<12}{milliseconds[name]:>12.2f}{ratios[name]:>12.2f}")


if __name__ == "__main__":
    main()
