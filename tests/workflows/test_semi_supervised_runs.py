"""Runs of `fit --semi-supervised`: what each command makes of labels that are partly missing."""

import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pandas
import pytest
import torch

import pyro_vae as pv
from pyro_vae.cli.main import main
from pyro_vae.models import SemiSupervisedVAE
from pyro_vae.registry import ModelConfig
from pyro_vae.workflows.build_vae import build_vae
from pyro_vae.workflows.choose_likelihood import choose_likelihood
from pyro_vae.workflows.class_labels import accuracy, describe_labels, num_classes, training_labels
from pyro_vae.workflows.fit_run import fit_run

SMALL = {"epochs": 2, "hidden": (8,), "latent_dim": 2}
LEVELS = ["blue", "green", "red"]


def table(num_rows=150, gaps=True) -> pandas.DataFrame:
    """Rows whose kind shows in them, 80 % of the kinds missing; counts, levels and cells without a value."""
    rng = np.random.default_rng(0)
    kind = np.arange(num_rows) % 3
    frame = pandas.DataFrame(
        {
            "length": 3.0 * (kind == 0) + rng.normal(size=num_rows),
            "width": 3.0 * (kind == 1) + rng.normal(size=num_rows),
            "number": rng.poisson(2 + 6 * (kind == 2)),
            "shape": np.where(rng.random(num_rows) < 0.3 + 0.4 * (kind == 2), "round", "flat"),
            "kind": np.array(LEVELS, dtype=object)[kind],
        }
    )
    if gaps:
        frame.loc[rng.random(num_rows) < 0.7, "kind"] = None
        frame.loc[rng.random(num_rows) < 0.1, "length"] = np.nan
    return frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    table().to_csv(folder / "rows.csv", index=False)
    lines: list[str] = []
    how = {**SMALL, "epochs": 15, "learning_rate": 0.05, "semi_supervised": True, "batch_size": 30}
    fit_run(folder / "run", data=str(folder / "rows.csv"), label="kind", log=lines.append, **how)
    (folder / "log").write_text("\n".join(lines), encoding="utf-8")
    return folder


def run(words) -> object:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as done:
        main(words)
    return done.value.code


def test_the_fit_says_what_is_known_and_records_the_accuracy(folder):
    log = (folder / "log").read_text(encoding="utf-8")
    train = pv.open_run(folder / "run").data().train
    known = int((train.labels >= 0).sum())
    assert f"semi-supervised: 3 classes, {known} of 120 training labels known; the others are summed out" in log
    assert f"α = {120 / known:.3g}" in log
    record = json.loads((folder / "run" / "evaluation.json").read_text(encoding="utf-8"))["valid"]
    assert record["accuracy"] > 0.4
    assert record["elbo"] < record["log_px"]
    metrics = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert set(json.loads(metrics[-1])["valid_kl_apart"]) == {"y", "z"}


def test_the_score_of_a_row_is_the_sum_over_its_classes(folder):
    run = pv.open_run(folder / "run")
    program, test = run.program(), run.data().test
    assert isinstance(program, SemiSupervisedVAE)
    found = pv.log_evidence(program, test, 500)
    conditional = pv.ConditionalVAE(program.prior, program.likelihood, program.posterior, 3).eval()
    each = [
        pv.log_evidence(conditional, replace(test, labels=torch.full((len(test),), c)), 500).log_px for c in range(3)
    ]
    expected = torch.logsumexp(torch.stack(each, -1) + program.log_class_probs, -1)
    assert (found.log_px - expected).abs().max() < 0.2
    assert abs(float((found.log_px - expected).mean())) < 0.03


def test_rows_come_back_with_predicted_labels(folder):
    run = pv.open_run(folder / "run")
    found = run.encode(table(30, gaps=False).drop(columns="kind"))
    probs = found[[f"probability_{level}" for level in LEVELS]]
    assert list(found.columns) == ["index", "z1", "z2", "predicted_kind", *probs.columns]
    np.testing.assert_allclose(probs.to_numpy().sum(1), 1, rtol=1e-5)
    assert found["predicted_kind"].tolist() == [LEVELS[i] for i in probs.to_numpy().argmax(1)]
    assert (found["predicted_kind"] == table(30, gaps=False)["kind"]).mean() > 0.6


@pytest.mark.parametrize(
    "command", ["evaluate", "encode", "score", "sample", "reconstruct", "impute", "report", "info"]
)
def test_each_command_runs(folder, command, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    few = {"evaluate": ["--num-samples", "50"], "sample": ["--num", "5"], "report": ["--num-samples", "30"]}
    assert run([command, str(folder / "run"), *few.get(command, [])]) == 0
    if command == "evaluate":
        assert "accuracy" in capsys.readouterr().out
    if command == "impute":
        filled = pandas.read_csv(folder / "run" / "imputed.csv")
        assert filled["length"].notna().all()


def test_a_run_repeats_the_labels_that_it_saw():
    data = pv.load_data("digits")
    config = ModelConfig(semi_supervised=True, labelled_share=0.05)
    seen = training_labels(config, data, 3)
    assert int((seen >= 0).sum()) == round(0.05 * len(data.train))
    assert torch.equal(seen[seen >= 0], data.train.labels[seen >= 0])
    assert torch.equal(seen, training_labels(config, data, 3))
    assert not torch.equal(seen, training_labels(config, data, 4))
    assert training_labels(ModelConfig(), data, 3) is None


def test_an_interrupted_fit_resumes_with_the_same_bits(tmp_path):
    data, config = pv.load_data("digits"), ModelConfig(semi_supervised=True, options={"hidden": (8,)})
    rows, found = data.train.head(60), []

    def stop(history):
        if len(history) == 2:
            raise KeyboardInterrupt

    for folder, on_epochs in ((None, [None]), (tmp_path, [stop, None])):
        vae = build_vae(config, choose_likelihood(config, data), data, 0)
        for on_epoch in on_epochs:
            with suppress(KeyboardInterrupt):
                fitted = pv.fit(vae, rows, epochs=3, checkpoint=folder, on_epoch=on_epoch, seed=0)
        found.append(fitted.history[-1].elbo)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("settings", "likelihood"),
    [
        ({"data": "digits"}, "bernoulli"),
        ({"data": "digits", "network": "conv", "hidden": (4, 8)}, "bernoulli"),
        ({"data": "digits", "binarize": "none"}, "continuous-bernoulli"),
        ({"data": "digits", "dequantize": True, "binarize": "none"}, "normal"),
        ({"data": "digits", "binarize": "none"}, "discretized-logistic"),
        ({"data": "digits", "prior": "vamp"}, "bernoulli"),
        ({"data": "digits", "guide": "flow"}, "bernoulli"),
        ({"data": "digits", "guide": "iaf"}, "bernoulli"),
        ({"data": "digits", "guide": "mixture"}, "bernoulli"),
        ({"data": "table"}, "normal"),
        ({"data": "gaps"}, "student-t"),
        ({"data": "table"}, "multivariate-normal"),
    ],
    ids=lambda value: str(value),
)
def test_parts_take_the_label(settings, likelihood):
    """The objective of two steps, and log p(x), of each likelihood, network, prior and guide."""
    settings = dict(settings)
    known = {name: settings.pop(name) for name in ("data", "binarize", "dequantize") if name in settings}
    name = known.pop("data")
    numbers = table(150, gaps=name == "gaps")[["length", "width", "kind"]]
    data = pv.load_data(name, **known) if name == "digits" else pv.load_data(numbers, label="kind")
    hidden = settings.pop("hidden", (8,))
    config = ModelConfig(semi_supervised=True, likelihood=likelihood, options={"hidden": hidden}, **settings)
    program = build_vae(config, choose_likelihood(config, data), data, 0, data.has_missing)
    labels = torch.where(torch.arange(len(data.train)) < 60, data.train.labels, -1)[:100]
    fitted = pv.fit(program, data.train.head(100), labels=labels, epochs=1, batch_size=50, valid=data.valid.head(20))
    assert np.isfinite(fitted.history[0].valid_elbo)
    assert pv.log_evidence(program, data.test.head(5), 10).log_px.isfinite().all()
    assert 0 <= accuracy(program, data.test) <= 1


REFUSED = {
    "no label": (["--data", "rows.csv", "--drop", "kind"], "needs labels, and these rows have none: name their column"),
    "one class": (["--data", "one.csv", "--label", "kind"], "labels of two classes or more"),
    "no --semi-supervised": (["--data", "rows.csv", "--labelled-share", "0.5"], "belongs to --semi-supervised"),
    "few": (["--data", "rows.csv", "--label", "kind", "--labelled-share", "0.001"], "take a larger share"),
    "share": (["--data", "rows.csv", "--label", "kind", "--labelled-share", "0"], "labelled"),
    "years": (["--data", "years.csv", "--label", "year"], "write the classes as text"),
    "iwae": (["--data", "rows.csv", "--label", "kind", "--loss", "iwae"], "--semi-supervised sums the label out"),
    "free bits": (
        ["--data", "rows.csv", "--label", "kind", "--free-bits", "1"],
        "--semi-supervised sums the label out",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = table(40)
    rows.to_csv("rows.csv", index=False)
    rows.assign(kind="red").to_csv("one.csv", index=False)
    rows.assign(year=1990 + np.arange(40) % 30).to_csv("years.csv", index=False)
    words, message = REFUSED[case]
    flag = [] if case == "no --semi-supervised" else ["--semi-supervised"]
    assert run(["fit", *words, *flag, "--epochs", "1", "--out", "run"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_classes_are_those_of_all_rows_and_of_training_rows_two_or_more():
    data = pv.load_data("digits")
    assert num_classes(data) == 10
    assert num_classes(replace(data, valid=replace(data.valid, labels=data.valid.labels + 3))) == 13


def test_without_a_missing_label_it_is_a_supervised_fit():
    said = describe_labels(torch.arange(30) % 3, ModelConfig(semi_supervised=True), 3)
    assert "30 of 30 training labels known: no label is missing, a supervised fit" in said
    assert "α = 1 in" in said


def test_weights_of_rows_count_in_the_elbo():
    """A row of weight two is two rows."""
    x, labels = torch.randn(12, 5), torch.tensor([0, 1, 2, -1] * 3)
    twice = pv.Split("train", torch.cat([x, x[:4]]), labels=torch.cat([labels, labels[:4]]))
    weighted = pv.Split("train", x, labels=labels, weights=torch.tensor([2.0] * 4 + [1.0] * 8))
    found = []
    for split in (twice, weighted):
        torch.manual_seed(0)
        vae = SemiSupervisedVAE(
            pv.priors.StandardNormal(2),
            pv.likelihoods.Normal(pv.nets.mlp(5, 6, 5)),
            pv.guides.MeanFieldNormal(pv.nets.mlp(8, 6, 4)),
            pv.guides.CategoricalGuide(pv.nets.mlp(5, 6, 3)),
            3,
        )
        vae.init_from_labels = lambda labels: None  # shares are of rows, which differ
        fitted = pv.fit(vae, split, epochs=1, learning_rate=1e-9, batch_size=len(split), valid=split, num_particles=100)
        found.append(fitted.history[0].elbo)
    assert found[0] == pytest.approx(found[1], abs=0.3)
