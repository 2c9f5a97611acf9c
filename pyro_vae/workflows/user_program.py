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


def load_function(where: str, option: str = "--program") -> tuple[Callable[..., object], Path]:
    """The function that `FILE.py:FUNCTION` names. Runs the user's own code.

    Args:
        where: the file and the function.
        option: the option that named them, for messages.

    Returns:
        The function and its file; `InputError` where there is none.
    """
    name, _, function = where.rpartition(":")
    path = Path(name)
    if not name or not function:
        raise InputError(f"{option} {where}: write the file and the function in it, as in my_file.py:build")
    require_path(path)
    if not path.is_file():
        raise InputError(f"{option} {where}: no file {path}")
    spec = spec_from_file_location(f"pyro_vae_program_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{option} {where}: {path} is not a Python file")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    with errors_as_input(f"{option} {where}", path):
        spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        raise InputError(f"{option} {where}: {path} has no function {function}")
    return found, path


def load_builder(where: str) -> Callable[[Dataset], Program]:
    """The function that `FILE.py:FUNCTION` names, as a function of the data set. Runs the user's own code."""
    build, path = load_function(where)
    with errors_as_input(f"--program {where}", path):
        takes_data = bool(inspect.signature(build).parameters)

    def built(data: Dataset) -> Program:
        with errors_as_input(f"--program {where}", path):
            program: object = build(data) if takes_data else build()
        if not is_program(program):
            raise InputError(
                f"--program {where}: {where.rpartition(':')[2]} returned {type(program).__name__}, which has no model "
                "and guide; return a VAE, pyro_vae.Program(model, guide), or any object with both"
            )
        return program

    return built


@contextmanager
def errors_as_input(where: str, path: Path) -> Iterator[None]:
    """Inside, what a user's code raises, or its `sys.exit`, becomes an `InputError` with the line of the file.

    Args:
        where: the option with its value, for the message.
        path: the user's file.

    Yields:
        None: nothing.
    """
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
        raise InputError(f"{where}{line}: {said}; --debug shows where") from error
