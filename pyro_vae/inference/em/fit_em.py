"""Expectation–maximization for any model with an exact posterior; the models write the E- and M-steps.

>>> import pyro_vae as pv
>>> data = pv.load_data("two-moons")
>>> mixture = pv.GaussianMixture(num_components=8, num_features=2)
>>> fitted = pv.fit_em(mixture, data, epochs=50, num_starts=2, seed=0)
>>> objective = [row["objective"] for row in fitted.history if row["start"] == 0]
>>> all(later >= earlier - 1e-9 for earlier, later in zip(objective, objective[1:]))
True
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.context_managers import seeded
from pyro_vae.data import Dataset, RowsGiven, as_split
from pyro_vae.errors import InputError
from pyro_vae.inference.em.em_loop import EMRows, EMRun, EMSettings
from pyro_vae.inference.em.parallel_starts import fit_in_parallel
from pyro_vae.inference.fit_result import FitResult
from pyro_vae.inference.svi.callbacks import Callback, Callbacks, OnEpoch, RunningFit
from pyro_vae.inference.svi.progress import Style, all_callbacks
from pyro_vae.models.exact_density import Density, check_start
from pyro_vae.programs.program_defaults import set_fitted_measure
from pyro_vae.typing import Program


@check_call
def fit_em(
    model: Program,
    data: RowsGiven,
    *,
    valid: RowsGiven | None = None,
    epochs: int = 500,
    tolerance: float = 1e-6,
    weights: Tensor | None = None,
    start: str | Sequence[str] = "k-means++",
    num_starts: int = 1,
    num_workers: int = 1,
    accelerate: bool | None = None,
    hard: bool = False,
    batch_size: int | None = None,
    memory_mib: float = 1024.0,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    on_epoch: OnEpoch | None = None,
    progress: Style = "none",
) -> FitResult:
    r"""Maximize $\frac1N \{\sum_i \log p(x_i; \theta) + \log p(\theta)\}$ by EM (Dempster, Laird & Rubin 1977).

    The E-step sets each $q_i$ to the exact posterior, so that the bound $F(q, \theta) = E_q[\log p(x, z) - \log q]$
    equals log p(x); the M-step maximizes it in θ. So the objective never falls, up to rounding, within a `segment` of
    the history: a component that explains less than one row is moved to the row with the lowest log p(x), which begins
    a new segment.
    An E-step comes last, so every number belongs to the parameters that are kept. With `hard` the posterior's mode
    replaces the posterior (classification EM): with a `GaussianMixture(…, scale=s)` that is k-means. With a
    `batch_size` it is online EM (Cappé & Moulines, arXiv:0712.4273), for data too large for many passes: statistics are
    moving averages over batches in random order, for all `epochs` passes; the objective need not rise, and empty
    components are not moved. With `weights` both sums go over rows as often as each weight says, and N is their sum.

    EM can be slow where posteriors are wide. With `accelerate` the parameters are extrapolated after each third M-step
    (`Squarem`), and the objective is computed there: where it fell, the step is taken back, so it never falls.

    With a `batch_size` the numbers of all but the last epoch are of the parameters that each batch met. Prepared rows
    are kept between iterations if they fit in `memory_mib` and recomputed otherwise, so memory does not grow with N but
    for one number a row.

    Raises `InputError` for a model without an E-step, settings or rows that cannot be used, frozen parameters, and
    singular covariances.

    Args:
        model: a mixture, PPCA or factor analysis (`Density`), fitted in place.
        data: the training rows x (N, D), or a data set, whose validation rows are scored too.
        valid: held-out rows (M, D), instead of the data set's: `valid_elbo` is their exact log p(x).
        epochs: iterations of a start, at most.
        tolerance: a start ends when an iteration gains no more, nats per row.
        weights: how often each training row counts (N,), numbers that are not negative; by default the weights of the
            split, divided by their mean, so that a prior of the parameters is that of N rows whatever their scale. The
            strength of a mixture's prior is chosen on the rows whose weight is above 0, which count alike there.
        start: "k-means++", "k-means", "random" (rows as centres) or "current" (the parameters as they are); several of
            them take turns.
        num_starts: the number of starts, of which the best is kept.
        num_workers: processes that starts are fitted in; more than one give the history of a start when it has ended.
        accelerate: whether steps are extrapolated; None for the model's default, True for PPCA, factor analysis and
            `ColumnsMixture`. Neither hard nor online EM is accelerated.
        hard: whether q is the posterior's mode.
        batch_size: rows of a batch of online EM; by default all rows for each iteration.
        memory_mib: MiB that prepared rows may take.
        seed: of the first start; the others have the next ones.
        callbacks: called at the start, after each iteration and at the end (`Callback`).
        on_epoch: a plain function, called with the history after each iteration.
        progress: as in `fit`.

    Returns:
        The history of all starts, whose records are `EMEpoch`: `elbo` is log p(x), since the bound is tight, and `kl`
        None.
    """
    density = _check_model(model)
    starts = (start,) if isinstance(start, str) else tuple(start)
    chosen = density.accelerated if accelerate is None else accelerate
    settings = EMSettings(epochs, tolerance, starts, hard, batch_size, memory_mib * 2**20, seed, chosen)
    _check_settings(settings, num_starts, num_workers)
    set_fitted_measure(density, as_split(data, "train").measure)
    train = density.rows_of(as_split(data, "train"))
    if weights is None:
        train = train.without_uncounted()
        weights = train.relative_weights
    elif train.weights is not None:
        raise InputError("the training rows have weights of their own (Split.weights): leave weights=… out")
    held_out = as_split(valid, "valid") if valid is not None else data.valid if isinstance(data, Dataset) else None
    fit = RunningFit(model, epochs * num_starts)
    with seeded(seed), torch.no_grad():
        rows = EMRows(density, train, weights, settings.memory_bytes)
        if start != "current" or not density.started:
            density.choose_regularization(rows.for_regularization())
        with Callbacks(fit, all_callbacks(callbacks, on_epoch, progress)).running() as called:
            run = EMRun(rows, held_out, settings, called)
            if num_workers > 1 and num_starts > 1:
                fit_in_parallel(run, num_starts, num_workers)
                return run.result()
            for number in range(num_starts):
                run.fit(number)
                if fit.stop:
                    break
            return run.result()


def _check_model(model: Program) -> Density:
    """The model; `InputError` for one that EM cannot fit."""
    if not isinstance(model, Density):
        raise InputError(
            f"a {type(model).__name__} has no exact posterior, so no E-step: use fit, or fit_mcem, whose E-step is a "
            "sampler"
        )
    parameters = {name: value for name, value in model.named_parameters() if not name.startswith("posterior.")}
    if frozen := [name for name, value in parameters.items() if not value.requires_grad and name not in model.held]:
        raise InputError(f"an M-step sets every parameter, and {', '.join(frozen)} is frozen: use fit, or unfreeze it")
    return model


def _check_settings(settings: EMSettings, num_starts: int, num_workers: int) -> None:
    """`InputError` for settings out of range."""
    epochs, tolerance, batch_size = settings.epochs, settings.tolerance, settings.batch_size
    if min(epochs, num_starts, num_workers, 1 if batch_size is None else batch_size) < 1 or tolerance < 0:
        raise InputError(
            "expected epochs, num_starts, num_workers and batch_size of one or more and a tolerance that is not "
            f"negative, got {epochs}, {num_starts}, {num_workers}, {batch_size} and {tolerance}"
        )
    for kind in settings.starts:
        check_start(kind)
    if not settings.starts or ("current" in settings.starts and num_starts > 1):
        raise InputError("start='current' is one start: leave num_starts out")
