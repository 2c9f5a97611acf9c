"""`--precision auto` of a run: its choice is in config.toml, and a resumed fit and a repeat keep it."""

import pytest

from pyro_vae.atomic_write import read_json_lines, read_toml
from pyro_vae.cli.main import main
from pyro_vae.inference.svi import choose_precision as choose


def run(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code or 0


@pytest.mark.parametrize(("ratio", "expected"), [(3.0, "bfloat16"), (1.0, "float32")])
def test_the_choice_is_written_and_kept(tmp_path, monkeypatch, capsys, ratio, expected):
    first, again = tmp_path / "first", tmp_path / "again"
    monkeypatch.setattr(choose, "speed_up", lambda run, device: ratio)
    assert run("fit", "--data", "two-moons", "--precision", "auto", "--epochs", 2, "--out", first) == 0
    assert f"--precision auto: the products of layers are taken in {expected}" in capsys.readouterr().err
    assert read_toml(first / "config.toml")["training"]["precision"] == expected
    monkeypatch.setattr(choose, "speed_up", lambda run, device: 4.0 - ratio)
    assert run("fit", "--resume", first) == 0
    assert read_toml(first / "config.toml")["training"]["precision"] == expected
    assert run("fit", "--config", first / "config.toml", "--out", again) == 0
    metrics = [[row["elbo"] for row in read_json_lines(each / "metrics.jsonl")] for each in (first, again)]
    assert metrics[0] == metrics[1]
    assert len(metrics[0]) == 2
