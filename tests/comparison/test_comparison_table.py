"""Comparisons: every supported fit method fits a model, the numbers are those of the parts, and measures never mix."""

import itertools
import math

import pytest
import torch

import pyro_vae as pv
from pyro_vae.comparison.build_model import build_model
from pyro_vae.comparison.comparison_table import Fitted, common_level, score_held_out, seconds_to
from pyro_vae.comparison.fit_by_name import fit_by_name, start_program, supports
from pyro_vae.comparison.fit_methods import FIT_METHODS, Budget
from pyro_vae.comparison.learning_curves import first_rows, fit_with_curve
from pyro_vae.errors import InputError
from pyro_vae.inference.svi.train_config import TrainConfig

BUDGET = Budget(TrainConfig(epochs=2, batch_size=50, learning_rate=0.01), iterations=4, width=8)


def table_data(rows=120):
    g = torch.Generator().manual_seed(0)
    return pv.load_data(torch.randn(rows, 3, generator=g) @ torch.randn(3, 3, generator=g))


def bits_data():
    return first_rows(pv.load_data("digits"), 120)


def vae_for(data, K=2):
    likelihood = pv.likelihoods.Normal(pv.nets.mlp(K, 8, data.num_features), scale=0.5)
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(data.num_features, 8, 2 * K))
    return pv.VAE(pv.priors.StandardNormal(K), likelihood, guide)


def programs(data):
    names = ("gaussian-mixture:3", "gaussian-mixture-diagonal:3", "bayesian-mixture:3", "ppca:1", "factor-analysis:1")
    return {name: (lambda name=name: build_model(name, data)) for name in names} | {"vae:2": lambda: vae_for(data)}


@pytest.mark.parametrize("fit_method", FIT_METHODS)
def test_every_fit_method_fits_what_it_supports_and_can_be_scored(fit_method, tmp_path):
    """A finite log p(x), and a bound below it where there is a q for held-out rows; the program can be saved."""
    data, fitted = table_data(), 0
    for name, make in programs(data).items():
        if not supports(make(), fit_method):
            continue
        program, result = fit_by_name(make(), fit_method, data, BUDGET)
        found = score_held_out(Fitted(name, fit_method, program, result), data.valid, num_samples=50)
        assert torch.isfinite(found.log_px.log_px).all()
        assert len(result.history) >= 1
        if FIT_METHODS[fit_method].is_amortized and fit_method != "cavi":
            assert found.bound.mean() <= found.log_px.log_px.mean() + 1e-3
        else:
            assert found.bound is None
        pv.save(program, tmp_path / f"{name.replace(':', '-')}")
        again = pv.load(tmp_path / f"{name.replace(':', '-')}")
        assert type(again) is type(program)
        fitted += 1
    assert fitted


def test_a_way_that_does_not_go_with_a_model_says_what_does():
    with pytest.raises(
        InputError, match=r"a PPCA cannot be fitted by mcem; try one of em, online-em, closed-form, svi"
    ):
        fit_by_name(build_model("ppca:1", table_data()), "mcem", table_data(), BUDGET)
    with pytest.raises(InputError, match="no fit method called"):
        fit_by_name(build_model("ppca:1", table_data()), "gibbs", table_data(), BUDGET)
    with pytest.raises(InputError, match="no model called"):
        build_model("gmm:3", table_data())
    with pytest.raises(InputError, match="whole number"):
        build_model("ppca:many", table_data())


def test_ways_of_a_mixture_share_their_start():
    """Before the first step of each method the parameters are EM's start."""
    data, starts = table_data(), []
    for fit_method in ("em", "svi", "table", "amortized"):
        program = start_program(build_model("gaussian-mixture:3", data), fit_method, data, BUDGET)
        if fit_method == "em":
            pv.fit_em(program, data.train, epochs=1, seed=BUDGET.config.seed)
        starts.append([program.logits.detach(), program.loc.detach(), program.raw_scale.detach()])
    for other in starts[1:]:
        for ours, theirs in zip(other, starts[0], strict=True):
            assert torch.equal(ours, theirs)


def test_records_are_the_parts_own_numbers_best_first():
    data = table_data(400)
    gaussian, ppca = build_model("gaussian-mixture:2", data), build_model("ppca:1", data)
    vae = vae_for(data)
    fits = [pv.fit_em(gaussian, data), pv.fit_closed_form(ppca, data), pv.fit(vae, data, epochs=3)]
    contenders = [
        Fitted(name, fit_method, program, result)
        for name, fit_method, program, result in zip(
            ("gaussian-mixture:2", "ppca:1", "vae:2"),
            ("em", "closed-form", "svi"),
            (gaussian, ppca, vae),
            fits,
            strict=True,
        )
    ]
    rows = pv.compare(contenders, data.valid, num_samples=200)
    assert [row["log_px"] for row in rows] == sorted((row["log_px"] for row in rows), reverse=True)
    by_model = {row["model"]: row for row in rows}
    exact = gaussian.log_prob(data.valid)
    assert by_model["gaussian-mixture:2"]["log_px"] == pytest.approx(exact.mean().item(), rel=1e-12)
    assert by_model["gaussian-mixture:2"]["gap"] == pytest.approx(0.0, abs=1e-12)
    difference = exact - ppca.log_prob(data.valid)
    best = rows[0]["model"]
    if best == "gaussian-mixture:2":
        assert by_model["ppca:1"]["behind"] == pytest.approx(difference.mean().item())
        assert by_model["ppca:1"]["behind_se"] == pytest.approx(difference.std().item() / math.sqrt(len(difference)))
    assert by_model["vae:2"]["log_px_kind"] == "exact"
    assert by_model["vae:2"]["method"].startswith("exact")
    assert by_model["vae:2"]["gap"] > 0
    assert by_model["vae:2"]["num_parameters"] == sum(p.numel() for p in vae.parameters())
    assert rows[0]["behind"] == 0.0


def test_laplace_and_the_grid_agree_where_both_can_be_had():
    """The same VAE: importance sampling around modes within its own error of the exact value, row by row."""
    data, vae = table_data(400), vae_for(table_data())
    pv.fit(vae, data, epochs=5)
    one = Fitted("vae:2", "mcem", vae)
    exact = score_held_out(one, data.valid, method="exact")
    around = score_held_out(one, data.valid, method="laplace", num_samples=2000)
    assert around.method == "laplace"
    assert exact.bound is None
    away = (around.log_px.log_px - exact.log_px.log_px) / around.log_px.mc_se.clamp(min=1e-3)
    assert away.abs().max() < 6


def test_measures_and_names_never_mix():
    data, bits = table_data(), bits_data()
    ppca, mixture = build_model("ppca:1", data), build_model("bernoulli-mixture:3", bits)
    with pytest.raises(InputError, match="twice"):
        pv.compare([Fitted("ppca", "em", ppca), Fitted("ppca", "em", ppca)], data.valid)
    with pytest.raises(InputError, match="try one of"):
        pv.compare([Fitted("ppca", "em", ppca)], data.valid, method="exactly")
    pv.fit_em(mixture, bits)
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.ContinuousBernoulli(pv.nets.mlp(2, 8, 64)),
        pv.guides.MeanFieldNormal(pv.nets.mlp(64, 8, 4)),
    )
    with pytest.raises(InputError, match="cannot be ranked"):
        pv.compare([Fitted("bernoulli-mixture", "em", mixture), Fitted("vae", "svi", vae)], bits.valid, num_samples=20)


def test_curves_see_the_fit_go_up_and_do_not_count_their_own_time():
    data = table_data(400)
    program = build_model("gaussian-mixture:3", data)
    fitted, result, points = fit_with_curve("gaussian-mixture:3", program, "em", data, BUDGET, data.valid)
    assert [point.epoch for point in points] == [1, 2, 3, 4]
    assert all(later.train_log_px >= before.train_log_px - 1e-6 for before, later in itertools.pairwise(points))
    assert points[-1].log_px == pytest.approx(fitted.log_prob(data.valid).mean().item())
    assert points[-1].bound == pytest.approx(points[-1].log_px)
    assert points[-1].rows_seen == 4 * len(data.train)
    assert 0 <= points[0].seconds <= points[-1].seconds <= result.seconds + 1e-6


def test_hard_ems_bound_is_of_its_own_q():
    """q is a point: the gap is −log of the largest responsibility."""
    data = table_data()
    program, result = fit_by_name(build_model("gaussian-mixture:3", data), "hard-em", data, BUDGET)
    found = score_held_out(Fitted("gaussian-mixture:3", "hard-em", program, result), data.valid)
    expected = -program.responsibilities(data.valid).amax(1).log()
    torch.testing.assert_close(found.log_px.log_px - found.bound, expected)


def test_levels():
    """The default is one that half of the contenders reach; who never does has no seconds."""

    program = pv.PPCA(1, 2)

    def one(name, *reached):
        return Fitted(name, "em", program, reached=reached)

    slow, fast, low = one("a", (1.0, -5.0), (2.0, -3.0)), one("b", (0.5, -3.5), (0.7, -2.0)), one("c", (1.0, -9.0))
    assert common_level([slow, fast, low]) == -3.0
    assert seconds_to(fast, -3.0) == 0.7
    assert seconds_to(slow, -3.0) == 2.0
    assert seconds_to(low, -3.0) is None
    assert common_level([Fitted("d", "em", program)]) is None
