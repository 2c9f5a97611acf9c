"""The script that tests the tests: which mutants a file has, and one of a tiny module that a test kills."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
import mutants

SCRIPT = mutants.__file__
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the script needs fork")

CHANGES = {  # a line of code: what may take the place of its parts
    "a < b": ["(a <= b)"],
    "x = a - b": ["(a + b)", "(b - a)"],
    "x = a / b": ["(a * b)", "(b / a)"],
    "x = a * 2": ["(a / 2)", "(3)"],
    "x = not a": ["(a)"],
    "x = True": ["(False)"],
    "f(a)": ["pass"],
    "x += y": ["pass"],
    'x: "Float[Tensor, 3]" = y': [],
    'x = f"{a - b}"': [],
    "if TYPE_CHECKING:\n    x = 1": [],
    "def f(a: 1) -> 2: return a": ["return None"],
    "é = '漢'; x = a == b": ["(a != b)"],
}


@pytest.mark.parametrize("line", CHANGES)
def test_the_mutants_of_a_line(line):
    found = mutants.mutants_of("f.py", line)
    assert [each.after for each in found] == CHANGES[line]
    for each in found:
        assert each.source(line.encode()).decode() == line.replace(each.before, each.after, 1)


@pytest.mark.parametrize(
    ("test", "close"),
    [
        ("tests/data/test_read_csv.py::test_a", 2),
        ("pyro_vae/data/read_csv.py::pyro_vae.data.read_csv.separator", 2),
        ("tests/data/test_columns.py::test_a", 1),
        ("tests/test_docs.py::test_data", 0),
    ],
)
def test_tests_named_after_a_file_are_the_closest(test, close):
    assert mutants.closeness(test, "pyro_vae/data/read_csv.py") == close


def test_a_mutant_is_killed_by_the_test_of_its_line_and_kept(tmp_path):
    """One of two lines has a test that fails on each change; the other has none that does."""
    pytest.importorskip("pytest_cov")  # which the script asks for, and the tests of the package do not
    tree, folder = tmp_path / "root", tmp_path / "out"
    (tree / "pyro_vae_tiny").mkdir(parents=True)
    (tree / "pyro_vae_tiny" / "__init__.py").write_text(
        "def smaller(a, b):\n    return a - b\n\n\ndef flag():\n    f = True\n"
    )
    (tree / "test_tiny.py").write_text(
        "from pyro_vae_tiny import flag, smaller\n\n\ndef test_smaller():\n    assert smaller(5, 2) == 3\n\n\n"
        "def test_flag():\n    flag()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tree), "COVERAGE_FILE": str(tmp_path / "coverage")}
    measured = [sys.executable, "-m", "pytest", "-q", "--cov=pyro_vae_tiny", "--cov-context=test", "--cov-report="]
    subprocess.run(measured, cwd=tree, env=environment, check=True, capture_output=True)
    command = [sys.executable, SCRIPT, folder, "--root", tree, "--target", "pyro_vae_tiny", "--num", "4"]
    command += ["--coverage", tmp_path / "coverage", "--copy", "pyro_vae_tiny", "--copy", "test_tiny.py"]
    for _ in range(2):  # the second time from what is kept
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "3 of 4 killed (75%)." in shown.stdout
        assert "- pyro_vae_tiny/__init__.py:6 (survived): `True` → `(False)`" in shown.stdout
    assert "return a - b" in (folder / "tree" / "pyro_vae_tiny" / "__init__.py").read_text()
    assert len(list((folder / "mutants").iterdir())) == 4
