"""The checks of a run's model: verdicts kept with the run, and a page about them."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from torch import nn

from pyro_vae.atomic_write import read_json, require_file_path, write_atomic, write_json
from pyro_vae.diagnostics.checks.check_program import check
from pyro_vae.diagnostics.checks.check_size import CheckSize
from pyro_vae.diagnostics.checks.model_check import ModelCheck
from pyro_vae.diagnostics.checks.own_statistics import OwnStatistic
from pyro_vae.errors import InputError
from pyro_vae.inference.svi.fit_svi import pick_device
from pyro_vae.report.check_page import check_page
from pyro_vae.report.settings_in_words import describe_run
from pyro_vae.run_folder import CHECK, EVALUATION, lock_run
from pyro_vae.typing import Program
from pyro_vae.workflows.fit_resampled import fit_resampled
from pyro_vae.workflows.read_run import Run
from pyro_vae.workflows.user_program import errors_as_input, load_function

LEAST_SECONDS = 20.0  # that a check may take, however short the fit was


def check_run(
    folder: str | Path,
    *,
    split: str | None = None,
    families: Sequence[str] = (),
    statistics: Sequence[str] = (),
    size: CheckSize | None = None,
    time_limit: float | None = None,
    device: str = "auto",
    program: str | None = None,
    bootstrap: int = 0,
    out: str | Path | None = None,
    seed: int = 0,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[ModelCheck, Path]:
    """Check a run's model on rows that chose nothing, and keep the verdicts in `check.json` and a page.

    Raises `InputError` for a folder that is no run, and for too few rows.

    Args:
        folder: the run's folder.
        split: `check`, `valid` or `test`; by default the rows set aside for checks, or without them the validation
            rows.
        families: which checks; by default all.
        statistics: functions of rows, as `FILE.py:FUNCTION`, each of which returns a number: of a data frame where
            columns have names, else of an array (n, D) in original units.
        size: the numbers of rows and draws.
        time_limit: seconds that the draws may take; by default the time of the fit, or 20 seconds if that is longer.
            It sets the numbers of draws once; they are kept with the verdicts.
        device: where: `auto` is an accelerator, if there is one.
        program: `FILE.py:FUNCTION` of a program of one's own.
        bootstrap: how many programs are fitted to the run's training rows drawn with replacement, each as long as the
            fit took: how the model's statistics vary between them corrects for estimated parameters.
        out: the page, by default `check.html` in the folder.
        seed: of all draws.
        log: called with each note.

    Returns:
        The check, and the path of the page.
    """
    path = Path(folder) / "check.html" if out is None else Path(out)
    if path.suffix not in (".html", ".htm"):
        raise InputError(
            f"{path}: the page of a check is written as .html, not {path.suffix or 'a file without an ending'}"
        )
    require_file_path(path)
    if bootstrap == 1:
        raise InputError("--bootstrap 1: one fit has no variance; give 12 or more, or none")
    own: dict[str, OwnStatistic] = {}
    for where in statistics:
        name, function = load_statistic(where)
        if name in own:
            raise InputError(f"--statistic {where}: there is another {name}; give one of the functions another name")
        own[name] = function
    with lock_run(Path(folder)):
        run = Run(Path(folder), program)
        fitted, data = run.program(), run.data()
        if isinstance(fitted, nn.Module):
            fitted.to(pick_device(device))
        if bootstrap:  # what cannot be checked is refused before anything is fitted
            check(fitted, data, families=(), statistics=own, size=size, split=split)
        refits = [_refitted(run, program, number, device, log) for number in range(1, bootstrap + 1)]
        limit = max(LEAST_SECONDS, _seconds_of_fit(run.folder)) if time_limit is None else time_limit
        found = check(
            fitted,
            data,
            families=tuple(families) or None,
            statistics=own,
            size=size,
            time_limit=limit if size is None or time_limit is not None else None,
            split=split,
            refits=refits,
            seed=seed,
        )
        for note in found.notes:
            log(f"note: {note}")
        page = check_page(found, run.folder.resolve().name, describe_run(run.config, data)).encode()
        write_json(run.folder / CHECK, found.to_dict())
        write_atomic(path, page)
    return found, path


def _refitted(run: Run, program: str | None, number: int, device: str, log: Callable[[str], None]) -> Program:
    began = time.perf_counter()
    found = fit_resampled(run.folder, program, number)
    if isinstance(found, nn.Module):
        found.to(pick_device(device))
    log(f"fitted to rows drawn with replacement, {number}: {time.perf_counter() - began:.0f} s")
    return found


def _seconds_of_fit(folder: Path) -> float:
    """How long the fit took; 0 where the run does not say."""
    path = folder / EVALUATION
    known: Mapping[str, Mapping[str, object]] = read_json(path) if path.exists() else {}
    seconds = known.get("valid", {}).get("seconds")
    return float(seconds) if isinstance(seconds, (int, float)) else 0.0


def load_statistic(where: str) -> tuple[str, OwnStatistic]:
    """A statistic of a user's, by its function's name; what its code raises becomes an `InputError`.

    Args:
        where: `FILE.py:FUNCTION`.

    Returns:
        The name and the function of rows.
    """
    function, path = load_function(where, "--statistic")

    def statistic(rows: object) -> float:
        with errors_as_input(f"--statistic {where}", path):
            return cast(float, function(rows))  # `check` says where it is no number

    return where.rpartition(":")[2], statistic
