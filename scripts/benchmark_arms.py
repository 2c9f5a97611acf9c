"""The arms of `scripts/benchmark.py` that ask for no other library: the floors, the loops by hand and pyro_vae's own.

An arm is a function of a case and of turns: it sets up, then does one epoch (or evaluation, or iteration) for each turn
it is given, and returns what it reached.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from benchmark_turns import Case, Lumps, Missing
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.context import seeded
from pyro_vae.inference.svi.trainer import VALID_BATCH_SIZE

RATE = 1e-3
DRAWS_AT_ONCE = 8192  # of the decoder's bare products: blocks that suit the cache


def draw(pixels: Tensor) -> Tensor:
    """Bernoulli(v / 255) for pixels v of 8 bits: the quickest exact way here, so every torch arm has it."""
    return (torch.randint(0, 255, pixels.shape, dtype=torch.uint8, device=pixels.device) < pixels).float()


def networks(case: Case, num_features: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder, of the same size and started the same way in every torch arm."""
    encoder = nn.Sequential(
        nn.Linear(num_features, case.hidden), nn.Tanh(), nn.Linear(case.hidden, 2 * case.latent_dim)
    )
    decoder = nn.Sequential(nn.Linear(case.latent_dim, case.hidden), nn.Tanh(), nn.Linear(case.hidden, num_features))
    return encoder.to(case.device), decoder.to(case.device)


def products(case: Case, turns: Iterator[int]) -> None:
    """The floor of an epoch: each layer's output, its weight's gradient and, but for the first, its input's."""
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


def by_hand(case: Case, turns: Iterator[int], compiled: bool = False) -> float:
    """A plain torch loop: data in one tensor, a permutation, fused Adam, nothing read back before the epoch's end."""
    train, valid = case.splits()
    pixels, held_out = train.stored.to(case.device), valid.x.to(case.device)
    vae = ByHand(case, pixels.shape[1])
    optimizer = torch.optim.Adam(vae.parameters(), lr=RATE, fused=True)
    choose_objective: Callable[[Tensor], Tensor] = vae.loss
    score = choose_objective
    if compiled:  # not the drawing of pixels: inside the compiled code it took longer on a CPU
        mode = "default" if case.device == "cpu" else "reduce-overhead"
        choose_objective, score = (
            torch.compile(vae.loss, mode=mode, dynamic=False),
            torch.compile(vae.loss, dynamic=False),
        )
    for _ in turns:
        total = torch.zeros((), device=case.device)
        for index in torch.randperm(len(pixels), device=case.device).split(case.batch_size):
            loss = choose_objective(draw(pixels[index]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        with torch.no_grad():
            scores = [score(x) * len(x) for x in held_out.split(VALID_BATCH_SIZE)]
        elbo = -float(torch.stack(scores).sum()) / len(held_out)
        float(total)
    return elbo


def build_vae(case: Case, num_features: int) -> pv.VAE:
    """The same in pyro_vae's parts."""
    D, H, K = num_features, case.hidden, case.latent_dim
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(D, H, 2 * K))
    return pv.VAE(pv.priors.StandardNormal(K), pv.likelihoods.Bernoulli(pv.nets.mlp(K, H, D)), guide)


def ours(case: Case, turns: Iterator[int], compiled: bool | None = None) -> float:
    """`pv.fit`, whole: what happens between one epoch's end and the next."""
    keywords: dict[str, Any] = {}
    if "compile" in inspect.signature(pv.fit).parameters:
        keywords["compile"] = compiled
    elif compiled:
        raise Missing("this fit has no keyword compile")
    train, valid = case.splits()
    vae = build_vae(case, train.shape[1])
    fitted = pv.fit(
        vae,
        train,
        valid=valid,
        epochs=begin(turns),
        batch_size=case.batch_size,
        learning_rate=RATE,
        schedule="constant",
        device=case.device,
        on_epoch=lambda history: next(turns, None) and None,
        progress="none",
        **keywords,
    )
    return float(fitted.history[-1]["valid_elbo"])


def begin(turns: Any) -> int:
    """Begin the first turn; how many there will be."""
    next(turns)
    return int(turns.count)


def decoder_products(case: Case, turns: Iterator[int]) -> None:
    """The floor of the evidence: the decoder's products for every draw."""
    train, _ = case.splits()
    D, H, K = train.shape[1], case.hidden, case.latent_dim
    first, second = (torch.randn(a, b, device=case.device) for a, b in ((K, H), (H, D)))
    blocks = [torch.randn(n, K, device=case.device) for n in (DRAWS_AT_ONCE, case.units % DRAWS_AT_ONCE)]
    for _ in turns:
        for _ in range(case.units // DRAWS_AT_ONCE):
            blocks[0] @ first @ second
        blocks[1] @ first @ second


def evidence(case: Case, turns: Iterator[int]) -> float:
    """`pv.log_evidence` of rows of a VAE that was trained for a moment."""
    train, _ = case.splits()
    vae = build_vae(case, train.shape[1])
    pv.fit(vae, train[:1000], epochs=3, learning_rate=RATE, progress="none", device=case.device)
    x = train[: case.rows]
    for _ in turns:
        found = pv.log_evidence(vae, x, case.num_samples)
    return float(found.log_px.mean())


def em(case: Lumps, turns: Any, memory_mib: float = 2048.0) -> None:
    """An iteration of `pv.fit_em`, features kept or (little memory) rebuilt in blocks."""
    x, start = lumps(case)
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


def lumps(case: Lumps) -> tuple[Tensor, pv.GaussianMixture]:
    """The rows, and a mixture two iterations from its start: the same for all."""
    from em_vs_vi import _lumps

    x = _lumps(case.rows, case.columns, case.components, case.spread)
    start = pv.GaussianMixture(case.components, case.columns)
    with seeded(0):
        pv.fit_em(start, x, epochs=2)
    return x, start
