"""Pyro's own guides, which make their parameters when they first run, and the prior in place of a program's guide."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.poutine as poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.infer.autoguide.guides import AutoGuide
from pyro.poutine.runtime import Message
from torch import Tensor, nn

from pyro_vae.context_managers import seeded
from pyro_vae.errors import RowsError
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.plates import ONE_SIZE
from pyro_vae.programs.row_inputs import accepts_row_inputs, bind_supported_kwargs, functions_of
from pyro_vae.typing import Program, Rows

PyroGuide = AutoGuide | EasyGuide


def pyro_guides(program: object) -> Iterator[PyroGuide]:
    """A program's autoguides and easyguides."""
    if isinstance(program, nn.Module):
        yield from (module for module in program.modules() if isinstance(module, PyroGuide))


def are_set_up(program: object) -> bool:
    """Whether a program's autoguides and easyguides have run: their first run says of how many rows they are."""
    return all(map(_has_run, pyro_guides(program)))


@contextmanager
def forget_on_error(program: object) -> Iterator[None]:
    """Where the block fails, the program has not run: what made its parameters in the block makes them again."""
    with use_param_store(program):
        known = set(pyro.get_param_store())
    parts = dict.fromkeys(part for guide in pyro_guides(program) for part in guide.modules())
    before = {part: _copied(vars(part)) for part in parts}
    try:
        yield
    except BaseException:
        with use_param_store(program):
            store = pyro.get_param_store()
            for name in set(store) - known:  # not by `del`, which fails where a parameter has two names
                store._param_to_name.pop(store._params.pop(name), None)
                store._constraints.pop(name, None)
        for part, attributes in before.items():
            vars(part).clear()
            vars(part).update(attributes)
        raise


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """A module's attributes, with copies of its dictionaries of parameters and submodules."""
    return {name: copy.copy(value) if isinstance(value, dict) else value for name, value in attributes.items()}


def keep_waiting_state(program: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a state that a program can load now; what its autoguides have not made yet waits for their first run.

    Args:
        program: the program.
        state: parameters and buffers by name.

    Returns:
        The rest of the state.
    """
    modules = program.named_modules(remove_duplicate=False)
    prefixes = [f"{name}." for name, module in modules if isinstance(module, PyroGuide) and not _has_run(module)]
    own = program.state_dict()
    waiting = {name: value for name, value in state.items() if name not in own and name.startswith(tuple(prefixes))}
    program.__dict__["_waiting"] = {name: value.detach().clone() for name, value in waiting.items()}
    return {name: value for name, value in state.items() if name not in waiting}


def load_waiting_state(program: nn.Module, run_guide: Callable[[], object]) -> None:
    """Load what waits for the first run of a program's autoguides, after a run of them that nothing sees.

    Args:
        program: the program.
        run_guide: runs the guide; `RowsError` where it is then one of another number of rows than the state.
    """
    if not program.__dict__.get("_waiting"):
        return
    waiting = program.__dict__.pop("_waiting")
    with poutine.block(), seeded(0):
        run_guide()
    try:
        nn.Module.load_state_dict(program, waiting, strict=False)
    except RuntimeError as error:
        program.__dict__["_waiting"] = waiting
        raise RowsError(f"the saved guide is one of another number of rows ({error}): {ONE_SIZE}") from error


def _has_run(guide: PyroGuide) -> bool:
    return guide.prototype_trace is not None


def mend_pyro_guide(guide: object, model: Callable[..., object]) -> None:
    """Undo what copying and failing do to Pyro's guides, before a run.

    Pickle and `copy.deepcopy` take an autoguide's model from the copy and from the original, and a run that failed
    leaves an easyguide with plates of its size.

    Args:
        guide: any guide.
        model: the model.
    """
    if isinstance(guide, AutoGuide) and guide._model is None:
        guide._model = (model,)
    if isinstance(guide, EasyGuide):
        guide.plates.clear()


class PriorGuide(nn.Module):
    """A program's model with the prior of its latents as the guide: for what is computed without the program's guide.

    Args:
        program: any program.
        enumerated: the latents that the guide leaves to enumeration.
    """

    def __init__(self, program: Program, enumerated: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.program, self.enumerated = program, enumerated
        with use_param_store(program):  # it exists from here on, and is this one's too
            self.__dict__["param_store"] = program.__dict__["param_store"]

    @property
    def functions(self) -> tuple[Callable[..., object], Callable[..., object]]:
        """The program's model, which stands for the guide too: their signatures say what row inputs they take."""
        model, _ = functions_of(self.program)
        return model, model

    @accepts_row_inputs
    def model(self, x: Rows, **row_inputs: object) -> object:
        """Run the program's model.

        Args:
            x: the rows (n, D).
            **row_inputs: their inputs.

        Returns:
            What the program's model returns.
        """
        return bind_supported_kwargs(self.program.model)(x, row_inputs)

    @accepts_row_inputs
    def guide(self, x: Rows, **row_inputs: object) -> None:
        """Draw the latents from the model.

        Args:
            x: the rows (n, D).
            **row_inputs: their inputs.
        """
        poutine.block(bind_supported_kwargs(self.program.model), hide_fn=self._is_hidden)(x, row_inputs)

    def _is_hidden(self, site: Message[..., Any]) -> bool:
        """Whether a site is no draw of a latent that a guide makes."""
        if site["type"] != "sample":
            return site["type"] != "param"
        return site["is_observed"] or site["name"] in self.enumerated
