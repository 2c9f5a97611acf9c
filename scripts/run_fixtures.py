"""Run folders with what no random draw decides, written by the version that runs this: what later versions must read.

    python scripts/run_fixtures.py OUT

Made once for each format of the run folder and kept in tests/fixtures (see the README there). Small data sets that need
no network, small networks, no figures. Only the public interface is used, so the script runs under any version.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from safetensors.torch import save_file
from torch import Tensor

import pyro_vae as pv

ROWS = 8
FITS = {
    "plain": ["--data", "digits"],
    "vamp": ["--data", "digits", "--prior", "vamp", "--pseudo-inputs", "5"],
    "flow": ["--data", "two-moons", "--guide", "flow", "--prior", "flow", "--flow-layers", "2"],
    "conditional": ["--data", "digits", "--program", "conditional.py:conditional"],
}
DATA = {"plain": "digits", "vamp": "digits", "flow": "two-moons", "conditional": "digits", "mixture": "pinwheel"}
EVALUATE = ["--num-samples", "100", "--num-rows", "40", "--seed", "3"]
CONDITIONAL = """import pyro_vae as pv


def conditional(data):
    likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2 + 10, 8, 64))
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(64 + 10, 8, 4))
    return pv.ConditionalVAE(pv.priors.StandardNormal(2), likelihood, guide, num_labels=10)
"""
INTERRUPTED = ["--data", "two-moons", "--hidden", "8", "--epochs", "30", "--batch-size", "50", "--seed", "1"]
INTERRUPTED_STATUS = 130  # of a command that Ctrl-C stopped


def command(folder: Path, *words: str) -> str:
    """What a command prints, run in a folder so that the paths it keeps are relative."""
    done = subprocess.run([sys.executable, "-m", "pyro_vae", *words], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr}")
    return done.stdout


def remove_figures(folder: Path) -> None:
    shutil.rmtree(folder / "figures", ignore_errors=True)
    (folder / "report.html").unlink(missing_ok=True)


def site_sums(trace: Any, observed: bool | None = None) -> Tensor:
    """The log-probabilities of a trace's sites, summed over sites, (N,)."""
    sites = [site for site in trace.nodes.values() if site["type"] == "sample" and "log_prob" in site]
    kept = [site for site in sites if type(site["fn"]).__name__ != "_Subsample"]
    return torch.stack([site["log_prob"] for site in kept if observed in (None, site["is_observed"])]).sum(0)


@torch.no_grad()
def expected_of_vae(program: Any, x: Tensor, given: dict[str, Tensor], z: Tensor | None = None) -> dict[str, Tensor]:
    """Guide's and likelihood's outputs, log p(x, z) and log q(z|x) of rows, at given values of z or a draw of them."""
    torch.manual_seed(0)
    program.eval()
    if z is None:
        z = poutine.trace(program.guide).get_trace(x, **given).nodes["z"]["value"]
    guide = poutine.trace(poutine.condition(program.guide, {"z": z})).get_trace(x, **given)
    model = poutine.trace(poutine.condition(program.model, {"z": z})).get_trace(x, **given)
    for trace in (guide, model):
        trace.compute_log_prob()
    found = {"x": x, "z": z, "log_q": site_sums(guide), "log_joint": site_sums(model)}
    q, p = guide.nodes["z"]["fn"], model.nodes["x"]["fn"]
    for name, fn in (("guide", q), ("likelihood", p)):
        for moment in ("mean", "variance"):
            try:
                found[f"{name}_{moment}"] = getattr(fn, moment)
            except NotImplementedError:  # a flow has none
                continue
    return found | given


@torch.no_grad()
def expected_of_mixture(mixture: Any, x: Tensor) -> dict[str, Tensor]:
    return {
        "x": x,
        "log_px": mixture.log_prob(x),
        "responsibilities": mixture.responsibilities(x),
        "weights": mixture.weights,
        "means": mixture.means,
    }


def write_expected(folder: Path, found: dict[str, Tensor]) -> None:
    save_file(
        {name: value.detach().clone().contiguous() for name, value in found.items()}, folder / "expected.safetensors"
    )


def write_facts(folder: Path, program: Any, found: dict[str, Tensor], **facts: Any) -> None:
    """What was saved and by which versions, in expected.json."""
    made_by = {"pyro_vae": pv.__version__, "torch": torch.__version__, "pyro": pyro.__version__}
    about = {
        "data": DATA[folder.name],
        "split": "test",
        "rows": len(found["x"]),
        **facts,
        "num_parameters": sum(parameter.numel() for parameter in program.parameters()),
        "dtype": str(next(program.parameters()).dtype).removeprefix("torch."),
    }
    (folder / "expected.json").write_text(json.dumps(made_by | about, indent=1) + "\n", encoding="utf-8")


def make_fits(out: Path) -> None:
    (out / "conditional.py").write_text(CONDITIONAL, encoding="utf-8")
    for name, words in FITS.items():
        parts = [] if name == "conditional" else ["--hidden", "8"]
        command(out, "fit", *words, *parts, "--epochs", "4", "--out", name, "--json")
        remove_figures(out / name)
        shutil.rmtree(out / name / "checkpoint")
        split = pv.load_data(DATA[name]).test
        given = {"labels": split.labels[:ROWS]} if name == "conditional" and split.labels is not None else {}
        if name == "flow":  # the command standardizes a table; the run's own data are what its program takes
            split = pv.load_data(DATA[name], standardize=True).test
        program = pv.load(out / name)
        found = expected_of_vae(program, split.x[:ROWS], given)
        write_expected(out / name, found)
        write_facts(out / name, program, found, num_latents=found["z"].shape[-1])
        (out / name / "evaluate.json").write_text(command(out, "evaluate", name, *EVALUATE, "--json"), encoding="utf-8")
        if name == "plain":
            words = ["evaluate", name, "--method", "exact", "--num-rows", "20", "--num-samples", "100", "--json"]
            (out / name / "evaluate-exact.json").write_text(command(out, *words), encoding="utf-8")


def make_mixture(out: Path) -> None:
    data = pv.load_data(DATA["mixture"])
    mixture = pv.GaussianMixture(num_components=5, num_features=2)
    pv.fit_em(mixture, data, epochs=30, seed=0)
    pv.save(mixture, out / "mixture")
    found = expected_of_mixture(mixture, data.test.x[:ROWS])
    write_expected(out / "mixture", found)
    write_facts(out / "mixture", mixture, found, num_components=len(found["weights"]))


def make_interrupted(out: Path) -> None:
    """A fit that was interrupted in the middle, and the end of the same fit when it was not."""
    command(out, "fit", *INTERRUPTED, "--out", "whole", "--json")
    running = subprocess.Popen(
        [sys.executable, "-m", "pyro_vae", "fit", *INTERRUPTED, "--out", "interrupted", "--json"],
        cwd=out,
        stderr=subprocess.DEVNULL,
    )
    metrics = out / "interrupted" / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text("utf-8").splitlines()) < 6:
        if running.poll() is not None:
            raise SystemExit(f"the fit to interrupt ended by itself, with exit status {running.returncode}")
        time.sleep(0.005)
    running.send_signal(signal.SIGINT)
    if running.wait() != INTERRUPTED_STATUS:
        raise SystemExit(f"the interrupted fit ended with exit status {running.returncode}")
    remove_figures(out / "interrupted")
    found = pv.load(out / "whole").state_dict()
    save_file({name: value.contiguous() for name, value in found.items()}, out / "interrupted" / "expected.safetensors")
    record = json.loads((out / "whole" / "evaluation.json").read_text("utf-8"))["valid"]
    (out / "interrupted" / "expected.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(out / "whole")


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    out = Path(sys.argv[1])
    out.mkdir(parents=True)
    make_fits(out)
    make_mixture(out)
    make_interrupted(out)


if __name__ == "__main__":
    main()
