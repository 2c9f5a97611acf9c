"""How many draws for each row fit into a time: measured on the first rows."""

import time
from dataclasses import replace

from pyro_vae.data import Split
from pyro_vae.errors import InputError
from pyro_vae.evidence.estimate_log_px import estimate_log_px
from pyro_vae.evidence.evidence_methods import EVIDENCE_METHODS, Estimator
from pyro_vae.typing import Program

FEWEST, MOST = 25, 10_000  # draws; fewer have no k-hat
PILOT_ROWS, MORE_ROWS, PILOT_DRAWS = 128, 4096, (25, 200)
QUICK = 1.0  # seconds for the first pilot rows; where it takes less, more of them are measured


def choose_draws(estimator: Estimator, program: Program, rows: Split, seconds: float) -> tuple[Estimator, float]:
    """The estimator with as many draws as rows and time allow, between 25 and 10,000.

    The time of a row is taken to be a + b S, measured at two numbers of draws S.

    Args:
        estimator: how log p(x) is computed.
        program: the program.
        rows: all rows that are to be scored.
        seconds: the time for all of them.

    Returns:
        The estimator, and the seconds that it will take; `InputError` for a method without draws of that kind.
    """
    if not EVIDENCE_METHODS[estimator.method].takes_draws:
        raise InputError(f"--time chooses a number of draws, and --method {estimator.method} takes none: leave it out")
    some = rows.head(PILOT_ROWS)
    _seconds_of(estimator, program, some, FEWEST)  # what is made once
    if _seconds_of(estimator, program, some, PILOT_DRAWS[1]) < QUICK:
        some = rows.head(MORE_ROWS)
    few, many = (_seconds_of(estimator, program, some, draws) / len(some) for draws in PILOT_DRAWS)
    each = max(1e-9, (many - few) / (PILOT_DRAWS[1] - PILOT_DRAWS[0]))
    fixed = max(0.0, few - each * PILOT_DRAWS[0])
    draws = int(min(MOST, max(FEWEST, (seconds / len(rows) - fixed) / each)))
    return replace(estimator, num_samples=draws), len(rows) * (fixed + each * draws)


def _seconds_of(estimator: Estimator, program: Program, rows: Split, draws: int) -> float:
    began = time.perf_counter()
    estimate_log_px(replace(estimator, num_samples=draws), program, rows)
    return time.perf_counter() - began
