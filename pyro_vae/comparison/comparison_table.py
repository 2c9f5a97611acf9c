"""Models fitted in several ways, held against the same rows on one measure: a table of records."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.comparison.fit_methods import FIT_METHODS
from pyro_vae.comparison.models_by_name import without_guide
from pyro_vae.comparison.paired_differences import compare_evidence
from pyro_vae.context import seeded
from pyro_vae.data import Split
from pyro_vae.errors import InputError, RowsError
from pyro_vae.evidence.evidence_record import KEYS
from pyro_vae.evidence.exact import exact_evidence
from pyro_vae.evidence.importance_sampling import Evidence, log_evidence
from pyro_vae.evidence.log_px import LogPx
from pyro_vae.inference.fit_result import FitResult
from pyro_vae.inference.posterior.laplace import laplace
from pyro_vae.models.exact_density import Density
from pyro_vae.models.finite_mixture import Mixture
from pyro_vae.models.vae import VAE
from pyro_vae.programs.model_and_guide import active_units
from pyro_vae.programs.parameters import named_parameters
from pyro_vae.programs.plates import find_plates
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.scored_rows import describe_measure

METHODS = ("auto", "exact", "laplace", "is")
PRIOR_SHARE = 0.1  # of the draws around modes: a normal at a mode may be too narrow, or miss another
FEW_FEATURES = 16  # up to so many a grid over two latents costs little


@dataclass(frozen=True)
class Fitted:
    """A contender: a program, the way it was fitted, and what the fit noted; a saved run has no `result`.

    `reached` holds (seconds, log p(x) of held-out rows) along the fit, where somebody watched.
    """

    model: str
    way: str
    program: Any
    result: FitResult | None = None
    run: str | None = None
    reached: tuple[tuple[float, float], ...] = ()

    @property
    def name(self) -> str:
        return self.run or f"{self.model} {self.way}".strip()

    @property
    def answers(self) -> bool:
        """Whether its guide is there for rows held out."""
        return self.way not in FIT_METHODS or FIT_METHODS[self.way].answers


@dataclass(frozen=True)
class HeldOutScore:
    """What was found of one contender's rows: log p(x), the bound of its own q (N,) or None, and by which method."""

    log_px: LogPx
    bound: Tensor | None
    method: str
    evidence: Evidence | None = None


def compare(
    contenders: Sequence[Fitted] | Mapping[str, Any],
    rows: Split,
    *,
    method: str = "auto",
    num_samples: int = 1000,
    level: float | None = None,
    seed: int = 0,
    on_scored: Callable[[str, HeldOutScore], None] | None = None,
) -> list[dict[str, Any]]:
    r"""Records of programs scored on the same held-out rows, best first, with the keys of `evidence.record` and more.

    Contenders are `Fitted` programs, or programs by name.
    `log_px` with its kind and errors; `behind` the best, with the paired `behind_se`; `bound` the ELBO of the way's own
    q on these rows and `gap` = log p(x) − bound, the mean of $\mathrm{KL}(q(z|x) \| p(z|x))$, both None where a way has
    no q for rows held out; `num_parameters` of model and guide together and `model_parameters`,
    those of the model that can be chosen freely; `seconds`, and `seconds_to_level`, after which log p(x) of held-out
    rows first was at `level` (by default one that half of the contenders reach), all of a fit's seconds where nobody
    watched it.

    `method` says how log p(x) is found: `exact`, `laplace` (importance sampling around each row's mode, which asks
    nothing of the guide), `is` (from the guide), or by default whichever of the three comes first: exact where the
    program knows its density or rows are narrow and latents one or two. Nats per row.

    Raises `InputError` for two contenders of one name, and for densities on different measures.

    >>> import pyro_vae as pv
    >>> data = pv.load_data("two-moons")
    >>> mixture, ppca = pv.GaussianMixture(5, 2), pv.PPCA(1, 2)
    >>> fits = pv.fit_em(mixture, data.train), pv.fit_em(ppca, data.train)
    >>> [row["name"] for row in pv.compare({"mixture": mixture, "PPCA": ppca}, data.valid)]
    ['mixture', 'PPCA']
    """
    if isinstance(contenders, Mapping):
        contenders = [Fitted(name, "", program) for name, program in contenders.items()]
    if odd := [type(one).__name__ for one in contenders if not isinstance(one, Fitted)]:
        raise InputError(f"expected Fitted programs, or programs by name ({{'mixture': mixture, …}}), got {odd[0]}")
    if method not in METHODS:
        raise InputError(f"no method called {method!r}; try one of {', '.join(METHODS)}")
    names = [one.name for one in contenders]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{', '.join(twice)} stands twice in the comparison: leave one out")
    scored = {}
    for one in contenders:
        scored[one.name] = score_held_out(one, rows, method=method, num_samples=num_samples, seed=seed)
        if on_scored is not None:
            on_scored(one.name, scored[one.name])
    ranked = _ranked({name: found.log_px for name, found in scored.items()})
    contenders = [_with_its_end(one, scored[one.name]) for one in contenders]
    level = common_level(contenders) if level is None else level
    by_name = {one.name: one for one in contenders}
    return [_record(by_name[row["name"]], scored[row["name"]], row, rows, level, seed) for row in ranked]


def _ranked(found: Mapping[str, LogPx]) -> list[dict[str, Any]]:
    if len(found) > 1:
        return compare_evidence(found)
    ((name, only),) = found.items()
    return [{"name": name, "log_px": float(only.log_px.mean()), "behind": 0.0, "behind_se": 0.0, "behind_mc_se": 0.0}]


def score_held_out(
    one: Fitted, rows: Split, *, method: str = "auto", num_samples: int = 1000, seed: int = 0
) -> HeldOutScore:
    """log p(x) of rows that a contender has not seen, by one method; and the bound of its guide."""
    program = one.program
    if not isinstance(program, Density) and hasattr(program, "log_predictive"):
        return HeldOutScore(_predictive(program, rows), None, "the posterior predictive")
    if isinstance(program, Density):
        exact = exact_evidence(without_guide(program), rows, seed=seed)
        return HeldOutScore(exact, _bound_of(one, rows, exact.log_px), f"exact: {exact.way}")
    known = program if one.answers else without_guide(program)
    evidence = log_evidence(known, rows, num_samples, seed=seed) if one.answers else None
    bound = None if evidence is None else evidence.elbo
    if method == "exact" or (method == "auto" and rows.shape[1] <= FEW_FEATURES):
        try:
            exact = exact_evidence(known, rows, seed=seed)
            return HeldOutScore(exact, bound, f"exact: {exact.way}", evidence)
        except RowsError:
            raise
        except InputError:
            if method == "exact":
                raise
    if method == "is" and evidence is not None:
        return HeldOutScore(evidence, bound, "is", evidence)
    around = laplace(known, rows, seed=seed)
    found = log_evidence(around, rows, num_samples, rows=torch.arange(len(rows)), prior_share=PRIOR_SHARE, seed=seed)
    return HeldOutScore(found, bound, "laplace", evidence)


def _bound_of(one: Fitted, rows: Split, log_px: Tensor) -> Tensor | None:
    """The ELBO of a mixture's or PPCA's guide: log p(x) itself where that is the exact posterior."""
    if not one.answers:
        return None
    guided = isinstance(one.program, Mixture) and one.program.posterior is not None
    if one.way == "hard-em":
        return one.program.elbo(rows, hard=True)
    return one.program.elbo(rows) if guided else log_px


def _predictive(program: Any, rows: Split) -> LogPx:
    """The density of new rows under a global posterior q, as an estimate of log p(x | training rows)."""
    log_px = program.log_predictive(rows.x.to(program.means)).detach().cpu().double() + rows.log_jacobian
    place = program.means
    batch = Batch(rows[:3].to(place), num_rows=len(rows))
    return LogPx(
        log_px=log_px,
        mc_se=torch.zeros_like(log_px),
        measure=describe_measure(rows, find_plates(program, batch)),
        kind="estimate",
    )


def _with_its_end(one: Fitted, scored: HeldOutScore) -> Fitted:
    """The contender with where its fit ended among what it reached."""
    if one.result is None:
        return one
    end = one.result.seconds, float(scored.log_px.log_px.mean())
    return replace(one, reached=(*one.reached, end))


def common_level(contenders: Sequence[Fitted]) -> float | None:
    """The highest level that half of the contenders have reached, of those whose seconds are known."""
    best = sorted((max(value for _, value in one.reached) for one in contenders if one.reached), reverse=True)
    return best[(len(best) - 1) // 2] if best else None


def seconds_to(one: Fitted, level: float | None) -> float | None:
    """Seconds after which a fit first was at the level; None where it never was."""
    return None if level is None else next((seconds for seconds, value in one.reached if value >= level), None)


def _record(
    one: Fitted, scored: HeldOutScore, ranked: dict[str, Any], rows: Split, level: float | None, seed: int
) -> dict[str, Any]:
    found, evidence, result = scored.log_px, scored.evidence, one.result
    bound = None if scored.bound is None else float(scored.bound.mean())
    known: dict[str, Any] = {
        "run": one.run,
        "model": one.model,
        "way": one.way,
        "split": rows.name,
        "measure": found.measure,
        "elbo": bound,
        "reconstruction": None if evidence is None else float(evidence.reconstruction.mean()),
        "kl": None if evidence is None else float(evidence.kl.mean()),
        "log_px": float(found.log_px.mean()),
        "log_px_kind": found.kind,
        "log_px_se": _finite(found.log_px_se),
        "log_px_mc_se": _finite(found.log_px_mc_se),
        "method": scored.method,
        "iwae": {},
        "bound": bound,
        "gap": None if bound is None else float(found.log_px.mean()) - bound,
        "khat_bad": getattr(found, "khat_bad", None),
        "active_units": _active(one.program, rows, seed) if evidence is not None else None,
        "num_data": len(rows),
        "num_samples": getattr(found, "num_samples", None),
        "num_parameters": sum(p.numel() for p in named_parameters(one.program).values()),
        "seconds": None if result is None else result.seconds,
    }
    more = {
        "name": one.name,
        **{key: ranked[key] for key in ("behind", "behind_se", "behind_mc_se")},
        "model_parameters": _of_model(one.program),
        "seconds_to_level": seconds_to(one, level),
        "level": level,
    }
    return dict.fromkeys(KEYS) | known | more


def _of_model(program: Any) -> int | None:
    """Free parameters of a density; a VAE's without its guide; None where parameters are latents."""
    if isinstance(program, Density):
        return program.num_free
    if isinstance(program, VAE):
        parts = [part for part in (program.prior, program.likelihood) if isinstance(part, torch.nn.Module)]
        return sum(value.numel() for part in parts for value in part.parameters())
    return None


def _active(program: Any, rows: Split, seed: int) -> int | None:
    try:
        with seeded(seed):
            return active_units(program, rows[:5000], plates=None, **rows.row_inputs(slice(5000)))[0]
    except InputError:
        return None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
