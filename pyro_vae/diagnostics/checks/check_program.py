"""Whether a model is right: all checks of a program on rows held out, and their verdicts together."""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from pyro_vae.argument_checks import check_call
from pyro_vae.data import Dataset, RowsGiven, Split, as_split
from pyro_vae.data.columns import Column, Schema
from pyro_vae.data.row_weights import effective_rows
from pyro_vae.diagnostics.checks.check_families import CheckFamilies, CheckTask
from pyro_vae.diagnostics.checks.check_size import MIN_REPLICATES, MIN_ROWS, MIN_SIMULATIONS, CheckSize
from pyro_vae.diagnostics.checks.model_check import FAMILIES, ModelCheck
from pyro_vae.diagnostics.checks.own_statistics import OwnStatistic, require_numbers, statistics_of_arrays
from pyro_vae.diagnostics.checks.verdicts import Verdict, with_levels
from pyro_vae.errors import InputError, ZeroDensityWarning
from pyro_vae.programs.program_defaults import num_features_of
from pyro_vae.typing import Program

WORDS_OF_ROWS = {"check": "rows set aside for checks", "valid": "validation rows", "test": "test rows"}
NOTES = {
    "valid": "These are the validation rows, which chose the epoch: their log p(x) is slightly too high. A fit with "
    "100 validation rows or more sets some aside (--check-rows).",
    "test": "These are test rows: a model that is changed by what they say has no test rows left.",
}


@check_call
def check(
    program: Program,
    data: RowsGiven,
    *,
    families: Sequence[str] | None = None,
    training: RowsGiven | None = None,
    statistics: Mapping[str, OwnStatistic] | None = None,
    matters: Mapping[str, float] | None = None,
    size: CheckSize | None = None,
    time_limit: float | None = None,
    split: str | None = None,
    num_training: int | None = None,
    refits: Sequence[Program] = (),
    seed: int = 0,
) -> ModelCheck:
    r"""Whether a model is right: predictive checks, calibration of the guide, draws beside rows, with verdicts.

    Each verdict has a p-value where there is a test, an effect in units that mean something, and a level: `none`,
    `small`, `matters`. The level is `none` where the p-value, adjusted over the verdicts (Benjamini and Hochberg), is
    above 0.05; otherwise the size of the effect decides, as with many rows every model is rejected. docs/check.md has
    the sizes and powers.

    Before a fit, `families=("columns", "pairs")` compares draws of the untrained model with the rows: a prior
    predictive check.

    Raises `InputError` for too few rows, and for a family that there is not. A check that a program does not allow has
    the level `not computed`, with the reason.

    Args:
        program: the program, fitted or not.
        data: a data set, whose rows set aside for checks are taken, and where there are none its validation rows; or
            rows that chose nothing.
        families: which checks, by default all (`FAMILIES`).
        training: the training rows, where `data` is no data set: for scales, overfitting and memorization.
        statistics: functions of rows by name, each of which returns a number: of a data frame where the data set's
            columns have names, with levels as they are written, else of an array (n, D) in original units.
        matters: how large a difference of each of these matters; every significant one is `small` by default.
        size: the numbers of rows and draws.
        time_limit: seconds that the check may take: a trial of a few draws lowers their numbers once, where
            `size` would take longer.
        split: which rows of a data set: `check`, `valid` or `test`.
        num_training: how many rows estimated the parameters, by default the number of training rows: statistics of the
            rows differ from the model's by 1 + n / N times their variance. 0 for known parameters.
        refits: the program fitted to training rows drawn with replacement, a dozen times or more: how statistics of
            the model vary between them takes the place of n / N, which bounds it.
        seed: of all draws.

    Returns:
        The verdicts.

    >>> import pyro_vae as pv, torch
    >>> x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    >>> model = pv.PPCA(1, 3)
    >>> _ = pv.fit_closed_form(model, x[:200])
    >>> found = pv.diagnostics.check(model, x[200:], training=x[:200], families=["columns", "pairs"])
    >>> [(verdict.name, verdict.level) for verdict in found.verdicts]
    [('columns', 'none'), ('pairs', 'none')]
    """
    began = time.perf_counter()
    chosen = tuple(FAMILIES) if families is None else tuple(families)
    if unknown := [name for name in chosen if name not in FAMILIES]:
        raise InputError(f"no check {unknown[0]!r}; there are {', '.join(FAMILIES)}")
    notes: list[str] = []
    rows, words, trained, columns = _rows_and_training(data, training, split, notes)
    size = size or CheckSize()
    if rows.weights is not None:
        notes.append("The rows have weights: the check is of rows that were drawn in proportion to these.")
    rows = representative_rows(rows, size.num_rows, seed)
    if len(rows) < MIN_ROWS:
        raise InputError(f"a check needs {MIN_ROWS} rows or more, got {len(rows)}; give more rows, or --split valid")
    width = num_features_of(program)
    if width is not None and width != rows.shape[1]:
        raise InputError(f"these rows have {rows.shape[1]} columns, and the program is of rows of {width}")
    if num_training is None:
        num_training = 0 if trained is None else round(effective_rows(trained.weights) or len(trained))
    schema = data.schema if isinstance(data, Dataset) else Schema()
    own = statistics_of_arrays(statistics or {}, schema, rows)
    require_numbers(own, rows)
    if len(refits) == 1:
        raise InputError("one refit has no variance: give several programs, or none")
    dataset = data if isinstance(data, Dataset) else None
    task = CheckTask(program, rows, trained, num_training, columns, dataset, own, matters or {}, seed, refits)
    verdicts: list[Verdict] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroDensityWarning)
        if time_limit is not None:
            size = size.scaled(_factor(task, size, time_limit, chosen))
        families_of = CheckFamilies(task, size)
        for name in FAMILIES:
            if name in chosen:
                verdicts += families_of.verdicts(name)
    seconds = time.perf_counter() - began
    return ModelCheck(
        with_levels(verdicts), words, len(rows), num_training, size, seconds, tuple(notes), num_refits=len(refits)
    )


def representative_rows(split: Split, num_rows: int, seed: int) -> Split:
    """Some rows in random order, each kept in proportion to its weight, so that those that are left count alike.

    Args:
        split: the rows.
        num_rows: how many at most.
        seed: of the choice.

    Returns:
        The rows, without weights.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(split), generator=generator)
    if split.weights is not None:
        weights = split.weights.cpu()[order]
        order = order[torch.rand(len(order), generator=generator) < weights / weights.max()]
    return split.take(order[:num_rows]).with_fields(weights=None)


def _rows_and_training(
    data: RowsGiven, training: RowsGiven | None, split: str | None, notes: list[str]
) -> tuple[Split, str, Split | None, Sequence[Column]]:
    """The rows of a check, what they are in words, the training rows, and the columns; what has to be said is noted."""
    columns: Sequence[Column] = ()
    if isinstance(data, Dataset):
        columns = data.schema.modelled
        rows, words = _rows_of(data, split, notes)
        training = data.train if training is None else training
    else:
        rows, words = as_split(data, "check"), "rows"
    trained = None if training is None else as_split(training, "train").without_uncounted()
    return rows, words, trained, columns


def _rows_of(data: Dataset, split: str | None, notes: list[str]) -> tuple[Split, str]:
    if split is None:
        split = "check" if data.check is not None else "valid"
    if split not in WORDS_OF_ROWS:
        raise InputError(f"no rows {split!r} to check; there are {', '.join(WORDS_OF_ROWS)}")
    if split in NOTES:
        notes.append(NOTES[split])
    return data.split(split), WORDS_OF_ROWS[split]


def _factor(task: CheckTask, size: CheckSize, seconds: float, chosen: Sequence[str]) -> float:
    """How many times the numbers of draws a time allows, from a trial of a few of the chosen families' draws."""
    small = replace(size, num_replicates=MIN_REPLICATES, num_simulations=MIN_SIMULATIONS, num_scored=MIN_ROWS)
    numbers = {
        "columns": size.num_replicates / small.num_replicates,
        "guide": size.num_simulations / small.num_simulations,
        "densities": min(size.num_scored, len(task.rows)) / small.num_scored,
    }
    spent = 0.0
    for name in numbers.keys() & set(chosen):
        for _ in range(2):  # the first trial also imports and finds plates
            trial, began = CheckFamilies(task, small), time.perf_counter()
            trial.verdicts(name)
            once = time.perf_counter() - began
            if once > seconds:
                break
        spent += once * numbers[name]
    return min(1.0, seconds / max(spent, 1e-3))
