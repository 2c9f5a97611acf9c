"""Command lines and Python calls with bad input: each has to be refused in one line, with nothing written.

    python scripts/bad_input.py                       # all of them, and the table of docs/reliability.md
    python scripts/bad_input.py --every 20 --no-page  # some of them
    python scripts/bad_input.py --only recipe -v      # those whose kind or text has a word, and what they said

Each runs in a process of its own, forked from one that has imported everything, in a folder of prepared files, with
3 GiB of memory more than that process has and 20 seconds of the processor. A command line is refused where its exit
code is 2, nothing is on standard output, one line that begins with `pyro-vae: ` is on standard error, and no file is
new or changed. A call is refused where it raises `InputError`, or Python's own `TypeError` for arguments that a
function does not have, in one line, and prints and writes nothing.
"""

import json
import os
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import click
from bad_input_calls import CALLS, call, define_names
from bad_input_commands import commands
from bad_input_files import prepare

from pyro_vae.errors import InputError

PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- bad input: scripts/bad_input.py -->", "<!-- end of bad input -->"
OF_PYTHON = ("positional argument", "keyword argument", "keyword-only argument", "multiple values for argument")
MEMORY, SECONDS, PATIENCE = 3 * 2**30, 20, 200  # of the processor, and of the clock
PROGRESS = 100  # cases between two lines that say how far it is
Files = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Outcome:
    """What a case led to: `refused`, or what happened in its place; and what was said."""

    what: str
    said: str
    seconds: float


@dataclass(frozen=True)
class Case:
    """A command line or call: its kind, its text, and the environment variables of a command."""

    kind: str
    text: str
    is_command: bool
    environment: tuple[tuple[str, str], ...] = ()


def all_cases() -> list[Case]:
    """Every case, command lines first."""
    lines = [Case(kind, line, True, tuple(given.items())) for kind, line, given in commands()]
    return lines + [Case(kind, text, False) for kind, texts in CALLS.items() for text in texts]


def files_in(folder: Path) -> Files:
    """Size and time of change of every file, zero for folders."""
    found = {}
    for path in folder.rglob("*"):
        about = path.lstat()
        found[str(path)] = (0, 0) if path.is_dir() and not path.is_symlink() else (about.st_size, about.st_mtime_ns)
    return found


def run_in_fork(work: Callable[[], int], folder: Path, streams: Path) -> tuple[int, float]:
    """Run a function in a child process with limits, its streams in files; the status of `os.waitpid`, and seconds."""
    began, child = time.monotonic(), os.fork()
    if child == 0:
        try:
            os.chdir(folder)
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(streams / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            size = int(Path("/proc/self/statm").read_text("utf-8").split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (used := int(time.process_time()) + SECONDS, used))
            code = work()
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException as error:
            os.write(2, f"Traceback of the harness: {type(error).__name__}: {error}\n".encode())
            code = 99
        os._exit(code)
    while time.monotonic() - began < PATIENCE:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status, time.monotonic() - began
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1], time.monotonic() - began


def run_command(case: Case) -> int:
    """The exit code of a command line, in this process."""
    from pyro_vae.cli.main import main

    os.environ.update(case.environment)
    try:
        main(shlex.split(case.text))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def run_call(case: Case) -> int:
    """Evaluate a call, and say on standard error what it raised, as JSON."""
    try:
        call(case.text)
    except BaseException as error:
        said = {"kind": type(error).__name__, "is_ours": isinstance(error, InputError), "message": str(error)}
        os.write(2, json.dumps(said).encode())
        return 1
    return 0


def judge_command(code: int, out: str, err: str) -> str:
    """What a command line led to, by its exit code and its streams."""
    if "Traceback (most recent call last)" in err:
        return "a traceback"
    if code != 2:
        return "accepted" if code == 0 else f"exit code {code}"
    lines = err.splitlines()
    if out or len(lines) != 1 or not lines[0].startswith("pyro-vae: "):
        return "more than one line"
    return "refused" if lines[0].isprintable() else "control characters"


def judge_call(code: int, out: str, err: str) -> str:
    """What a call led to: it has to raise an error of ours, and print nothing else."""
    if code == 0:
        return "accepted"
    begin, _, rest = err.partition("{")
    raised = json.loads("{" + rest)
    message, kind = raised["message"], raised["kind"]
    if not raised["is_ours"] and not (kind == "TypeError" and any(words in message for words in OF_PYTHON)):
        return f"a {kind}"
    return "more than one line" if "\n" in message or begin or out or not message else "refused"


def run_case(case: Case, folder: Path, before: Files, streams: Path) -> Outcome:
    """Run a case and judge it."""
    work = (lambda: run_command(case)) if case.is_command else (lambda: run_call(case))
    status, seconds = run_in_fork(work, folder, streams)
    out, err = ((streams / name).read_text("utf-8", "replace") for name in ("out", "err"))
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return Outcome(
            "killed: time" if number in (signal.SIGXCPU, signal.SIGKILL) else f"signal {number}", err, seconds
        )
    what = (judge_command if case.is_command else judge_call)(os.WEXITSTATUS(status), out, err)
    changed = files_in(folder) != before
    return Outcome("files written" if changed and what == "refused" else what, (out + err).strip(), seconds)


def run_all(cases: Sequence[Case], pristine: Path, place: Path, verbose: bool) -> dict[Case, Outcome]:
    """Run cases one after the other, in a folder that is as prepared for each of them."""
    found: dict[Case, Outcome] = {}
    streams, folder = place / "streams", place / "work"
    streams.mkdir()
    shutil.copytree(pristine, folder, symlinks=True)
    before = files_in(folder)
    for number, case in enumerate(cases, start=1):
        found[case] = outcome = run_case(case, folder, before, streams)
        if outcome.what != "refused" or verbose:
            about = f"{outcome.what:<22} {outcome.seconds:5.1f} s  {case.kind}: {case.text:.300}"
            click.echo(f"{about}\n    {outcome.said[-300:]}")
        if number % PROGRESS == 0:
            click.echo(f"{number} of {len(cases)}", err=True)
        if files_in(folder) != before:
            shutil.rmtree(folder)
            shutil.copytree(pristine, folder, symlinks=True)
            before = files_in(folder)
    return found


def table(found: dict[Case, Outcome]) -> str:
    """The table: of each kind how many cases, how many were refused, and the longest time that one took."""
    lines = ["| kind | command lines | refused | calls | refused | longest, s |", "|---|---|---|---|---|---|"]
    for kind in [*dict.fromkeys(case.kind for case in found), ""]:
        own = {case: outcome for case, outcome in found.items() if case.kind == kind or not kind}
        counts = []
        for is_command in (True, False):
            outcomes = [outcome for case, outcome in own.items() if case.is_command is is_command]
            counts += [len(outcomes), sum(outcome.what == "refused" for outcome in outcomes)]
        longest = max(outcome.seconds for outcome in own.values())
        lines.append(f"| {kind or 'all'} | {' | '.join(map(str, counts))} | {longest:.1f} |")
    return "\n".join(lines)


def write_page(text: str) -> None:
    """Put the table into its place on the page."""
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def chosen(cases: Iterable[Case], only: Sequence[str], every: int) -> list[Case]:
    """The cases with one of some words in their kind or text, all without words; one of so many."""
    return [case for case in cases if not only or any(word in f"{case.kind} {case.text}" for word in only)][::every]


@click.command()
@click.option("--only", multiple=True, help="Run cases with this in their kind or text; again for more.")
@click.option("--every", default=1, help="Run one case of so many.")
@click.option(
    "--files", type=click.Path(path_type=Path), help="The folder of prepared files, made where it is not there."
)
@click.option("--page/--no-page", default=True, help="Write the table into docs/reliability.md.")
@click.option("-v", "--verbose", is_flag=True, help="Print what each case said.")
def main(only: Sequence[str], every: int, files: Path | None, page: bool, verbose: bool) -> None:
    """Run the cases; the exit code is 1 where one was not refused."""
    with tempfile.TemporaryDirectory() as place:
        pristine = (Path(place) / "pristine" if files is None else files).resolve()
        if not pristine.exists():
            prepare(pristine)
        with chdir(pristine):
            define_names()
        found = run_all(chosen(all_cases(), only, every), pristine, Path(place), verbose)
    click.echo(table(found))
    click.echo(dict(Counter(outcome.what for outcome in found.values())))
    if page and not only and every == 1:
        write_page(table(found))
    sys.exit(any(outcome.what != "refused" for outcome in found.values()))


if __name__ == "__main__":
    main()
