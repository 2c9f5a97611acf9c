"""log p(x) of each row of a file or split under a run's program, and which rows are anomalous."""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pyro_vae.context_managers import part_seed
from pyro_vae.data import Split
from pyro_vae.data.row_weights import effective_rows
from pyro_vae.data.stored_split import chunk_rows
from pyro_vae.diagnostics.anomaly_scores import Scores, compare_with_reference, usable_rate
from pyro_vae.diagnostics.strange_columns import require_no_pictures
from pyro_vae.distributed import process_group
from pyro_vae.errors import ZeroDensityWarning
from pyro_vae.evidence.estimate_log_px import estimate_log_px
from pyro_vae.evidence.evidence_methods import EVIDENCE_METHODS, Estimator
from pyro_vae.evidence.evidence_record import finite_or_none
from pyro_vae.evidence.log_px_result import LogPx, weakest_kind
from pyro_vae.inference.svi.checkpoint import quick_fingerprint
from pyro_vae.inference.svi.progress import Style
from pyro_vae.json_records import Record
from pyro_vae.report.explained_rows import ExplainedRow, row_names
from pyro_vae.typing import Program
from pyro_vae.workflows.choose_draws import choose_draws
from pyro_vae.workflows.explain_scores import explain_flagged
from pyro_vae.workflows.read_run import CHUNK_ROWS, Run
from pyro_vae.workflows.reference_scores import digest_of_weights
from pyro_vae.workflows.row_frames import describe_rows, score_frame
from pyro_vae.workflows.row_progress import RowProgress, words_of_seconds
from pyro_vae.workflows.row_writers import ANNOTATED, open_row_writer, require_not_read, require_writer
from pyro_vae.workflows.unfinished_scores import UnfinishedScores

NUM_LOWEST = 5
ENDINGS = (".csv", ".parquet", ANNOTATED)


@dataclass
class ScoreTotals:
    """Sums over all rows that were scored, and the rows with the lowest log p(x): (log p(x), name) each.

    `log_px` and `khat_bad` are sums of weighted numbers, `weight` and `weight_with_khat` of their weights.
    """

    num_anomalies: int = 0
    log_px: float = 0.0
    weight: float = 0.0
    khat_bad: float = 0.0
    weight_with_khat: float = 0.0
    num_with_number: int = 0
    num_zero: int = 0
    reason: str = ""
    kinds: set[str] = field(default_factory=set)
    lowest: list[tuple[float, str]] = field(default_factory=list)
    explained: list[ExplainedRow] = field(default_factory=list)

    def add(self, scores: Scores, rows: Split, weights: Tensor | None = None) -> None:
        """Count a chunk of rows in.

        Args:
            scores: the chunk's scores.
            rows: the rows (n).
            weights: their weights (n,), of which all rows have the mean 1.
        """
        index = rows.source_index(slice(None))
        names = row_names(rows)
        found, log_px = scores.found, scores.found.log_px
        self.kinds.add(scores.kind)
        self.num_anomalies += int(scores.anomaly.sum())
        total, weight = _weighted_sum(log_px, found.has_number, weights)
        self.log_px, self.weight = self.log_px + total, self.weight + weight
        if found.khat_bad is not None:
            _, finite = _weighted_sum(log_px, log_px.isfinite(), weights)
            self.khat_bad += found.khat_bad * finite
            self.weight_with_khat += finite
        self.num_with_number += int(found.has_number.sum())
        self.num_zero += int((log_px == -math.inf).sum())
        if found.reasons and not self.reason:
            row = min(found.reasons)
            self.reason = f"row {int(index[row])}: {found.reasons[row]}"
        few = log_px.argsort()[:NUM_LOWEST]
        few = few[found.has_number[few]]
        lowest = [*self.lowest, *((float(log_px[row]), names[row]) for row in few.tolist())]
        self.lowest = sorted(lowest)[:NUM_LOWEST]


def _weighted_sum(values: Tensor, known: Tensor, weights: Tensor | None) -> tuple[float, float]:
    """The weighted sum of the values that are known, and that of their weights."""
    if weights is None:
        return float(values[known].sum()), int(known.sum())
    known = known & (weights > 0)
    return float((weights * values)[known].sum()), float(weights[known].sum())


@dataclass(frozen=True)
class ScoreSummary(Record):
    """What is reported of all rows that were scored: the JSON that `score` prints, nats per row.

    `log_px` is the mean over the rows that have a number, weighted where rows have weights, None where it is −∞;
    `num_with_number` how many these are, None where all are; `num_zero` the rows of density zero, None where there is
    none; `reason` why the first row of either kind is one.
    `threshold` is the log p(x) below which rows are flagged, by `num_reference` validation rows at a rate of
    `false_alarms`; `khat_bad` the share of rows that were sampled whose k-hat is above its limit, None for few draws
    and where all are exact. `method` is the evidence method. `effective_rows` is (Σw)² / Σw² of the rows' weights, None
    where they have none: they count in `log_px` and `khat_bad`, and not in flags and threshold. `explanations` are the
    flagged rows with the columns that make them improbable, the least probable first, None where they were not asked
    for.
    """

    run: str
    path: str
    num_data: int
    num_anomalies: int
    false_alarms: float
    threshold: float
    num_reference: int
    log_px: float | None
    log_px_kind: str
    khat_bad: float | None
    measure: str
    num_samples: int
    seconds: float
    method: str
    num_with_number: int | None = None
    num_zero: int | None = None
    reason: str | None = None
    effective_rows: float | None = None
    explanations: list[ExplainedRow] | None = None


def score_rows(
    folder: str | Path,
    data: str | None = None,
    *,
    split: str = "test",
    out: str | Path | None = None,
    false_alarms: float | None = None,
    estimator: Estimator | None = None,
    explain: bool = False,
    program: str | None = None,
    resume: bool = False,
    seconds: float | None = None,
    progress: Style = "none",
    log: Callable[[str], None] = lambda line: None,
) -> tuple[ScoreSummary, ScoreTotals]:
    """Write log p(x), k-hat, percentile and an anomaly flag of each row to a `.csv`.

    A row is flagged where fewer validation rows are as improbable as `false_alarms` allows.

    Args:
        folder: the run's folder.
        data: a file, whose rows keep their order, or a named data set; by default the run's own.
        split: which rows of a named data set.
        out: a `.csv` or `.parquet`, by default `scores.csv` in the run's folder; or a `.h5ad`, a copy of `data` with
            the columns in `obs`.
        false_alarms: the share of usual rows that may be flagged, between 0 and 1; by default 0.05, or
            the smallest that the number of validation rows can tell.
        estimator: how log p(x) is computed; by default as that of the validation rows was when the run was fitted.
        explain: whether the columns are named that make flagged rows improbable; `InputError` for pictures.
        program: `FILE.py:FUNCTION` of a program of one's own.
        resume: whether to go on with an interrupted call for the same file: the rows it has scored are kept.
        seconds: the time for all rows, by which the number of draws is chosen once.
        progress: how progress is shown: `auto`, `bar`, `lines` or `none`.
        log: called with each note.

    Returns:
        The summary, and the totals, which name the least probable rows.
    """
    folder, began, group = Path(folder), time.perf_counter(), process_group()
    path = Path(out) if out is not None else folder / "scores.csv"
    source = None if data is None else Path(data)
    require_writer(path, ENDINGS, source)
    unfinished = UnfinishedScores(path, resume)
    run = Run(folder, program)
    require_not_read(path, [source, *run.source_files])
    if explain:
        require_no_pictures(run.image_shape)
    rows, scored = run.rows(data, split), run.program()
    if resume:
        estimator = estimator or unfinished.estimator
    elif seconds is not None:
        estimator, needed = choose_draws(estimator or run.reference_scores(None)[1], scored, rows, seconds)
        log(f"{estimator.num_samples} draws for each of {len(rows):,} rows, about {words_of_seconds(needed)}")
    reference, estimator = run.reference_scores(false_alarms, estimator)
    rate = usable_rate(false_alarms, int(reference.has_number.sum()))
    weights, totals, begun = rows.relative_weights, ScoreTotals(), 0
    output = open_row_writer(path, len(rows), ENDINGS, source) if group.is_main else nullcontext()
    chunks = _Chunks(scored, rows, estimator, unfinished, digest_of_weights(folder), progress)
    with output as writer, chunks.interrupted(log), warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroDensityWarning)  # the summary says it
        for part, log_px in chunks:
            scores = compare_with_reference(log_px, reference, rate)
            frame = score_frame(scores)
            if explain:
                places = torch.arange(begun, begun + len(part)) if rows.name == "train" else None
                columns, explained = explain_flagged(scored, part, scores, run.prepare, estimator, places)
                frame = frame.join(columns)
                totals.explained = sorted([*totals.explained, *explained], key=lambda row: row.log_px)
            if writer is not None:
                writer.write(describe_rows(part, run.prepare), frame)
            totals.add(scores, part, None if weights is None else weights[begun : begun + len(part)])
            begun += len(part)
    if group.is_main:
        unfinished.remove()
    summary = ScoreSummary(
        run=str(folder),
        path=str(path),
        num_data=len(rows),
        num_anomalies=totals.num_anomalies,
        false_alarms=rate,
        threshold=scores.threshold,
        num_reference=int(reference.has_number.sum()),
        log_px=finite_or_none(totals.log_px / totals.weight) if totals.weight else None,
        log_px_kind=weakest_kind(totals.kinds),
        khat_bad=totals.khat_bad / totals.weight_with_khat if totals.weight_with_khat else None,
        measure=scores.found.measure,
        num_samples=estimator.num_samples,
        method=estimator.method,
        seconds=time.perf_counter() - began,
        num_with_number=totals.num_with_number if totals.num_with_number < len(rows) else None,
        num_zero=totals.num_zero or None,
        reason=totals.reason or None,
        effective_rows=effective_rows(rows.weights),
        explanations=totals.explained if explain else None,
    )
    return summary, totals


class _Chunks:
    """The chunks of rows in order, each with log p(x); the processes of a group share each chunk.

    Args:
        program: the program.
        rows: all rows.
        estimator: how log p(x) is computed.
        unfinished: where the scores of finished chunks are kept, and taken from where a call is resumed.
        weights: the digest of the program's weights.
        progress: how progress is shown.
    """

    def __init__(
        self,
        program: Program,
        rows: Split,
        estimator: Estimator,
        unfinished: UnfinishedScores,
        weights: str,
        progress: Style,
    ) -> None:
        self.program, self.rows, self.estimator, self.unfinished = program, rows, estimator, unfinished
        self.size, self.is_main = chunk_rows(rows.shape[1], CHUNK_ROWS), process_group().is_main
        self.about = {"weights": weights, "rows": quick_fingerprint(rows), "chunk size": self.size}
        verb = EVIDENCE_METHODS[estimator.method].progress or "scored"
        self.shown = RowProgress(verb, len(rows), progress if self.is_main else "none")
        self.is_kept = self.is_main and len(rows) > self.size

    def __iter__(self) -> Iterator[tuple[Split, LogPx]]:
        if self.is_kept:
            self.unfinished.begin(self.estimator, self.about)
        places = torch.arange(len(self.rows)) if self.rows.name == "train" else None
        with self.shown:
            for number, part in enumerate(self.rows.chunks(self.size)):
                kept = self.unfinished.read(number)
                found = self._score(number, part, places) if kept is None else kept
                if kept is None and self.is_kept:
                    self.unfinished.write(number, found)
                self.shown.advance(len(part), kept=kept is not None)
                yield part, found

    def _score(self, number: int, part: Split, places: Tensor | None) -> LogPx:
        own = None if places is None else places[number * self.size :][: len(part)]
        seed = part_seed(self.estimator.seed, number)
        return estimate_log_px(self.estimator, self.program, part, rows=own, seed=seed, on_rows=self.shown.show)

    @contextmanager
    def interrupted(self, log: Callable[[str], None]) -> Iterator[None]:
        """Inside, an interruption is logged with what is kept."""
        try:
            yield
        except KeyboardInterrupt:
            if self.is_kept and len(self.unfinished):
                log(f"the scores of {self.shown.done:,} rows are kept in {self.unfinished.folder}; --resume goes on")
            raise
