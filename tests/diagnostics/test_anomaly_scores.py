"""Scores, comparisons, two-sample tests, NUTS and ArviZ's container: what the evidence is used for."""

import math
from dataclasses import replace

import example_programs
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import LinearGaussian

import pyro_vae as pv
from pyro_vae.data import Measure, Split
from pyro_vae.programs.sample_rows import sample


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_percentiles_and_conformal_p_values_by_counting(double):
    program = LinearGaussian(2, 4, inflate=1.0)
    x, reference = program.rows(50, seed=3), program.rows(99, seed=4)
    found = pv.score(program, x, reference, false_alarms=0.1, num_samples=30, prior_share=0.0)
    mine, others = program.exact(x), program.exact(reference)
    lower = torch.tensor([(others < value).sum().item() for value in mine])
    torch.testing.assert_close(found.percentile, 100.0 * lower / 99)
    torch.testing.assert_close(found.p_value, (1.0 + lower) / 100)
    assert torch.equal(found.anomaly, mine < others.sort().values[9])  # nine of 99 and itself: ten in a hundred
    assert found.threshold == pytest.approx(others.sort().values[9].item(), abs=1e-9)
    assert 0 < found.anomaly.sum() < 50


def test_usual_rows_are_flagged_no_more_often_than_asked(double):
    """4,000 rows from where 400 reference rows come from, 5 % of false alarms asked; an own error of 1.1 %."""
    program = LinearGaussian(2, 6, inflate=1.1)
    scores = pv.score(program, program.rows(4000, seed=5), program.rows(400, seed=6), num_samples=50)
    assert scores.anomaly.double().mean().item() == pytest.approx(0.05, abs=0.03)


def test_high_density_is_not_typicality(double):
    """At the mode of a normal in 200 dimensions no row ever lies, and its density is the highest: it is not flagged."""
    program = LinearGaussian(2, 200)
    centre = program.marginal().mean[None]
    scores = pv.score(program, centre, program.rows(200))
    assert scores.percentile.item() == 100
    assert not scores.anomaly.any()


def test_scores_ask_for_enough_rows_of_one_measure(tiny_vae):
    vae, x = tiny_vae
    with pytest.raises(pv.InputError, match=r"10 reference rows cannot tell one in 20: .* 0\.05 needs 19 or more"):
        pv.score(vae, x, x[:10], false_alarms=0.05)
    few = pv.score(vae, x, x[:10])  # the smallest rate that so few can tell
    assert few.false_alarms == pytest.approx(1 / 11)
    assert (few.percentile[few.anomaly] == 0).all()
    with pytest.raises(pv.InputError, match="between 0 and 1, got 0"):
        pv.score(vae, x, x, false_alarms=0.0)
    reference = replace(pv.log_evidence(vae, x, 30), measure="counts")
    with pytest.raises(pv.InputError, match=r"these rows are measured by .*, the reference rows by counts"):
        pv.score(vae, Split("test", x, Measure()), reference)


def test_a_comparison_is_paired(double):
    """Two guides of one model: the difference has a far smaller error than either mean."""
    good, poor = LinearGaussian(3, 10, inflate=1.05), LinearGaussian(3, 10, inflate=4.0)
    x = good.rows(100)
    found = {
        "poor": pv.log_evidence(poor, x, 30),
        "good": pv.log_evidence(good, x, 30),
        "exact": pv.exact_evidence(good, x),
    }
    table = pv.compare_evidence(found)
    assert {row["name"] for row in table[:2]} == {"exact", "good"}
    assert table[2]["name"] == "poor"
    best = found[table[0]["name"]]
    assert table[2]["behind"] == pytest.approx(float((best.log_px - found["poor"].log_px).mean()))
    apart = best.log_px - found["poor"].log_px
    assert table[2]["behind_se"] == pytest.approx(float(apart.std() / 10))
    assert table[2]["behind_se"] < 0.3 * table[2]["log_px_se"]
    assert (table[0]["behind"], table[0]["behind_se"], table[0]["behind_mc_se"]) == (0.0, 0.0, 0.0)


def test_comparisons_of_different_things_are_refused(tiny_vae):
    vae, x = tiny_vae
    one = pv.log_evidence(vae, x, 10)
    with pytest.raises(pv.InputError, match="two or more, got 1"):
        pv.compare_evidence({"one": one})
    with pytest.raises(pv.InputError, match="a has 60, b has 5"):
        pv.compare_evidence({"a": one, "b": pv.log_evidence(vae, x[:5], 10)})
    normal = LinearGaussian(1, 2)
    real = pv.log_evidence(normal, Split("test", torch.randn(60, 2), Measure(scale=(2.0,) * 2, shift=(0.0,) * 2)), 10)
    with pytest.raises(pv.InputError, match="different measures cannot be ranked"):
        pv.compare_evidence({"a": one, "b": real})


def test_two_samples_of_one_distribution_are_not_told_apart_and_others_are(double):
    program = LinearGaussian(2, 5)
    same = pv.diagnostics.two_sample(program, program.rows(500, seed=8))
    assert same.p_value > 0.01
    assert same.accuracy == pytest.approx(0.5, abs=0.06)
    shifted = pv.diagnostics.two_sample(program, program.rows(500, seed=8) + 0.7)
    assert shifted.p_value < 1e-4
    assert shifted.auc > 0.6
    assert len(shifted.real_score) == len(shifted.drawn_score) == 500
    with pytest.raises(pv.InputError, match="20 rows or more, got 5"):
        pv.diagnostics.two_sample(program, program.rows(5))


def test_rows_that_were_drawn_take_the_place_of_a_program(double):
    program = LinearGaussian(2, 5)
    rows = program.rows(60, seed=8)
    drawn = sample(program, 60, num_features=5, seed=0)
    found = pv.diagnostics.two_sample(torch.cat([drawn, drawn + 9]), rows)
    assert found.auc == pv.diagnostics.two_sample(program, rows).auc
    with pytest.raises(pv.InputError, match="expected 60 drawn rows of 5 columns or more rows"):
        pv.diagnostics.two_sample(drawn[:59], rows)


def test_nuts_finds_the_exact_posterior(double):
    program = LinearGaussian(3, 8, sites=1, inflate=2.0)
    x = program.rows(2)
    found = pv.nuts(program, x, 120, warmup=60, num_chains=2)  # errors: 0.065 of a mean, 0.046 of a deviation
    assert found.names == ("z[0]", "z[1]", "z[2]")
    assert found.rhat.max() < 1.05
    draws = found.draws.flatten(0, 1)
    spread = program.posterior_cov.diagonal().sqrt()
    assert ((draws.mean(0) - program.posterior_mean(x)) / spread).abs().max() < 0.2
    assert (draws.std(0) / spread - 1).abs().max() < 0.15
    assert (found.guide.std(0) / spread - math.sqrt(2)).abs().max() < 0.2


def test_nuts_gives_constrained_latents_in_their_own_units():
    def model(x):
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", dist.Gamma(3.0, 2.0))
            pyro.sample("x", dist.Normal(torch.zeros(1), s[..., None].rsqrt()).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("s", dist.Gamma(3.5, 2 + x[:, 0] ** 2 / 2))

    found = pv.nuts(pv.Program(model, guide), torch.tensor([[1.0], [3.0]]), 120, warmup=60, num_chains=2)
    exact = torch.tensor([3.5 / 2.5, 3.5 / 6.5])  # 240 draws: an error of 3.5 %
    torch.testing.assert_close(found.draws.mean((0, 1))[:, 0], exact, rtol=0.12, atol=0)
    with pytest.raises(pv.InputError, match="64 at most; got 65"):
        pv.nuts(pv.Program(model, guide), torch.zeros(65, 1))


def test_container_holds_what_the_traces_say(tmp_path):
    import xarray

    program, x = example_programs.Hierarchical(), (torch.rand(7, 6) < 0.5).float()
    columns = [f"pixel {i}" for i in range(6)]
    held = pv.to_inference_data(program, x, 300, columns=columns, path=tmp_path / "run.nc", seed=4)
    groups = {
        "posterior",
        "posterior_predictive",
        "log_likelihood",
        "sample_stats",
        "prior",
        "prior_predictive",
        "observed_data",
    }
    assert groups <= set(held.groups())
    assert dict(held["posterior"]["z1"].sizes) == {"chain": 1, "draw": 300, "row": 7, "z1_dim": 3}
    assert np.array_equal(held["observed_data"]["x"].values, x.numpy())
    assert list(held["observed_data"]["x"].coords["feature"].values) == columns
    log_weight = held["sample_stats"]["log_weight"].values[0]
    sampled = pv.log_evidence(program, x, 20_000)
    log_px = np.logaddexp.reduce(log_weight, 0) - math.log(300)
    assert abs((log_px - sampled.log_px.numpy()).mean()) < 0.15
    z1 = torch.from_numpy(held["posterior"]["z1"].values[0])
    with torch.no_grad():
        by_hand = dist.Bernoulli(logits=program.decoder(z1)).to_event(1).log_prob(x)
    np.testing.assert_allclose(held["log_likelihood"]["x"].values[0], by_hand.numpy(), rtol=1e-4)
    assert held["sample_stats"]["khat"].sizes == {"row": 7}
    assert held["prior"]["z2"].values.std() == pytest.approx(1.0, abs=0.05)
    back = xarray.open_dataset(tmp_path / "run.nc", group="posterior", engine="h5netcdf")
    np.testing.assert_array_equal(back["z1"].values, held["posterior"]["z1"].values)
    assert [path.name for path in tmp_path.iterdir()] == ["run.nc"]


def test_rows_keep_their_places_and_labels(tmp_path):
    data = pv.load_data("digits")
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 64)),
        pv.guides.MeanFieldNormal(pv.nets.mlp(64, 8, 4)),
    )
    held = pv.to_inference_data(vae, data.test.head(5), 30)
    assert held["posterior"]["row"].values.tolist() == data.test.index[:5].tolist()
    assert np.array_equal(held["observed_data"]["x"].values, data.test[:5].numpy())
    with pytest.raises(pv.InputError, match="2 columns named, and rows of 64"):
        pv.to_inference_data(vae, data.test.head(5), 30, columns=["a", "b"])


def test_reference_evidence_sets_how_rows_are_scored(tiny_vae):
    """Scored with other draws the p-values would compare estimators, not rows."""
    vae, x = tiny_vae
    reference = pv.log_evidence(vae, x, 40)
    found = pv.score(vae, x[:5], reference, num_samples=500)
    assert (found.found.num_samples, found.found.prior_share) == (40, 0.0)
    broken = replace(reference, log_px=reference.log_px.clone().fill_(math.nan))
    with pytest.raises(pv.InputError, match="0 reference rows cannot tell"):
        pv.score(vae, x, broken)


def test_rows_and_reference_are_scored_alike_and_the_weaker_kind_is_said(tiny_vae):
    vae, x = tiny_vae
    sampled, exact = pv.auto_evidence(vae, x, 50, exact=False), pv.exact_evidence(vae, x)
    by_default = pv.score(vae, x, x, num_samples=50)
    for reference in (sampled, exact):
        found = pv.score(vae, x, reference, num_samples=500)
        assert type(found.found) is type(by_default.found)
        assert found.kind == reference.kind
    assert pv.score(vae, x, x, prior_share=0.1, num_samples=50).kind == "lower bound"
    with pytest.raises(pv.InputError, match="not scored as Annealed was; give the reference rows"):
        pv.score(vae, x, pv.annealed_evidence(vae, x, 2, num_chains=2))


def table_with_gaps():
    rows = 3 + 50 * torch.randn(120, 3)
    rows[torch.rand(120, 3) < 0.2] = math.nan
    return pv.load_data(rows.numpy(), missing="mask")


def test_exported_rows_are_in_reported_units_and_gaps_stay_gaps():
    data = table_with_gaps()
    vae = pv.VAE(
        pv.priors.StandardNormal(1),
        pv.likelihoods.Normal(pv.nets.linear(1, 3)),
        pv.guides.MeanFieldNormal(pv.nets.linear(3, 2)),
    )
    rows = data.test.head(8)
    held = pv.to_inference_data(vae, rows, 400)
    x = held["observed_data"]["x"].values
    assert np.array_equal(np.isnan(x), ~rows.mask.numpy())
    np.testing.assert_allclose(x[rows.mask.numpy()], rows.stored.numpy()[rows.mask.numpy()], rtol=1e-4)
    log_px = np.logaddexp.reduce(held["sample_stats"]["log_weight"].values[0], 0) - math.log(400)
    apart = log_px - pv.log_evidence(vae, rows, 4000).log_px.numpy()
    assert np.abs(np.median(apart)) < 0.1  # and not the 3.9 nats a column that standardizing is worth
    predicted = held["posterior_predictive"]["x"].values
    assert predicted.std() > 10


def test_gaps_and_labels_alone_do_not_tell_two_samples_apart():
    """A model that is right, rows with gaps: what tells them apart must not be the gaps."""
    exact = LinearGaussian(1, 3)
    stored = exact.rows(400)
    stored[torch.rand(400, 3) < 0.3] = math.nan
    found = pv.diagnostics.two_sample(exact, Split("test", stored, Measure()), 400)
    assert found.p_value > 0.01
    digits = pv.load_data("digits")
    vae = pv.ConditionalVAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.nets.mlp(12, 8, 64)),
        pv.guides.MeanFieldNormal(pv.nets.mlp(74, 8, 4)),
        num_labels=10,
    )
    assert pv.diagnostics.two_sample(vae, digits.test, 40).accuracy > 0.8
