"""A program of the user's own, from the file and function that `--program` names."""

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from pyro_vae.data import Dataset
from pyro_vae.errors import InputError
from pyro_vae.file_names import require_path
from pyro_vae.typing import Program, is_program


def load_builder(where: str) -> Callable[[Dataset], Program]:
    """The function that `FILE.py:FUNCTION` names, as a function of the data set. Runs the user's own code."""
    name, _, function = where.rpartition(":")
    path = Path(name)
    if not name or not function:
        raise InputError(f"--program {where}: write the file and the function in it, as in my_file.py:build")
    require_path(path)
    if not path.is_file():
        raise InputError(f"--program {where}: no file {path}")
    spec = spec_from_file_location(f"pyro_vae_program_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"--program {where}: {path} is not a Python file")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    with _errors_as_input(where, path):
        spec.loader.exec_module(module)
    build = getattr(module, function, None)
    if not callable(build):
        raise InputError(f"--program {where}: {path} has no function {function}")
    with _errors_as_input(where, path):
        takes_data = bool(inspect.signature(build).parameters)

    def built(data: Dataset) -> Program:
        with _errors_as_input(where, path):
            program: object = build(data) if takes_data else build()
        if not is_program(program):
            raise InputError(
                f"--program {where}: {function} returned {type(program).__name__}, which has no model and guide; "
                "return a VAE, pyro_vae.Program(model, guide), or any object with both"
            )
        return program

    return built


@contextmanager
def _errors_as_input(where: str, path: Path) -> Iterator[None]:
    """Inside, what a user's code raises, or its `sys.exit`, becomes an `InputError` with the line of the file."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = f", line {lines[-1]}" if lines else ""
        said = (
            "it ends the process by sys.exit" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
        )
        raise InputError(f"--program {where}{line}: {said}; --debug shows where") from error
