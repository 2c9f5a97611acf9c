"""Calls from many threads give what one thread gives; fits, errors, asyncio and forked processes."""

import asyncio
import multiprocessing
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyro
import pytest
import torch

import pyro_vae as pv
from pyro_vae.errors import InputError

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

import threads


@pytest.mark.parametrize("with_errors", [False, True])
@pytest.mark.parametrize("verb", threads.VERBS)
def test_numbers_of_one_thread(verb, with_errors):
    num_calls = 12 if verb == "score" else 30
    found = threads.run(verb, width=16, num_threads=8, num_calls=num_calls, with_errors=with_errors)
    assert (found.different, found.errors, found.handlers) == (0, 0, 0)


def test_fits_in_two_threads_are_those_of_one():
    """Two programs at once, and one that is fitted while another is encoded."""

    def fitted(pair):
        program, x = pair
        pv.fit(program, x, epochs=3, seed=1, progress="none")
        return torch.cat([value.flatten() for value in program.state_dict().values()])

    expected = [fitted(pair) for pair in threads.programs(16).values()]
    again = list(threads.programs(16).values())
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(fitted, again))
    for ours, theirs in zip(expected, found, strict=True):
        assert torch.equal(ours, theirs)


def test_a_program_is_encoded_while_it_is_fitted_again():
    """Codes are those of some weights: the fit's dropout and step do not leak into them, nor they into the fit."""
    program, x = threads.programs(16)["VAE"]
    other, _ = threads.programs(16)["VAE"]
    pv.fit(other, x, epochs=3, progress="none")
    thread = threading.Thread(target=lambda: pv.fit(program, x, epochs=3, progress="none"))
    thread.start()
    codes = [program.encode(x) for _ in range(20)]
    thread.join()
    assert all(torch.isfinite(each).all() for each in codes)
    for name, value in other.state_dict().items():
        assert torch.equal(value, program.state_dict()[name])


def test_an_error_leaves_nothing_behind():
    program, x = threads.programs(16)["functions"]
    before = program.encode(x)

    def broken():
        with pytest.raises(InputError):
            pv.log_evidence(program, torch.full_like(x, torch.nan), 5)

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(broken) for _ in range(8)]:
            each.result()
    assert pyro.poutine.runtime._PYRO_STACK == []
    assert len(pyro.get_param_store()) == 0
    assert torch.equal(program.encode(x), before)


def test_asyncio():
    program, x = threads.programs(16)["VAE"]
    expected = program.encode(x)

    async def many():
        return await asyncio.gather(*(asyncio.to_thread(program.encode, x) for _ in range(10)))

    assert all(torch.equal(found, expected) for found in asyncio.run(many()))


def codes_there(program, x, queue):
    queue.put(program.encode(x).tolist())


def test_a_process_that_is_forked_while_another_thread_works():
    """The child finds no handler, no other program's parameters and no held lock."""
    program, x = threads.programs(16)["functions"]
    expected, stop = program.encode(x), threading.Event()

    def work():
        while not stop.is_set():
            pv.log_evidence(program, x, 5, seed=0)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        context = multiprocessing.get_context("fork")
        for _ in range(3):
            queue = context.Queue()
            process = context.Process(target=codes_there, args=(program, x, queue))
            process.start()
            assert torch.equal(torch.tensor(queue.get(timeout=60)), expected)
            process.join()
    finally:
        stop.set()
        thread.join()


def test_a_traced_and_a_direct_mean_are_the_same_bits():
    """Encode takes no trace once it has seen that a trace gives the same; other parts are seen anew."""
    program, x = threads.programs(16)["VAE"]
    first = program.encode(x)
    assert torch.equal(program.encode(x), first)
    program.posterior = pv.guides.MeanFieldNormal(pv.nets.mlp(threads.COLUMNS, 8, 4))
    second = program.encode(x)
    assert not torch.equal(second, first)
    assert torch.equal(program.encode(x), second)
    program.train()
    assert torch.equal(program.encode(x), second)
    assert program.training


def test_parts_that_need_a_trace_get_one():
    """A part with a parameter by pyro.param keeps it in the program, and random numbers are those of the seed."""

    class Shifted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.part = pv.guides.MeanFieldNormal(pv.nets.mlp(threads.COLUMNS, 8, 4))

        def forward(self, x):
            shift = pyro.param("shift", torch.zeros(threads.COLUMNS))
            return self.part(x + shift)

    _, x = threads.programs(16)["VAE"]
    vae = pv.VAE(
        pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, threads.COLUMNS)), Shifted()
    ).eval()
    codes = [vae.encode(x) for _ in range(3)]
    assert torch.equal(codes[0], codes[2])
    assert len(pyro.get_param_store()) == 0
    assert "pyro.param/shift" in vae.state_dict()
    with torch.no_grad():
        dict(vae.named_parameters())["pyro.param/shift"].add_(1.0)
    assert not torch.equal(vae.encode(x), codes[0])
