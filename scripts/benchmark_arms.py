"""The arms of `scripts/benchmark.py` that need no other library: matrix products, plain torch loops and pyro_vae.

An arm is a function of a case and of turns: it sets up, then does one epoch (or evaluation, or iteration) for each turn
it is given, and returns the value reached.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from benchmark_turns import Case, MixtureCase, Turns, Unavailable
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.context_managers import seeded
from pyro_vae.inference.fit_result import EpochRecord
from pyro_vae.inference.svi.validation_elbo import VALID_BATCH_SIZE

DRAWS_PER_BLOCK = 8192  # of the decoder's matrix products: blocks that fit the cache


def draw(pixels: Tensor) -> Tensor:
    """Bernoulli(v / 255) for pixels v of 8 bits, by a random byte for each: in every torch arm but pyro_vae's."""
    return (torch.randint(0, 255, pixels.shape, dtype=torch.uint8, device=pixels.device) < pixels).float()


def networks(case: Case, num_features: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder, with the same sizes and initialization in every torch arm."""
    encoder = nn.Sequential(
        nn.Linear(num_features, case.hidden), nn.Tanh(), nn.Linear(case.hidden, 2 * case.latent_dim)
    )
    decoder = nn.Sequential(nn.Linear(case.latent_dim, case.hidden), nn.Tanh(), nn.Linear(case.hidden, num_features))
    return encoder.to(case.device), decoder.to(case.device)


def products(case: Case, turns: Iterator[int]) -> None:
    """The matrix products of an epoch: each layer's output, weight gradient and (except the first) input gradient."""
    train, valid = case.splits()
    D, H, K = train.shape[1], case.hidden, case.latent_dim
    sizes = [(D, H), (H, 2 * K), (K, H), (H, D)]
    weights = [torch.randn(a, b, device=case.device) for a, b in sizes]

    def inputs(rows: int) -> list[Tensor]:
        return [torch.randn(rows, a, device=case.device) for a, _ in sizes]

    step, grads = inputs(case.batch_size), [torch.randn(case.batch_size, b, device=case.device) for _, b in sizes]
    blocks = [inputs(min(VALID_BATCH_SIZE, len(valid) - i)) for i in range(0, len(valid), VALID_BATCH_SIZE)]
    for _ in turns:
        for _ in range(case.steps):
            for i, (x, weight, grad) in enumerate(zip(step, weights, grads, strict=True)):
                x @ weight
                x.T @ grad
                if i:
                    grad @ weight.T
        for block in blocks:
            for x, weight in zip(block, weights, strict=True):
                x @ weight


class ByHand(nn.Module):
    """A VAE as one would write it without a library: the KL divergence in closed form, the scale's log from the net."""

    def __init__(self, case: Case, num_features: int) -> None:
        super().__init__()
        self.encoder, self.decoder = networks(case, num_features)

    def loss(self, x: Tensor) -> Tensor:
        """−ELBO, nats per row."""
        loc, log_scale = self.encoder(x).chunk(2, -1)
        scale = log_scale.exp()
        z = loc + scale * torch.randn_like(loc)
        reconstruction = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = (0.5 * (loc.square() + scale.square() - 1) - log_scale).sum()
        return (reconstruction + kl) / len(x)


def by_hand(case: Case, turns: Turns, compiled: bool = False) -> float:
    """A plain torch loop: data in one tensor, a permutation, fused Adam, nothing read back before the epoch's end."""
    train, valid = case.splits()
    pixels, held_out = train.stored.to(case.device), valid.x.to(case.device)
    vae = ByHand(case, pixels.shape[1])
    optimizer = torch.optim.Adam(vae.parameters(), lr=case.learning_rate, fused=True)
    training_loss: Callable[[Tensor], Tensor] = vae.loss
    score = training_loss
    if compiled:  # pixels are drawn outside: inside the compiled code that took longer on a CPU
        mode = "default" if case.device == "cpu" else "reduce-overhead"
        training_loss, score = (
            torch.compile(vae.loss, mode=mode, dynamic=False),
            torch.compile(vae.loss, dynamic=False),
        )
    for _ in turns:
        total = torch.zeros((), device=case.device)
        for index in torch.randperm(len(pixels), device=case.device).split(case.batch_size):
            loss = training_loss(draw(pixels[index]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        with torch.no_grad():
            scores = [score(x) * len(x) for x in held_out.split(VALID_BATCH_SIZE)]
        elbo = -float(torch.stack(scores).sum()) / len(held_out)
        float(total)
        turns.value = elbo
    return elbo


def build_vae(case: Case, num_features: int) -> pv.VAE:
    """The same VAE made of pyro_vae's parts."""
    D, H, K = num_features, case.hidden, case.latent_dim
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(D, H, 2 * K))
    return pv.VAE(pv.priors.StandardNormal(K), pv.likelihoods.Bernoulli(pv.nets.mlp(K, H, D)), guide)


def ours(case: Case, turns: Turns, compiled: bool | None = None, schedule: str = "constant") -> float:
    """`pv.fit`: all that happens between the end of one epoch and the next."""
    keywords: dict[str, Any] = {}
    if "compile" in inspect.signature(pv.fit).parameters:
        keywords["compile"] = compiled
    elif compiled:
        raise Unavailable("this fit has no keyword compile")
    train, valid = case.splits()
    vae = build_vae(case, train.shape[1])

    def next_turn(history: list[EpochRecord]) -> None:
        turns.value = history[-1].valid_elbo
        next(turns, None)

    fitted = pv.fit(
        vae,
        train,
        valid=valid,
        epochs=begin(turns),
        batch_size=case.batch_size,
        learning_rate=case.learning_rate,
        schedule=schedule,
        device=case.device,
        on_epoch=next_turn,
        progress="none",
        **keywords,
    )
    return float(fitted.history[-1]["valid_elbo"])


def begin(turns: Any) -> int:
    """Start the first turn; returns the number of turns."""
    next(turns)
    return int(turns.count)


def decoder_products(case: Case, turns: Iterator[int]) -> None:
    """The matrix products of the evidence: the decoder's, for every draw."""
    train, _ = case.splits()
    D, H, K = train.shape[1], case.hidden, case.latent_dim
    first, second = (torch.randn(a, b, device=case.device) for a, b in ((K, H), (H, D)))
    blocks = [torch.randn(n, K, device=case.device) for n in (DRAWS_PER_BLOCK, case.units % DRAWS_PER_BLOCK)]
    for _ in turns:
        for _ in range(case.units // DRAWS_PER_BLOCK):
            blocks[0] @ first @ second
        blocks[1] @ first @ second


def evidence(case: Case, turns: Iterator[int]) -> float:
    """`pv.log_evidence` of rows under a briefly trained VAE."""
    train, _ = case.splits()
    vae = build_vae(case, train.shape[1])
    pv.fit(vae, train[:1000], epochs=3, learning_rate=case.learning_rate, progress="none", device=case.device)
    x = train[: case.rows]
    for _ in turns:
        found = pv.log_evidence(vae, x, case.num_samples)
    return float(found.log_px.mean())


def em(case: MixtureCase, turns: Any, memory_mib: float = 2048.0) -> None:
    """An iteration of `pv.fit_em`, features kept or (little memory) rebuilt in blocks."""
    x, start = rows_and_mixture(case)
    count = begin(turns)
    pv.fit_em(
        start,
        x,
        start="current",
        epochs=count,
        tolerance=0,
        memory_mib=memory_mib,
        on_epoch=lambda history: next(turns, None) and None,
    )


def rows_and_mixture(case: MixtureCase) -> tuple[Tensor, pv.GaussianMixture]:
    """The rows, and a mixture after two iterations: the same for all arms."""
    from em_vs_vi import simulated_mixture

    x = simulated_mixture(case.rows, case.columns, case.components, case.spread)
    start = pv.GaussianMixture(case.components, case.columns)
    with seeded(0):
        pv.fit_em(start, x, epochs=2)
    return x, start
