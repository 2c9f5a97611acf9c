"""The whole check: verdicts of programs and rows of every kind, their levels, and the tests of draws beside rows."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_programs import drawn_rows, linear_vae, ppca
from pyro_models import CASES

import pyro_vae as pv
from pyro_vae.data.row_weights import effective_rows
from pyro_vae.diagnostics import checks
from pyro_vae.diagnostics.baseline_densities import fit_baselines
from pyro_vae.diagnostics.checks.check_families import CheckFamilies, CheckTask
from pyro_vae.diagnostics.checks.check_program import representative_rows
from pyro_vae.diagnostics.checks.draws_and_rows import (
    kernel_test,
    memorization_verdict,
    precision_recall,
    squared_distances,
)
from pyro_vae.diagnostics.checks.model_check import FAMILIES
from pyro_vae.diagnostics.checks.predictive_checks import ReplicateTest
from pyro_vae.diagnostics.checks.row_densities import (
    RowDensities,
    baseline_verdict,
    density_verdicts,
    khat_verdict,
    lost_by_lowest,
)
from pyro_vae.diagnostics.checks.row_statistics import Statistic
from pyro_vae.diagnostics.checks.verdicts import Verdict, adjust, with_levels
from pyro_vae.diagnostics.two_sample_test import combine_p_values
from pyro_vae.errors import InputError
from pyro_vae.plots.check_figures import check_figure
from pyro_vae.registry import ModelConfig
from pyro_vae.workflows.build_vae import build_vae
from pyro_vae.workflows.choose_likelihood import choose_likelihood
from pyro_vae.workflows.fit_settings import fit_options

SMALL = pv.diagnostics.CheckSize(num_replicates=40, num_simulations=60, num_draws=19, num_samples=20, num_rows=60)
NAMES = ["columns", "pairs", "classifier", "kernel", "guide", "joint", "coverage", "log p(x)", "lowest rows"]


def verdict(name, p_value, relative=0.0):
    return Verdict(name, name, advice="change it", p_value=p_value, relative=relative)


def test_a_level_is_significance_over_all_verdicts_first_and_size_second():
    found = with_levels(
        [verdict("a", 0.001, 0.5), verdict("b", 0.001, 2.0), verdict("c", 0.04, 9.0), verdict("d", 0.9)]
    )
    assert [each.level for each in found] == ["small", "matters", "none", "none"]
    assert [each.adjusted for each in found] == pytest.approx([0.002, 0.002, 0.04 * 4 / 3, 0.9])
    assert [each.advice for each in found] == ["change it", "change it", "", ""]
    assert with_levels([Verdict("e", "e", "matters")])[0].level == "matters"
    assert adjust([]) == []


def test_combined_p_values_of_one_test_are_its_own():
    assert combine_p_values([0.2]) == pytest.approx(0.2)
    assert combine_p_values([1e-12, 0.9]) == pytest.approx(2e-12, rel=0.01)
    assert 0 < combine_p_values([1.0, 1.0]) <= 1


def test_the_kernel_statistic_is_the_mean_over_pairs():
    g = np.random.default_rng(0)
    first, second = g.normal(size=(15, 3)), g.normal(size=(15, 3)) + 1.0
    points = np.concatenate([first, second])
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    assert squared_distances(points, points) == pytest.approx(distances**2, abs=1e-9)
    width = np.median(distances[np.triu_indices(30, 1)] ** 2)
    kernel = np.exp(-(distances**2) / width / 2)
    off = ~np.eye(15, dtype=bool)
    expected = kernel[:15, :15][off].mean() + kernel[15:, 15:][off].mean() - 2 * kernel[:15, 15:].mean()
    mmd, p_value = kernel_test(first, second, np.random.default_rng(1))
    assert mmd**2 == pytest.approx(expected)
    assert p_value <= 0.01
    assert kernel_test(first, g.normal(size=(15, 3)), np.random.default_rng(1))[1] > 0.05


def test_precision_and_recall_see_what_is_drawn_and_what_is_not():
    g = np.random.default_rng(0)
    two = np.concatenate([g.normal(size=(100, 2)), g.normal(size=(100, 2)) + 20])
    one, far = g.normal(size=(200, 2)), g.normal(size=(200, 2)) - 50
    assert precision_recall(two, one).precision > 0.9
    assert precision_recall(two, one).recall == pytest.approx(0.5, abs=0.1)  # the other half is never drawn
    assert precision_recall(two, far).precision == 0
    assert precision_recall(two, two).recall == 1


def test_copies_of_training_rows_are_memorization_and_new_draws_are_not():
    g = np.random.default_rng(0)
    training, rows, new = (g.normal(size=(200, 3)) for _ in range(3))
    copies = training[g.integers(200, size=300)]
    found = memorization_verdict(copies, rows, training, 0)
    assert found.p_value == pytest.approx(1 / 1000)
    assert "300 of 300 draws equal a training row" in found.effect
    assert found.relative > 1
    assert memorization_verdict(new, rows, training, 0).p_value > 0.05
    few = g.integers(0, 3, size=(700, 1)).astype(float)  # of values that all sets share
    assert memorization_verdict(few[:300], few[300:500], few[500:], 0).p_value > 0.05


def densities(rows, draws, training=None):
    return {each.name: each for each in density_verdicts(RowDensities(rows, draws, training), 0)}


def test_log_px_of_rows_beside_draws_and_training_rows():
    g = np.random.default_rng(0)
    draws, rows = g.normal(-50, 2, 1600), g.normal(-50, 2, 400)
    right = densities(rows, draws, g.normal(-50, 2, 400))
    assert min(each.p_value for each in right.values()) > 0.05
    wrong = densities(rows - 3, draws, draws)
    assert wrong["log p(x)"].p_value < 1e-6
    assert wrong["log p(x)"].statistic == pytest.approx(-3.0, abs=0.3)
    assert wrong["overfitting"].p_value < 1e-6
    assert wrong["overfitting"].relative > 1
    outliers = rows.copy()
    outliers[:4] = -400
    assert densities(outliers, draws)["lowest rows"].p_value <= 0.01
    assert lost_by_lowest(np.asarray([0.0] * 99 + [-100.0])) == pytest.approx(1.0)
    khat = np.full(400, 0.3), np.full(1600, 0.3)
    khat[0][:40] = 0.9
    assert khat_verdict(*khat, 100).p_value < 1e-6


def test_a_baseline_that_is_better_is_found_and_one_that_is_not_is_not():
    g = np.random.default_rng(0)
    base = g.normal(-10, 1, 200)
    assert baseline_verdict("one normal", base - 0.5 + g.normal(0, 1, 200), base).p_value < 1e-6
    assert baseline_verdict("one normal", base + 0.5, base).p_value > 0.99


def test_a_model_that_is_right_has_no_verdict_and_all_say_what_they_saw():
    found = pv.diagnostics.check(ppca(), drawn_rows(300, seed=1), training=drawn_rows(300, seed=2), num_training=0)
    assert {each.level for each in found.verdicts} == {"none"}
    assert [each.name for each in found.verdicts] == [
        "columns", "pairs", "classifier", "kernel", "memorization", "guide", "joint", "coverage", "log p(x)",
        "lowest rows", "overfitting", "aggregate", "latents",
    ]  # fmt: skip
    assert all(each.effect and each.meaning for each in found.verdicts)
    assert "nothing found" in repr(found)
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (values["num_rows"], values["num_replicates"], len(values["verdicts"])) == (300, 400, 13)
    with pytest.raises(InputError, match="no verdict 'x'; there are columns"):
        found["x"]


def test_a_check_is_repeatable_and_leaves_the_generators_alone():
    program, rows, before = linear_vae(), drawn_rows(60), torch.get_rng_state()
    first, second = (pv.diagnostics.check(program, rows, size=SMALL, seed=3) for _ in range(2))
    assert first.to_dict()["verdicts"] == second.to_dict()["verdicts"]
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", CASES)
def test_a_check_of_pyros_models_computes_what_it_can_and_says_why_not(name):
    case = CASES[name]
    found = pv.diagnostics.check(case.build(), case.split, size=SMALL)
    assert found.num_rows >= 10
    for each in found.verdicts:
        assert each.meaning or each.level == "not computed"
        assert each.effect
        assert "Trace Shapes" not in each.effect
    json.dumps(found.to_dict(), allow_nan=False)
    for each in found.verdicts:
        check_figure(each)


def mixed(num_rows=200, gaps=0.0):
    g = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {"a": g.normal(size=num_rows), "b": g.lognormal(size=num_rows), "c": g.poisson(3, num_rows)}
    )
    frame["d"], frame["e"] = g.choice(["x", "y", "z"], num_rows), frame["a"] + g.normal(size=num_rows)
    return frame.mask(g.random(frame.shape) < gaps)


def recipe_of(data):
    likelihood = choose_likelihood(ModelConfig(latent_dim=2), data)
    return build_vae(ModelConfig(latent_dim=2), likelihood, data, 0, data.has_missing)


DATA = {
    "gaps": lambda: pv.load_data(mixed(gaps=0.2)),
    "weights": lambda: pv.load_data(mixed().assign(w=np.arange(200.0)), weights="w"),
    "set aside": lambda: pv.load_data(mixed(400), check_rows=15),
}


@pytest.mark.parametrize("name", DATA)
def test_a_check_of_a_table_names_its_columns_and_levels(name):
    data = DATA[name]()
    found = pv.diagnostics.check(recipe_of(data), data, size=SMALL)
    assert all(each.meaning for each in found.verdicts)  # computed, if perhaps of too few replicates to say
    assert {each.name for each in found.verdicts} > {
        "columns",
        "pairs",
        "baseline: mixture of 5",
        "baseline: independent columns",
        "memorization",
        "latents",
    }
    assert found.num_training == round(effective_rows(data.train.weights) or len(data.train))
    named = " ".join(each.name for each in found["columns"].findings + found["pairs"].findings)
    assert any(f"of {column}" in named or f"in {column}" in named for column in "abce")
    assert found.rows == ("rows set aside for checks" if name == "set aside" else "validation rows")


def test_the_rows_of_a_check():
    data = pv.load_data("digits", check_rows=50)
    assert (len(data.valid), len(data.check), data.check.name) == (130, 50, "check")
    whole = pv.load_data("digits")
    assert data.fingerprint == whole.fingerprint
    found = torch.cat([data.valid.index, data.check.index]).sort().values
    assert torch.equal(found, whole.valid.index.sort().values)
    place = (whole.valid.index == data.check.index[0]).nonzero()[0, 0]
    assert torch.equal(data.check.x[0], whole.valid.x[place])  # the same fixed draw of binary pixels
    assert torch.equal(data.check.with_fields(name="other").x, data.check.x)
    assert torch.equal(data.split("check").x, data.check.x)
    with pytest.raises(InputError, match="there are 180 validation rows, of which some have to choose the epoch"):
        whole.set_aside(180)
    with pytest.raises(InputError, match="no split called 'check'"):
        whole.split("check")


def test_bad_arguments_of_a_check_are_refused():
    program, rows = ppca(), drawn_rows(60)
    for given, message in (
        ({"families": ["column"]}, "no check 'column'; there are columns, pairs"),
        ({"data": rows[:9]}, "a check needs 10 rows or more, got 9"),
        ({"data": drawn_rows(60)[:, :3]}, "have 3 columns, and the program is of rows of 4"),
        ({"size": 1000}, "size"),
        ({"refits": [ppca()]}, "one refit has no variance"),
    ):
        with pytest.raises(InputError, match=message):
            pv.diagnostics.check(program, **{"data": rows, **given})
    with pytest.raises(InputError, match="num_replicates"):
        pv.diagnostics.CheckSize(num_replicates=1)
    data = pv.load_data("digits")
    with pytest.raises(InputError, match="no rows 'all' to check; there are check, valid, test"):
        pv.diagnostics.check(program, data, split="all")


def test_a_time_limit_lowers_the_numbers_of_draws_and_never_raises_them():
    rows = drawn_rows(200)
    quick = pv.diagnostics.check(linear_vae(), rows, families=["columns", "guide"], time_limit=0.2)
    assert (quick.size.num_replicates, quick.size.num_simulations) == (320, 200)
    slow = pv.diagnostics.check(linear_vae(), rows, families=["columns"], time_limit=600.0)
    assert slow.size == pv.diagnostics.CheckSize()


BASELINES = {
    "table of reals": (lambda: pv.load_data(mixed(400)[["a", "e"]]), ["one normal", "mixture of 5 normals"]),
    "few rows": (lambda: pv.load_data(mixed(30)[["a", "e"]]), ["one normal"]),
    "columns of several kinds": (lambda: pv.load_data(mixed(200)), ["independent columns", "mixture of 5"]),
    "bits": (lambda: pv.load_data("digits"), ["independent pixels", "mixture of 10"]),
    "grey levels": (lambda: pv.load_data("digits", binarize="none", dequantize=True), ["PPCA of 20 latents"]),
    "given a column": (lambda: pv.load_data(mixed(200), given=("d",)), ["mixture of 5"]),
}


@pytest.mark.parametrize("name", BASELINES)
def test_the_baselines_of_each_kind_of_data(name):
    load, names = BASELINES[name]
    data = load()
    found = fit_baselines(data)
    assert [each.name for each in found] == names
    scores = [each.score(data.valid) for each in found]
    assert {each.measure for each in scores} == {data.valid.measure_name}
    means = [float(each.log_px.mean()) for each in scores]
    assert all(math.isfinite(mean) for mean in means)
    if name in ("bits", "columns of several kinds"):
        assert means[1] > means[0]  # their columns depend on each other


def test_an_unfitted_program_has_a_prior_predictive_check():
    data = pv.load_data("digits")
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(64, 8, 4))
    vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 64)), guide)
    found = pv.diagnostics.check(vae, data, families=["columns", "pictures"], size=SMALL)
    assert [each.name for each in found.verdicts] == ["columns", "pictures"]
    assert found["pictures"].findings[0].unit in ("of the range", "strokes")
    assert "validation rows, which chose the epoch" in found.notes[0]


def test_every_family_is_computed_by_one_method():
    task = CheckTask(ppca(), pv.data.as_split(drawn_rows(20), "check"), None, 0, (), None, {}, {}, 0)
    families = CheckFamilies(task, SMALL)
    found = {name: families.verdicts(name) for name in FAMILIES}
    without = {name for name, verdicts in found.items() if not verdicts}
    assert without == {"pictures", "statistics", "memorization", "k-hat", "baseline"}
    assert math.isfinite(found["columns"][0].statistic)


def test_options_that_advice_names_exist():
    source = "".join(path.read_text() for path in Path(checks.__file__).parent.glob("*.py"))
    named = set(re.findall(r"--([a-z][a-z-]+)", source))
    known = {name.replace("_", "-") for name in fit_options()} | {"split", "check-rows", "num-replicates", "debug"}
    assert len(named) > 10
    assert named <= known


def test_rows_are_some_in_random_order_and_count_by_their_weights():
    sorted_rows = pv.data.as_split(drawn_rows(2000, seed=4)[drawn_rows(2000, seed=4)[:, 0].argsort()], "check")
    some = representative_rows(sorted_rows, 300, seed=0)
    assert some.shape == (300, 4)
    assert abs(float(some.x[:, 0].mean() - sorted_rows.x[:, 0].mean())) < 0.2
    assert (some.x[:, 0].diff() < 0).any()
    found = pv.diagnostics.check(ppca(), sorted_rows, families=["columns", "densities"], num_training=0)
    assert {each.level for each in found.verdicts} == {"none"}
    weights = torch.arange(2000.0)
    weighted = sorted_rows.with_fields(weights=weights)
    kept = representative_rows(weighted, 2000, seed=0)
    assert kept.weights is None
    assert len(kept) == pytest.approx(1000, abs=80)
    expected = float((sorted_rows.x[:, 0] * weights).sum() / weights.sum())
    assert float(kept.x[:, 0].mean()) == pytest.approx(expected, abs=0.1)
    assert "rows have weights" in pv.diagnostics.check(ppca(), weighted, families=["columns"], size=SMALL).notes[0]


def test_rows_that_count_are_set_aside():
    frame = mixed(400).assign(w=np.where(np.arange(400) % 4 == 0, 1.0, 0.0))
    data = pv.load_data(frame, weights="w", check_rows=5)
    assert (data.check.weights > 0).all()
    with pytest.raises(InputError, match="of which some have to choose the epoch"):
        pv.load_data(frame, weights="w", check_rows=30)


def test_a_statistic_that_is_no_number_of_a_replicate_is_not_computed_and_infinite_draws_are_not_found():
    calls = []

    def sometimes(rows):
        calls.append(rows)
        return math.nan if len(calls) == 20 else float(rows.mean())

    given = {"families": ["statistics"], "statistics": {"sometimes": sometimes}, "size": SMALL}
    found = pv.diagnostics.check(ppca(), drawn_rows(60), **given)["statistics"]
    assert (found.level, found.effect[:34]) == ("not computed", "statistic sometimes is no finite n")
    g = np.random.default_rng(0)
    replicates = g.normal(size=(300, 2))
    replicates[:5, 0], replicates[5, 1] = math.inf, math.nan
    test = ReplicateTest([Statistic("a", 1.0), Statistic("b", 1.0)], g.normal(size=2), replicates)
    assert test.p_value > 0.02
    assert all(math.isfinite(each.model) for each in test.findings())


def test_too_few_replicates_are_said_to_be_too_few():
    others = [verdict(name, 0.5) for name in "bcde"]
    few = replace(verdict("a", 1 / 41, 9.0), smallest_p=1 / 41)
    found = with_levels([few, *others])[0]
    assert (found.level, found.advice) == ("not computed", "")
    assert "--num-replicates 320" in found.effect
    assert with_levels([replace(few, p_value=2 / 41), *others])[0].level == "none"
    assert with_levels([replace(few, p_value=1 / 321, smallest_p=1 / 321), *others])[0].level == "matters"
    rows = drawn_rows(60) * torch.tensor([3.0, 1, 1, 1])
    assert pv.diagnostics.check(ppca(), rows, families=["columns"], size=SMALL)["columns"].smallest_p == 1 / 41


class ByLabel(torch.nn.Module):
    """A prior around 3 or −3, by the label, and the posterior as guide."""

    def model(self, x, labels):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(labels * 6.0 - 3.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 2), 1.0).to_event(1), obs=x)

    def guide(self, x, labels):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal((labels * 6.0 - 3.0 + x.sum(-1)) / 3, (1 / 3) ** 0.5))


def test_labels_of_rows_are_those_of_draws_in_every_check():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2 * torch.ones(200, dtype=torch.long)
    z = labels * 6.0 - 3.0 + torch.randn(200, generator=g)
    rows = pv.Split("check", z[:, None] + torch.randn(200, 2, generator=g), labels=labels)
    size = pv.diagnostics.CheckSize(num_replicates=320, num_simulations=200, num_scored=50)
    found = pv.diagnostics.check(ByLabel(), rows, size=size)
    assert {each.level for each in found.verdicts if each.name != "latents"} == {"none"}
    assert len(found.verdicts) >= 10


def test_an_error_of_a_users_program_costs_its_own_check_alone():
    class Broken(torch.nn.Module):
        def model(self, x):
            return ppca_model.model(x)

        def guide(self, x):
            raise KeyError("nothing here")

    ppca_model = ppca()
    found = pv.diagnostics.check(Broken(), drawn_rows(60), size=SMALL)
    assert found["columns"].level != "not computed"
    assert found["guide"].effect == "the program ended with KeyError: 'nothing here'"


def test_other_fields_keep_the_gaps_of_a_split():
    x = drawn_rows(20)
    observed = torch.rand(20, 4) < 0.5
    split = pv.data.as_split(x, "check").with_mask(observed).with_fields(name="other")
    assert torch.equal(split.mask, observed)
    data = pv.load_data(mixed(400, gaps=0.3), check_rows=15)
    assert data.check.mask is not None


def test_draws_have_the_gaps_and_inputs_of_the_rows_that_they_are_beside():
    observed = torch.rand(20, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    rows = pv.Split("check", drawn_rows(20), labels=torch.arange(20)).with_mask(observed)
    found = rows.with_draw(drawn_rows(20, seed=3))
    assert torch.equal(found.x, torch.where(observed, drawn_rows(20, seed=3), 0.0))
    assert torch.equal(found.mask, observed)
    assert torch.equal(found.labels, rows.labels)
    assert pv.Split("check", drawn_rows(5)).with_draw(drawn_rows(5, seed=1)).mask is None


def test_gaps_in_rows_that_are_set_aside_are_gaps_of_the_data():
    whole = pv.load_data(mixed(400))
    stored = whole.valid.stored.clone()
    aside = whole.set_aside(15).check.index
    stored[torch.isin(whole.valid.index, aside), 0] = math.nan
    data = replace(whole, valid=replace(whole.valid, stored=stored)).set_aside(15)
    assert data.has_missing
    assert not data.check.mask[:, 0].any()
    assert data.valid.mask is None or data.valid.mask.all()


def test_latents_are_told_of_where_the_columns_that_they_move_are_not_known(monkeypatch):
    """The reason is said by the verdict itself: the calibration of the guide may not be among the checks."""

    def fail(*_):
        raise ValueError("no draws")

    monkeypatch.setattr("pyro_vae.diagnostics.checks.check_families.moved_columns", fail)
    found = pv.diagnostics.check(linear_vae(), drawn_rows(60), families=["latents"], size=SMALL)["latents"]
    assert found.effect
    assert found.meaning.endswith("Which columns each moves is not known: no draws")
