"""Batches of rows with their inputs (`rows`, `labels`, `mask`, `num_rows`, a user's own), and calls with those that a
function takes."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from types import FunctionType, MethodType
from typing import Protocol, TypeVar, runtime_checkable

import torch
from pyro.contrib.easyguide import EasyGuide
from pyro.infer.autoguide.guides import AutoGuide
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae.argument_checks import require_program
from pyro_vae.data import Dataset, RowsGiven, Split
from pyro_vae.data.columns.conditions import GIVEN
from pyro_vae.data.rows_given import rows_as_tensor
from pyro_vae.errors import InputError
from pyro_vae.programs.parameters import device_and_dtype
from pyro_vae.programs.program_defaults import check_labels
from pyro_vae.typing import Program

RowInputs = Mapping[str, object]  # by name: `rows`, `labels`, `mask`, `num_rows` and a user's own
Result = TypeVar("Result")
Function = TypeVar("Function", bound=Callable[..., object])


@dataclass(frozen=True)
class Batch:
    """Some rows and their inputs.

    Attributes:
        x: the rows (n, D).
        rows: their indices in the training set (n,); None for rows held out.
        labels: their labels (n,), or None.
        mask: booleans (n, D), true where a value was observed; None where all were.
        num_rows: the number N of training rows.
        inputs: what else the program takes for each row, by name, (n, …) each.
        weights: the rows' weights (n,) in a fit, which the program does not see; None where all count alike.
    """

    x: Tensor
    rows: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None
    num_rows: int = 0
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Tensor | None = None

    @property
    def objective_arguments(self) -> tuple[object, ...]:
        """What an objective takes: the rows, their inputs, and their weights where there are any."""
        return (self.x, self.row_inputs) if self.weights is None else (self.x, self.row_inputs, self.weights)

    @property
    def row_inputs(self) -> dict[str, Tensor | int]:
        """The inputs that are known, by name."""
        given: dict[str, Tensor | int | None] = {
            "rows": self.rows,
            "labels": self.labels,
            "mask": self.mask,
            "num_rows": max(self.num_rows, len(self.x)),
        }
        return {key: value for key, value in given.items() if value is not None} | dict(self.inputs)

    @classmethod
    def of(cls, x: Tensor, row_inputs: RowInputs) -> "Batch":
        """Rows with the inputs that are given by name: so every verb gives a program the same, `num_rows` included.

        Args:
            x: the rows (n, D).
            row_inputs: any of `rows`, `labels`, `mask`, `num_rows` and a user's own, of which None is left out; by
                default `num_rows` is n. Tensors come to the device of x.

        Returns:
            The batch; `InputError` where an input is not a tensor of n rows.
        """
        given = {name: value for name, value in row_inputs.items() if value is not None}
        num_rows = given.pop("num_rows", 0)
        if not isinstance(num_rows, int):
            raise InputError(f"num_rows is a whole number, got {num_rows!r}")
        on_device: dict[str, Tensor] = {}
        for name, value in given.items():
            if not isinstance(value, Tensor) or value.shape[:1] != x.shape[:1]:
                what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
                raise InputError(f"{name} takes a tensor with one entry for each of the {len(x)} rows, got {what}")
            value = value.float() if x.device.type == "mps" and value.dtype == torch.float64 else value
            on_device[name] = value.to(x.device)
        known = {name: on_device.pop(name, None) for name in ("rows", "labels", "mask")}
        return cls(x, **known, num_rows=num_rows, inputs=on_device)

    def with_weights(self, weights: Tensor) -> "Batch":
        """The same rows with weights (n,), of the type and on the device of x."""
        return replace(self, weights=weights.to(self.x))

    def take(self, index: Tensor) -> "Batch":
        """The rows at some indices (m,), with their inputs."""
        given = (self.rows, self.labels, self.mask, self.weights)
        rows, labels, mask, weights = (None if value is None else value[index] for value in given)
        inputs = {name: value[index] for name, value in self.inputs.items()}
        return replace(self, x=self.x[index], rows=rows, labels=labels, mask=mask, weights=weights, inputs=inputs)


def accepts_row_inputs(function: Function) -> Function:
    """A decorator of a method that takes every row input as a keyword, and passes on those that are supported."""
    vars(function)["accepts_row_inputs"] = True
    return function


def _accepts_row_inputs(function: Callable[..., object]) -> bool:
    plain = function.__func__ if isinstance(function, MethodType) else function
    return isinstance(plain, FunctionType) and "accepts_row_inputs" in vars(plain)


def bind_supported_kwargs(function: Callable[..., Result]) -> Callable[[Tensor, RowInputs], Result]:
    """The function as one of (x, row_inputs): each input is passed only where the signature names it.

    A module's signature is that of its `forward`; a function that takes any keyword names none.
    """
    if _accepts_row_inputs(function):
        return lambda x, row_inputs: function(x, **row_inputs)
    needed, names = _keywords_of(function)

    def call(x: Tensor, row_inputs: RowInputs) -> Result:
        if "mask" in needed and "mask" not in row_inputs:  # all values were observed
            row_inputs = {**row_inputs, "mask": torch.ones_like(x, dtype=torch.bool)}
        if missing := [name for name in needed if name not in row_inputs]:
            named = function.__qualname__ if isinstance(function, (FunctionType, MethodType)) else function
            raise InputError(
                f"{named} asks for {', '.join(missing)}, which these rows do not "
                "have; a program may ask for rows (only training rows have an index in the training set; for a tensor "
                "give rows=…), labels, mask, num_rows, and what a split has under inputs (pv.Split(…, inputs={…}))"
            )
        return function(x, **{key: row_inputs[key] for key in names & row_inputs.keys()})

    return call


def _keywords_of(function: Callable[..., object]) -> tuple[list[str], frozenset[str]]:
    """The names of a function's or module's arguments after x: the required ones, and all."""
    if isinstance(function, partial) and isinstance(next(iter(function.args), None), Messenger):
        inner, *bound = function.args[1:]  # the function that a Pyro handler is around, and what it has already
        return _keywords(inner, 1 + len(bound)) if bound else _keywords_of(inner)
    if isinstance(function, AutoGuide):  # its own forward takes whatever the model takes
        return _keywords_of(function.model) if function._model else ([], frozenset())
    if isinstance(function, EasyGuide):
        return _keywords_of_forward(type(function).guide)
    return _keywords_of_forward(type(function).forward) if isinstance(function, nn.Module) else _keywords(function)


def _keywords(function: Callable[..., object], before: int = 1) -> tuple[list[str], frozenset[str]]:
    """The names of a function's arguments after x: the required ones, and all."""
    named = inspect.signature(function).parameters.values()
    after = [p for p in named if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)][before:]
    return [p.name for p in after if p.default is p.empty], frozenset(p.name for p in after)


@cache
def _keywords_of_forward(forward: Callable[..., object]) -> tuple[list[str], frozenset[str]]:
    return _keywords(forward, before=2)  # self and x


def takes_row_input(function: Callable[..., object], name: str) -> bool:
    """Whether a model or guide takes a row input.

    Args:
        function: the function or module.
        name: the row input: rows, labels, mask or num_rows.

    Returns:
        True also for a function that passes on whatever it is given.
    """
    return _accepts_row_inputs(function) or name in _keywords_of(function)[1]


@runtime_checkable
class _CallsFunctions(Protocol):
    """A program whose model and guide call other functions, which say what row inputs they take."""

    @property
    def functions(self) -> tuple[Callable[..., object], Callable[..., object]]: ...


def functions_of(program: Program) -> tuple[Callable[..., object], Callable[..., object]]:
    """A program's model and guide as functions whose signatures say what row inputs they take."""
    return program.functions if isinstance(program, _CallsFunctions) else (program.model, program.guide)


def model_takes(program: Program, name: str) -> bool:
    """Whether a program's model takes a row input.

    Args:
        program: any program.
        name: the row input: rows, labels, mask, num_rows or a user's own.

    Returns:
        True also for a model that passes on whatever it is given.
    """
    return takes_row_input(functions_of(program)[0], name)


def require_taken(program: Program, row_inputs: RowInputs) -> None:
    """`InputError` where neither model nor guide takes an input of the user's own, or the model takes no conditions.

    They would change nothing.

    Args:
        program: any program.
        row_inputs: the user's own inputs by name.
    """
    functions = functions_of(program)
    if GIVEN in row_inputs and not takes_row_input(functions[0], GIVEN):
        raise InputError(
            "these rows have conditions, and the program's model takes none: take ConditionalVAE(…, conditions=…), or "
            "load the data without given"
        )
    if wrong := [name for name in row_inputs if not any(takes_row_input(each, name) for each in functions)]:
        raise InputError(
            f"neither model nor guide takes {', '.join(wrong)}: give one of them an argument of that name, or leave it "
            "out"
        )


def require_mask(program: Program, mask: Tensor | None) -> None:
    """`InputError` where values are missing and the model takes no mask.

    Args:
        program: any program.
        mask: booleans (N, D), true where a value was observed; None where all were.
    """
    if mask is None:
        return
    if not model_takes(program, "mask"):
        raise InputError(
            "values are missing, and the program's model takes no mask: give model(x, mask=None) a likelihood of the "
            "observed values (likelihood.masked(z, mask)), or fill them first"
        )


def checked_batch(program: Program, x: RowsGiven, row_inputs: RowInputs) -> Batch:
    """Rows with their inputs on the program's device, checked before the program runs.

    Args:
        program: any program.
        x: the rows (n, D).
        row_inputs: their inputs by name.

    Returns:
        The batch; `InputError` for inputs that do not fit.
    """
    require_program(program)
    x = rows_as_tensor(x.x if isinstance(x, Split) else x)
    batch = Batch.of(x.to(*device_and_dtype(program, like=x)), row_inputs)
    require_mask(program, batch.mask)
    require_taken(program, batch.inputs)
    if batch.labels is not None:
        check_labels(program, batch.labels)
    return batch


def probe_batch(data: Dataset) -> Batch:
    """Two training rows with their inputs, for a first run of a program."""
    given = {"rows": torch.arange(2), "num_rows": len(data.train), **data.train.row_inputs(slice(2))}
    return Batch.of(data.train[:2], given)
