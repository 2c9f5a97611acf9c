"""What a program does with rows: the keywords it asks for, the traces of its pair, and the one plate over rows."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro.infer.enum import get_importance_trace
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints
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
        given = {"rows": self.rows, "labels": self.labels, "mask": self.mask, "num_rows": self.num_rows or len(self.x)}
        return {key: value for key, value in given.items() if value is not None}

    def take(self, index: Tensor) -> "Batch":
        kept = {"rows": self.rows, "labels": self.labels, "mask": self.mask}
        taken: dict[str, Any] = {name: value[index] for name, value in kept.items() if value is not None}
        return replace(self, x=self.x[index], **taken)


def caller(function: Callable[..., Any]) -> Callable[[Tensor, dict[str, Any]], Any]:
    """The function as one of (x, extras): each extra is passed only where the signature takes it."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return lambda x, extras: function(x, **extras)
    names = {parameter.name for parameter in parameters}
    needed = [p.name for p in list(parameters)[1:] if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]

    def called(x: Tensor, extras: dict[str, Any]) -> Any:
        if missing := [name for name in needed if name not in extras]:
            raise InputError(
                f"{getattr(function, '__qualname__', function)} asks for {', '.join(missing)}, which these rows do not "
                "have; a program may ask for "
                "rows (only training rows have a place in the training set), labels, mask and num_rows"
            )
        return function(x, **{key: extras[key] for key in names & extras.keys()})

    return called


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Inside, every random number follows from the seed; outside, the generators go on as if nothing had been drawn."""
    if seed is None:
        yield
        return
    before = pyro.util.get_rng_state()
    pyro.set_rng_seed(seed % 2**32)
    try:
        yield
    finally:
        pyro.util.set_rng_state(before)


def traces_of(
    program: Any, batch: Batch, around: Callable[[Any], Any] = lambda function: function
) -> tuple[Trace, Trace]:
    """The model's trace, replayed against the guide's, and the guide's, with log-probabilities; `around` wraps both
    functions."""
    model, guide = caller(program.model), caller(program.guide)
    wrapped = around(lambda: model(batch.x, batch.extras)), around(lambda: guide(batch.x, batch.extras))
    with pyro.validation_enabled(False):
        return get_importance_trace("flat", float("inf"), *wrapped, (), {})


def sample_sites(trace: Trace) -> dict[str, Any]:
    """The sample sites of a trace by name, in the order they ran; the plates' own subsampling sites left out."""
    return {
        name: site for name, site in trace.nodes.items() if site["type"] == "sample" and not site_is_subsample(site)
    }


@dataclass(frozen=True)
class Layout:
    """Where a program keeps its rows, as found by running it.

    `row_dim` is the dimension of the plate that counts rows (None where none does) and `nesting` the number of plate
    dimensions. `outside` names the sites that lie outside the row plate, which have no value for each row; `support` is
    what the model says of x. `relaxed` marks a likelihood that is no density, `discrete` a program with latent sites
    that take discrete values, `enumerated` the model's sites that training sums out.
    """

    row_dim: int | None
    nesting: int
    outside: tuple[str, ...]
    support: Constraint | None
    relaxed: bool
    discrete: bool
    enumerated: tuple[str, ...]

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

    Raises `InputError` where the model has a latent site that the guide does not draw, and where x lies outside the
    support.
    """
    runs = []
    with seeded(0):
        for n in (2, 3):
            pair = traces_of(program, batch.take(torch.arange(n, device=batch.x.device) % len(batch.x)))
            runs.append(list(map(sample_sites, pair)))
    (model2, guide2), (model, guide) = runs
    undrawn = [name for name, site in model.items() if not site["is_observed"] and name not in guide]
    if missing := [name for name in undrawn if not model[name]["infer"].get("enumerate")]:
        raise InputError(
            f"the model draws {', '.join(missing)}, which the guide does not: give the guide a sample site of that name"
        )
    grown = [
        (site, _grown(before, site))
        for two, three in ((model2, model), (guide2, guide))
        for before, site in _pairs(two, three)
    ]
    observed = [(site, dims) for site, dims in grown if site["is_observed"]]
    shared = set.intersection(*(dims for _, dims in observed)) if observed else set()
    row_dim = max(shared, default=None)
    frames = [frame for site, _ in grown for frame in site["cond_indep_stack"] if frame.vectorized]
    about_x = [site["fn"] for site, _ in observed if site["value"].shape == (3, *batch.x.shape[1:])]
    layout = Layout(
        row_dim=row_dim,
        nesting=max((-frame.dim for frame in frames), default=0),
        outside=tuple(dict.fromkeys(site["name"] for site, dims in grown if row_dim not in dims)),
        support=about_x[0].support if len(about_x) == 1 else None,
        relaxed=any(getattr(site["fn"], "relaxed", False) for site, _ in observed),
        discrete=any(site["fn"].support.is_discrete for site in guide.values()),
        enumerated=tuple(undrawn),
    )
    layout.check(batch.x)
    return layout


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
