"""Public docstrings say what each argument and the result are, with shapes and units."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pyro_vae"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def arguments_of(function):
    spec = function.args
    names = [argument.arg for argument in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


def returns_something(function):
    return function.returns is not None and ast.unparse(function.returns) not in ("None", "NoReturn")


def lacking(text, arguments, is_function, function):
    if len(arguments) < 2:
        return []
    missing = [] if "Args:" in text else ["Args:"]
    described = text.partition("Args:")[2]
    missing += [name for name in arguments if missing == [] and f"{name}:" not in described]
    if is_function and returns_something(function) and "Returns:" not in text and "Yields:" not in text:
        missing.append("Returns:")
    return missing


def is_command(function):
    """Whether it is a command of the command line, whose docstring is its --help."""
    words = (".command(", "rows_command")
    return any(word in ast.unparse(decorator) for decorator in function.decorator_list for word in words)


def public_definitions(tree):
    """Public functions, methods and classes: name, docstring, the function that takes the arguments."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not is_command(node):
            yield node.name, ast.get_docstring(node), node, True
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            methods = [child for child in node.body if isinstance(child, ast.FunctionDef)]
            made = next((child for child in methods if child.name == "__init__"), None)
            if made is not None:
                yield node.name, ast.get_docstring(node), made, False
            for child in methods:
                if not child.name.startswith("_"):
                    yield f"{node.name}.{child.name}", ast.get_docstring(child), child, True


@pytest.mark.parametrize("module", MODULES)
def test_arguments_and_results_are_described(module):
    tree = ast.parse((PACKAGE / module).read_text())
    found = {
        name: missing
        for name, text, function, is_function in public_definitions(tree)
        if text and (missing := lacking(text, arguments_of(function), is_function, function))
    }
    assert not found
