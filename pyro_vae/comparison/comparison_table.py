"""Models and fit methods compared on the same rows and measure: a table of records."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.comparison.build_model import without_guide
from pyro_vae.comparison.fit_methods import FIT_METHODS
from pyro_vae.comparison.paired_differences import EvidenceDifference, compare_evidence, difference_to
from pyro_vae.context_managers import seeded
from pyro_vae.data import RowsGiven, Split, as_split
from pyro_vae.errors import InputError, PointMassError
from pyro_vae.evidence.auto_evidence import auto_evidence
from pyro_vae.evidence.evidence_record import EvidenceRecord, mean_or_none
from pyro_vae.evidence.exact_log_px import Exact, exact_evidence
from pyro_vae.evidence.importance_sampling import Evidence, log_evidence
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.inference.fit_result import FitResult
from pyro_vae.inference.posterior.laplace import laplace_approximation
from pyro_vae.models.exact_density import Density
from pyro_vae.models.finite_mixture import Mixture
from pyro_vae.models.vae import VAE
from pyro_vae.programs.encode_rows import active_units
from pyro_vae.programs.find_plates import find_plates
from pyro_vae.programs.parameters import device_and_dtype, named_parameters
from pyro_vae.programs.program_defaults import Predictive
from pyro_vae.programs.row_batches import describe_measure
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.typing import Program

METHODS = ("auto", "exact", "laplace", "is")
PRIOR_SHARE = 0.1  # of the draws around modes: a normal at one mode may be too narrow, or miss another mode


@dataclass(frozen=True)
class Fitted:
    """A program to be compared, its fit method and the fit's result; a saved run has no `result`.

    `reached` holds (seconds, log p(x) of held-out rows) during the fit, where it was scored.
    """

    model: str
    fit_method: str
    program: Program
    result: FitResult | None = None
    run: str | None = None
    reached: tuple[tuple[float, float], ...] = ()

    @property
    def name(self) -> str:
        return self.run or f"{self.model} {self.fit_method}".strip()

    @property
    def has_guide(self) -> bool:
        """Whether its guide has a q for held-out rows."""
        return self.fit_method not in FIT_METHODS or FIT_METHODS[self.fit_method].is_amortized


@dataclass(frozen=True)
class HeldOutScore:
    """Held-out rows under one program: log p(x), the ELBO of its q (N,) or None, and the estimator that was used."""

    log_px: LogPx
    bound: Tensor | None
    method: str
    evidence: Evidence | None = None

    @property
    def khat_bad(self) -> float | None:
        """The share of rows whose k-hat is above its limit; None where log p(x) is not by importance sampling."""
        return self.log_px.khat_bad if isinstance(self.log_px, Evidence) else None


@dataclass(frozen=True)
class ComparisonRow(EvidenceRecord):
    """The record of a program among others, nats per row.

    `bound` is the ELBO of the program's own q on the rows, and `gap` = log p(x) − bound, the mean of
    KL(q(z|x) ‖ p(z|x)); both are None where a fit method has no q for held-out rows.

    Attributes:
        name: of the program.
        behind: the best program's log p(x) − this one's.
        behind_se: the standard error of that paired difference over rows.
        behind_mc_se: its Monte-Carlo standard error.
        model_parameters: those of the model that can be chosen freely, without the guide's.
        seconds_to_level: seconds after which log p(x) of held-out rows first was at `level`; all of a fit's seconds
            where it was not scored during the fit.
        level: that log p(x).
    """

    name: str = ""
    behind: float = 0.0
    behind_se: float = 0.0
    behind_mc_se: float = 0.0
    model_parameters: int | None = None
    seconds_to_level: float | None = None
    level: float | None = None


@check_call
def compare(
    programs: Sequence[Fitted] | Mapping[str, Program],
    rows: RowsGiven,
    *,
    method: str = "auto",
    num_samples: int = 1000,
    level: float | None = None,
    seed: int = 0,
    on_scored: Callable[[str, HeldOutScore], None] | None = None,
) -> list[ComparisonRow]:
    r"""Programs scored on the same held-out rows, best first. Raises `InputError` for two programs of one name, and for
    densities on different measures.

    Args:
        programs: `Fitted` programs, or programs by name.
        rows: the held-out rows.
        method: the estimator of log p(x): `exact`, `laplace` (importance sampling around each row's mode, without the
            guide), `is` (from the guide), or `auto`, as `auto_evidence`: exact where that is possible, else from
            mixtures around each row's modes.
        num_samples: draws for each row.
        level: the log p(x) of `seconds_to_level`; by default one that half of the programs reach.
        seed: of the draws.
        on_scored: called with a program's name and its score, as they come.

    Returns:
        A row for each program, nats per row of x.

    >>> import pyro_vae as pv
    >>> data = pv.load_data("two-moons")
    >>> mixture, ppca = pv.GaussianMixture(5, 2), pv.PPCA(1, 2)
    >>> fits = pv.fit_em(mixture, data.train), pv.fit_em(ppca, data.train)
    >>> [row["name"] for row in pv.compare({"mixture": mixture, "PPCA": ppca}, data.valid)]
    ['mixture', 'PPCA']
    """
    rows = as_split(rows, "test")
    if not programs:
        raise InputError("there is no program to compare: give some by name, {'mixture': mixture, …}")
    if isinstance(programs, Mapping):
        programs = [Fitted(name, "", program) for name, program in programs.items()]
    if odd := [type(one).__name__ for one in programs if not isinstance(one, Fitted)]:
        raise InputError(f"expected Fitted programs, or programs by name ({{'mixture': mixture, …}}), got {odd[0]}")
    if method not in METHODS:
        raise InputError(f"no method called {method!r}; try one of {', '.join(METHODS)}")
    names = [one.name for one in programs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{', '.join(twice)} occurs twice in the comparison: leave one out")
    scored = {}
    for one in programs:
        scored[one.name] = score_held_out(one, rows, method=method, num_samples=num_samples, seed=seed)
        if on_scored is not None:
            on_scored(one.name, scored[one.name])
    ranked = _ranked({name: found.log_px for name, found in scored.items()})
    programs = [_with_final_score(one, scored[one.name]) for one in programs]
    level = common_level(programs) if level is None else level
    by_name = {one.name: one for one in programs}
    return [_row(by_name[row.name], scored[row.name], row, rows, level, seed) for row in ranked]


def _ranked(found: Mapping[str, LogPx]) -> list[EvidenceDifference]:
    if len(found) > 1:
        return compare_evidence(found)
    ((name, only),) = found.items()
    return [difference_to(only, name, only)]


def score_held_out(
    one: Fitted, rows: Split, *, method: str = "auto", num_samples: int = 1000, seed: int = 0
) -> HeldOutScore:
    """log p(x) of rows that a program was not fitted to, by one estimator, and the ELBO of its guide.

    Args:
        one: the fitted program.
        rows: the held-out rows.
        method: the estimator, as in `compare`.
        num_samples: draws for each row.
        seed: of the draws.

    Returns:
        Both, nats for each row.
    """
    program = one.program
    if not isinstance(program, Density) and isinstance(program, Predictive):
        return HeldOutScore(_predictive(program, program.log_predictive, rows), None, "the posterior predictive")
    if isinstance(program, Density):
        exact = exact_evidence(without_guide(program), rows, seed=seed)
        return HeldOutScore(exact, _bound_of(one, rows, exact.log_px), f"exact: {exact.method}")
    known = program if one.has_guide else without_guide(program)
    evidence = _own_evidence(known, rows, num_samples, seed, required=method == "is") if one.has_guide else None
    bound = None if evidence is None else evidence.elbo
    if method in ("auto", "exact"):
        if method == "exact":
            best: LogPx = exact_evidence(known, rows, seed=seed)
        else:
            best = auto_evidence(known, rows, num_samples, use_guide=evidence is not None, seed=seed)
        return HeldOutScore(best, bound, f"exact: {best.method}" if isinstance(best, Exact) else "auto", evidence)
    if method == "is" and evidence is not None:
        return HeldOutScore(evidence, bound, "is", evidence)
    at_modes = laplace_approximation(known, rows, seed=seed)
    found = log_evidence(at_modes, rows, num_samples, rows=torch.arange(len(rows)), prior_share=PRIOR_SHARE, seed=seed)
    return HeldOutScore(found, bound, "laplace", evidence)


def _own_evidence(program: Program, rows: Split, num_samples: int, seed: int, required: bool) -> Evidence | None:
    """Importance sampling from a program's own guide; None where that has no density and is not `required`."""
    with nullcontext() if required else suppress(PointMassError):
        return log_evidence(program, rows, num_samples, seed=seed)
    return None


def _bound_of(one: Fitted, rows: Split, log_px: Tensor) -> Tensor | None:
    """The ELBO of a mixture's or PPCA's guide: log p(x) itself where that is the exact posterior."""
    if not one.has_guide:
        return None
    if not isinstance(one.program, Mixture):
        return log_px
    if one.fit_method == "hard-em":
        return one.program.elbo(rows, hard=True)
    return log_px if one.program.posterior is None else one.program.elbo(rows)


def _predictive(program: Program, log_predictive: Callable[[Tensor], Tensor], rows: Split) -> LogPx:
    """The density of new rows under a global posterior q, as an estimate of log p(x | training rows)."""
    target = device_and_dtype(program)
    log_px = log_predictive(rows.x.to(*target)).detach().cpu().double() + rows.log_jacobian
    return LogPx(
        log_px=log_px,
        mc_se=torch.zeros_like(log_px),
        measure=describe_measure(rows, find_plates(program, Batch(rows[:3].to(*target), num_rows=len(rows)))),
        kind="estimate",
        weights=rows.weights,
    )


def _with_final_score(one: Fitted, scored: HeldOutScore) -> Fitted:
    """The program with the final score of its fit among those it reached."""
    if one.result is None:
        return one
    return replace(one, reached=(*one.reached, (one.result.seconds, scored.log_px.log_px_mean)))


def common_level(programs: Sequence[Fitted]) -> float | None:
    """The highest log p(x) that half of the programs have reached, of those whose seconds are known."""
    best = sorted((max(value for _, value in one.reached) for one in programs if one.reached), reverse=True)
    return best[(len(best) - 1) // 2] if best else None


def seconds_to(one: Fitted, level: float | None) -> float | None:
    """The seconds after which a fit first reached a level.

    Args:
        one: the fitted program, with what it reached when.
        level: log p(x), nats per row.

    Returns:
        Seconds; None where it never did.
    """
    return None if level is None else next((seconds for seconds, value in one.reached if value >= level), None)


def _row(
    one: Fitted, scored: HeldOutScore, ranked: EvidenceDifference, rows: Split, level: float | None, seed: int
) -> ComparisonRow:
    found, evidence, result = scored.log_px, scored.evidence, one.result
    bound = None if scored.bound is None else mean_or_none(scored.bound, rows.weights)
    known = found.to_record(EvidenceRecord())
    return ComparisonRow(
        run=one.run,
        model=one.model,
        way=one.fit_method,
        fit_method=one.fit_method,
        split=rows.name,
        measure=found.measure,
        elbo=bound,
        reconstruction=None if evidence is None else mean_or_none(evidence.reconstruction, rows.weights),
        kl=None if evidence is None else mean_or_none(evidence.kl, rows.weights),
        log_px=known.log_px,
        log_px_kind=found.kind,
        log_px_se=known.log_px_se,
        log_px_mc_se=known.log_px_mc_se,
        method=scored.method,
        iwae={},
        bound=bound,
        gap=None if bound is None or known.log_px is None else known.log_px - bound,
        khat_bad=scored.khat_bad,
        active_units=_num_active_units(one.program, rows, seed) if evidence is not None else None,
        num_data=len(rows),
        num_samples=found.num_samples if isinstance(found, Evidence) else None,
        num_parameters=sum(value.numel() for value in named_parameters(one.program).values()),
        seconds=None if result is None else result.seconds,
        outside_share=None if evidence is None else mean_or_none(evidence.outside_share, rows.weights) or None,
        num_with_number=known.num_with_number,
        num_zero=known.num_zero,
        effective_rows=known.effective_rows,
        name=one.name,
        behind=ranked.behind,
        behind_se=ranked.behind_se,
        behind_mc_se=ranked.behind_mc_se,
        model_parameters=_num_model_parameters(one.program),
        seconds_to_level=seconds_to(one, level),
        level=level,
    )


def _num_model_parameters(program: Program) -> int | None:
    """Free parameters of a density; a VAE's without its guide; None where parameters are latents."""
    if isinstance(program, Density):
        return program.num_free
    if isinstance(program, VAE):
        parts = [part for part in (program.prior, program.likelihood) if isinstance(part, torch.nn.Module)]
        return sum(value.numel() for part in parts for value in part.parameters())
    return None


def _num_active_units(program: Program, rows: Split, seed: int) -> int | None:
    try:
        rows = rows.without_uncounted()
        with seeded(seed):
            return active_units(program, rows[:5000], plates=None, **rows.row_inputs(slice(5000)))[0]
    except InputError:
        return None
