"""The numbers of a run's program on one of its splits, kept with the run."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyro_vae.atomic_write import write_json
from pyro_vae.context_managers import seeded
from pyro_vae.data import Split
from pyro_vae.distributed import process_group
from pyro_vae.errors import InputError
from pyro_vae.evidence.annealed_importance import annealed_evidence
from pyro_vae.evidence.arviz_export import to_inference_data
from pyro_vae.evidence.evidence_record import EvidenceRecord
from pyro_vae.evidence.exact_log_px import Exact, exact_evidence
from pyro_vae.evidence.importance_sampling import log_evidence
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.inference.svi.fit_svi import pick_device
from pyro_vae.programs.model_and_guide import active_units
from pyro_vae.programs.parameters import named_parameters
from pyro_vae.run_folder import EVALUATION
from pyro_vae.workflows.read_run import Run

IWAE_SIZES = (1, 5, 50, 500)
ACTIVE_UNITS_ROWS = 5000
NETCDF_ROWS = 100


@dataclass(frozen=True)
class Estimator:
    """How log p(x) is found: `is`, `ais` or `exact`, and the settings of `log_evidence` and `annealed_evidence`."""

    method: str = "is"
    num_samples: int = 1000
    prior_share: float = 0.0
    temperatures: int = 500
    chains: int = 16
    start: str = "guide"
    memory_mib: float = 64.0
    seed: int = 0

    @property
    def label(self) -> str:
        """What the name of the split is followed by in `evaluation.json`; empty for plain importance sampling."""
        if self.method != "is":
            return f" {self.method}"
        return f" prior-share {self.prior_share:g}" if self.prior_share else ""


IMPORTANCE_SAMPLING = Estimator()


def evaluate_run(
    folder: str | Path,
    *,
    split: str = "test",
    num_rows: int | None = None,
    estimator: Estimator = IMPORTANCE_SAMPLING,
    device: str = "auto",
    netcdf: str | Path | None = None,
    program: str | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[str, EvidenceRecord]:
    """Score a run's rows and keep the record in `evaluation.json`: the name it has there, and the record.

    `num_rows` takes the first rows of the split; `netcdf` is a file for ArviZ; `program` is `FILE.py:FUNCTION`. Of
    several processes each scores some of the rows and the first writes. `InputError` where a method does not apply.
    """
    run = Run(Path(folder), program)
    rows = run.data().split(split)
    rows = rows if num_rows is None else rows.head(num_rows)
    scored = run.program()
    if hasattr(scored, "to"):
        scored.to(pick_device(device))
    began = time.perf_counter()
    sizes = [k for k in IWAE_SIZES if k < estimator.num_samples]
    log_px = _other_estimate(scored, rows, estimator, log)
    found = evaluate_split(
        scored, rows, run.folder, estimator.num_samples, sizes=sizes, estimator=estimator, log_px=log_px
    )
    found = replace(found, seconds=time.perf_counter() - began)
    name = split + estimator.label + (f" first {len(rows)}" if num_rows else "")
    if process_group().is_main:
        _keep(run.folder / EVALUATION, name, found)
        if netcdf is not None:
            some = rows if num_rows else rows.head(NETCDF_ROWS)
            to_inference_data(scored, some, columns=run.columns(), path=netcdf, seed=estimator.seed)
    return name, found


def _keep(path: Path, name: str, record: EvidenceRecord) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, known | {name: dict(record)})


def _other_estimate(program: Any, rows: Split, estimator: Estimator, log: Callable[[str], None]) -> LogPx | None:
    """log p(x) by another method than importance sampling, where one is asked for."""
    group, began = process_group(), time.perf_counter()
    shared: dict[str, Any] = {"memory_mib": estimator.memory_mib, "seed": estimator.seed, "group": group}
    if estimator.method == "is":
        return None
    if estimator.method == "exact":
        return exact_evidence(program, rows, **shared)

    def log_rows(done: int) -> None:
        each = (time.perf_counter() - began) / done
        of = f"{len(rows)} rows" + ("" if group.is_single else f" by {group.size} processes, this one")
        log(f"annealed {done} of {of}, {each:.2f} s a row")

    return annealed_evidence(
        program,
        rows,
        estimator.temperatures,
        num_chains=estimator.chains,
        start=estimator.start,
        on_rows=log_rows if group.is_main else None,
        **shared,
    )


def evaluate_split(
    program: Any,
    rows: Split,
    folder: Path,
    num_samples: int,
    *,
    sizes: Iterable[int],
    estimator: Estimator = IMPORTANCE_SAMPLING,
    log_px: LogPx | None = None,
) -> EvidenceRecord:
    """The record of one split under a program; `log_px` replaces the importance-sampled estimate where it is given."""
    began = time.perf_counter()
    found = log_evidence(
        program,
        rows,
        num_samples=num_samples,
        iwae=sizes,
        prior_share=estimator.prior_share,
        memory_mib=estimator.memory_mib,
        seed=estimator.seed,
        group=process_group(),
    )
    try:
        with seeded(estimator.seed):
            some = slice(ACTIVE_UNITS_ROWS)
            given: dict[str, Any] = rows.row_inputs(some)
            active: int | None = active_units(program, rows[some], **given)[0]
    except InputError:  # no latent for each row
        active = None
    method = f"exact: {log_px.method}" if isinstance(log_px, Exact) else estimator.method
    about = EvidenceRecord(
        run=str(folder),
        model="vae",
        fit_method="svi",
        split=rows.name,
        method=method,
        active_units=active,
        num_parameters=sum(parameter.numel() for parameter in named_parameters(program).values()),
        seconds=time.perf_counter() - began,
    )
    return found.to_record(about, log_px)
