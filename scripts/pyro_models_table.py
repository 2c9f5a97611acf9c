"""The table in docs/programs.md: Pyro's own models, with this package's numbers beside those of other means.

python scripts/pyro_models_table.py
"""

import sys
import warnings
from pathlib import Path

import torch

import pyro_vae as pv

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from pyro_models import CASES, Case, elbo_and_pyros, made


def columns(case: Case) -> list[str]:
    program, split = made(case), case.split
    pv.fit(program, split, **{"epochs": 100, "batch_size": 8, "learning_rate": 0.02, **case.fit})
    elbo, pyros = elbo_and_pyros(case)
    cells = [f"{abs(elbo - pyros):.0e}"]
    if isinstance(case.log_px, str):
        cells += ["no row has one: a global latent", "", ""]
    else:
        with torch.no_grad():
            expected = case.log_px(program, split)
        estimates = pv.log_evidence(program, split, case.draws), pv.auto_evidence(program, split)
        gaps = [(found.log_px - expected).abs().max().item() for found in estimates]
        method = getattr(estimates[1], "method", "by draws")
        cells += [f"{expected.mean():.2f}", f"{gaps[0]:.1e}", f"{gaps[1]:.1e} ({method})"]
    if isinstance(case.annealed, str):
        cells.append("no")
    else:
        few = split.head(3)
        with torch.no_grad():
            exact = case.log_px(program, few)  # type: ignore[operator]
        annealed = pv.annealed_evidence(program, few, 150, start="prior").log_px
        cells.append(f"{(annealed - exact).abs().max():.1e}")
    cells.append("no" if isinstance(case.encodes, str) else "yes")
    cells.append("given x" if case.reads_x else "yes")
    return cells


def main() -> None:
    warnings.simplefilter("ignore")
    head = (
        "model | where Pyro has it | ELBO, from Pyro's | log p(x), by other means | `log_evidence`, worst row | "
        "`auto_evidence`, worst row | `annealed_evidence`, worst row | `encode` | `sample`"
    )
    print(f"| {head} |\n|{'---|' * 9}")
    for name, case in CASES.items():
        print(f"| {' | '.join([name, case.tutorial, *columns(case)])} |", flush=True)


if __name__ == "__main__":
    main()
