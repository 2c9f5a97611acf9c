"""log p(x) of rows by a method's name; several processes share the rows."""

from collections.abc import Callable

from torch import Tensor

from pyro_vae.data import Split
from pyro_vae.distributed import process_group
from pyro_vae.evidence.evidence_methods import EVIDENCE_METHODS, Estimator
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.typing import Program

IWAE_SIZES = (1, 5, 50, 500)  # those below the number of draws are reported


def estimate_log_px(
    estimator: Estimator,
    program: Program,
    data: Split,
    *,
    rows: Tensor | None = None,
    seed: int | None = None,
    on_rows: Callable[[int], None] = lambda done: None,
) -> LogPx:
    """log p(x) of each row by an estimator's method; several processes share the rows.

    Args:
        estimator: how log p(x) is computed.
        program: any program.
        data: the rows.
        rows: their indices (N,) in the training set, for programs that take them.
        seed: a seed in place of the estimator's own.
        on_rows: called with the number of rows done, now and then, where the method is slow.

    Returns:
        log p(x) (N,), nats per row.
    """
    method, group = EVIDENCE_METHODS[estimator.method], process_group()

    def all_rows(done: int) -> None:
        on_rows(min(done * group.size, len(data)))

    common = {"memory_mib": estimator.memory_mib, "seed": estimator.seed if seed is None else seed, "group": group}
    progress = {"on_rows": all_rows if group.is_main else None} if method.progress else {}
    draws = {"num_samples": estimator.num_samples, "iwae": IWAE_SIZES} if method.takes_draws else {}
    places = {} if rows is None else {"rows": rows}
    found: LogPx = method.load()(program, data, **places, **common, **draws, **progress, **estimator.keywords)
    return found
