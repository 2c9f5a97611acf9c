"""Progress of commands that work on rows, and scores that are interrupted and resumed."""

import json
import shutil

import numpy as np
import pytest

import pyro_vae as pv
from pyro_vae.cli.main import _run
from pyro_vae.cli.option_types import Duration
from pyro_vae.context_managers import part_seed
from pyro_vae.evidence.evidence_methods import Estimator
from pyro_vae.workflows import choose_draws, export_rows, row_progress, score_rows, unfinished_scores
from pyro_vae.workflows.export_rows import encode_run, sample_run
from pyro_vae.workflows.row_progress import RowProgress

IS = Estimator("is", num_samples=30)
NUM_ROWS, CHUNK = 50, 16


@pytest.fixture
def new_rows(tmp_path, monkeypatch):
    """A file of 50 rows, which commands take in four chunks; one of them has a density of zero."""
    monkeypatch.setattr(score_rows, "CHUNK_ROWS", CHUNK)
    monkeypatch.setattr(export_rows, "CHUNK_ROWS", CHUNK)
    x = np.random.default_rng(0).normal(size=(NUM_ROWS, 3))
    x[20] = 1e30
    path = tmp_path / "new.csv"
    np.savetxt(path, x, delimiter=",", header="a,b,c", comments="")
    return path


def interrupt_at(monkeypatch, number):
    """Scoring ends with Ctrl-C at a chunk, from zero; how often chunks are scored is counted."""
    calls, estimate = [], score_rows.estimate_log_px

    def stopped(*args, **options):
        calls.append(options["seed"])
        if len(calls) == number + 1:
            raise KeyboardInterrupt
        return estimate(*args, **options)

    monkeypatch.setattr(score_rows, "estimate_log_px", stopped)
    return calls


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize("method", ["is", "auto"])
def test_an_interrupted_score_is_resumed_to_the_same_file(ending, method, run_folder, new_rows, tmp_path, monkeypatch):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    whole, out, lines = tmp_path / f"whole{ending}", tmp_path / f"out{ending}", []
    estimator = Estimator(method, num_samples=30)
    expected, lowest = score_rows.score_rows(run_folder, str(new_rows), out=whole, estimator=estimator)
    assert not list(tmp_path.glob("*.unfinished"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            score_rows.score_rows(run_folder, str(new_rows), out=out, estimator=estimator, log=lines.append)
    assert not out.exists()
    assert lines == [f"the scores of 32 rows are kept in {out}.unfinished; --resume goes on"]
    calls = interrupt_at(monkeypatch, 100)
    found, totals = score_rows.score_rows(run_folder, str(new_rows), out=out, resume=True)
    assert calls == [part_seed(0, 2), part_seed(0, 3)]
    assert out.read_bytes() == whole.read_bytes()
    assert totals == lowest
    differ = {name for name in expected if expected[name] != found[name]}
    assert differ <= {"path", "seconds"}
    assert not list(tmp_path.glob("*.unfinished"))


def interrupted(run_folder, new_rows, out, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            score_rows.score_rows(run_folder, str(new_rows), out=out, estimator=IS)


def test_what_does_not_go_together_is_refused(run_folder, new_rows, tmp_path, monkeypatch):
    out = tmp_path / "out.csv"
    with pytest.raises(pv.InputError, match="no interrupted score is kept there"):
        score_rows.score_rows(run_folder, str(new_rows), out=out, resume=True)
    interrupted(run_folder, new_rows, out, monkeypatch)
    with pytest.raises(pv.InputError, match="go on with --resume, or delete it"):
        score_rows.score_rows(run_folder, str(new_rows), out=out, estimator=IS)
    with pytest.raises(pv.InputError, match="scores of another estimator"):
        score_rows.score_rows(run_folder, str(new_rows), out=out, resume=True, estimator=Estimator("is", num_samples=9))
    lines = new_rows.read_text("utf-8").splitlines()
    other = tmp_path / "other.csv"
    other.write_text("\n".join([*lines[:3], "1,1,1", *lines[4:]]), encoding="utf-8")
    with pytest.raises(pv.InputError, match="scores of another rows"):
        score_rows.score_rows(run_folder, str(other), out=out, resume=True)
    chunk = next((tmp_path / "out.csv.unfinished").glob("chunk-*"))
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with pytest.raises(pv.errors.DamagedFileError, match=chunk.name):
        score_rows.score_rows(run_folder, str(new_rows), out=out, resume=True)
    chunk.unlink()
    score_rows.score_rows(run_folder, str(new_rows), out=out, resume=True)
    assert out.exists()


def test_the_command_resumes_too(run_folder, new_rows, tmp_path, monkeypatch, capsys):
    words = ["score", str(run_folder), str(new_rows), "--method", "is", "--num-samples", "30", "--json"]
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        assert _run([*words, "--out", str(tmp_path / "out.csv")]) == 130
    assert "the scores of 16 rows are kept" in capsys.readouterr().err
    assert (
        _run(["score", str(run_folder), str(new_rows), "--out", str(tmp_path / "out.csv"), "--resume", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["num_samples"] == 30


def test_draws_are_chosen_by_time_once(run_folder, new_rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        choose_draws, "_seconds_of", lambda estimator, program, rows, draws: len(rows) * (1 + draws / 100)
    )
    out, lines = tmp_path / "out.csv", []
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            score_rows.score_rows(run_folder, str(new_rows), out=out, estimator=IS, seconds=70.6, log=lines.append)
    assert lines[0] == "41 draws for each of 50 rows, about 70 s"
    found, _ = score_rows.score_rows(run_folder, str(new_rows), out=out, resume=True)
    assert found.num_samples == 41
    program, rows = pv.load(run_folder), pv.load_data(str(new_rows)).train
    few, needed = choose_draws.choose_draws(IS, program, rows, 1e-3)
    assert (few.num_samples, few.method) == (choose_draws.FEWEST, "is")
    assert needed > 1
    with pytest.raises(pv.InputError, match="takes none"):
        choose_draws.choose_draws(Estimator("ais"), program, rows, 10.0)
    assert _run(["score", str(run_folder), str(new_rows), "--time", "10m", "--num-samples", "5"]) == 2
    assert "leave out --num-samples" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("10", None), ("0m", None)])
def test_durations(text, seconds, capsys):
    if seconds is not None:
        assert Duration().convert(text, None, None) == seconds
        return
    assert _run(["score", "run", "--time", text]) == 2
    assert "write a number with its unit" in capsys.readouterr().err


class Clock:
    """A clock that goes on by some seconds each time it is read."""

    def __init__(self, step):
        self.now, self.step = 0.0, step

    def monotonic(self):
        self.now += self.step
        return self.now


def lines_of(monkeypatch, capsys, step, work):
    monkeypatch.setattr(row_progress.time, "monotonic", Clock(step).monotonic)
    work()
    return capsys.readouterr().err.splitlines()


def count(shown, parts, kept=0):
    with shown:
        for number in range(parts):
            shown.advance(100, kept=number < kept)


def test_lines_of_progress(monkeypatch, capsys):
    shown = RowProgress("scored", 1000, "lines")
    shown.began, shown._last_line = 0.0, -5.0
    assert lines_of(monkeypatch, capsys, 4.0, lambda: count(shown, 10)) == [
        "scored 200 of 1,000 rows, about 32 s left",
        "scored 500 of 1,000 rows, about 20 s left",
        "scored 800 of 1,000 rows, about 8 s left",
    ]


def test_kept_rows_take_no_time(monkeypatch, capsys):
    shown = RowProgress("scored", 1000, "lines")
    shown.began, shown._last_line = 0.0, -5.0
    lines = lines_of(monkeypatch, capsys, 4.0, lambda: count(shown, 10, kept=4))
    assert lines[0] == "scored 500 of 1,000 rows, about 100 s left".replace("100 s", "2 min")


@pytest.mark.parametrize(("style", "step"), [("none", 100.0), ("lines", 0.01)])
def test_no_word_about_short_work_or_where_none_is_asked_for(style, step, monkeypatch, capsys):
    shown = RowProgress("scored", 1000, style)
    shown.began = 0.0
    assert lines_of(monkeypatch, capsys, step, lambda: count(shown, 10)) == []


def test_every_command_on_rows_says_how_far_it_is(run_folder, new_rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(row_progress, "SECONDS_WITHOUT_WORD", -1.0)
    monkeypatch.setattr(row_progress, "SECONDS_BETWEEN_LINES", 0.0)
    encode_run(run_folder, str(new_rows), out=tmp_path / "z.csv", progress="lines")
    sample_run(run_folder, NUM_ROWS, out=tmp_path / "x.csv", progress="lines")
    score_rows.score_rows(run_folder, str(new_rows), out=tmp_path / "s.csv", estimator=IS, progress="lines")
    shutil.rmtree(tmp_path / "s.csv.unfinished", ignore_errors=True)
    lines = capsys.readouterr().err
    assert all(f"{verb} 16 of 50 rows, about " in lines for verb in ("encoded", "drawn", "scored"))


def test_a_kept_chunk_has_what_totals_and_files_need(tmp_path):
    kept = unfinished_scores.UnfinishedScores(tmp_path / "s.csv", resume=False)
    x = pv.load_data("two-moons").test.head(20)
    ppca = pv.PPCA(1, 2)
    found = pv.log_evidence(ppca, x, num_samples=30)
    kept.begin(IS, {"rows": "some"})
    kept.write(0, found)
    again = unfinished_scores.UnfinishedScores(tmp_path / "s.csv", resume=True)
    assert again.estimator == IS
    read = again.read(0)
    assert again.read(1) is None
    assert (read.measure, read.kind, read.khat_bad) == (found.measure, found.kind, found.khat_bad)
    assert read.log_px.equal(found.log_px)
    assert read.khat.equal(found.khat)
