"""The benchmark compares equals: one network, one objective, one draw of the pixels; a peer that lacks is named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from click.testing import CliRunner
from pyro.infer import JitTrace_ELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyro_vae as pv

sys.path.append(str(Path(__file__).parent.parent / "scripts"))

import benchmark
from benchmark_arms import ByHand, build_vae, draw
from benchmark_peers import PyroVAE, numpyro_svi, pythae_model
from benchmark_report import BARS, plot_medians, ratio, record, seconds_to, table, tables_of_marks, verdict
from benchmark_turns import Case, MixtureCase, Turns

COMMAND = Path(benchmark.__file__)
OLD_JIT = "ignore:`torch.jit.trace` is deprecated:DeprecationWarning"  # Pyro's JitTrace_ELBO is made of it
D = 6
CASE = Case(rows=40, batch_size=20, latent_dim=3, hidden=8, threads=1)
TINY = Case(rows=200, batch_size=100, latent_dim=2, hidden=5, threads=1)


class LogScale(nn.Module):
    """The guide of the loops by hand: the network's second half is log σ."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        loc, log_scale = self.net(x).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)


class Few:
    """So many turns, at once."""

    def __init__(self, count):
        self.count, self.done, self.measured, self.value = count, 0, None, None

    def __iter__(self):
        return self

    def __next__(self):
        if self.done == self.count:
            raise StopIteration
        self.done += 1
        return self.done


@pytest.fixture
def hand():
    return ByHand(CASE, D)


@pytest.fixture
def x():
    return (torch.rand(20, D) < 0.4).float()


def ours(hand):
    return pv.VAE(pv.priors.StandardNormal(3), pv.likelihoods.Bernoulli(hand.decoder), LogScale(hand.encoder))


def with_gradients(hand, choose_objective):
    """The loss and its gradients, from the noise of seed 7."""
    hand.zero_grad(set_to_none=True)
    pyro.set_rng_seed(7)
    loss = choose_objective()
    loss.backward()
    return [loss.detach(), *(p.grad for p in hand.parameters())]


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_loop_by_hand_maximizes_the_elbo_that_pyro_vae_does(hand, x):
    vae = ours(hand)
    found = with_gradients(hand, lambda: hand.loss(x))
    same(found, with_gradients(hand, lambda: TraceMeanField_ELBO().differentiable_loss(vae.model, vae.guide, x) / 20))


@pytest.mark.filterwarnings(OLD_JIT)
@pytest.mark.parametrize("jit", [False, True])
def test_pyros_example_maximizes_the_elbo_that_pyro_vae_does(hand, x, jit):
    theirs, vae = PyroVAE(CASE, D), ours(hand)
    expected = with_gradients(hand, lambda: Trace_ELBO().differentiable_loss(vae.model, vae.guide, x) / 20)
    theirs.encoder, theirs.decoder = hand.encoder, hand.decoder
    model, guide = theirs.model, theirs.guide  # a jitted objective knows them by their identity
    objective = JitTrace_ELBO(ignore_jit_warnings=True) if jit else Trace_ELBO()
    for _ in range(2):  # and draws for the tracing too when it is first called
        hand.zero_grad(set_to_none=True)
        pyro.set_rng_seed(7)
        loss = objective.loss_and_grads(model, guide, x)
    same([torch.tensor(loss) / 20, *(p.grad / 20 for p in hand.parameters())], expected)


def test_pythae_maximizes_the_elbo_that_the_loop_by_hand_does(hand, x):
    pytest.importorskip("pythae", reason="the extra bench is not installed")
    model = pythae_model(CASE, D)
    model.encoder.net, model.decoder.net = hand.encoder, hand.decoder
    same(with_gradients(hand, lambda: model({"data": x}).loss), with_gradients(hand, lambda: hand.loss(x)))


def test_numpyro_weighs_a_draw_as_pyro_vae_does(hand, x):
    pytest.importorskip("numpyro", reason="the extra bench is not installed")
    from numpyro.infer.util import log_density

    svi = numpyro_svi(CASE, D)
    nets = {"encoder$params": hand.encoder, "decoder$params": hand.decoder}
    parameters = {
        name: [(net[0].weight.T.detach().numpy(), net[0].bias.detach().numpy()), (),
               (net[2].weight.T.detach().numpy(), net[2].bias.detach().numpy())]
        for name, net in nets.items()
    }  # fmt: skip
    with torch.no_grad():
        q = LogScale(hand.encoder)(x)
        z = q.sample()
        p = dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1).log_prob(z)
        expected = (p + pv.likelihoods.Bernoulli(hand.decoder)(z).log_prob(x) - q.log_prob(z)).sum()
    values = parameters | {"z": z.numpy()}
    found = log_density(svi.model, (x.numpy(),), {}, values)[0] - log_density(svi.guide, (x.numpy(),), {}, values)[0]
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_every_arm_has_as_many_parameters():
    expected = sum(p.numel() for p in ByHand(CASE, D).parameters())
    assert sum(p.numel() for p in build_vae(CASE, D).parameters()) == expected
    assert sum(p.numel() for p in PyroVAE(CASE, D).parameters()) == expected


def test_pythae_has_as_many_parameters():
    pytest.importorskip("pythae", reason="the extra bench is not installed")
    expected = sum(p.numel() for p in ByHand(CASE, D).parameters())
    assert sum(p.numel() for p in pythae_model(CASE, D).parameters()) == expected


def test_numpyro_has_as_many_parameters():
    jax = pytest.importorskip("jax", reason="the extra bench is not installed")
    pytest.importorskip("numpyro", reason="the extra bench is not installed")
    svi = numpyro_svi(CASE, D)
    shapes = jax.eval_shape(lambda key, x: svi.get_params(svi.init(key, x)), jax.random.key(0), jax.numpy.zeros((4, D)))
    sizes = [leaf.size for leaf in jax.tree.leaves(shapes)]
    assert sum(sizes) == sum(p.numel() for p in ByHand(CASE, D).parameters())


def test_pixels_are_drawn_with_their_grey_level():
    levels = torch.tensor([0, 51, 204, 255], dtype=torch.uint8).repeat(4000, 1)
    mean = draw(levels).mean(0)
    assert mean[0] == 0
    assert mean[3] == 1
    torch.testing.assert_close(mean[1:3], torch.tensor([0.2, 0.8]), rtol=0, atol=5 * 0.4 / 4000**0.5)  # 5 errors


@pytest.mark.filterwarnings(OLD_JIT)
@pytest.mark.parametrize("name", [name for name in benchmark.EPOCH if "compile" not in name])
def test_arms_train_on_the_same_rows(name):
    arm, turns = benchmark.EPOCH[name], Few(2)
    try:
        value = arm(TINY, turns)
    except ImportError as error:
        pytest.skip(f"{error}: the extra bench is not installed")
    assert turns.done == 2
    assert value is None if name == "floor" else -600 < value < -150  # 784 ln 2 = 543 where all pixels are even


@pytest.mark.parametrize("name", list(benchmark.EM))
def test_arms_of_em_iterate(name):
    turns = Few(2)
    benchmark.EM[name](MixtureCase(400, 3, 2, threads=1), turns)
    assert turns.done == 2


def test_evidence_arms_score():
    case = Case(100, 100, 2, 5, num_samples=20, threads=1)
    assert -600 < benchmark.EVIDENCE["pyro_vae"](case, Few(2)) < -150
    benchmark.EVIDENCE["floor"](case, Few(2))


def test_validation_rows_are_scored_once_each_and_batches_are_whole():
    for rows in (50, 2000, 20_000):
        train, valid = Case(rows, 100).splits()
        assert len(train) % 100 == 0
        assert len(valid) % 1000 == 0
        assert 2000 // len(valid) <= 1
    assert [len(split) for split in Case(60_000).splits()] == [60_000, 5000]


def test_turns_wait_and_report():
    from multiprocessing import Pipe

    here, there = Pipe()
    turns = Turns(there, 2, cuda=False)
    for _ in range(2):
        here.send(True)
    assert list(turns) == [1, 2]
    assert [here.recv()["seconds"] >= 0 for _ in range(2)] == [True, True]


def made(case=CASE, slow=3.0):
    found = {name: {"seconds": [2.0, 4.0], "first": 9.0, "value": -100.0} for name in ("floor", "by hand", "pyro_vae")}
    found["pyro_vae"]["seconds"] = [2.0, slow]
    found["numpyro"] = {"missing": "No module named 'jax'"}
    return record("epoch", case, found, turns=2)


def test_ratios_are_paired_and_bars_judged():
    found = ratio({"a": {"seconds": [2.0, 3.0, 8.0]}, "b": {"seconds": [1.0, 3.0, 4.0]}}, "a", "b", 1.5)
    assert (found["median"], found["low"], found["high"]) == (2.0, 1.0, 2.0)
    assert verdict(found) == "a ÷ b: 2.00 (turns 1.00 to 2.00), bar 1.5 missed"
    bars = {(bar["arm"], bar["to"]): bar for bar in made()["bars"]}
    assert bars["pyro_vae", "by hand"]["median"] == 0.875
    assert bars["pyro_vae", "numpyro"]["median"] is None


def test_seconds_to_a_value_count_the_first_turn_and_every_rate():
    slow = {"first": 5.0, "seconds": [2.0, 2.0], "values": [-110.0, -104.0, -101.0]}
    quick = {"first": 1.0, "seconds": [1.0, 1.0], "values": [-120.0, -106.0, -105.0]}
    assert [seconds_to(slow, mark) for mark in (-110.0, -105.0, -101.5, -100.0)] == [5.0, 7.0, 9.0, None]
    results = [
        {"case": {"learning_rate": rate}, "turns": 2, "arms": {"a": a, "b": {"missing": "not installed\nat all"}}}
        for rate, a in ((0.001, slow), (0.01, quick))
    ]
    lines = tables_of_marks(results, [-105.0, -101.0]).splitlines()
    assert lines[0] == "Learning rate 0.001, 3 epochs:"
    assert lines[4:6] == ["| a | 7 | 9 | -101.00 |", "| b | not run: not installed | | |"]
    assert lines[11] == "| a | 3 |  | -105.00 |"
    assert lines[-4:] == ["| arm | -105 | -101 |", "|---|---|---|", "| a | 3 (0.01) | 9 (0.001) |", "| b |  |  |"]


@pytest.mark.parametrize("name", ["by hand", "pyro_vae", "pyro_vae, one-cycle", "pyro"])
def test_arms_report_a_value_in_each_turn(name):
    turns = Few(2)
    assert benchmark.ELBO[name](TINY, turns) == pytest.approx(turns.value)
    assert -600 < turns.value < -200


def test_a_missing_peer_is_named_in_the_table():
    words = table(made())
    assert "| numpyro | not run: No module named 'jax' |" in words
    assert "pyro_vae ÷ numpyro: not measured" in words


def test_figures_of_one_cell_and_of_many(tmp_path):
    cells = [made(Case(rows=40, batch_size=b, hidden=h)) for b, h in ((100, 500), (32, 500), (100, 200))]
    plot_medians(cells[:1], tmp_path / "one.png")
    plot_medians(cells, tmp_path / "many.png")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("one.png", "many.png"))


def test_bars_name_arms_that_there_are():
    tables = {"epoch": benchmark.EPOCH, "sizes": benchmark.EPOCH, "evidence": benchmark.EVIDENCE, "em": benchmark.EM}
    tables["start-up"] = benchmark.START_UP
    assert all(name in tables[command] for command, bars in BARS.items() for bar in bars for name in bar[:2])


def test_the_command_runs_names_what_lacks_and_goes_on_where_it_stopped(tmp_path):
    (tmp_path / "numpyro.py").write_text("raise ModuleNotFoundError(\"No module named 'numpyro'\")")
    out = tmp_path / "out.jsonl"
    command = [
        sys.executable,
        str(COMMAND),
        "epoch",
        "--rows",
        "200",
        "--turns",
        "2",
        "--threads",
        "1",
    ]
    command += ["--hidden", "5", "--latent-dim", "2", "--arms", "pyro_vae;numpyro", "--json", "--out", str(out)]

    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["command"] == "epoch"
    assert result["turns"] == 2
    assert result["case"]["rows"] == 200
    assert [*result["arms"]] == ["pyro_vae", "numpyro"]
    assert len(result["arms"]["pyro_vae"]["seconds"]) == 2
    assert {"first", "median", "ms_per_step", "per_second", "value"} <= result["arms"]["pyro_vae"].keys()
    assert result["arms"]["numpyro"]["missing"]
    assert "numpyro" in table(result)
    assert {"torch", "pyro-ppl"} <= result["machine"]["versions"].keys()
    again = CliRunner().invoke(benchmark.cli, command[2:], catch_exceptions=False)
    assert json.loads(again.output) == result
    assert len(out.read_text().splitlines()) == 1
