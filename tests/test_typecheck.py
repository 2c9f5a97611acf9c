"""The checks of annotations that all tests run under: a call that breaks one raises."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import pytest
import torch
import typecheck
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

checked = typecheck.jaxtyped(typechecker=typecheck.check)


@checked
def add(a: Float[Tensor, "N D"], b: Float[Tensor, " D"], times: float = 1.0) -> Float[Tensor, "N D"]:
    return (a + b) * times


@checked
def columns(a: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    return a.sum(0)


@checked
def half(number: int) -> int:
    return number / 2


@checked
def quoted(number: "int", other: "Unknown" = None) -> "Float[Tensor, ' N']":  # noqa: F821
    return torch.zeros(number, number)


@contextmanager
@checked
def doubled(number: int) -> Iterator[int]:
    yield 2 * number


def closure(result: object) -> Callable:
    @checked
    def inner(*values: float, name: str = "a", **more: int) -> str:
        return result

    return inner


@checked
@dataclass(frozen=True)
class Pair:
    a: Float[Tensor, " N"]
    b: Float[Tensor, " N"]

    @classmethod
    @checked
    def of(cls, a: Tensor) -> Self:
        return cls(a, a)

    @property
    @checked
    def size(self) -> str:
        return len(self.a)


@checked
@dataclass(frozen=True)
class PairOfNumbers(Pair):
    """Its `__init__` has the same code as that of `Pair`."""

    a: int
    b: int


rows = torch.zeros(3, 2)


def test_calls_as_annotated_pass():
    assert add(rows, rows[0], 2).shape == (3, 2)  # an int for a float
    assert columns(rows[:2]).shape == (2,)
    assert closure("b")(1, 2.0, name="c", more=3) == "b"
    assert len(Pair.of(rows[0]).b) == 2
    assert PairOfNumbers(1, 2).b == 2
    with doubled(2) as value:
        assert value == 4


@pytest.mark.parametrize(
    "call",
    [
        lambda: add(rows, rows),
        lambda: add(rows, torch.zeros(3)),  # D is 2 and 3
        lambda: add(rows, b=torch.zeros(3)),
        lambda: add(rows, rows[0], "2"),
        lambda: add(rows.long(), rows[0]),
        lambda: columns(rows),  # returns D values, not N
        lambda: half(3),
        lambda: quoted("2"),
        lambda: quoted(2),
        lambda: doubled("2"),
        lambda: closure("b")("1"),
        lambda: closure("b")(name=1),
        lambda: closure("b")(more="1"),
        lambda: closure(1)(),
        lambda: Pair(rows[0], torch.zeros(3)),
        lambda: Pair.of(rows),
        lambda: PairOfNumbers(rows[0], rows[0]),
        lambda: Pair.of(1),
        lambda: Pair.of(rows[0]).size,
    ],
)
def test_calls_otherwise_than_annotated_raise(call):
    with pytest.raises(BeartypeCallHintViolation):
        call()


def test_every_closure_of_a_test_counts_as_one_function():
    found = []
    for _ in range(typecheck.CHECKED_CALLS + 1):
        try:
            closure(1)()
        except BeartypeCallHintViolation as error:
            found.append(error)
    assert len(found) == typecheck.CHECKED_CALLS


def test_a_wrong_number_of_arguments_raises_as_ever():
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        add(rows)
