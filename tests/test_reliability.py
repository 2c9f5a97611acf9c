"""Nothing is lost and nothing is silently wrong: locks, digests, caches, full disks, locales, kills."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import torch
from run_damage import FILES, OUTCOMES, as_markdown, cut, damage_table, flip, log_lines

import pyro_vae as pv
from pyro_vae import file_digests
from pyro_vae.atomic_write import (
    append_json_line,
    read_json,
    read_json_lines,
    read_tensors,
    read_toml,
    write_json,
    write_json_lines,
    write_tensors,
    write_toml,
)
from pyro_vae.folder_lock import LOCK, lock_folder
from pyro_vae.inference.svi.checkpoint import CHECKPOINT, PREVIOUS, Checkpoint, FitState, read_checkpoint
from pyro_vae.run_folder import lock_new_folder, require_unused
from pyro_vae.workflows.fit_run import fit_run

CONTEXT = multiprocessing.get_context("spawn")
SMALL = {"epochs": 2, "hidden": (4,), "latent_dim": 2, "seed": 0}


@pytest.fixture(scope="module")
def table_csv(tmp_path_factory):
    generator = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    values = generator.normal(size=(120, 2)) @ generator.normal(size=(2, 3)) + 0.1 * generator.normal(size=(120, 3))
    np.savetxt(path, values, delimiter=",", header="a,b,c", comments="")
    return path


@pytest.fixture(scope="module")
def fitted(table_csv, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted") / "run"
    fit_run(folder, data=str(table_csv), **SMALL)
    return folder


@pytest.fixture
def run(fitted, tmp_path):
    shutil.copytree(fitted, tmp_path / "run")
    file_digests._noted.clear()
    return tmp_path / "run"


def command(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "pyro_vae", *map(str, words)], capture_output=True, text=True, timeout=250, **options
    )


# One writer at a time


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


def test_two_fits_into_one_folder(table_csv, tmp_path):
    words = ["fit", "--data", table_csv, "--epochs", 2, "--hidden", 4, "--out", tmp_path / "run", "--json"]
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "pyro_vae", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=250) for process in both]
    assert sorted(process.returncode for process in both) == [0, 2]
    loser = said[0] if both[0].returncode else said[1]
    assert loser[0] == b""
    assert b"holds a run already" in loser[1] or b"writes to it; wait until that ends" in loser[1]
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
def test_commands_that_write_into_a_run_are_refused_beside_another(name, run, monkeypatch, capsys):
    from pyro_vae.cli.main import _run

    monkeypatch.setattr(sys, "argv", ["pyro-vae", "fit", "--resume", "RUN"])
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with lock_folder(run):
        assert _run([str(run) if word == "RUN" else word for word in WRITERS[name]]) == 2
        said = capsys.readouterr()
        assert f"process {os.getpid()} (pyro-vae fit --resume RUN, since 20" in said.err
        assert said.err.count("\n") == 1
        assert said.out == ""
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["compare", "study"])
def test_folders_of_comparisons_and_studies_have_one_writer(name, tmp_path, capsys):
    from pyro_vae.cli.main import _run

    words = {"compare": ["compare", "--preset", "toy"], "study": ["study", "em-bounds"]}[name]
    with lock_folder(tmp_path):
        assert _run([*words, "--out", str(tmp_path)]) == 2
    assert "writes to it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_reading_needs_no_lock(run, tmp_path, capsys):
    from pyro_vae.cli.main import _run

    with lock_folder(run):
        assert _run(["info", str(run)]) == 0
        assert _run(["encode", str(run), "--out", str(tmp_path / "codes.csv")]) == 0


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


# Digests


def test_a_thousand_flips_and_two_hundred_cuts(run):
    flips, cuts = damage_table(run, flip, 1000), damage_table(run, cut, 200, seed=1)
    print(as_markdown(flips, cuts))
    total = sum((*flips.values(), *cuts.values()), Counter())
    assert set(total) <= {"refused", "told", "harmless"}, total
    assert total.total() == 1200
    assert total["refused"] > 1100
    assert set(flips) == set(FILES)
    assert OUTCOMES[-1] not in total


def _without_digest(path):
    if path.suffix == ".safetensors":
        tensors, about = read_tensors(path)
        from safetensors.torch import save_file

        save_file(tensors, path, {"about": json.dumps(about)} if about else None)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in read_json_lines(path)))
    else:
        path.write_bytes(b"".join(line for line in path.read_bytes().splitlines(True) if b"sha256:" not in line))


def test_files_without_a_digest_are_read_with_one_note(run):
    from pyro_vae.cli.main import _run

    for name in FILES[:-1]:
        if name != "reference.safetensors":
            _without_digest(run / name)
    with log_lines() as lines:
        assert _run(["info", str(run)]) == 0
    assert len(lines) == 1
    assert f"{run}/config.toml has no digest" in lines[0]


def test_a_config_is_edited_by_hand(run):
    path = run / "config.toml"
    text = path.read_text().replace("epochs = 2", "epochs = 3")
    path.write_text(text)
    with pytest.raises(pv.InputError, match=r"config\.toml: damaged .* delete its first line \(digest = …\)"):
        pv.load(run)
    path.write_text(text.partition("\n")[2])
    with log_lines() as lines:
        pv.load(run)
    assert len(lines) == 1
    assert "edited by hand" in lines[0]


REMEDIES = {
    "config.toml": "delete its first line",
    "model.safetensors": "fit --resume {run} writes the best weights anew",
    "metrics.jsonl": "fit --resume {run} writes it anew",
    "evaluation.json": "evaluate {run} computes its numbers again",
}


@pytest.mark.parametrize("name", REMEDIES)
def test_a_damaged_file_is_refused_with_a_remedy(name, run, capsys):
    from pyro_vae.cli.main import _run

    content = bytearray((run / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run / name).write_bytes(content)
    words = ["evaluate" if name != "metrics.jsonl" else "info", str(run)]
    assert _run(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert f"{run / name}: damaged (" in said.err
    assert REMEDIES[name].format(run=run) in said.err


def test_damaged_weights_come_back_from_the_checkpoint(run):
    from pyro_vae.cli.main import _run

    before = pv.load(run).state_dict()
    (run / "model.safetensors").write_bytes(b"\0" * 100)
    assert _run(["fit", "--resume", str(run), "--json"]) == 0
    after = pv.load(run).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def state_of_epoch(epoch):
    return FitState({"w": torch.full((3,), float(epoch))}, {"w": torch.full((3,), float(epoch))}, {}, epoch)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "missing"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(damage, tmp_path):
    path = tmp_path / CHECKPOINT
    checkpoint = Checkpoint(path, {})
    for epoch in (1, 2, 3):
        checkpoint._latest = state_of_epoch(epoch)
        checkpoint.write_latest()
    assert sorted(found.name for found in path.parent.iterdir()) == [PREVIOUS, path.name]
    assert read_checkpoint(path)[1]["epoch"] == 3
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        changed = bytearray(content)
        changed[-1] ^= 1
        path.write_bytes({"flipped": bytes(changed), "cut": content[:-5], "empty": b""}[damage])
    with log_lines() as lines:
        assert checkpoint.load().epoch == 2
        assert checkpoint.load().epoch == 2
    assert len(lines) == 1
    assert f"{path} is damaged or missing: the one before it is used, of epoch 2" in lines[0]
    path.write_bytes(b"")
    with pytest.raises(pv.InputError, match=r"state\.safetensors: damaged .* start a new run"):
        checkpoint.load()


def test_a_cut_last_line_is_told(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for epoch in (1, 2):
        append_json_line(path, {"epoch": epoch})
    path.write_bytes(path.read_bytes()[:-3])
    with log_lines() as lines:
        assert read_json_lines(path) == [{"epoch": 1}]
    assert lines == [f"note: {path}: its last line was cut off (line 2), and is left out"]


def test_metrics_of_an_ended_fit_that_lack_whole_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_json_lines(path, [{"epoch": 1}, {"epoch": 2}])
    assert read_json_lines(path, complete=True) == [{"epoch": 1}, {"epoch": 2}]
    path.write_bytes(path.read_bytes().splitlines(True)[0])
    assert read_json_lines(path) == [{"epoch": 1}]
    with pytest.raises(pv.InputError, match="lines after line 1 are missing"):
        read_json_lines(path, complete=True)


@pytest.mark.parametrize("content", [{}, {"a": 1}, {"a": {"b": [1.5, None, "ü"]}, "digits": "sha"}])
def test_json_and_toml_come_back_as_they_were(content, tmp_path):
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    json.loads((tmp_path / "a.json").read_text("utf-8"))
    plain = {"a": "ü", "b": {"c": [1, 2]}} if content else {"z": 1}
    write_toml(tmp_path / "a.toml", plain)
    assert read_toml(tmp_path / "a.toml") == plain


def test_tensor_files_are_the_same_bytes_each_time(tmp_path):
    tensors, about = {"b": torch.arange(3), "a": torch.ones(2, 0), "c": torch.tensor(1.5)}, {"x": "é", "y": [1]}
    for name in ("first", "second"):
        write_tensors(tmp_path / name, tensors, about)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    found, read = read_tensors(tmp_path / "first")
    assert read == about
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
