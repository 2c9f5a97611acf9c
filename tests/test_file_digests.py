"""A changed bit, a cut or an edit of a run's file is found when it is read; files without a digest are read."""

import json
from collections import Counter

import pytest
import torch
from run_damage import FILES, OUTCOMES, as_markdown, cut, damage_table, flip, log_lines

import pyro_vae as pv
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
from pyro_vae.cli.main import _run
from pyro_vae.inference.svi.checkpoint import CHECKPOINT, PREVIOUS, Checkpoint, FitState, read_checkpoint


def test_a_thousand_flips_and_two_hundred_cuts(run_folder):
    flips, cuts = damage_table(run_folder, flip, 1000), damage_table(run_folder, cut, 200, seed=1)
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


def test_files_without_a_digest_are_read_with_one_note(run_folder):
    for name in FILES[:-1]:
        if name != "reference.safetensors":
            _without_digest(run_folder / name)
    with log_lines() as lines:
        assert _run(["info", str(run_folder)]) == 0
    assert len(lines) == 1
    assert f"{run_folder}/config.toml has no digest" in lines[0]


def test_a_config_is_edited_by_hand(run_folder):
    path = run_folder / "config.toml"
    text = path.read_text().replace("epochs = 2", "epochs = 3")
    path.write_text(text)
    with pytest.raises(pv.InputError, match=r"config\.toml: damaged .* delete its first line \(digest = …\)"):
        pv.load(run_folder)
    path.write_text(text.partition("\n")[2])
    with log_lines() as lines:
        pv.load(run_folder)
    assert len(lines) == 1
    assert "edited by hand" in lines[0]


REMEDIES = {
    "config.toml": "delete its first line",
    "model.safetensors": "fit --resume {run} writes the best weights anew",
    "metrics.jsonl": "fit --resume {run} writes it anew",
    "evaluation.json": "evaluate {run} computes its numbers again",
}


@pytest.mark.parametrize("name", REMEDIES)
def test_a_damaged_file_is_refused_with_a_remedy(name, run_folder, capsys):
    content = bytearray((run_folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run_folder / name).write_bytes(content)
    words = ["evaluate" if name != "metrics.jsonl" else "info", str(run_folder)]
    assert _run(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert f"{run_folder / name}: damaged (" in said.err
    assert REMEDIES[name].format(run=run_folder) in said.err


def test_damaged_weights_come_back_from_the_checkpoint(run_folder):
    before = pv.load(run_folder).state_dict()
    (run_folder / "model.safetensors").write_bytes(b"\0" * 100)
    assert _run(["fit", "--resume", str(run_folder), "--json"]) == 0
    after = pv.load(run_folder).state_dict()
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
