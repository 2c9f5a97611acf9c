"""log p(x) of each row of a file or split under a run's program, and which rows are anomalous."""

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.context_managers import seeded
from pyro_vae.diagnostics.anomaly_scores import Scores, require_enough, score
from pyro_vae.distributed import process_group
from pyro_vae.errors import InputError
from pyro_vae.evidence.importance_sampling import log_evidence
from pyro_vae.workflows.read_run import CHUNK_ROWS, Run
from pyro_vae.workflows.row_writer import open_row_writer

NUM_LOWEST = 5


@dataclass
class ScoreTotals:
    """Sums over all rows that were scored, and the rows with the lowest log p(x), (log p(x), index) each."""

    num_anomalies: int = 0
    log_px: float = 0.0
    khat_bad: float = 0.0
    lowest: list[tuple[float, int]] = field(default_factory=list)

    def add(self, scores: Scores, index: Tensor) -> None:
        """Count a chunk of rows in."""
        log_px = scores.found.log_px
        self.num_anomalies += int(scores.anomaly.sum())
        self.log_px += float(log_px.sum())
        self.khat_bad += (scores.found.khat_bad or 0.0) * len(log_px)
        few = log_px.argsort()[:NUM_LOWEST]
        lowest = [*self.lowest, *zip(log_px[few].tolist(), index[few].tolist(), strict=True)]
        self.lowest = sorted(lowest)[:NUM_LOWEST]


def score_rows(
    folder: str | Path,
    data: str | None = None,
    *,
    split: str = "test",
    out: str | Path | None = None,
    false_alarms: float = 0.05,
    num_samples: int = 1000,
    prior_share: float = 0.1,
    memory_mib: float = 64.0,
    seed: int = 0,
    program: str | None = None,
) -> tuple[dict[str, Any], ScoreTotals]:
    """Write log p(x), k-hat, percentile and an anomaly flag of each row to a `.csv`; the summary and the totals.

    `data` is a file, whose rows keep their order, or the name of a data set; without it, the run's own split is scored.
    A row is flagged where fewer validation rows are as improbable as `false_alarms` allows.
    """
    folder, began, group = Path(folder), time.perf_counter(), process_group()
    path = Path(out) if out is not None else folder / "scores.csv"
    if path.suffix != ".csv":
        raise InputError(f"{path}: scores are written as .csv, not {path.suffix or 'a file without an ending'}")
    run = Run(folder, program)
    rows, held_out, scored = run.rows(data, split), run.data().valid, run.program()
    require_enough(len(held_out), false_alarms)
    shared: dict[str, Any] = {"memory_mib": memory_mib, "group": group}
    reference = log_evidence(scored, held_out, num_samples, seed=seed, prior_share=prior_share, **shared)
    totals, places = ScoreTotals(), torch.arange(len(rows)) if rows.name == "train" else None
    output = open_row_writer(path, len(rows), []) if group.is_main else nullcontext()
    with output as writer, seeded(seed):  # one stream of random numbers for all chunks
        for number, part in enumerate(rows.chunks(CHUNK_ROWS)):
            own = None if places is None else places[number * CHUNK_ROWS :][: len(part)]
            part_seed = None if group.is_single else seed + number
            found = score(scored, part, reference, seed=part_seed, rows=own, false_alarms=false_alarms, **shared)
            index = part.source_index(slice(None))
            if writer is not None:
                writer.write_columns(_columns(found), index, part.labels)
            totals.add(found, index)
    summary: dict[str, Any] = {"run": str(folder), "path": str(path), "num_data": len(rows)}
    summary |= _summarize(totals, found, len(rows)) | {"num_samples": num_samples}
    return summary | {"seconds": time.perf_counter() - began}, totals


def _summarize(totals: ScoreTotals, last: Scores, num_rows: int) -> dict[str, Any]:
    """What is reported of all rows; `last` are the scores of the last chunk, whose reference is that of all."""
    return {
        "num_anomalies": totals.num_anomalies,
        "false_alarms": last.false_alarms,
        "threshold": last.threshold,
        "num_reference": len(last.reference),
        "log_px": totals.log_px / num_rows,
        "log_px_kind": last.reference.kind,
        "khat_bad": None if last.found.khat_bad is None else totals.khat_bad / num_rows,
        "measure": last.found.measure,
    }


def _columns(scores: Scores) -> dict[str, Any]:
    return {
        "log_px": scores.found.log_px.numpy(),
        "khat": scores.found.khat.numpy(),
        "percentile": scores.percentile.numpy(),
        "anomaly": scores.anomaly.numpy().astype(int),
    }
