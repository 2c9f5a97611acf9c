"""A short run of scripts/torture.py: kills at writes, extreme numbers, and what it says of them."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
import torture

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the script needs fork")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return torture.Torture(tmp_path_factory.mktemp("torture"), seed=0)


def test_a_fit_that_is_killed_at_a_write_is_resumed_to_the_same_run(cases, tmp_path):
    run = tmp_path / "run"
    assert torture.run_command([*cases.fit, "--out", str(run)], torture.kill_at_write(5, "half")) == -9
    assert any(path.suffix == ".partial" for path in run.rglob("*"))
    assert cases.resume(run) == 0
    assert torture.differences(cases.expected, torture.contents(run)) == []


def test_a_case_is_run_once_and_summarized(cases):
    calls = []

    def found(place, chance):
        calls.append(place)
        return {"code": 0, "where": ["0.50 s: -9"], "differ": []}

    for _ in range(2):
        assert cases.case("kill-000", found)["code"] == 0
    assert len(calls) == 1
    first, second = torture.summary(cases.folder)
    assert "1 fits" in first
    assert "After `fit --resume` 1 of 1 had the weights" in second


def test_files_that_differ_are_named(cases):
    other = dict(cases.expected) | {"model.safetensors": b"", "left": b""}
    assert torture.differences(cases.expected, other) == ["left", "model.safetensors"]


def test_the_page_has_the_place_that_the_script_writes_to():
    page = torture.PAGE.read_text("utf-8")
    assert page.index(torture.BEGIN) < page.index(torture.END)
