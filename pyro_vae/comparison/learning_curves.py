"""log p(x) and the bound along a fit: Kingma & Welling's third figure, and the gap between the two."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from pyro_vae.comparison.comparison_table import Fitted, HeldOutScore, score_held_out
from pyro_vae.comparison.fit_by_name import fit_by_name
from pyro_vae.comparison.fit_methods import Budget
from pyro_vae.data import Dataset, Split
from pyro_vae.data.row_weights import weighted_mean
from pyro_vae.inference.fit_result import EpochRecord, FitResult
from pyro_vae.typing import Program

STEP = 1.5  # between epochs that are looked at, on a logarithmic axis


@dataclass(frozen=True)
class Point:
    """A fit at one epoch: rows processed, seconds, and means over rows in nats, which count the rows' weights.

    `train_log_px` is log p(x) of training rows, `log_px` of held-out ones and `bound` their ELBO under the program's q,
    None where it has none; `khat_bad` the share of held-out rows with a bad k-hat.
    """

    epoch: int
    rows_seen: int
    seconds: float
    train_log_px: float
    log_px: float
    bound: float | None
    khat_bad: float | None


def fit_with_curve(
    model: str,
    program: Program,
    fit_method: str,
    data: Dataset,
    budget: Budget,
    rows: Split,
    *,
    num_rows: int = 1000,
    num_samples: int = 200,
    on_point: Callable[[Point], None] | None = None,
) -> tuple[Program, FitResult, list[Point]]:
    """Fit a program by the named method and score it during the fit, at epochs evenly spaced on a logarithmic axis.

    log p(x) is found as in `compare`, with draws around each row's mode, so that methods without a guide are scored as
    the others are. Seconds are the fit's own, without the scoring.

    Args:
        model: the model's name.
        program: a new program, trained in place.
        fit_method: a fit method of `FIT_METHODS`.
        data: the data set whose training rows are used.
        budget: what the fit may spend.
        rows: the held-out rows.
        num_rows: how many training rows and how many held-out ones are scored.
        num_samples: draws for each row.
        on_point: called with each point as it comes.

    Returns:
        The fitted program, the fit's result, and the points.
    """
    points: list[Point] = []
    scoring_seconds: list[float] = [0.0]
    trained, held_out = data.train.head(min(num_rows, len(data.train))), rows.head(min(num_rows, len(rows)))

    def on_epoch(now: Program, history: list[EpochRecord]) -> None:
        history[-1] = replace(history[-1], seconds=history[-1].seconds - scoring_seconds[0])
        if not points or history[-1].epoch >= points[-1].epoch * STEP:
            score(now, history)

    def score(now: Program, history: list[EpochRecord]) -> None:
        began, epoch = time.perf_counter(), history[-1].epoch
        one = Fitted(model, fit_method, now)
        found = [score_held_out(one, some, method="laplace", num_samples=num_samples) for some in (trained, held_out)]
        points.append(_point(epoch, epoch * len(data.train), history[-1].seconds, *found))
        scoring_seconds[0] += time.perf_counter() - began
        if on_point is not None:
            on_point(points[-1])

    fitted, result = fit_by_name(program, fit_method, data, budget, on_epoch)
    if points and points[-1].epoch < result.history[-1].epoch:
        score(fitted, result.history)
    return fitted, replace(result, seconds=result.history[-1].seconds) if points else result, points


def _point(epoch: int, rows_seen: int, seconds: float, train: HeldOutScore, held_out: HeldOutScore) -> Point:
    train_log_px, log_px = (weighted_mean(score.log_px.log_px, score.log_px.weights) for score in (train, held_out))
    bound = None if held_out.bound is None else weighted_mean(held_out.bound, held_out.log_px.weights)
    return Point(epoch, rows_seen, seconds, train_log_px, log_px, bound, held_out.khat_bad)


def first_rows(data: Dataset, num_rows: int) -> Dataset:
    """The same data set with its first training rows alone.

    Args:
        data: the data set.
        num_rows: how many training rows are kept.

    Returns:
        The smaller data set.
    """
    return replace(data, train=data.train.head(num_rows))
