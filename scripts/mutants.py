"""Which wrong programs the tests find: random mutants of the package's lines, each run against the tests of its line.

    pytest tests pyro_vae --dist no --cov=pyro_vae --cov-context=test --cov-report=    # makes .coverage
    python scripts/mutants.py FOLDER --coverage .coverage                                  # 100 mutants of seed 0

A mutant is one change: another comparison, operator or constant, None in place of a returned value, a `not` or a
statement left out, the sides of a subtraction or division exchanged. It is made in a copy of the tree, FOLDER/tree. The
tests whose context covers the line (of a line that runs at import: those of its file, by name if need be) run until one
fails, for at most a minute of one core: those in files named after the line's first, and of each those that run the
fewest lines. A mutant that no test fails on *survives*, as does one on a line that no test runs, or whose tests take
longer. Each result is kept as FOLDER/mutants/NUMBER.json and is not made again. Needs pytest-cov, and a system with
`fork`.
"""

import ast
import copy
import importlib
import json
import os
import random
import resource
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

REPOSITORY = Path(__file__).parent.parent
TARGETS = ("likelihoods", "priors", "distributions", "guides", "flows", "evidence", "inference", "data")
COPIED = ("pyro_vae", "tests", "scripts", "docs", "pyproject.toml", "README.md", "mkdocs.yml", "CHANGELOG.md")
IMPORTED_ONCE = ("torch", "pyro", "pandas", "sklearn.cluster", "scipy.stats")  # none with a plugin of pytest
SECONDS, WALL = 60, 5  # of a core for a mutant's tests; how many times as long by the clock
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip
PASSED, FAILED, BROKEN, NO_TESTS, OUT_OF_TIME = 0, 1, 2, 5, -9  # broken: tests cannot be collected
AT_IMPORT = ""  # the context of lines that run when a module is imported
Contexts = dict[str, dict[int, list[str]]]  # by file and line the tests


@dataclass(frozen=True)
class Mutant:
    """One change: the file, its first line, what kind it is, and the text of it before and after."""

    file: str
    line: int
    kind: str
    before: str
    after: str
    start: int
    end: int

    def source(self, text: bytes) -> bytes:
        """The text of the file with the change."""
        return text[: self.start] + self.after.encode() + text[self.end :]


def changes_of(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """The kinds of changes of a node, and what takes its place."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield "comparison", _with(node, ops=[COMPARISONS[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield "operator", _with(node, op=OPERATORS[type(node.op)]())
        if isinstance(node.op, (ast.Sub, ast.Div)):
            yield "sides", _with(node, left=node.right, right=node.left)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield "constant", ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not", node.operand
    elif isinstance(node, ast.Return) and not (node.value is None or _is_none(node.value)):
        yield "return", ast.Return(ast.Constant(None))
    elif isinstance(node, (ast.AugAssign, ast.Raise)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield "statement", ast.Pass()


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def nodes_of(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that compute something: no annotations, decorators, parts of a text, nor what is for type checkers."""
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from nodes_of(child)


def mutants_of(file: str, text: str) -> list[Mutant]:
    """All mutants of a file.

    Args:
        file: its path in the tree.
        text: its content.

    Returns:
        The mutants in their order.
    """
    starts = [0]
    for line in text.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node in nodes_of(ast.parse(text)):
        for kind, changed in changes_of(node):
            assert isinstance(node, (ast.expr, ast.stmt))
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
            after = ast.unparse(ast.fix_missing_locations(copy.deepcopy(changed)))
            after = after if isinstance(node, ast.stmt) else f"({after})"
            before = text.encode()[start:end].decode()
            found.append(Mutant(file, node.lineno, kind, before, after, start, end))
    return found


def read_contexts(paths: Sequence[Path], package: str) -> Contexts:
    """The tests of each line, from the data files of pytest-cov.

    Args:
        paths: the data files.
        package: the folder whose files are wanted, from which their paths begin.

    Returns:
        The tests by file and line.
    """
    from coverage import CoverageData

    found: Contexts = {}
    for path in paths:
        data = CoverageData(str(path))
        data.read()
        for file in data.measured_files():
            name = package + file.rpartition(f"/{package}")[2]
            lines = found.setdefault(name, {})
            for line, tests in data.contexts_by_lineno(file).items():
                of_line = lines.setdefault(line, [])
                of_line += sorted({test.rpartition("|")[0] for test in tests} - set(of_line))
                if len(of_line) > 1 and AT_IMPORT in of_line:
                    of_line.remove(AT_IMPORT)
    return found


def breadth(contexts: Contexts) -> Counter[str]:
    """How many lines each test runs: the fewest are the most specific."""
    return Counter(test for lines in contexts.values() for tests in lines.values() for test in tests)


def closeness(test: str, file: str) -> int:
    """How close a test is to a file by their names: 2 in one named after it, or in it; 1 in one of its folder; else 0.

    >>> closeness("tests/data/test_read_csv.py::test_a", "pyro_vae/data/read_csv.py")
    2
    >>> closeness("tests/data/test_columns.py::test_a", "pyro_vae/data/read_csv.py")
    1
    """
    where, path = test.partition("::")[0], Path(file)
    if where == file or path.stem in where:
        return 2
    return int(path.parent.name in Path(where).parts)


def run_tests(tree: Path, tests: Sequence[str], log: Path, seconds: int) -> int:
    """The exit code of pytest on some tests in a process of its own; `OUT_OF_TIME` where they take too long.

    Args:
        tree: where they are run.
        tests: their names.
        log: the file of what pytest prints.
        seconds: of a core.

    Returns:
        0 where all pass.
    """
    log.write_bytes(b"")
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
            for stream in (1, 2):
                os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
            os.chdir(tree)
            sys.path[:0] = [str(tree), str(tree / "scripts")]
            os.environ["PYTHONPATH"] = str(tree)
            sys.dont_write_bytecode = False  # tests of many files are collected in seconds if pytest keeps them
            import pytest

            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=line", *tests]))
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    deadline = time.monotonic() + WALL * seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return OUT_OF_TIME if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        time.sleep(0.05)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return OUT_OF_TIME


def outcome(code: int) -> str:
    """What a mutant's exit code says; of `unclear` ones the tests are run without the change too."""
    names = {PASSED: "survived", NO_TESTS: "uncovered", OUT_OF_TIME: "out of time", FAILED: "killed", BROKEN: "killed"}
    return names.get(code, "unclear")


class Mutation:
    """Mutants of a tree in a folder, one at a time."""

    def __init__(
        self, folder: Path, root: Path, contexts: Contexts, seconds: int = SECONDS, copied: Sequence[str] = COPIED
    ) -> None:
        self.folder, self.contexts, self.seconds, self.breadth = folder, contexts, seconds, breadth(contexts)
        self.tree, self.results = folder / "tree", folder / "mutants"
        self.results.mkdir(parents=True, exist_ok=True)
        if not self.tree.exists():
            self.tree.mkdir()
            for path in (root / name for name in copied if (root / name).exists()):
                copying = shutil.copytree if path.is_dir() else shutil.copy
                copying(path, self.tree / path.name)  # type: ignore[operator]  # both take two paths

    def candidates(self, targets: Sequence[str], only_run: bool = False) -> list[Mutant]:
        """All mutants of the files under some paths, or those of the lines that some test runs."""
        files = sorted(path for target in targets for path in self.tree.glob(f"{target}/**/*.py"))
        files += [path for target in targets if (path := self.tree / f"{target}.py").exists()]
        found = []
        for path in files:
            name = path.relative_to(self.tree).as_posix()
            lines = self.contexts.get(name, {})
            all_ = mutants_of(name, path.read_text("utf-8"))
            found += [each for each in all_ if lines.get(each.line) or not only_run]
        return found

    def tests_of(self, mutant: Mutant) -> list[str]:
        """The tests that run a mutant's line: those named after its file first, and the most specific of each."""
        lines = self.contexts.get(mutant.file, {})
        tests = lines.get(mutant.line, [])
        if tests == [AT_IMPORT]:
            tests = list(dict.fromkeys(test for of_line in lines.values() for test in of_line))
            if set(tests) == {AT_IMPORT}:  # a file that runs at import only
                tests = [test for test in self.breadth if closeness(test, mutant.file) == 2]
        return sorted(
            set(tests) - {AT_IMPORT}, key=lambda test: (-closeness(test, mutant.file), self.breadth[test], test)
        )

    def run(self, number: int, mutant: Mutant) -> dict[str, object]:
        """The result of a mutant, which is made unless it is there."""
        kept = self.results / f"{number:04}.json"
        if kept.exists():
            return dict(json.loads(kept.read_text("utf-8")))
        tests = self.tests_of(mutant)
        path, began = self.tree / mutant.file, time.monotonic()
        text = path.read_bytes()
        path.write_bytes(mutant.source(text))
        try:
            code = run_tests(self.tree, tests, self.folder / "log.txt", self.seconds) if tests else NO_TESTS
        finally:
            path.write_bytes(text)
        said = outcome(code)
        if said == "unclear" and run_tests(self.tree, tests, self.folder / "log.txt", self.seconds) == PASSED:
            said = "killed"  # pytest knows no test of a module that cannot be imported
        seconds = round(time.monotonic() - began, 1)
        found = asdict(mutant) | {"outcome": said, "num_tests": len(tests), "code": code, "seconds": seconds}
        if code == FAILED:
            lines = (self.folder / "log.txt").read_text("utf-8", errors="replace").splitlines()
            found["by"] = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), "")[:200]
        kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
        return found


def summary(folder: Path) -> list[str]:
    """The killed share by kind of change, and the mutants that survived, as lines of Markdown."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted((folder / "mutants").glob("*.json"))]
    lines = [
        "| change | mutants | killed | survived | no test of the line | out of time | unclear |",
        "|---|---|---|---|---|---|---|",
    ]
    kinds = sorted({each["kind"] for each in found})
    for kind in [*kinds, "all"]:
        counts = Counter(each["outcome"] for each in found if kind in ("all", each["kind"]))
        names = ("killed", "survived", "uncovered", "out of time", "unclear")
        lines.append(f"| {kind} | {counts.total()} | {' | '.join(str(counts[name]) for name in names)} |")
    killed = sum(each["outcome"] == "killed" for each in found)
    lines += ["", f"{killed} of {len(found)} killed ({killed / max(1, len(found)):.0%}).", ""]
    for each in found:
        if each["outcome"] != "killed":
            before, after = (" ".join(each[name].split())[:80] for name in ("before", "after"))
            lines.append(f"- {each['file']}:{each['line']} ({each['outcome']}): `{before}` → `{after}`")
    return lines


@click.command(help=__doc__.split("\n")[0])
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--coverage", "paths", multiple=True, type=click.Path(path_type=Path), help="Data files of pytest-cov.")
@click.option("--root", type=click.Path(path_type=Path), default=REPOSITORY, help="The tree that is copied.")
@click.option("--target", "targets", multiple=True, help="Folders and modules, as in pyro_vae/evidence.")
@click.option("--num", default=100, show_default=True, help="How many mutants.")
@click.option("--seed", default=0, show_default=True)
@click.option("--seconds", default=SECONDS, show_default=True, help="Of a core, for the tests of a mutant.")
@click.option("--copy", "copied", multiple=True, default=COPIED, help="What of the tree is copied.")
@click.option(
    "--only-run", is_flag=True, help="Of lines that some test runs only: where the coverage is of some tests."
)
def main(
    folder: Path,
    paths: tuple[Path, ...],
    root: Path,
    targets: tuple[str, ...],
    num: int,
    seed: int,
    seconds: int,
    copied: tuple[str, ...],
    only_run: bool,
) -> None:
    targets = targets or tuple(f"pyro_vae/{target}" for target in TARGETS)
    contexts = read_contexts(paths, f"{targets[0].partition('/')[0]}/")
    mutation = Mutation(folder.resolve(), root, contexts, seconds, copied)
    found = mutation.candidates(targets, only_run)
    chosen = random.Random(seed).sample(found, min(num, len(found)))
    if (mutation.tree / "pyro_vae").exists():
        for name in IMPORTED_ONCE:
            importlib.import_module(name)
    for number, mutant in enumerate(chosen):
        result = mutation.run(number, mutant)
        click.echo(
            f"{number + 1}/{len(chosen)} {result['outcome']}: {mutant.file}:{mutant.line} {mutant.kind}", err=True
        )
    text = "\n".join(summary(folder))
    (folder / "summary.md").write_text(text + "\n", encoding="utf-8")
    click.echo(text)


if __name__ == "__main__":
    main()
