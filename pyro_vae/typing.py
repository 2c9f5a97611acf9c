"""The contracts of the package as types: tensors with named axes, parts, programs, and what a fit method needs.

N rows, D features, K latent dimensions, S particles. In the tests every annotation built from these names is enforced;
in production they cost nothing. A name stands for one size throughout a call: a function from `Rows` to `PerRow` must
keep N. `*batch` is any number of leading axes, `*points` is (N,) or
(S, N).

A **part** is called and returns a Pyro distribution; a **program** is any object with the Pyro functions `model(x)` and
`guide(x)`. These are protocols: nothing has to be subclassed. What a part or program may offer beyond them is a method
or attribute with a default on a base class (`pyro_vae.part_bases`, `pyro_vae.Program`).
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeGuard, runtime_checkable

from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

Rows = Float[Tensor, "N D"]
BatchedRows = Float[Tensor, "*batch N D"]
Latents = Float[Tensor, "*batch K"]
RowLatents = Float[Tensor, "N K"]
PerRow = Float[Tensor, " N"]
LogWeights = Float[Tensor, "S N"]
Points = Float[Tensor, "*points K"]
PerPoint = Float[Tensor, "*points"]

__all__ = [
    "BatchedRows",
    "Conjugate",
    "Density",
    "Distribution",
    "DrawsMissing",
    "Guide",
    "Latents",
    "Likelihood",
    "LogWeights",
    "PerPoint",
    "PerRow",
    "Points",
    "Prior",
    "Program",
    "RowLatents",
    "Rows",
    "is_program",
]


@runtime_checkable
class Prior(Protocol):
    """A part p(z): called without argument, it returns a distribution over z with event shape (K,)."""

    def __call__(self) -> Distribution: ...


@runtime_checkable
class Likelihood(Protocol):
    """A part p(x|z): from z (..., K) to a distribution over x with event shape (D,)."""

    def __call__(self, z: Tensor, /) -> Distribution: ...


@runtime_checkable
class Guide(Protocol):
    """A part q(z|x): from x (N, D) to a distribution over z with event shape (K,).

    In a semi-supervised program x has a label appended, and an axis for its values before the rows, (C, N, D + C).
    A guide that needs more than x takes keywords named after the row inputs (`docs/programs.md`): `rows`, `labels`,
    `mask` or `num_rows`.
    """

    def __call__(self, x: Tensor, /) -> Distribution: ...


@runtime_checkable
class Program(Protocol):
    """A probabilistic program: the Pyro functions p(x, z) and q(z|x) of rows x (N, D).

    Both may take row inputs by keyword. What they return is not used.
    """

    @property
    def model(self) -> Callable[..., object]: ...

    @property
    def guide(self) -> Callable[..., object]: ...


def is_program(thing: object) -> TypeGuard[Program]:
    """Whether an object has the functions `model` and `guide`.

    Use this and not `isinstance`, which from Python 3.12 on does not see the submodules of a `torch.nn.Module`.
    """
    return callable(getattr(thing, "model", None)) and callable(getattr(thing, "guide", None))


@runtime_checkable
class Density(Program, Protocol):
    """A program that knows log p(x) of each row in closed form, nats."""

    def log_prob(self, x: Any) -> Tensor: ...


@runtime_checkable
class DrawsMissing(Protocol):
    """A program that knows the density of a row's missing values given its observed ones.

    Rows x (n, D) hold NaN where a value is missing. `draw_missing` gives `num` draws of x (num, n, D), of which those
    of missing values count, and `mean_missing` the means (n, D).
    """

    def draw_missing(self, x: Tensor, num: int) -> Tensor: ...

    def mean_missing(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class Conjugate(Program, Protocol):
    """A program whose guide has two factors, each with an optimum in closed form given the other.

    `start` sets the factors from rows x (N, D) and either responsibilities (N, C) or a seed; `update_local` and
    `update_global` set one factor to its optimum; `bound` is the ELBO of the rows, nats per row.
    `weights` (N,), with the mean 1, are given where rows have some.
    """

    def start(self, x: Tensor, at: Tensor | int, weights: Tensor | None = None) -> None: ...

    def update_local(self, x: Tensor) -> None: ...

    def update_global(self, x: Tensor, weights: Tensor | None = None) -> None: ...

    def bound(self, x: Tensor, weights: Tensor | None = None) -> Tensor: ...
