"""Calls from many threads against the same calls from one: numbers, errors and throughput.

python scripts/threads.py [--threads 16] [--calls 500]
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import click
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_vae as pv

ROWS, COLUMNS = 100, 64


def model(x: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(COLUMNS))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("x", dist.Normal(loc + z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x)


def guide(x: Tensor) -> None:
    weight = pyro.param("weight", 0.01 * torch.ones(COLUMNS, 2))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ weight, 1.0).to_event(1))


def programs(width: int, second: str = "functions") -> dict[str, tuple[pv.Program, Tensor]]:
    """A VAE of bits, and a program of two functions or a VAE of real numbers, both fitted, and rows for each."""
    x = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    vaes = [
        pv.VAE(
            pv.priors.StandardNormal(2),
            likelihood(pv.nets.mlp(2, width, COLUMNS)),
            pv.guides.MeanFieldNormal(pv.nets.mlp(COLUMNS, width, 4)),
        )
        for likelihood in (pv.likelihoods.Bernoulli, pv.likelihoods.Normal)
    ]
    made = {"VAE": (vaes[0], (x > 0).float()), second: (vaes[1] if second == "vae" else pv.Program(model, guide), x)}
    for program, rows in made.values():
        pv.fit(program, rows, epochs=2, progress="none")
    return made


VERBS: dict[str, Callable[[pv.Program, Tensor, int], Tensor]] = {
    "encode": lambda program, x, seed: program.encode(x),
    "reconstruct": lambda program, x, seed: program.reconstruct(x),
    "sample": lambda program, x, seed: program.sample(20, seed=seed),
    "log_evidence": lambda program, x, seed: pv.log_evidence(program, x[:20], 10, seed=seed).log_px,
    "score": lambda program, x, seed: (
        pv.score(program, x[:20], x[20:40], num_samples=10, prior_share=0.1, seed=seed).percentile
    ),
}
ERROR_EVERY = 10  # calls


@dataclass(frozen=True)
class Outcome:
    """What calls from many threads did, against the same calls one after another.

    Attributes:
        different: calls whose numbers differed.
        errors: calls that raised what they should not.
        throughput: calls in a second over those of one thread.
        handlers: Pyro's handlers that were left on its stack.
    """

    different: int
    errors: int
    throughput: float
    handlers: int


def run(
    verb: str, width: int, num_threads: int, num_calls: int, with_errors: bool = False, second: str = "functions"
) -> Outcome:
    """Call a verb of two programs in turn, with a seed of its own each time.

    Args:
        verb: a name of `VERBS`.
        width: hidden units of the VAE.
        num_threads: threads.
        num_calls: calls in all.
        with_errors: whether rows of the wrong width come between, each of which has to raise.
        second: the second program, `functions` or `vae`.

    Returns:
        The outcome.
    """
    made = list(programs(width, second).values())

    def call(number: int) -> Tensor | Exception:
        program, x = made[number % 2]
        is_wrong = with_errors and number % ERROR_EVERY == 0
        try:
            found = VERBS[verb](program, x[:, :-1] if is_wrong else x, number)
        except Exception as error:  # counted below
            return error
        return RuntimeError("rows of the wrong width were taken") if is_wrong and verb != "sample" else found

    for number in range(2):
        call(number + 1)
    began = time.perf_counter()
    expected = [call(number) for number in range(num_calls)]
    if unwanted := [one for one in expected if isinstance(one, Exception)][num_calls * with_errors :]:
        raise unwanted[0]
    alone = time.perf_counter() - began
    began = time.perf_counter()
    with ThreadPoolExecutor(num_threads) as pool:
        found = list(pool.map(call, range(num_calls)))
    together = time.perf_counter() - began
    pairs = list(zip(found, expected, strict=True))
    errors = sum(isinstance(one, Exception) != isinstance(two, Exception) for one, two in pairs)
    both = [(one, two) for one, two in pairs if isinstance(one, Tensor) and isinstance(two, Tensor)]
    different = sum(not torch.equal(one, two) for one, two in both)
    return Outcome(different, errors, alone / together, len(pyro.poutine.runtime._PYRO_STACK))


@click.command()
@click.option("--threads", default=16, show_default=True)
@click.option("--calls", default=500, show_default=True, help="Of each thread.")
@click.option("--width", default=1000, show_default=True, help="Hidden units of the VAE.")
@click.option("--second", type=click.Choice(["functions", "vae"]), default="functions", show_default=True)
@click.option("--verbs", default=",".join(VERBS), show_default=True)
def main(threads: int, calls: int, width: int, second: str, verbs: str) -> None:
    """Print a table; torch uses one thread for each call."""
    torch.set_num_threads(1)
    click.echo("| verb | calls | different numbers | errors | throughput | after errors |\n|---|---|---|---|---|---|")
    for verb in verbs.split(","):
        plain, erring = (
            run(verb, width, threads, threads * calls, with_errors, second) for with_errors in (False, True)
        )
        after = f"{erring.different} different, {erring.errors} errors, {erring.handlers} handlers left"
        counts = f"{plain.different} | {plain.errors} | {plain.throughput:.2f}"
        click.echo(f"| {verb} | {threads * calls:,} | {counts} | {after} |")
    assert threading.active_count() < threads


if __name__ == "__main__":
    main()
