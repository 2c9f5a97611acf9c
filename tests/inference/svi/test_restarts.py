"""Fits that run away: noticed, taken back to their best weights with a lower learning rate, and told."""

import dataclasses
import math
from dataclasses import replace

import pytest
import torch

import pyro_vae as pv
from pyro_vae.inference.em.fit_mcem import fit_mcem
from pyro_vae.inference.fit_result import EpochRecord, MAPEpoch, MCEMEpoch
from pyro_vae.inference.svi import fit_loop
from pyro_vae.inference.svi.callbacks import CallbackBase
from pyro_vae.inference.svi.fit_loop import fit_with
from pyro_vae.inference.svi.fit_method import READS_ALL
from pyro_vae.inference.svi.restarts import (
    EPOCHS_BELOW,
    FirstEpochFall,
    fall_from_best,
    fall_in_epoch,
    validation_note,
)
from pyro_vae.inference.svi.train_config import TrainConfig
from pyro_vae.programs.parameters import copy_state
from pyro_vae.workflows.fit_messages import dominating_rows


def history(values, beta=None, restarts=None):
    """Records with these objectives; of β and restarts one number for each epoch."""
    betas, counts = beta or [1.0] * len(values), restarts or [0] * len(values)
    rows = enumerate(zip(values, betas, counts, strict=True), 1)
    return [EpochRecord(epoch, epoch, elbo=value, beta=beta, restarts=count) for epoch, (value, beta, count) in rows]


RISEN = [-200.0, -150.0, -120.0, -100.0]
HISTORIES = {  # the last epochs' objectives, and the fall that is found
    "it rises": (history([*RISEN, -99.0, -98.0, -97.0]), None),
    "overfitting and noise": (history([*RISEN, -105.0, -103.0, -108.0]), None),
    "two bad epochs": (history([*RISEN, -99.0, -160.0, -170.0]), None),
    "three bad epochs": (history([*RISEN, -170.0, -160.0, -180.0]), 60.0),
    "less than half of the gain": (history([*RISEN, -149.0, -149.0, -149.0]), None),
    "less than ten nats": (history([-3.0, -2.9, -12.0, -12.0, -12.0]), None),
    "from the first epoch on": (history([-3.0, -50.0, -40.0, -60.0]), 37.0),
    "too few epochs": (history([-3.0, -500.0, -400.0]), None),
    "a first epoch beyond any scale": (history([-8.9e10, -200.0, -190.0, -1e6, -1e7, -1e8]), 999_810.0),
    "two of them": (history([-8.9e10, -8.9e10, -200.0, -190.0, -300.0, -310.0, -320.0]), 110.0),
    "each epoch of a warm-up has its own objective": (
        history([*RISEN, -300.0, -400.0, -500.0], beta=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        None,
    ),
    "after a warm-up": (history([-1.0, -2.0, *RISEN, -300.0, -300.0, -300.0], beta=[0.0, 0.5, *[1.0] * 7]), 200.0),
    "the restart was in between": (history([*RISEN, -300.0, -300.0, -300.0], restarts=[0] * 5 + [1] * 2), None),
    "again after a restart": (history([*RISEN, -300.0, -300.0, -300.0], restarts=[0] * 4 + [1] * 3), 200.0),
    "without an objective": (history([None] * 8), None),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_when_a_fit_has_run_away(name):
    rows, fall = HISTORIES[name]
    assert fall_from_best(rows, EPOCHS_BELOW) == fall


def test_the_objective_has_its_own_beta():
    """An autoencoder (β = 0) lets the KL grow without bound, and its objective rises."""
    row = EpochRecord(1, 1, elbo=-1e6, reconstruction=-10.0, kl=1e6 - 10, beta=0.0)
    assert row.training_value == -10.0
    assert dataclasses.replace(row, beta=1.0).training_value == -1e6
    assert EpochRecord(1, 1, elbo=-3.0, beta=1.0).training_value == -3.0
    assert MAPEpoch(1, 1, log_joint=-2.0).training_value == MCEMEpoch(1, 1, log_joint=-2.0).training_value == -2.0


@pytest.mark.parametrize(
    ("losses", "fall"),
    [
        ([5.0, 4.0, 3.0], 0.0),
        ([5.0], 0.0),
        ([5.0, 19.0], 0.0),
        ([5.0, 30.0], 25.0),
        ([500.0, 900.0, 900.0, 900.0], 0.0),
        ([500.0, 400.0, 9000.0, 400.0, 400.0], 0.0),
        ([torch.tensor(-5.0), torch.tensor(1.0), torch.tensor(95.0)], 53.0),
        ([], 0.0),
    ],
)
def test_a_first_epoch_that_runs_away(losses, fall):
    assert fall_in_epoch(losses) == fall
    assert fall_in_epoch(losses, beta=1e3) == 0.0  # a KL that counts so much moves as far without running away


def table():
    """Correlated columns, and held-out rows."""
    x = torch.randn(240, 5, generator=torch.Generator().manual_seed(0)) @ torch.randn(
        5, 5, generator=torch.Generator().manual_seed(1)
    )
    return x[:200], x[200:]


def small_vae():
    torch.manual_seed(0)
    likelihood = pv.likelihoods.MultivariateNormal(pv.nets.mlp(3, 32, 10), 5)
    return pv.VAE(pv.priors.StandardNormal(3), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 32, 6)))


RATE, EPOCHS = 0.5, 20


def fit(program=None, **options):
    x, valid = table()
    program = small_vae() if program is None else program
    given = {"valid": valid, "epochs": EPOCHS, "learning_rate": RATE, "batch_size": 40} | options
    return program, pv.fit(program, x, **given)


def test_a_rate_that_is_too_high_ends_where_a_lower_one_does(caplog):
    _, lower = fit(learning_rate=0.01)
    assert lower.history[-1].restarts == 0
    assert caplog.text == ""
    _, fitted = fit()
    _, unwatched = fit(max_restarts=0)
    best = [each.history[each.best_epoch - 1].valid_elbo for each in (lower, fitted, unwatched)]
    assert 1 <= fitted.history[-1].restarts <= 3
    assert best[1] > best[0] - 2
    assert best[2] < best[0] - 2 or unwatched.history[-1].valid_elbo < best[0] - 10
    assert "goes back to the weights of epoch" in caplog.text


def test_a_fit_that_runs_away_again_and_again_ends_with_its_best_weights(monkeypatch):
    monkeypatch.setattr(fit_loop, "RATE_FACTOR", 1.0)
    program, fitted = fit(max_restarts=1)
    assert fitted.stopped == "diverged"
    assert len(fitted.history) < EPOCHS
    _, valid = table()
    best = fitted.history[fitted.best_epoch - 1].valid_elbo
    assert best == max(row.valid_elbo for row in fitted.history)
    assert pv.log_evidence(program, valid, num_samples=50).elbo.mean().item() == pytest.approx(best, rel=0.2)


class Poison(CallbackBase):
    """Makes a weight NaN after an epoch, or ends the process there."""

    def __init__(self, at, interrupt=False):
        self.at, self.interrupt = at, interrupt

    def on_epoch(self, fit):
        if len(fit.history) == self.at:
            if self.interrupt:
                raise KeyboardInterrupt
            with torch.no_grad():
                next(iter(fit.program.parameters())).fill_(torch.nan)


def test_weights_that_are_no_number_cost_an_epoch(caplog):
    options = {"learning_rate": 0.01, "epochs": 6}
    _, fitted = fit(callbacks=[Poison(3)], **options)
    assert [row.epoch for row in fitted.history] == [1, 2, 3, 4, 5, 6]
    assert [row.restarts for row in fitted.history] == [0, 0, 0, 1, 1, 1]
    _, whole = fit(**options)
    rates = [row.learning_rate for row in whole.history]
    assert [row.learning_rate for row in fitted.history] == pytest.approx([*rates[:3], *(r / 4 for r in rates[3:])])
    assert "became nan after epoch 3: the fit goes back to the weights of epoch 3" in caplog.text
    with pytest.raises(pv.DivergedError, match="the weights of epoch 3 were kept"):
        fit(callbacks=[Poison(3)], max_restarts=0, **options)


def test_monte_carlo_em_goes_back_too():
    x, _ = table()
    likelihood, guide = pv.likelihoods.Normal(pv.nets.mlp(2, 5)), pv.guides.MeanFieldNormal(pv.nets.mlp(5, 4))
    vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, guide)

    class PoisonLikelihood(Poison):
        def on_epoch(self, fit):
            if len(fit.history) == self.at:
                with torch.no_grad():
                    next(fit.program.likelihood.parameters()).fill_(torch.nan)

    fitted = fit_mcem(vae, x, epochs=4, callbacks=[PoisonLikelihood(2)])
    assert [row.restarts for row in fitted.history] == [0, 0, 1, 1]


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.parametrize("held_out", [True, False])
def test_a_fit_is_resumed_with_the_same_bits_after_a_restart(held_out, tmp_path):
    options = {} if held_out else {"valid": None}
    program, whole = fit(**options)
    first = next(row.epoch for row in whole.history if row.restarts)
    for at in (first - 1, first) if held_out else (first,):
        folder = tmp_path / str(at)
        with pytest.raises(KeyboardInterrupt):
            fit(checkpoint=folder, callbacks=[Poison(at, interrupt=True)], **options)
        resumed, fitted = fit(checkpoint=folder, **options)
        assert without_seconds(fitted.history) == without_seconds(whole.history)
        assert fitted.best_epoch == whole.best_epoch
        state, expected = copy_state(resumed), copy_state(program)
        assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_without_validation_rows_the_epochs_that_ran_away_are_not_kept(monkeypatch):
    monkeypatch.setattr(fit_loop, "RATE_FACTOR", 1.0)
    _, fitted = fit(valid=None, max_restarts=1)
    assert fitted.stopped == "diverged"
    values = [row.elbo for row in fitted.history]
    assert values[fitted.best_epoch - 1] > max(values) - max(10.0, 0.5 * (max(values) - values[0]))


def counts():
    """A program whose rates exp(linear(z)) of large counts are astronomical at first, and rows."""
    torch.manual_seed(1)
    likelihood, guide = pv.likelihoods.Poisson(pv.nets.linear(2, 4)), pv.guides.MeanFieldNormal(pv.nets.linear(4, 4))
    vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, guide)
    return vae, torch.poisson((1.5 * torch.randn(120, 1) * torch.tensor([1.0, -1.0, 0.5, 1.0]) + 1).exp())


def test_where_a_lower_rate_is_no_remedy_the_fit_goes_on(caplog, tmp_path):
    given = {"epochs": 4, "batch_size": 20, "learning_rate": 0.03}
    vae, x = counts()
    fitted = pv.fit(vae, x, **given)
    assert caplog.records[-1].message.startswith(
        "note: the first epoch ends far below its beginning at any learning rate"
    )
    unwatched, _ = counts()
    once = pv.fit(unwatched, x, max_restarts=0, **given)
    assert [replace(row, seconds=0.0) for row in fitted.history] == [replace(row, seconds=0.0) for row in once.history]
    assert fitted.best_epoch == 3  # of −9e10, −9e10, −197, −508: the fourth has fallen, beside the third
    resumed, _ = counts()
    pv.fit(resumed, x, checkpoint=tmp_path, callbacks=[StopAfter(1)], **given)
    pv.fit(resumed, x, checkpoint=tmp_path, **given)
    assert all(torch.equal(value, copy_state(vae)[name]) for name, value in copy_state(resumed).items())


class StopAfter(CallbackBase):
    """Ends a fit after some epochs."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_epoch(self, fit):
        fit.stop = len(fit.history) == self.epochs


class Falling:
    """A fit method whose first epoch falls by some nats at each learning rate, by none, or has no number (NaN)."""

    name = "falling"
    without_effect = READS_ALL

    def __init__(self, falls):
        self.falls, self.tried = falls, []

    def prepare(self, task):
        self.task = task

    def epoch(self, index, on_step):
        rate = self.task.rate(0)
        self.tried.append(rate)
        on_step()
        fall = self.falls[rate]
        if math.isnan(fall):
            raise pv.DivergedError("the objective became nan")
        if fall and self.task.watches_first_epoch:
            raise FirstEpochFall(fall)
        return EpochRecord(index + 1, index + 1, elbo=-1.0, learning_rate=rate)

    def state(self):
        return {}

    def load_state(self, state):
        pass


NONE = math.nan
TRIES = {  # the falls at rates of 0, 1, 1/4, …; the rates that are tried; how it ends: at which restarts, or diverged
    "further at rest": ([270, 185], [1, 0, 1], 0),
    "half as far at rest": ([93, 185], [1, 0, 1], 0),
    "less than half as far, then as far": ([400, 1e12, 500], [1, 0, 1 / 4, 1 / 4], 1),
    "a lower rate ends it": ([0, 1e6, 9e5, 8e5, 0], [1, 0, 1 / 4, 1 / 16, 1 / 64], 3),
    "no number, then as at rest": ([400, NONE, NONE, 500], [1, 1 / 4, 1 / 16, 0, 1 / 16], 2),
    "no number at rest": ([NONE, 1e6, 0], [1, 0, 1 / 4], 1),
    "at all rates, and not at rest": ([0, 1e11, 1e9, 1e9, 1e9], [1, 0, 1 / 4, 1 / 16, 1 / 64], None),
}


@pytest.mark.parametrize(("falls", "tried", "restarts"), TRIES.values(), ids=TRIES)
def test_the_rate_of_a_first_epoch_that_falls(falls, tried, restarts):
    method = Falling(dict(zip((0.0, 1.0, 1 / 4, 1 / 16, 1 / 64), falls, strict=False)))
    config = TrainConfig(epochs=1, learning_rate=1.0, schedule="constant")
    if restarts is None:
        with pytest.raises(pv.DivergedError, match="after 3 of 3 restarts"):
            fit_with(method, small_vae(), table()[0], config)
    else:
        fitted = fit_with(method, small_vae(), table()[0], config)
        assert [row.restarts for row in fitted.history] == [restarts]
    assert method.tried == tried


class Failing:
    """A fit method that takes some steps and then has no number."""

    name = "failing"
    without_effect = READS_ALL

    def __init__(self, steps):
        self.steps, self.epochs = steps, 0

    def prepare(self, task):
        pass

    def epoch(self, index, on_step):
        self.epochs += 1
        for _ in range(self.steps):
            on_step()
        raise pv.DivergedError("the objective became nan")

    def state(self):
        return {}

    def load_state(self, state):
        pass


@pytest.mark.parametrize(("steps", "epochs"), [(0, 1), (1, 4)])
def test_before_any_step_no_learning_rate_is_tried(steps, epochs):
    method = Failing(steps)
    with pytest.raises(pv.DivergedError, match="the weights of epoch 0 were kept"):
        fit_with(method, small_vae(), table()[0], TrainConfig())
    assert method.epochs == epochs


def with_validation(pairs):
    """Records with these objectives on training and validation rows."""
    return [EpochRecord(epoch, epoch, elbo=train, valid_elbo=valid) for epoch, (train, valid) in enumerate(pairs, 1)]


@pytest.mark.parametrize(
    ("pairs", "cause"),
    [
        ([(-200, -200), (-100, -110), (-90, -105)], ""),
        ([(-200, -200), (-100, -110), (-90, -125)], ""),
        ([(-5.0, -5.0), (-4.0, -4.0), (-3.0, -12.0)], ""),
        ([(-5.0, -5.0), (-4.0, -4.0), (-3.0, -300.0)], "overfitting; try fewer epochs"),
        ([(-5.0, -5.0), (-4.0, -4.0), (-200.0, -300.0)], "a learning rate too high"),
        ([(-5.0, None), (-4.0, None)], ""),
        ([], ""),
    ],
)
def test_a_collapse_of_validation_is_told_with_its_cause(pairs, cause):
    note = validation_note(with_validation(pairs))
    assert cause in note
    assert bool(note) == bool(cause)
    if cause:
        assert "fell from -4.00 in epoch 2, whose weights are kept, to -300.00" in note


def test_a_row_that_dominates_is_named():
    log_px = torch.full((100,), -3.0)
    assert dominating_rows(log_px, range(100)) == ""
    log_px[17] = -5000.0
    assert "1 of 100 validation rows pull the mean log p(x) from -3.00 to -52.97" in dominating_rows(log_px, range(100))
    assert "look at row 17 (-5,000)" in dominating_rows(log_px, range(100))
    log_px[3] = -float("inf")
    assert "1 of 99 validation rows" in dominating_rows(log_px, range(100))
