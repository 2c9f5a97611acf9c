"""Fitting: the objective compared with Pyro's, its terms, reproducibility, checkpoints and errors."""

import copy
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import LinearGaussian
from pyro.infer import (
    SVI,
    JitTrace_ELBO,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)

import pyro_vae as pv
from pyro_vae.inference.svi.train_config import TrainConfig
from pyro_vae.programs.parameters import copy_state, named_parameters


def without_seconds(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def test_one_step_equals_pyros_svi(tiny_vae):
    """Same seed, same rows in the same order: the loss of `SVI.step`, divided by the rows, and the same gradient
    step."""
    vae, x = tiny_vae
    vae.init_from_data(x.mean(0), x)
    stock = copy.deepcopy(vae)
    fitted = pv.fit(vae, x, epochs=1, batch_size=60, learning_rate=1e-3, schedule="constant", seed=3)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(TrainConfig(seed=3).epoch_seed(0)))
    svi = SVI(stock.model, stock.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    pyro.set_rng_seed(TrainConfig(seed=3).epoch_seed(0))
    loss = svi.step(x[order])
    assert fitted.history[0]["elbo"] == pytest.approx(-loss / 60, rel=1e-6)
    for (name, ours), (_, theirs) in zip(vae.named_parameters(), stock.named_parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6, msg=name)


def test_the_terms_add_up_to_the_elbo(tiny_vae):
    vae, x = tiny_vae
    fitted = pv.fit(vae, x, valid=x, epochs=3, batch_size=7, beta=0.2)
    for row in fitted.history:
        assert row["elbo"] == pytest.approx(row["reconstruction"] - row["kl"], abs=1e-9)
        assert row["valid_elbo"] == pytest.approx(row["valid_reconstruction"] - row["valid_kl"], abs=1e-9)
        assert row["beta"] == pytest.approx(0.2)


def test_reported_elbo_is_at_beta_one_and_below_the_exact_value():
    """On a linear-Gaussian program, whose guide is not trained here, the reported ELBO is exact log p(x) − KL at any
    β."""
    program = LinearGaussian(2, 5)
    x = program.rows(2000)
    exact = program.exact(x).mean().item() - program.kl_to_posterior()
    for beta in (1.0, 0.0, 4.0):
        row = pv.fit(program, x, epochs=1, batch_size=300, beta=beta).history[0]
        assert row["elbo"] == pytest.approx(exact, abs=0.05)
        assert row["elbo"] < program.exact(x).mean().item()


def test_fit_finds_ppca():
    """A linear VAE with the right noise reaches the exact log p(x) of the linear-Gaussian model that made the
    rows."""
    truth = LinearGaussian(2, 8, noise=0.5)
    x, held_out = truth.rows(2000), truth.rows(500, seed=2)
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Normal(pv.nets.mlp(2, 8), scale=0.5),
        pv.guides.MeanFieldNormal(pv.nets.mlp(8, 4)),
    )
    pv.fit(vae, x, epochs=60, batch_size=50, learning_rate=0.01, schedule="cosine")
    found = pv.log_evidence(vae, held_out, num_samples=300)
    paired = found.log_px - truth.exact(held_out).double()
    assert abs(paired.mean().item()) < 0.05


@pytest.mark.parametrize(
    "loss",
    [TraceMeanField_ELBO(), Trace_ELBO(num_particles=3), Trace_ELBO(num_particles=3, vectorize_particles=True)],
    ids=["mean-field", "particles", "vectorized"],
)
def test_any_pyro_elbo_can_be_the_loss(tiny_vae, loss):
    vae, x = tiny_vae
    fitted = pv.fit(vae, x, valid=x, epochs=10, learning_rate=0.01, loss=loss)
    assert fitted.history[-1]["valid_elbo"] > fitted.history[0]["valid_elbo"]
    elbo = pv.log_evidence(vae, x, num_samples=300).elbo.mean().item()
    assert fitted.history[fitted.best_epoch - 1]["valid_elbo"] == pytest.approx(elbo, abs=0.1)


@pytest.mark.parametrize(
    "loss",
    [RenyiELBO(alpha=0.0, num_particles=2), JitTrace_ELBO(), TraceTailAdaptive_ELBO()],
    ids=["renyi", "jit", "tail-adaptive"],
)
def test_losses_that_a_weight_on_each_site_would_change_are_refused(tiny_vae, loss):
    vae, x = tiny_vae
    with pytest.raises(pv.InputError, match="cannot be the loss"):
        pv.fit(vae, x, epochs=1, loss=loss)


def test_enumerated_mixture_by_trace_enum():
    """Two components, assignments summed out: the reported ELBO is then the exact log-likelihood per row."""
    x = torch.cat([torch.randn(100, 1) - 3, torch.randn(100, 1) + 3])

    def model(x):
        means = pyro.param("means", torch.tensor([-1.0, 1.0]))
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.5, 0.5])), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(means[c][..., None], 1.0).to_event(1), obs=x)

    program = pv.Program(model, lambda x: None)
    fitted = pv.fit(program, x, epochs=200, batch_size=200, learning_rate=0.1, loss=TraceEnum_ELBO(max_plate_nesting=1))
    means = named_parameters(program)["pyro.param/means"].detach().sort().values
    torch.testing.assert_close(means, torch.stack([x[:100].mean(), x[100:].mean()]), atol=0.05, rtol=0)
    likelihood = dist.Normal(means, 1.0).log_prob(x).logsumexp(1).mean().item() - math.log(2)
    assert fitted.history[-1]["elbo"] == pytest.approx(likelihood, abs=0.01)
    assert fitted.history[-1]["kl"] is None


def test_same_seed_same_bits_and_the_callers_random_numbers_unchanged(tiny_vae):
    vae, x = tiny_vae
    twin, other = copy.deepcopy(vae), copy.deepcopy(vae)
    before = torch.get_rng_state()
    first = pv.fit(vae, x, valid=x, epochs=3, batch_size=7, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    second = pv.fit(twin, x, valid=x, epochs=3, batch_size=7, seed=5)
    assert without_seconds(first.history) == without_seconds(second.history)
    assert all(torch.equal(value, copy_state(twin)[name]) for name, value in copy_state(vae).items())
    third = pv.fit(other, x, valid=x, epochs=3, batch_size=7, seed=6)
    assert third.history[0]["elbo"] != first.history[0]["elbo"]


def test_validation_uses_the_same_random_numbers_every_epoch(tiny_vae):
    """With a rate too small to change anything the validation ELBO is the same number at each epoch."""
    vae, x = tiny_vae
    fitted = pv.fit(vae, x, valid=x, epochs=4, learning_rate=1e-30)
    assert len({row["valid_elbo"] for row in fitted.history}) == 1


def test_the_best_weights_are_kept_and_patience_ends_the_fit(tiny_vae):
    vae, _ = tiny_vae
    x, held_out = (torch.rand(20, 6) < 0.5).float(), (torch.rand(200, 6) < 0.5).float()
    fitted = pv.fit(vae, x, valid=held_out, epochs=300, learning_rate=0.05, patience=4)
    assert fitted.stopped == "patience"
    assert len(fitted.history) == fitted.best_epoch + 4
    best = max(row["valid_elbo"] for row in fitted.history)
    assert fitted.history[fitted.best_epoch - 1]["valid_elbo"] == best
    again = pv.fit(vae, x, valid=held_out, epochs=1, learning_rate=1e-30)  # the program holds the weights that gave it
    assert again.history[0]["valid_elbo"] == pytest.approx(best, rel=1e-6)


def test_patience_starts_after_the_warm_up():
    settings = TrainConfig(patience=3, kl_warmup=10)
    assert not settings.out_of_patience(epoch=12, best_epoch=1)
    assert settings.out_of_patience(epoch=13, best_epoch=1)
    assert not settings.out_of_patience(epoch=13, best_epoch=12)
    assert [TrainConfig(beta=2.0, kl_warmup=4).kl_weight(epoch) for epoch in (0, 1, 4, 9)] == [0.0, 0.5, 2.0, 2.0]


def test_frozen_parts_do_not_change(tiny_vae):
    vae, x = tiny_vae
    vae.init_from_data(x.mean(0), x)
    vae.likelihood.requires_grad_(False)
    start = copy.deepcopy(vae.state_dict())
    pv.fit(vae, x, epochs=2)
    changed = {name.split(".")[0] for name, value in vae.state_dict().items() if not torch.equal(value, start[name])}
    assert changed == {"posterior"}
    assert not any(parameter.requires_grad for parameter in vae.likelihood.parameters())


def test_clipping_does_not_depend_on_the_batch_size():
    """The objective is per row: the gradient's norm, and so what clipping does, is of one size for 10 rows and
    1,000."""
    norms = []
    for rows in (10, 1000):
        torch.manual_seed(0)
        vae = pv.VAE(
            pv.priors.StandardNormal(1),
            pv.likelihoods.Normal(pv.nets.mlp(1, 2)),
            pv.guides.MeanFieldNormal(pv.nets.mlp(2, 2)),
        )
        vae.started.fill_(True)
        x = torch.ones(rows, 2) * 3
        start = copy.deepcopy(vae.state_dict())
        pv.fit(vae, x, epochs=1, batch_size=rows, optimizer="sgd", learning_rate=1e-3)
        norms.append(
            sum((value - start[name]).square().sum() for name, value in vae.state_dict().items() if "net" in name)
            .sqrt()
            .item()
        )
    assert norms[0] == pytest.approx(norms[1], rel=0.35)


def test_divergence_stops_at_once_with_the_last_good_weights(tiny_vae):
    vae, _ = tiny_vae
    normal = pv.VAE(vae.prior, pv.likelihoods.Normal(pv.nets.mlp(2, 6), scale=0.01), vae.posterior)
    with pytest.raises(pv.DivergedError, match=r"learning rate too high .*standardize"):
        pv.fit(normal, 100 * torch.randn(500, 6), epochs=50, learning_rate=1e18, optimizer="sgd")
    assert all(torch.isfinite(value).all() for value in copy_state(normal).values())


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adagrad", "rmsprop", "sgd"])
def test_a_fit_resumes_from_its_checkpoint_to_the_same_bits(tiny_vae, tmp_path, optimizer):
    vae, x = tiny_vae
    whole, interrupted = copy.deepcopy(vae), copy.deepcopy(vae)
    options = {
        "valid": x,
        "batch_size": 7,
        "optimizer": optimizer,
        "schedule": "cosine",
        "learning_rate": 1e-3,
        "kl_warmup": 3,
    }
    expected = pv.fit(whole, x, epochs=6, **options)

    def stop(history):
        if len(history) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pv.fit(interrupted, x, epochs=6, checkpoint=tmp_path, on_epoch=stop, **options)
    found = pv.fit(copy.deepcopy(vae), x, epochs=6, checkpoint=tmp_path, **options)
    assert len(found.history) == 6
    fresh = copy.deepcopy(vae)
    found = pv.fit(fresh, x, epochs=6, checkpoint=tmp_path, **options)
    assert without_seconds(found.history) == without_seconds(expected.history)
    assert all(torch.equal(value, copy_state(fresh)[name]) for name, value in copy_state(whole).items())
    with pytest.raises(pv.InputError, match=r"other settings .batch_size was 7, is 8"):
        pv.fit(vae, x, epochs=6, checkpoint=tmp_path, **options | {"batch_size": 8})


KILLED = """
import os, signal, torch, sys
import pyro_vae as pv
from pyro_vae.inference.svi import checkpoint
checkpoint.SECONDS_BETWEEN_CHECKPOINTS = 0.0
torch.manual_seed(0)
x = (torch.rand(60, 6) < 0.4).float()
likelihood, guide = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 6)), pv.guides.MeanFieldNormal(pv.nets.mlp(6, 8, 4))
vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, guide)
steps = [0]
def kill(history):
    if len(history) == 4 and sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
fitted = pv.fit(vae, x, valid=x, epochs=7, batch_size=7, checkpoint=sys.argv[1], on_epoch=kill)
pv.save(vae, sys.argv[1])
"""


def test_a_fit_killed_in_the_middle_ends_in_the_same_weights(tmp_path):
    from pyro_vae.atomic_write import read_tensors

    def run(folder, how):
        return subprocess.run([sys.executable, "-c", KILLED, str(folder), how], env=os.environ, check=False).returncode

    assert run(tmp_path / "whole", "live") == 0
    assert run(tmp_path / "killed", "kill") == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    assert run(tmp_path / "killed", "live") == 0
    whole, killed = (read_tensors(Path(tmp_path / name / "model.safetensors"))[0] for name in ("whole", "killed"))
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())


def test_bad_settings_and_rows_raise_with_a_remedy(tiny_vae):
    vae, x = tiny_vae
    for options, message in [
        ({"epochs": 0}, "epochs must be positive"),
        ({"optimizer": "adan"}, "no optimizer called 'adan'; try one of adam"),
        ({"schedule": "step"}, "no schedule called 'step'"),
        ({"patience": 3}, "needs validation rows"),
    ]:
        with pytest.raises(pv.InputError, match=message):
            pv.fit(vae, x, **options)
    spoiled = x.clone()
    spoiled[41, 3] = float("nan")
    with pytest.raises(pv.InputError, match="NaN or infinity"):
        pv.fit(vae, spoiled, epochs=1)
    with pytest.raises(pv.InputError, match=r"expected 0 or 1; binarize"):
        pv.fit(vae, x * 0.5, epochs=1)
    with pytest.raises(pv.InputError, match=r"expected rows of shape \(N, D\)"):
        pv.fit(vae, x[0])


def test_reports_are_in_the_units_of_the_data():
    """Standardizing divides by 10: the history's density, like the evidence's, is lower by log 10 for each column."""
    from pyro_vae.data import Measure, Split

    program = LinearGaussian(2, 3)
    x = program.rows(300)
    stretched = Split("train", x * 10, Measure(shift=(0.0,) * 3, scale=(10.0,) * 3))
    plain, scaled = (pv.fit(program, data, valid=data, epochs=1, batch_size=50).history[0] for data in (x, stretched))
    for name in ("elbo", "reconstruction", "valid_elbo", "valid_reconstruction"):
        assert scaled[name] == pytest.approx(plain[name] - 3 * math.log(10), abs=1e-3)
    assert scaled["kl"] == pytest.approx(plain["kl"], abs=1e-3)


def test_a_checkpoint_of_other_rows_is_refused(tiny_vae, tmp_path):
    vae, x = tiny_vae
    pv.fit(vae, x, epochs=1, checkpoint=tmp_path)
    with pytest.raises(pv.InputError, match="training rows was"):
        pv.fit(vae, 1 - x, epochs=1, checkpoint=tmp_path)


def test_few_validation_rows_have_vectorized_draws_and_the_right_elbo(monkeypatch):
    """PPCA's guide is its exact posterior, so each draw's ELBO is log p(x) itself."""
    ppca, x, calls = pv.PPCA(1, 3), torch.randn(50, 3), []
    evaluate = pyro.infer.SVI.evaluate_loss
    monkeypatch.setattr(pyro.infer.SVI, "evaluate_loss", lambda *given: calls.append(given) or evaluate(*given))
    for rows in (1, 7, 300):
        held_out = torch.randn(rows, 3)
        calls.clear()
        fitted = pv.fit(ppca, x, valid=held_out, epochs=1, learning_rate=1e-9)
        assert fitted.history[0]["valid_elbo"] == pytest.approx(float(ppca.log_prob(held_out).mean()), rel=1e-5)
        assert len(calls) <= 10


def test_a_small_step_uses_one_thread_and_restores_their_number(tiny_vae):
    vae, x = tiny_vae
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        pv.fit(vae, x, epochs=1, on_epoch=lambda history: seen.append(torch.get_num_threads()))
        wide = pv.VAE(
            pv.priors.StandardNormal(2),
            pv.likelihoods.Bernoulli(pv.nets.mlp(2, 3000, 6)),
            pv.guides.MeanFieldNormal(pv.nets.mlp(6, 3000, 4)),
        )
        pv.fit(wide, x, epochs=1, on_epoch=lambda history: seen.append(torch.get_num_threads()))
        assert seen == [1, 2]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
