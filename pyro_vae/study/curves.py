"""log p(x) along a fit, against the training rows it has seen: Kingma & Welling's third figure."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pyro_vae.data import Dataset, Split
from pyro_vae.inference.result import FitResult
from pyro_vae.study.comparison import Fitted, score_held_out
from pyro_vae.study.ways import Effort, climb


@dataclass(frozen=True)
class Point:
    """Where a fit stood: rows gone through, seconds, and mean log p(x) of training and held-out rows, nats per row.

    `khat_bad` is the share of held-out rows whose importance weights are not to be trusted.
    """

    rows_seen: int
    seconds: float
    train_log_px: float
    log_px: float
    khat_bad: float | None


def climb_with_curve(
    model: str,
    program: Any,
    way: str,
    data: Dataset,
    effort: Effort,
    rows: Split,
    *,
    num_rows: int = 1000,
    num_points: int = 12,
    num_samples: int = 200,
    on_point: Callable[[Point], None] | None = None,
) -> tuple[Any, FitResult, list[Point]]:
    """Fit a program in the named way and score it on the way, at epochs evenly apart on a logarithmic axis.

    log p(x) of the first `num_rows` training rows and rows of a split is found as in `compare`, with `num_samples`
    draws around each row's mode, so that ways without a guide are scored as the others are. Scoring does not count as
    seconds. For ways that keep the program they are given: svi, wake-sleep, rws, mcem and EM's.
    """
    epochs = sorted({round(effort.epochs ** (i / (num_points - 1))) for i in range(num_points)})
    points: list[Point] = []
    spent = 0.0
    seen, held_out = data.train.head(min(num_rows, len(data.train))), rows.head(min(num_rows, len(rows)))

    def look(history: list[dict[str, Any]]) -> None:
        epoch = history[-1]["epoch"]
        if epoch not in epochs:
            return
        nonlocal spent
        began, now = time.perf_counter(), Fitted(model, way, program)
        found = [score_held_out(now, some, method="laplace", num_samples=num_samples) for some in (seen, held_out)]
        means = [float(one.log_px.log_px.mean()) for one in found]
        khat = getattr(found[1].log_px, "khat_bad", None)
        points.append(Point(epoch * len(data.train), history[-1]["seconds"] - spent, means[0], means[1], khat))
        spent += time.perf_counter() - began
        if on_point is not None:
            on_point(points[-1])

    fitted, result = climb(program, way, data, replace(effort, validate=False), look)
    return fitted, result, points


def first_rows(data: Dataset, num_rows: int) -> Dataset:
    """The same data set with its first training rows alone."""
    return replace(data, train=data.train.head(num_rows))
