"""One command at a time writes into a folder, and a refusal names the one that does."""

import errno
import json
import os
import signal
import sys
import time

import pytest
from processes import CONTEXT, Command
from run_damage import log_lines

import pyro_vae as pv
from pyro_vae.atomic_write import (
    write_toml,
)
from pyro_vae.cli.main import _run
from pyro_vae.folder_lock import LOCK, lock_folder
from pyro_vae.run_folder import lock_new_folder, require_unused


def race(folder, number, barrier, won):
    for i in range(number):
        barrier.wait()
        try:
            with lock_new_folder(folder / str(i), "run"):
                require_unused(folder / str(i))
                write_toml(folder / str(i) / "config.toml", {"writer": os.getpid()})
                won[i] += 1
        except pv.InputError:
            pass


def test_of_two_processes_one_wins_each_of_many_races(tmp_path):
    number, barrier = 300, CONTEXT.Barrier(2)
    won = [CONTEXT.Array("i", number) for _ in range(2)]
    racers = [CONTEXT.Process(target=race, args=(tmp_path, number, barrier, mine)) for mine in won]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(120)
    assert [a + b for a, b in zip(*(list(mine) for mine in won), strict=True)] == [1] * number
    assert {path.name for path in tmp_path.glob("*/*")} == {"config.toml"}
    assert {path.name for path in tmp_path.glob("*/.*")} == set()


def test_a_folder_in_which_a_config_is_being_written_holds_no_other_files(tmp_path):
    """A fit that begins at the same time meets the lock, and not a message about files that are none of the user's."""
    from pyro_vae.atomic_write import atomic_path, is_leftover
    from pyro_vae.run_folder import require_unused

    with atomic_path(tmp_path / "config.toml") as partial:
        partial.write_text("a = 1")
        assert not is_leftover(partial)
        require_unused(tmp_path)
    with pytest.raises(pv.InputError, match="holds a run already"):
        require_unused(tmp_path)


def test_two_fits_into_one_folder(table_csv, tmp_path):
    words = ["fit", "--data", table_csv, "--epochs", 2, "--hidden", 4, "--out", tmp_path / "run", "--json"]
    both = [Command(*words) for _ in range(2)]
    said = [process.communicate() for process in both]
    assert sorted(process.returncode for process in both) == [0, 2]
    loser = said[0] if both[0].returncode else said[1]
    assert loser[0] == ""
    assert "holds a run already" in loser[1] or "writes to it; wait until that ends" in loser[1]
    for process in both:
        process.kill()
    assert not (tmp_path / "run" / LOCK).exists()
    assert pv.load(tmp_path / "run") is not None


WRITERS = {
    "resume": ("fit", "--resume", "RUN"),
    "evaluate": ("evaluate", "RUN"),
    "report": ("report", "RUN"),
    "score": ("score", "RUN", "--false-alarms", "0.2"),
    "encode": ("encode", "RUN"),
    "reconstruct": ("reconstruct", "RUN"),
    "sample": ("sample", "RUN"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_commands_that_write_into_a_run_are_refused_beside_another(name, run_folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pyro-vae", "fit", "--resume", "RUN"])
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    with lock_folder(run_folder):
        assert _run([str(run_folder) if word == "RUN" else word for word in WRITERS[name]]) == 2
        said = capsys.readouterr()
        assert f"process {os.getpid()} (pyro-vae fit --resume RUN, since 20" in said.err
        assert said.err.count("\n") == 1
        assert said.out == ""
    assert {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["compare", "study"])
def test_folders_of_comparisons_and_studies_have_one_writer(name, tmp_path, capsys):
    words = {"compare": ["compare", "--preset", "toy"], "study": ["study", "em-bounds"]}[name]
    with lock_folder(tmp_path):
        assert _run([*words, "--out", str(tmp_path)]) == 2
    assert "writes to it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_reading_needs_no_lock(run_folder, tmp_path, capsys):
    with lock_folder(run_folder):
        assert _run(["info", str(run_folder)]) == 0
        assert _run(["encode", str(run_folder), "--out", str(tmp_path / "codes.csv")]) == 0


def hold(folder, ready):
    with lock_folder(folder):
        ready.set()
        time.sleep(600)


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    ready = CONTEXT.Event()
    owner = CONTEXT.Process(target=hold, args=(tmp_path, ready))
    owner.start()
    assert ready.wait(120)
    with pytest.raises(pv.InputError, match=f"process {owner.pid} .*writes to it"), lock_folder(tmp_path):
        pass
    os.kill(owner.pid, signal.SIGKILL)
    owner.join(60)
    assert (tmp_path / LOCK).exists()
    with log_lines() as lines, lock_folder(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert len(lines) == 1
    assert f"process {owner.pid}" in lines[0]
    assert "taken over" in lines[0]
    assert list(tmp_path.iterdir()) == []


LEFT = {
    "empty": (b"", None),
    "not JSON": (b"\xff{", None),
    "another shape": (b"[1, 2]", None),
    "another host": (
        json.dumps({"pid": 7, "host": "elsewhere", "command": "pyro-vae fit\x1b[2J", "since": "2026-01-01"}).encode(),
        r"process 7 on host elsewhere \(pyro-vae fit\?\[2J, since 2026-01-01\) wrote to it .* delete .*\.lock",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_stands_in_a_lock_that_nobody_holds(name, tmp_path):
    content, message = LEFT[name]
    (tmp_path / LOCK).write_bytes(content)
    if message is None:
        with lock_folder(tmp_path):
            pass
        assert list(tmp_path.iterdir()) == []
    else:
        with pytest.raises(pv.InputError, match=message), lock_folder(tmp_path):
            pass
        assert (tmp_path / LOCK).read_bytes() == content


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(pv.InputError, match="delete it"), lock_folder(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_not_locked(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    with lock_folder(tmp_path):
        pass
