"""What a program does with rows: the keywords it asks for, the traces of its pair, and the one plate over rows."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer.enum import get_importance_trace
from pyro.poutine import Trace
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import Independent, constraints
from torch.distributions.constraints import Constraint

from pyro_vae.errors import InputError, RowsError


@dataclass(frozen=True)
class Batch:
    """Some rows and what belongs to them.

    `x` (n, D); `rows` (n,) the rows' places in the training set (None for rows held out); `labels` (n,) and `mask` (n,
    D), or None; `num_rows` the number N of training rows.
    """

    x: Tensor
    rows: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None
    num_rows: int = 0

    @property
    def extras(self) -> dict[str, Any]:
        given = {
            "rows": self.rows,
            "labels": self.labels,
            "mask": self.mask,
            "num_rows": max(self.num_rows, len(self.x)),
        }
        return {key: value for key, value in given.items() if value is not None}

    def take(self, index: Tensor) -> "Batch":
        kept = {"rows": self.rows, "labels": self.labels, "mask": self.mask}
        taken: dict[str, Any] = {name: value[index] for name, value in kept.items() if value is not None}
        return replace(self, x=self.x[index], **taken)


def caller(function: Callable[..., Any]) -> Callable[[Tensor, dict[str, Any]], Any]:
    """The function as one of (x, extras): each extra is passed only where the signature names it.

    A module's signature is that of its `forward`; a function that takes any keyword names none.
    """
    if getattr(function, "passes_extras", False):
        return lambda x, extras: function(x, **extras)
    kind: Any = type(function)
    needed, names = _keywords_of_module(kind) if isinstance(function, nn.Module) else _keywords(function)

    def called(x: Tensor, extras: dict[str, Any]) -> Any:
        if missing := [name for name in needed if name not in extras]:
            raise InputError(
                f"{getattr(function, '__qualname__', function)} asks for {', '.join(missing)}, which these rows do not "
                "have; a program may ask for rows (only training rows have a place in the training set; for a tensor "
                "give rows=…), labels, mask and num_rows"
            )
        return function(x, **{key: extras[key] for key in names & extras.keys()})

    return called


def _keywords(function: Callable[..., Any], before: int = 1) -> tuple[list[str], frozenset[str]]:
    """The names of a function's arguments after x: those it cannot do without, and all."""
    named = inspect.signature(function).parameters.values()
    after = [p for p in named if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)][before:]
    return [p.name for p in after if p.default is p.empty], frozenset(p.name for p in after)


@cache
def _keywords_of_module(kind: Any) -> tuple[list[str], frozenset[str]]:
    return _keywords(kind.forward, before=2)  # self and x


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Inside, every random number follows from the seed; outside, the generators go on as if nothing had been drawn."""
    if seed is None:
        yield
        return
    before = pyro.util.get_rng_state()  # torch's on the CPU, Python's, numpy's; fork_rng adds those of accelerators
    with torch.random.fork_rng():
        pyro.set_rng_seed(seed % 2**32)
        try:
            yield
        finally:
            pyro.util.set_rng_state(before)


def traces_of(
    program: Any, batch: Batch, around: Callable[[Any], Any] = lambda function: function
) -> tuple[Trace, Trace]:
    """The model's trace, replayed against the guide's, and the guide's; `around` wraps both functions."""
    model, guide = caller(program.model), caller(program.guide)
    wrapped = around(lambda: model(batch.x, batch.extras)), around(lambda: guide(batch.x, batch.extras))
    with pyro.validation_enabled(False):
        return get_importance_trace("flat", float("inf"), *wrapped, (), {})


class Dreaming(UnconditionMessenger):
    """Observed sites are drawn; what `pyro.deterministic` names is no observation, though Pyro marks it as one."""

    def _pyro_sample(self, msg: Any) -> None:
        if not (msg["infer"] or {}).get("_deterministic"):
            super()._pyro_sample(msg)


def sample_sites(trace: Trace) -> dict[str, Any]:
    """The sample sites of a trace by name, in order, without plates' own sites and deterministic values."""
    drawn = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
    sites = {name: site for name, site in drawn.items() if not site_is_subsample(site)}
    return {name: site for name, site in sites.items() if not (site["infer"] or {}).get("_deterministic")}


def innermost(fn: Any) -> Any:
    """A site's distribution without the `Independent`s around it."""
    return innermost(fn.base_dist) if isinstance(fn, Independent) else fn


@dataclass(frozen=True)
class Layout:
    """Where a program keeps its rows, as found by running it.

    `row_dim` is the dimension of the plate that counts rows (None where none does) and `nesting` the number of plate
    dimensions. `outside` names the sites that lie outside the row plate, which have no value for each row; `support` is
    what the model says of x. `relaxed` marks a likelihood that is no density, `enumerated` the model's sites that
    training sums out.
    """

    row_dim: int | None
    nesting: int
    outside: tuple[str, ...]
    support: Constraint | None
    relaxed: bool
    enumerated: tuple[str, ...]

    def row_frame(self, site: Any) -> Any:
        """The site's frame of the plate over rows, or None where it lies outside.

        A plate over something else may have the same dimension, so the dimension alone does not tell.
        """
        if self.row_dim is None or site["name"] in self.outside:
            return None
        return next((frame for frame in site["cond_indep_stack"] if frame.dim == self.row_dim), None)

    def rows_first(self, site: Any, value: Tensor) -> Tensor:
        """A site's value with its rows in front, the rest flattened, (n, …) → (n, size)."""
        assert self.row_dim is not None
        return value.movedim(self.row_dim - site["fn"].event_dim, 0).unsqueeze(-1).flatten(1)

    def check(self, x: Tensor) -> None:
        """Raise `InputError` where x is not finite or lies outside what the model says x can be."""
        if not torch.isfinite(x).all():
            row, column = (int(i) for i in torch.nonzero(~torch.isfinite(x))[0][:2])
            raise InputError(
                f"x holds NaN or infinity, first in row {row}, column {column} of a batch; remove or fill such values"
            )
        if self.support is not None and not (inside := self.support.check(x)).all():
            wrong = x[~inside].flatten() if inside.shape == x.shape[: inside.dim()] else x.flatten()
            low, high = wrong.min().item(), wrong.max().item()
            raise InputError(
                f"x holds values the likelihood gives no probability to: found {low:.3g} to {high:.3g}, expected "
                f"{_words(self.support)}"
            )


def _words(support: Constraint) -> str:
    base = getattr(support, "base_constraint", support)
    if base is constraints.boolean:
        return (
            "0 or 1; binarize the data (load_data(…, binarize='stochastic')), choose a likelihood for real values, "
            "or ask for a relaxed one (likelihoods.Bernoulli(…, relaxed=True)), which is not a density"
        )
    return f"values in {base}"


@torch.no_grad()
def layout_of(program: Any, batch: Batch) -> Layout:
    """Find the row plate by running the program on two rows and on three: it is the plate that grew.

    Raises `InputError` where model and guide do not draw the same latents.
    """
    with seeded(0), evaluating(program):
        two, three = ([sample_sites(trace) for trace in traces_of(program, batch.take(few))] for few in _few(batch))
    return _layout(two, three, batch, enumerated=_check_pair(*three))


@torch.no_grad()
def layout_of_model(program: Any, batch: Batch) -> Layout:
    """The same from the model alone, which is all that sampling needs; x holds placeholders."""
    model = Dreaming()(caller(program.model))
    with seeded(0), evaluating(program), pyro.validation_enabled(False):
        traces = [poutine.trace(model).get_trace(part.x, part.extras) for part in map(batch.take, _few(batch))]
    two, three = ([sample_sites(trace)] for trace in traces)
    return _layout(two, three, batch, enumerated=())


def _few(batch: Batch) -> list[Tensor]:
    return [torch.arange(n, device=batch.x.device) % len(batch.x) for n in (2, 3)]


def _layout(two: list[Any], three: list[Any], batch: Batch, enumerated: tuple[str, ...]) -> Layout:
    sites = [pair for before, after in zip(two, three, strict=True) for pair in _pairs(before, after)]
    grown = [_grown(before, after) for before, after in sites]
    counts = Counter(dim for dims in grown for dim in dims)
    row_dim = max(counts, key=lambda dim: (counts[dim], dim), default=None)
    outside = [site["name"] for (_, site), dims in zip(sites, grown, strict=True) if row_dim not in dims]
    observed = [site for _, site in sites if site["is_observed"]]
    about_x = [site["fn"] for site in observed if site["value"].shape == (3, *batch.x.shape[1:])]
    return Layout(
        row_dim=row_dim,
        nesting=max((-f.dim for _, site in sites for f in site["cond_indep_stack"] if f.vectorized), default=0),
        outside=tuple(dict.fromkeys(outside)),
        support=about_x[0].support if len(about_x) == 1 else None,
        relaxed=any(getattr(site["fn"], "relaxed", False) for site in observed),
        enumerated=enumerated,
    )


@contextmanager
def evaluating(program: Any) -> Iterator[None]:
    """Inside, a program that is a module is in evaluation mode."""
    training = isinstance(program, nn.Module) and program.training
    if training:
        program.eval()
    try:
        yield
    finally:
        if training:
            program.train()


def _check_pair(model: dict[str, Any], guide: dict[str, Any]) -> tuple[str, ...]:
    """The model's latents that the guide leaves to enumeration; `InputError` where the two do not belong together."""
    undrawn = [name for name, site in model.items() if not site["is_observed"] and name not in guide]
    if missing := [name for name in undrawn if not model[name]["infer"].get("enumerate")]:
        raise InputError(
            f"the model draws {', '.join(missing)}, which the guide does not: give the guide a sample site of that name"
        )
    latent = {name for name, site in model.items() if not site["is_observed"]}
    if extra := [name for name, site in guide.items() if name not in latent and not site["infer"].get("is_auxiliary")]:
        raise InputError(
            f"the guide draws {', '.join(extra)}, which is no latent of the model: name the sites alike, or mark it "
            'as auxiliary (infer={"is_auxiliary": True})'
        )
    return tuple(undrawn)


def _pairs(two: dict[str, Any], three: dict[str, Any]) -> list[tuple[Any, Any]]:
    if two.keys() != three.keys():
        raise InputError(
            "the program has other sample sites for two rows than for three: a row's sites must not depend on the "
            "others"
        )
    return [(two[name], three[name]) for name in three]


def _grown(two: Any, three: Any) -> set[int]:
    before = {frame.dim: frame.size for frame in two["cond_indep_stack"] if frame.vectorized}
    after = {frame.dim: frame.size for frame in three["cond_indep_stack"] if frame.vectorized}
    return {dim for dim, size in after.items() if size == 3 and before.get(dim) == 2}


def require_density(program: Any) -> None:
    """`InputError` where a model has no p(x), and says why (`no_density`)."""
    if reason := getattr(program, "no_density", ""):
        raise InputError(reason)


def require_mask(program: Any, mask: Tensor | None) -> None:
    """`InputError` where values are missing and the model would not be told."""
    if mask is None:
        return
    model = program.model
    takes = (
        getattr(model, "passes_extras", False)
        or "mask" in _keywords(model.forward if isinstance(model, nn.Module) else model)[1]
    )
    if not takes:
        raise InputError(
            "values are missing, and the program's model takes no mask: give model(x, mask=None) a likelihood of the "
            "observed values (likelihood.masked(z, mask)), or fill them first"
        )


def require_rows(layout: Layout) -> int:
    """The row plate's dimension; `RowsError` with the remedy where a row has no weight of its own."""
    if layout.enumerated:
        raise RowsError(
            f"the guide must draw {', '.join(layout.enumerated)} to weigh a row; in training the model sums it out"
        )
    if layout.row_dim is None or layout.outside:
        sites = ", ".join(layout.outside) or "every site"
        raise RowsError(
            f"log p(x) of a row needs every site inside one plate of size len(x), but {sites} lies outside: put it "
            "inside "
            '(with pyro.plate("data", len(x)): …), or fix it to a value learned as a parameter (pyro.param); '
            "a global latent couples the rows, and then log p(x) exists only for all of them together"
        )
    return layout.row_dim
