"""Runs of p(x | conditions), verb by verb: what is drawn, scored and written, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pandas
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli.fit import fit
from pyro_vae.cli.main import main
from pyro_vae.cli.option_types import settings_with_config
from pyro_vae.diagnostics.baseline_densities import fit_table_density
from pyro_vae.workflows.build_vae import build_vae
from pyro_vae.workflows.choose_likelihood import choose_likelihood, load_dataset
from pyro_vae.workflows.compare_models import compare_models
from pyro_vae.workflows.conditions_file import some_conditions
from pyro_vae.workflows.evaluate_run import evaluate_run
from pyro_vae.workflows.export_rows import reconstruct_run, sample_run
from pyro_vae.workflows.fit_run import fit_run
from pyro_vae.workflows.fit_settings import FitSettings
from pyro_vae.workflows.report_run import report_run

N, COLUMNS = 120, ["name", "segment", "height", "age", "orders", "country"]
SMALL = {"epochs": 2, "hidden": (8,), "latent_dim": 2, "seed": 0}
GIVEN = "given segment, age"


@pytest.fixture(scope="module")
def frame():
    g = np.random.default_rng(0)
    segment = g.choice(["Retail", "Public"], N, p=[0.75, 0.25])
    frame = pandas.DataFrame(
        {
            "name": [f"row {i}" for i in range(N)],
            "segment": segment,
            "height": (g.normal(size=N) + 3 * (segment == "Public")).round(2),
            "age": g.integers(18, 80, N).astype(float),
            "orders": g.poisson(3, N),
            "country": "NL",  # the same in all rows
        }
    )
    frame.loc[::9, "age"] = np.nan
    frame.loc[::11, "height"] = np.nan
    return frame


@pytest.fixture(scope="module")
def done(tmp_path_factory, frame):
    folder = tmp_path_factory.mktemp("conditional")
    frame.to_csv(folder / "rows.csv", index=False)
    return fit_run(folder / "run", data=str(folder / "rows.csv"), given=("segment,age",), **SMALL)


@pytest.fixture(scope="module")
def run(done):
    return pv.open_run(done.folder)


def test_a_fit_says_what_is_given_and_has_a_baseline_of_the_same_measure(done):
    assert isinstance(done.program, pv.ConditionalVAE)
    assert done.data.num_features == 2
    assert GIVEN in done.record.measure
    assert done.baseline.name == "mixture of 5"
    assert np.isfinite(done.baseline.gain)
    assert {path.stem for path in done.figures} >= {"samples", "reconstructions", "latents"}


def test_rows_are_drawn_at_the_conditions_that_are_given(run):
    drawn = run.sample(20, seed=0, given={"segment": "Public", "age": 40})
    assert list(drawn.columns) == COLUMNS[1:]
    assert set(drawn["segment"]) == {"Public"}
    assert set(drawn["age"]) == {40.0}
    assert drawn["orders"].dtype.kind == "i"
    pandas.testing.assert_frame_equal(drawn, run.sample(20, seed=0, given={"segment": "Public", "age": "40"}))
    assert run.sample(2, seed=0, given={"segment": "Public", "age": None})["age"].isna().all()


def test_without_conditions_rows_have_those_of_training_rows(run, done, frame):
    drawn = run.sample(2000, seed=0)
    pairs = set(zip(frame["segment"], frame["age"].fillna(-1), strict=True))
    assert set(zip(drawn["segment"], drawn["age"].fillna(-1), strict=True)) <= pairs
    train = frame.iloc[done.data.train.index.numpy()]
    share = (train["segment"] == "Public").mean()
    error = np.sqrt(share * (1 - share) / len(drawn))
    assert abs((drawn["segment"] == "Public").mean() - share) < 4 * error


def test_conditions_are_kept_by_the_weights_of_rows():
    given = torch.tensor([[0.0], [1.0], [2.0]]).repeat(20, 1)
    train = pv.Split("train", torch.zeros(60, 2), inputs={"given": given})
    assert torch.equal(some_conditions(train).sort(0).values, given.sort(0).values)
    weighted = replace(train, weights=torch.tensor([1.0, 3.0, 0.0]).repeat(20))
    kept = some_conditions(weighted)
    assert len(kept) == 10_000
    assert kept.max() == 1
    assert abs(float(kept.mean()) - 0.75) < 4 * (0.25 * 0.75 / 10_000) ** 0.5


def test_every_verb_reads_the_conditions_of_new_rows(run, done, frame, tmp_path):
    new = frame.head(12)
    assert list(run.encode(new).columns) == ["name", "index", "z1", "z2"]
    again = run.reconstruct(new)
    assert list(again.columns) == ["name", "index", *COLUMNS[1:]]
    pandas.testing.assert_series_equal(again["segment"], new["segment"])
    pandas.testing.assert_series_equal(again["age"], new["age"])
    scores = run.score(new)
    others = run.score(new.assign(segment=new["segment"].map({"Retail": "Public", "Public": "Retail"})))
    assert (scores["log_px"] != others["log_px"]).all()
    filled = run.impute(new)
    assert list(filled.columns) == COLUMNS
    assert filled["height"].notna().all()
    pandas.testing.assert_series_equal(filled["age"], new["age"])  # a gap in a condition stays one
    own = run.impute()
    assert own["height"].notna().all()
    assert list(own.columns[-5:]) == COLUMNS[1:]
    name, record = evaluate_run(done.folder, split="valid")
    assert name == "valid"
    assert record.log_px == pytest.approx(done.record.log_px, abs=0.05)
    path = reconstruct_run(done.folder, out=tmp_path / "again.csv").path
    assert list(pandas.read_csv(path).columns) == ["name", "index", *COLUMNS[1:]]
    page = report_run(done.folder, out=tmp_path / "page.html", num_rows=10, num_samples=25).read_text(encoding="utf-8")
    assert "The model is conditional: points are decoded at the conditions named with each point" in page
    assert "the mean of all rows; segment = Retail, age = " in page
    assert "log p(x | segment, age)" in page


def test_new_rows_without_a_condition_are_refused(run, frame):
    with pytest.raises(pv.InputError, match="no column age; this run was fitted to"):
        run.score(frame.drop(columns="age"))
    with pytest.raises(pv.InputError, match="segment is missing in row 2"):
        run.score(frame.head(4).assign(segment=["Retail", "Public", None, "Retail"]))


@pytest.mark.usefixtures("without_figures")
def test_a_run_with_conditions_is_ranked_with_no_other(done, run, tmp_path):
    data = done.data.name
    plain = fit_run(tmp_path / "plain", data=data, drop=("segment", "age"), **SMALL)
    with pytest.raises(pv.InputError, match="another measure"):
        compare_models([done.folder, plain.folder], out=tmp_path / "table")
    with pytest.raises(pv.InputError, match=r"gaussian-mixture:2: these rows have conditions"):
        compare_models([done.folder], models=("gaussian-mixture:2",), out=tmp_path / "table")
    found = pv.auto_evidence(done.program, done.data.valid, 25)
    others = pv.auto_evidence(plain.program, plain.data.valid, 25)
    with pytest.raises(pv.InputError, match="against different measures cannot be ranked"):
        pv.compare_evidence({"given y": found, "plain": others})


def test_a_baseline_given_y_is_a_density_of_x():
    g = np.random.default_rng(2)
    y = g.choice(["a", "b"], 300)
    frame = pandas.DataFrame({"x": g.normal(size=300) + 4 * (y == "b"), "y": y})
    data = pv.load_data(frame, given="y")
    grid = np.linspace(-8, 12, 400)
    for level in ("a", "b"):
        rows = data.prepare(pandas.DataFrame({"x": grid, "y": level}))
        found = fit_table_density(data).score(rows)
        assert found.measure == rows.measure_name == "Lebesgue measure on R^1 (original units), given y"
        assert found.log_px.exp().sum() * (grid[1] - grid[0]) == pytest.approx(1.0, abs=1e-3)
        mean = (found.log_px.exp() * torch.from_numpy(grid)).sum() * (grid[1] - grid[0])
        assert mean == pytest.approx(frame["x"][frame["y"] == level].mean(), abs=0.3)


def test_the_label_of_pictures_is_given(tmp_path):
    x = (np.random.default_rng(0).random((60, 3, 3)) * 255).astype(np.uint8)
    np.savez(tmp_path / "rows.npz", x=x, label=np.arange(60) % 3)
    run = fit_run(tmp_path / "run", data=str(tmp_path / "rows.npz"), given=("label",), **SMALL)
    drawn = pv.open_run(run.folder).sample(3, seed=0, given={"label": 2})
    assert drawn["label"].tolist() == [2, 2, 2]
    assert drawn.shape == (3, 10)
    written = sample_run(run.folder, 5, given=("label=1",), out=tmp_path / "s.npy")
    assert np.load(written.path).shape == (5, 9)
    with pytest.raises(pv.InputError, match="--semi-supervised infers labels, and --given takes columns as known"):
        fit_run(tmp_path / "semi", data=str(tmp_path / "rows.npz"), given=("label",), semi_supervised=True, **SMALL)
    assert not (tmp_path / "semi").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"likelihood": "normal"},  # coded one-hot
        {"likelihood": "normal", "prior": "vamp", "pseudo_inputs": 5},
        {"guide": "flow"},
        {"drop": ("height",), "likelihood": "negative-binomial"},  # an encoder of log(1 + x)
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_other_parts_take_conditions(done, options, tmp_path):
    settings = FitSettings.from_options({"data": done.data.name, "given": ("segment,age",), **SMALL, **options})
    data = load_dataset(settings.data, settings.model.likelihood)
    likelihood = choose_likelihood(settings.model, data)
    vae = build_vae(settings.model, likelihood, data, 0, data.has_missing)
    pv.fit(vae, data, epochs=1)
    pv.save(vae, tmp_path / "run")
    found = pv.log_evidence(pv.load(tmp_path / "run"), data.valid, 25)
    assert found.log_px.isfinite().all()
    assert GIVEN in found.measure


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--given", "segment=Foo", "--given", "age=3"], "segment cannot be 'Foo'; give one of Public, Retail"),
        (["--given", "segment=Retail"], "age is not given; the conditions of this run are segment, age"),
        (["--given", "orders=3"], "orders is modelled, and not a condition"),
        (["--given", "segment"], "--given segment: expected NAME=VALUE"),
    ],
)
def test_the_command_says_what_cannot_be_given(done, words, message, capsys, tmp_path):
    out = tmp_path / "drawn.csv"
    with pytest.raises(SystemExit) as exit:
        main(["sample", str(done.folder), "--out", str(out), *words])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_config_file_names_columns_as_one_text_or_a_list():
    for value in ("segment,age", ("segment,age",)):
        with fit.make_context("fit", []) as context:
            assert settings_with_config(context, {"given": value}, "my.toml") == {"given": ("segment,age",)}


def test_the_command_draws_at_conditions(done, capsys, tmp_path):
    out = tmp_path / "drawn.csv"
    words = ["--num", "3", "--given", "segment=Public", "--given", "age=", "--json"]
    with pytest.raises(SystemExit) as exit:
        main(["sample", str(done.folder), "--out", str(out), *words])
    assert exit.value.code == 0
    assert json.loads(capsys.readouterr().out)["num_columns"] == 5
    drawn = pandas.read_csv(out)
    assert drawn["segment"].tolist() == ["Public"] * 3
    assert drawn["age"].isna().all()
