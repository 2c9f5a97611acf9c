"""Nothing is lost: infinite numbers, damaged caches, full disks, locales, closed streams, kills."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from processes import CONTEXT, Command
from run_damage import log_lines

import pyro_vae as pv
from pyro_vae import atomic_write
from pyro_vae.atomic_write import (
    append_json_line,
    atomic_path,
    read_json,
    read_json_lines,
    write_atomic,
    write_json,
)
from pyro_vae.cli.main import _run
from pyro_vae.cli.print_json import print_json
from pyro_vae.data import load_data
from pyro_vae.evidence.evidence_record import EvidenceRecord
from pyro_vae.file_digests import is_whole_png
from pyro_vae.run_folder import lock_new_folder
from pyro_vae.workflows.fit_run import fit_run

SMALL = {"epochs": 2, "hidden": (4,), "latent_dim": 2, "seed": 0}


def command(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "pyro_vae", *map(str, words)], capture_output=True, text=True, timeout=250, **options
    )


# Infinite numbers in JSON

INFINITE = {
    "fit": EvidenceRecord(run="r", split="valid", log_px=-math.inf, iwae={"5": math.nan}),
    "evaluate": EvidenceRecord(run="r", split="test", kl=math.inf),
    "compare": {"rows": [EvidenceRecord(run="r", elbo=-math.inf)]},
    "study": {"rows": [{"gini": math.nan, "name": "pca"}]},
    "score": {"run": "r", "threshold": -math.inf},
    "encode, reconstruct, sample": {"run": "r", "num_rows": 2, "mean": [1.0, math.inf]},
    "report": {"run": "r", "seconds": math.inf},
    "info": {"run": "r", "last_epoch": {"elbo": -math.inf}, "evaluation": {"test": {"kl": math.nan}}},
    "datasets": {"datasets": [{"name": "a", "size": math.inf}]},
}


def count_of(value, wanted):
    """How many values inside are the wanted one."""
    if isinstance(value, dict):
        return sum(count_of(item, wanted) for key, item in value.items() if key != "not_finite")
    return sum(count_of(item, wanted) for item in value) if isinstance(value, list) else int(value is wanted)


def flags_in(value):
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = len(value.get("not_finite", {})) if isinstance(value, dict) else 0
    return own + sum(flags_in(item) for item in inside)


@pytest.mark.parametrize("name", INFINITE)
def test_infinite_numbers_are_null_with_a_flag(name, capsys):
    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    print_json(INFINITE[name])
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    expected = 2 if name in ("fit", "info") else 1
    assert flags_in(found) == expected
    assert count_of(found, None) >= expected


def test_no_command_prints_json_by_other_means():
    package = Path(pv.__file__).parent
    found = [path.name for path in (package / "cli").glob("*.py") if "json.dumps" in path.read_text("utf-8")]
    assert found == []


def test_scores_of_a_no_data_value(run_folder, tmp_path, capsys):
    (tmp_path / "new.csv").write_text("a,b,c\n0.1,0.2,0.3\n-3.4e38,0.2,0.3\n")
    assert _run(["score", str(run_folder), str(tmp_path / "new.csv"), "--false-alarms", "0.2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_data"] == 2


def test_records_with_infinities_are_kept(tmp_path):
    write_json(tmp_path / "e.json", {"test": {"kl": math.inf, "elbo": -1.5}})
    assert read_json(tmp_path / "e.json") == {"test": {"kl": None, "elbo": -1.5, "not_finite": {"kl": "inf"}}}
    append_json_line(tmp_path / "m.jsonl", {"epoch": 1, "elbo": -math.inf})
    assert read_json_lines(tmp_path / "m.jsonl") == [{"epoch": 1, "elbo": None, "not_finite": {"elbo": "-inf"}}]


# Caches

DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "not the format": lambda content: b"damaged" * 20,
    "zeros": lambda content: bytes(len(content)),
    "header": lambda content: content[:3] + bytes([content[3] ^ 4]) + content[4:],
    "longer": lambda content: content + b"more" * 100,
}


def npz_cache(folder):
    return load_data("mnist-5k").train.fingerprint


def parquet_cache(folder):
    import pandas

    path = folder / "rows.parquet"
    if not path.exists():
        generator = np.random.default_rng(0)
        pandas.DataFrame(generator.normal(size=(50, 3)), columns=list("abc")).to_parquet(path)
    return load_data(str(path), stream=True).train.fingerprint


def sparse_cache(folder):
    import anndata
    import pandas
    import scipy.sparse

    path = folder / "rows.h5ad"
    if not path.exists():
        counts = np.random.default_rng(0).poisson(0.7, (60, 8)).astype(np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pandas.option_context("future.infer_string", False):
                anndata.AnnData(scipy.sparse.csr_matrix(counts)).write_h5ad(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_data(str(path), stream=True).train.fingerprint


CACHES = {"npz": npz_cache, "parquet": parquet_cache, "sparse": sparse_cache}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", CACHES)
def test_a_damaged_cache_is_made_anew(name, damage, tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_VAE_CACHE", str(tmp_path / "cache"))
    load = CACHES[name]
    expected = load(tmp_path)
    made = {path: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    assert made
    for path, content in made.items():
        if damage in ("zeros", "header") and path.suffix in (".indices", ".values"):
            continue  # entries of these sizes are not read before they are used
        path.write_bytes(DAMAGES[damage](content))
        with log_lines() as lines:
            assert load(tmp_path) == expected
        assert path.read_bytes() == content or path.suffix == ".npz"  # which holds the time of writing
        is_harmless = damage in ("longer", "header") or name != "npz"  # or of a key that is not asked for again
        assert any(path.name in line for line in lines) or (path.suffix == ".npz" and is_harmless)
        path.write_bytes(content)


@pytest.mark.parametrize("error", [EOFError(), EOFError("no data left"), SystemExit(3), OSError("odd"), MemoryError()])
def test_no_exception_leaves_without_a_line(error, monkeypatch, capsys):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("pyro_vae.run_folder.read_config", fail)
    assert _run(["info", "nowhere"]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("pyro-vae: ")
    assert said.count("\n") == 0


def test_an_interrupt_is_130_with_a_line(monkeypatch, capsys):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyro_vae.run_folder.read_config", fail)
    assert _run(["info", "nowhere"]) == 130
    assert capsys.readouterr().err.strip() == "pyro-vae: interrupted"


# Disks

WRITTEN = {
    "evaluate": (["evaluate", "RUN", "--json"], "evaluation.json"),
    "compare": (["compare", "RUN", "--out", "NEW", "--json"], "comparison.json"),
    "study": (["study", "em-bounds", "--out", "NEW", "--json"], "table.json"),
}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_found_is_printed_before_a_disk_refuses_it(name, number, run_folder, tmp_path, monkeypatch, capsys):
    words, file = WRITTEN[name]
    replace = Path.replace

    def refuse(self, target):
        if Path(target).name == file:
            raise OSError(number, os.strerror(number))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    places = {"RUN": str(run_folder), "NEW": str(tmp_path / "new")}
    assert _run([places.get(word, word) for word in words]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)
    last = said.err.strip().splitlines()[-1]
    assert f"{file}: not written ({os.strerror(number)}); " in last
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


def test_a_fit_prints_its_scores_on_a_disk_that_is_full_in_the_end(table_csv, tmp_path, monkeypatch, capsys):
    replace = Path.replace

    def refuse(self, target):
        if Path(target).name in ("evaluation.json", "reference.safetensors"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    words = [
        "fit",
        "--data",
        str(table_csv),
        "--epochs",
        "2",
        "--hidden",
        "4",
        "--out",
        str(tmp_path / "run"),
        "--json",
    ]
    assert _run(words) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["split"] == "valid"
    assert "reference.safetensors: not written (No space left on device); free some space" in said.err


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    yield place
    subprocess.run(["umount", place], check=True)


def test_evaluate_on_a_disk_that_is_full(fitted_folder, full_disk, capsys):
    shutil.copytree(fitted_folder, full_disk / "run", ignore=shutil.ignore_patterns("figures"))
    before = (full_disk / "run" / "evaluation.json").read_bytes()
    with pytest.raises(OSError, match="No space"):
        (full_disk / "filler").write_bytes(bytes(2**21))
    assert _run(["evaluate", str(full_disk / "run")]) == 1
    said = capsys.readouterr()
    assert "log p(x)" in said.out
    assert "evaluation.json: not written (No space left on device); free some space" in said.err
    assert (full_disk / "run" / "evaluation.json").read_bytes() == before


def test_evaluate_on_a_disk_that_is_read_only(fitted_folder, full_disk, capsys):
    shutil.copytree(fitted_folder, full_disk / "run", ignore=shutil.ignore_patterns("figures"))
    subprocess.run(["mount", "-o", "remount,ro", full_disk], check=True)
    assert _run(["evaluate", str(full_disk / "run")]) == 1
    said = capsys.readouterr()
    assert "log p(x)" in said.out
    assert "evaluation.json: not written (Read-only file system)" in said.err


# Locales, closed streams, kills


C_LOCALE = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def test_a_utf_8_table_in_the_c_locale(tmp_path):
    rows = "\n".join(f"{i % 7},{(i * i) % 5},{'müde' if i % 2 else 'wäch'}" for i in range(80))
    (tmp_path / "rows.csv").write_text(f"größe,µ,zustand\n{rows}\n", encoding="utf-8")
    words = ["fit", "--data", "rows.csv", "--epochs", 1, "--hidden", 4, "--out", "run"]
    done = command(*words, cwd=tmp_path, env=C_LOCALE)
    assert done.returncode == 0, done.stderr
    shown = command("info", "run", "--json", cwd=tmp_path, env=C_LOCALE)
    assert json.loads(shown.stdout)["about"]["columns"] == list(load_data(str(tmp_path / "rows.csv")).columns)


def test_a_file_whose_name_is_no_text_in_the_locale(table_csv, tmp_path):
    shutil.copy(table_csv, tmp_path / "größe.csv")
    done = command("fit", "--data", "größe.csv", "--epochs", 1, "--out", "run", cwd=tmp_path, env=C_LOCALE)
    assert done.returncode == 2, done.stderr
    assert "is no text in this locale" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["größe.csv"]


REDIRECTIONS = {
    "2>&-": {"closed": ("stderr",)},
    ">&-": {"closed": ("stdout",)},
    "2>&1 | true": {"unread": ("stdout", "stderr")},
    "2>&1 >/dev/null | true": {"unread": ("stderr",)},
}


@pytest.mark.parametrize("redirection", [*REDIRECTIONS, ">&- 2>&-"])
def test_a_fit_goes_on_without_its_streams(redirection, table_csv, tmp_path):
    """As a shell redirects them; the last in a shell, the others by the same calls of the system."""
    words = ["fit", "--data", table_csv, "--epochs", 3, "--hidden", 4, "--out", tmp_path / "run"]
    if redirection in REDIRECTIONS:
        done = Command(*words, **REDIRECTIONS[redirection])
        _, err = done.communicate()
        done.kill()
    else:
        line = f"{sys.executable} -m pyro_vae {' '.join(map(str, words))} {redirection}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=250)
        err = done.stderr
    assert done.returncode == 0, err
    assert len(read_json_lines(tmp_path / "run" / "metrics.jsonl", complete=True)) == 3
    assert read_json(tmp_path / "run" / "evaluation.json")["valid"]["split"] == "valid"


def test_partial_files_of_killed_processes_are_removed_at_the_next_write(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = atomic_write._host()
    names = {
        "dead": f".config.toml.{host}.{dead.pid}.partial",
        "running": f".config.toml.{host}.{os.getppid()}.partial",
        "of another host": f".config.toml.00000000.{dead.pid}.partial",
        "of an earlier version": f".config.toml.{dead.pid}.partial",
        "another file": ".config.toml",
    }
    for name in names.values():
        (tmp_path / name).write_text("half")
    write_atomic(tmp_path / "new", b"whole")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"new", *names.values()} - {names["dead"]}


def kill_at_write(folder, name):
    """Write a config and die while the file is half there."""
    with lock_new_folder(folder, "run"), atomic_path(folder / name) as temporary:
        temporary.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_while_the_config_is_written_leaves_a_folder_for_a_new_fit(table_csv, tmp_path):
    killed = CONTEXT.Process(target=kill_at_write, args=(tmp_path / "run", "config.toml"))
    killed.start()
    killed.join(120)
    assert len(list((tmp_path / "run").glob(".*"))) == 2
    done = fit_run(tmp_path / "run", data=str(table_csv), **SMALL)
    assert done.record.split == "valid"
    assert list((tmp_path / "run").glob(".*")) == []


def test_figures_are_written_whole(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    from pyro_vae.plots.style import save_figure

    save_figure(Figure(), tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    assert is_whole_png(before)

    def half(self, path, **_):
        Path(path).write_bytes(before[:50])
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(KeyboardInterrupt):
        save_figure(Figure(), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_report_draws_a_damaged_figure_again(run_folder):
    from pyro_vae.workflows.report_run import report_run

    path = run_folder / "figures" / "training.png"
    path.write_bytes(path.read_bytes()[:200])
    with log_lines() as lines:
        page = report_run(run_folder, num_rows=5, num_samples=5)
    assert lines == [f"note: {path}: damaged (not a whole PNG); it is drawn again"]
    assert "Learning" in page.read_text("utf-8")
