"""A program of the user's own, from the file and function that `--program` names."""

import inspect
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from pyro_vae.data import Dataset
from pyro_vae.errors import InputError
from pyro_vae.typing import Program, is_program


def load_builder(where: str) -> Callable[[Dataset], Program]:
    """The function that `FILE.py:FUNCTION` names, as a function of the data set. Runs the user's own code."""
    name, _, function = where.rpartition(":")
    path = Path(name)
    if not name or not function:
        raise InputError(f"--program {where}: write the file and the function in it, as in my_file.py:build")
    if not path.is_file():
        raise InputError(f"--program {where}: no file {path}")
    spec = spec_from_file_location(f"pyro_vae_program_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"--program {where}: {path} is not a Python file")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    build = getattr(module, function, None)
    if not callable(build):
        raise InputError(f"--program {where}: {path} has no function {function}")
    takes_data = bool(inspect.signature(build).parameters)

    def built(data: Dataset) -> Program:
        program: object = build(data) if takes_data else build()
        if not is_program(program):
            raise InputError(
                f"--program {where}: {function} returned {type(program).__name__}, which has no model and guide; "
                "return a VAE, pyro_vae.Program(model, guide), or any object with both"
            )
        return program

    return built
