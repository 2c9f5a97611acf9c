"""The numbers of a run's program on one of its splits, kept with the run."""

import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from torch import nn

from pyro_vae.atomic_write import read_json, require_file_path, write_json
from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.data import Split
from pyro_vae.data.stored_split import readable_rows
from pyro_vae.distributed import process_group
from pyro_vae.errors import InputError, PointMassError, ZeroDensityWarning
from pyro_vae.evidence.arviz_export import to_inference_data
from pyro_vae.evidence.estimate_log_px import estimate_log_px
from pyro_vae.evidence.evidence_methods import EVIDENCE_METHODS, Estimator
from pyro_vae.evidence.evidence_record import EvidenceRecord
from pyro_vae.evidence.exact_log_px import Exact
from pyro_vae.evidence.importance_sampling import Evidence
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.inference.svi.fit_svi import pick_device
from pyro_vae.inference.svi.progress import Style
from pyro_vae.programs.encode_rows import active_units
from pyro_vae.programs.parameters import named_parameters, use_param_store
from pyro_vae.programs.precision_check import CHECKED_ROWS, check_precision
from pyro_vae.programs.row_batches import ScoredRows, rows_to_score
from pyro_vae.run_folder import EVALUATION, lock_run
from pyro_vae.typing import Program
from pyro_vae.workflows.class_labels import accuracy
from pyro_vae.workflows.read_run import Run
from pyro_vae.workflows.row_progress import RowProgress

ACTIVE_UNITS_ROWS = 5000
NETCDF_ROWS = 100


DEFAULT = Estimator()


def evaluate_run(
    folder: str | Path,
    *,
    split: str = "test",
    num_rows: int | None = None,
    estimator: Estimator = DEFAULT,
    device: str = "auto",
    netcdf: str | Path | None = None,
    program: str | None = None,
    log: Callable[[str], None] = lambda line: None,
    progress: Style = "none",
    on_found: Callable[[str, EvidenceRecord], None] = lambda name, record: None,
) -> tuple[str, EvidenceRecord]:
    """Score a run's rows and keep the record in `evaluation.json`.

    Of several processes each scores some of the rows and the first writes. Raises `InputError` where a method does not
    apply.

    Args:
        folder: the run's folder.
        split: `train`, `valid` or `test`.
        num_rows: the first so many rows of the split; by default all.
        estimator: how log p(x) is computed.
        device: where: `auto` is an accelerator, if there is one.
        netcdf: a file for draws, weights and rows, which ArviZ reads.
        program: `FILE.py:FUNCTION` of a program of one's own.
        log: called with each note.
        progress: how progress is shown: `auto`, `bar`, `lines` or `none`.
        on_found: called with the result of this function before it is written: a full disk does not lose it.

    Returns:
        The name that the record has in `evaluation.json`, and the record, nats per row.
    """
    group = process_group()
    if netcdf is not None:
        require_file_path(Path(netcdf))
    with lock_run(Path(folder)) if group.is_main else nullcontext():
        run = Run(Path(folder), program)
        path = run.folder / EVALUATION
        known = read_json(path) if path.exists() else {}
        rows = run.data().split(split)
        rows = rows if num_rows is None else rows.head(num_rows)
        scored = run.program()
        if isinstance(scored, nn.Module):
            scored.to(pick_device(device))
        found, _ = evaluate_split(scored, rows, run.folder, estimator, log=log, progress=progress)
        name = split + estimator.label + (f" first {len(rows)}" if num_rows else "")
        if group.is_main:
            on_found(name, found)
            write_json(path, known | {name: dict(found)})
            if netcdf is not None:
                some = rows if num_rows else rows.head(NETCDF_ROWS)
                to_inference_data(scored, some, columns=run.columns(), path=netcdf, seed=estimator.seed)
        return name, found


def _estimates(program: Program, rows: Split, estimator: Estimator, progress: Style) -> tuple[LogPx, Evidence | None]:
    """log p(x) by the method, and the estimate that has an ELBO: the same, importance sampling's, or none."""
    verb = EVIDENCE_METHODS[estimator.method].progress or "scored"
    with RowProgress(verb, len(rows), progress if process_group().is_main else "none") as shown:
        best = estimate_log_px(estimator, program, rows, on_rows=shown.show)
    if isinstance(best, Evidence):
        return best, best
    try:
        found = estimate_log_px(replace(estimator, method="is", options={}), program, rows)
    except PointMassError:
        return best, None
    assert isinstance(found, Evidence)
    return best, found


def _precision_message(program: Program, rows: Split) -> str:
    """What rounding costs the first rows, in words; empty where it is little."""
    _, index = rows_to_score(rows, None, None)
    with use_param_store(program), evaluating(program):
        try:
            scored = ScoredRows(program, rows.head(CHECKED_ROWS), None if index is None else index[:CHECKED_ROWS])
        except InputError:  # rows of density zero, which are named elsewhere
            return ""
        return check_precision(program, scored.plates, scored.first, rows[: len(scored.first.x)]).message


def _method(best: LogPx, estimator: Estimator) -> str:
    """The method that gave log p(x), by name."""
    if isinstance(best, Exact):
        return f"exact: {best.method}"
    return "is" if type(best) is Evidence else estimator.method


def evaluate_split(
    program: Program,
    rows: Split,
    folder: Path,
    estimator: Estimator = DEFAULT,
    *,
    log: Callable[[str], None] = lambda line: None,
    progress: Style = "none",
) -> tuple[EvidenceRecord, LogPx]:
    """The record of one split under a program, and log p(x) of its rows.

    Args:
        program: the program, on its device.
        rows: the split.
        folder: the run's folder.
        estimator: how log p(x) is computed.
        log: called with each note.
        progress: how progress is shown.

    Returns:
        The record, and log p(x) of each row, nats per row.
    """
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroDensityWarning)  # it is logged
        best, found = _estimates(program, rows, estimator, progress)
    if lost := _precision_message(program, rows):
        log(f"note: {lost}")
    if best.without_number:
        log(best.without_number)
    try:
        with seeded(estimator.seed):
            some = slice(readable_rows(rows.shape[1], ACTIVE_UNITS_ROWS))
            counted = rows.without_uncounted()
            active: int | None = active_units(program, counted[some], plates=None, **counted.row_inputs(some))[0]
    except InputError:  # no latent for each row
        active = None
    about = EvidenceRecord(
        run=str(folder),
        model="vae",
        fit_method="svi",
        split=rows.name,
        method=_method(best, estimator),
        active_units=active,
        num_parameters=sum(parameter.numel() for parameter in named_parameters(program).values()),
        seconds=time.perf_counter() - began,
        accuracy=accuracy(program, rows),
    )
    return best.to_record(about) if found is None else found.to_record(about, best), best
