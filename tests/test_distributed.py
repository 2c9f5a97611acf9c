"""Several processes compared with a single one (gloo, 2 and 4)."""

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from filelock import FileLock  # torch depends on it
from processes import start
from torch import nn

import pyro_vae as pv
from pyro_vae.atomic_write import read_tensors
from pyro_vae.context_managers import defer_signals
from pyro_vae.data import Measure, Split
from pyro_vae.distributed import SINGLE_PROCESS, GradientReducer, ProcessGroup
from pyro_vae.inference.svi.callbacks import CallbackBase
from pyro_vae.inference.svi.checkpoint import CHECKPOINT

SIZES = (2, 3)
SEEDS = range(3)


class FixedNoise(nn.Module):
    """A program whose noise is indexed by row, so that it does not depend on shards: z = m + s ε_i, with its log q.

    Its guide draws nothing, so the history has its objective as a log joint.

    It has a latent that all rows share, a prior of its parameters and an unused parameter.
    """

    def __init__(self, poisoned=None):
        super().__init__()
        g = torch.Generator().manual_seed(1)
        self.encoder, self.decoder = pv.nets.mlp(6, 8, 4), pv.nets.mlp(2, 8, 6)
        self.shift, self.unused = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(1))
        self.noise, self.poisoned = torch.randn(91, 2, generator=g), poisoned

    def model(self, x):
        pyro.module("model", self.decoder)
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z + w)).to_event(1), obs=x)

    def guide(self, x, rows=None):
        pyro.module("guide", self)
        noise = torch.zeros(len(x), 2) if rows is None else self.noise[rows]
        q = dist.Normal(self.shift, 0.5).to_event(1)
        pyro.sample("w", dist.Delta(self.shift + 0.5, log_density=q.log_prob(self.shift + 0.5), event_dim=1))
        loc, raw = self.encoder(x).chunk(2, -1)
        q = dist.Normal(loc, raw.exp())
        z = loc + raw.exp() * noise
        log_q = q.log_prob(z).sum(-1)
        if self.poisoned is not None and rows is not None:
            log_q = log_q + torch.where(rows == self.poisoned, torch.inf, 0.0)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(z, log_density=log_q, event_dim=1))

    def log_prior(self):
        return -sum(value.square().sum() for value in self.decoder.parameters())


def rows(n, seed=0):
    return (torch.rand(n, 6, generator=torch.Generator().manual_seed(seed)) < torch.linspace(0.1, 0.9, 6)).float()


def vae(seed=0):
    torch.manual_seed(seed)
    likelihood, guide = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 6)), pv.guides.MeanFieldNormal(pv.nets.mlp(6, 8, 4))
    return pv.VAE(pv.priors.StandardNormal(2), likelihood, guide)


def state_lists(program):
    return {name: value.tolist() for name, value in program.state_dict().items()}


def weighted(x):
    """The rows with weights from 0.2 to 5."""
    return Split("train", x, Measure(given=True), weights=torch.linspace(0.2, 5.0, len(x)))


def twenty_steps(prepare=lambda x: x):
    """4 steps an epoch, the last on one row: a process without rows takes part."""
    torch.manual_seed(0)
    program = FixedNoise()
    options = {"epochs": 5, "batch_size": 30, "schedule": "constant", "clip": 0.5, "progress": "none"}
    fitted = pv.fit(program, prepare(rows(91)), valid=prepare(rows(3)), **options)
    assert fitted.history[-1]["step"] == 20
    return {
        "state": state_lists(program),
        "objective": [[row["log_joint"], row["valid_log_joint"]] for row in fitted.history],
    }


def whole_runs():
    options = {"valid": rows(2000, seed=2), "epochs": 8, "batch_size": 50, "learning_rate": 0.02, "progress": "none"}
    return [pv.fit(vae(), rows(200), seed=seed, **options).history[-1]["valid_elbo"] for seed in SEEDS]


def evidence(group):
    program, x = vae(), rows(300)
    found = pv.log_evidence(program, x, 100, iwae=[5], group=group)
    annealed = pv.annealed_evidence(program, x[:150], 5, num_chains=4, group=group)
    exact = pv.exact_evidence(program, x[:20], group=group)
    scores = pv.score(program, x[:40], x[40:], num_samples=100, group=group)
    return {
        "log_px": found.log_px.tolist(),
        "mc_se": found.mc_se.tolist(),
        "iwae": found.iwae[5].tolist(),
        "annealed": annealed.log_px.tolist(),
        "exact": exact.log_px.tolist(),
        "p_value": scores.p_value.tolist(),
    }


def command(*words):
    from pyro_vae.cli.main import _run

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = _run([str(word) for word in words])
    return [code, out.getvalue(), err.getvalue()]


def error_of(call):
    try:
        call()
    except (pv.InputError, pv.DivergedError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def resumed_fits(folder):
    """A fit to the end, and one from its checkpoint of the third epoch."""
    from pyro_vae.inference.svi import checkpoint

    checkpoint.SECONDS_BETWEEN_CHECKPOINTS = -1.0
    options = {"epochs": 5, "batch_size": 20, "progress": "none"}

    def copy(history):
        if len(history) == 4:
            shutil.copytree(folder / "whole", folder / "later")

    whole, later = vae(), vae(seed=9)
    fitted = pv.fit(whole, rows(60), checkpoint=folder / "whole", on_epoch=copy, **options)
    pv.fit(later, rows(60), checkpoint=folder / "later", **options)
    from_single = pv.fit(vae(), rows(60), checkpoint=folder / "from single", **options)
    return {
        "same": state_lists(whole) == state_lists(later),
        "epochs": [len(fitted.history), len(from_single.history)],
    }


def run_process(folder):
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message=".* latent dimensions are inactive")
    group = pv.distributed.process_group()
    found = {"twenty": twenty_steps(), "whole": whole_runs(), "evidence": evidence(group)}
    found["with weights"] = twenty_steps(weighted)
    if group.size == 2:
        found |= {"twenty again": twenty_steps(), "resumed": resumed_fits(folder)} | errors_of_bad_calls(group)
        own = vae(seed=group.rank)
        pv.fit(own, rows(60), epochs=2, batch_size=20, progress="none")
        found["same start"] = [state == state_lists(own) for state in group.all_gather(state_lists(own))]
        found["stopped"] = stopped_by_rank_0()
        warnings.simplefilter("default")
        found |= commands(folder)
    (folder / f"{group.rank}.json").write_text(json.dumps(found))
    os._exit(0)  # Gloo's threads, torn down with the interpreter, now and then abort it


def stopped_by_rank_0():
    """A fit that a callback stops after two epochs: why and when it ended, and how often the callback was called."""
    calls = []

    class StopAtTwo(CallbackBase):
        def on_epoch(self, fit):
            calls.append(len(fit.history))
            return len(fit.history) == 2

    fitted = pv.fit(vae(), rows(60), epochs=5, batch_size=20, callbacks=[StopAtTwo()], progress="none")
    return [fitted.stopped, len(fitted.history), len(calls)]


def errors_of_bad_calls(group):
    return {
        "other rows": error_of(lambda: pv.fit(vae(), rows(60, seed=group.rank), epochs=1)),
        "other program": error_of(lambda: pv.fit(vae() if group.is_main else FixedNoise(), rows(60), epochs=1)),
        "few rows": error_of(lambda: pv.fit(vae(), rows(60), epochs=1, batch_size=1)),
        "poisoned": error_of(lambda: pv.fit(FixedNoise(poisoned=7), rows(91), epochs=2, progress="none")),
    }


def commands(folder):
    os.chdir(folder)
    return {
        "evaluate": command("evaluate", folder / "run", "--num-samples", 50, "--json"),
        "score": command("score", folder / "run", "--num-samples", 50, "--json", "--out", folder / "scores.csv"),
        "sample": command("sample", folder / "run"),
        "fit": command("fit", "--data", "digits", "--hidden", 10, "--epochs", 1, "--json"),
    }


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def found(tmp_path_factory, worker_id):
    """The results of processes, by their number and by rank; made once for all of pytest's workers."""
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent
    with FileLock(base / "distributed.lock"):
        if not (kept := base / "distributed.json").exists():
            kept.write_text(json.dumps(results_by_size(base)))
    return {int(size): results for size, results in json.loads(kept.read_text()).items()}


def results_by_size(base):
    run = base / "distributed run"
    assert command("fit", "--data", "digits", "--hidden", 10, "--epochs", 1, "--out", run)[0] == 0
    everything = {}
    for size in SIZES:
        folder = base / f"distributed by {size}"
        shutil.copytree(run, folder / "run")
        interrupt_at(folder / "from single", epochs=2)
        variables = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        common = os.environ | variables | {"OMP_NUM_THREADS": "1", "PYRO_VAE_TIMEOUT": "120"}
        ranks = [common | {"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(size)]
        started = [start(run_process, folder, environment=environment) for environment in ranks]
        try:
            for process in started:
                process.join(300)
            assert [process.exitcode for process in started] == [0] * size
        finally:
            for process in started:
                process.kill()
        everything[size] = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]
        everything[size][0]["folder"] = str(folder)
    return everything


def interrupt_at(folder, epochs):
    """The checkpoint of a fit of five epochs by one process, interrupted."""

    def interrupt(history):
        if len(history) > epochs:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pv.fit(vae(), rows(60), epochs=5, batch_size=20, checkpoint=folder, on_epoch=interrupt, progress="none")


@pytest.fixture(scope="module")
def single():
    found = {"twenty": twenty_steps(), "whole": whole_runs(), "evidence": evidence(SINGLE_PROCESS)}
    return found | {"with weights": twenty_steps(weighted)}


@pytest.mark.parametrize("fit", ["twenty", "with weights"])
@pytest.mark.parametrize("size", SIZES)
def test_twenty_steps_with_the_same_noise_are_those_of_one_process(single, found, size, fit):
    for one in found[size]:
        for name, value in single[fit]["state"].items():
            torch.testing.assert_close(torch.tensor(one[fit]["state"][name]), torch.tensor(value), rtol=0, atol=1e-5)
        torch.testing.assert_close(
            torch.tensor(one[fit]["objective"]), torch.tensor(single[fit]["objective"]), atol=1e-5, rtol=0
        )
    assert single["with weights"]["state"] != single["twenty"]["state"]


def test_same_seed_and_number_same_bits_in_every_process(found):
    for size in SIZES:
        for one in found[size]:
            assert one["twenty"] == found[size][0]["twenty"]
            assert one["whole"] == found[size][0]["whole"]
    for one in found[2]:
        assert one["twenty again"] == one["twenty"]
        assert all(one["same start"])  # though each started from different weights


@pytest.mark.parametrize("size", SIZES)
def test_whole_runs_end_where_those_of_one_process_do(single, found, size):
    difference = torch.tensor(found[size][0]["whole"], dtype=torch.float64) - torch.tensor(
        single["whole"], dtype=torch.float64
    )
    assert difference.abs().max() > 0  # other noise
    # the draws of validation are those of all seeds: 2,000 terms with a standard deviation of half a nat
    assert abs(difference.mean()) < 3 * (difference.var() / len(SEEDS) + 0.5**2 / 2000).sqrt()


def test_scores_do_not_depend_on_how_many_processes_there_are(single, found):
    two, three = found[2][0]["evidence"], found[3][0]["evidence"]
    assert all(one["evidence"] == two for size in SIZES for one in found[size])
    assert two == three
    se = torch.tensor(two["mc_se"]).hypot(torch.tensor(single["evidence"]["mc_se"])).mul(2**0.5)
    difference = torch.tensor(two["log_px"]) - torch.tensor(single["evidence"]["log_px"])
    assert (difference / se).square().mean() < 2  # about a half, were the errors those of normals
    assert len(two["iwae"]) == len(two["log_px"]) == 300
    torch.testing.assert_close(torch.tensor(two["exact"]), torch.tensor(single["evidence"]["exact"]), atol=1e-6, rtol=0)
    difference = torch.tensor(two["annealed"]) - torch.tensor(single["evidence"]["annealed"])
    assert abs(difference.mean()) < 3 * difference.std() / len(difference) ** 0.5


def test_a_fit_resumes_to_the_same_bits_and_with_another_number_of_processes(found):
    for one in found[2]:
        assert one["resumed"] == {"same": True, "epochs": [5, 5]}


def test_a_callback_of_rank_0_stops_all_processes(found):
    assert [one["stopped"] for one in found[2]] == [["callback", 2, 2], ["callback", 2, 0]]


def test_errors_are_raised_in_every_process(found):
    for one in found[2]:
        assert one["other rows"].startswith("InputError: the processes do not fit the same thing: rank 0 and rank 1")
        assert "differ in training rows" in one["other rows"]
        assert "differ in parameters" in one["other program"]
        assert "1 rows cannot be split among 2 processes" in one["few rows"]
        assert one["poisoned"].startswith("DivergedError: the objective became inf in epoch 1")


def test_commands_score_together_and_rank_0_prints(found):
    main, other = found[2]
    assert other["evaluate"] == other["score"] == [0, "", ""]
    record, summary = json.loads(main["evaluate"][1]), json.loads(main["score"][1])
    assert record["num_data"] == summary["num_data"] == 180
    assert json.loads((Path(main["folder"], "run") / "evaluation.json").read_text())["test"] == record
    assert len(Path(main["folder"], "scores.csv").read_text().splitlines()) == 181
    assert main["sample"][0] == other["sample"][0] == 2
    assert "start it without torchrun" in main["sample"][2]


def test_processes_make_one_folder_for_a_run_without_a_name(found):
    main, other = found[2]
    assert [main["fit"][0], other["fit"]] == [0, [0, "", ""]]
    (made,) = Path(main["folder"], "runs").iterdir()
    assert json.loads(main["fit"][1])["run"] == f"runs/{made.name}"
    assert (made / "figures" / "samples.png").exists()


def torchrun(*words):
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    return subprocess.Popen(
        [*start, "-m", "pyro_vae", *(str(word) for word in words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def pid_of_rank_1(process):
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if b"\0RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes():
            return int(child)
    raise AssertionError("no process of rank 1")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds its processes under /proc")
@pytest.mark.parametrize("how", ["a process is killed", "Ctrl-C"])
def test_an_interrupted_run_says_so_and_can_be_resumed(tmp_path, how):
    folder = tmp_path / "run"
    process = torchrun("fit", "--data", "digits", "--hidden", 20, "--epochs", 40, "--out", folder)
    try:
        for _ in range(1200):
            if (folder / "metrics.jsonl").exists() and len((folder / "metrics.jsonl").read_text().splitlines()) >= 3:
                break
            time.sleep(0.05)
        if how == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)
        else:
            os.kill(pid_of_rank_1(process), signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 1, output
    assert "another process of this run" in output
    assert output.count(f"--resume {folder} goes on from there") == 1
    kept = read_tensors(folder / CHECKPOINT)[1]["history"]
    assert 2 <= len(kept) < 40  # the metrics may be an epoch ahead of the checkpoint
    if how != "Ctrl-C":
        code, out, err = command("fit", "--resume", folder, "--json")  # a single process resumes the fit of two
        assert code == 0, err
        assert json.loads(out)["log_px"] > json.loads(out)["elbo"]
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 40


def test_shards_cover_a_batch_and_their_sizes_differ_by_one_row():
    for n in (1, 7, 30, 31):
        parts = [ProcessGroup(rank, 4).shard(torch.arange(n)) for rank in range(4)]
        assert torch.cat(parts).tolist() == list(range(n))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert len({ProcessGroup(rank, 1000).rank_seed(5) for rank in range(1000)}) == 1000
    assert SINGLE_PROCESS.rank_seed(5) == 5


def test_the_reducer_weighs_by_rows_and_skips_parameters_without_gradients(monkeypatch):
    def from_another_with_twice_the_rows(self, flat):
        flat += torch.tensor([2 / 3 * 4.0, 2 / 3 * 8.0, 0.0, 1.0, 0.0, 2 / 3 * 7.0])

    monkeypatch.setattr(ProcessGroup, "all_reduce", from_another_with_twice_the_rows)
    used, unused = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    used.grad, reducer = torch.tensor([1.0, 2.0]), GradientReducer(ProcessGroup(0, 2))
    reducer.share, reducer.loss = 1 / 3, 1.0
    reducer([used, unused])
    torch.testing.assert_close(used.grad, torch.tensor([3.0, 6.0]))
    assert unused.grad is None
    torch.testing.assert_close(float(reducer.loss), 5.0)


def test_signals_are_deferred_while_a_file_is_written():
    done, before = False, signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it

    def write():
        nonlocal done
        with defer_signals():
            signal.raise_signal(signal.SIGINT)
            done = True

    try:
        with pytest.raises(KeyboardInterrupt):
            write()
    finally:
        signal.signal(signal.SIGINT, before)
    assert done
