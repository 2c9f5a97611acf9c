"""Callbacks and fit methods: one protocol for every iterative fit, and a loop that holds any method."""

import dataclasses
import re
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO

import pyro_vae as pv
from pyro_vae.comparison.fit_by_name import fit_by_name
from pyro_vae.comparison.fit_methods import FIT_METHODS, Budget, FitMethodEntry
from pyro_vae.inference.em.fit_cavi import fit_cavi
from pyro_vae.inference.em.fit_mcem import MCEMMethod, fit_mcem
from pyro_vae.inference.fit_result import EMEpoch, EpochRecord, FitResult, MCEMEpoch
from pyro_vae.inference.svi.callbacks import CallbackBase
from pyro_vae.inference.svi.fit_loop import fit_with
from pyro_vae.inference.svi.progress import all_callbacks, make_bar
from pyro_vae.inference.svi.train_config import TrainConfig, TrainOverrides
from pyro_vae.models.bayesian_mixture import BayesianGaussianMixture
from pyro_vae.programs.parameters import copy_state


class Recorder(CallbackBase):
    def __init__(self, stop_after=None, by_setting=False):
        self.calls, self.stop_after, self.by_setting = [], stop_after, by_setting

    def on_fit_start(self, fit):
        self.calls.append(("start", len(fit.history), fit.epochs))

    def on_epoch(self, fit):
        self.calls.append(len(fit.history))
        is_last = len(fit.history) == self.stop_after
        if self.by_setting:
            fit.stop = fit.stop or is_last
            return None
        return is_last

    def on_fit_end(self, fit):
        self.calls.append(("end", fit.stopped))


def blobs():
    return torch.randn(60, 2) + torch.tensor([[-2.0], [2.0]]).repeat(30, 1)


def by_svi(**options):
    return pv.fit(pv.PPCA(1, 2), blobs(), epochs=5, learning_rate=0.01, **options)


def by_em(**options):
    return pv.fit_em(pv.GaussianMixture(2, 2), blobs(), epochs=5, tolerance=0.0, num_starts=2, **options)


def by_online_em(**options):
    return pv.fit_em(pv.GaussianMixture(2, 2), blobs(), epochs=5, batch_size=20, **options)


def by_cavi(**options):
    return fit_cavi(BayesianGaussianMixture(2, 2, 60), blobs(), epochs=5, tol=0.0, **options)


def by_mcem(**options):
    likelihood, guide = pv.likelihoods.Normal(pv.nets.mlp(1, 2)), pv.guides.MeanFieldNormal(pv.nets.mlp(2, 2))
    return fit_mcem(pv.VAE(pv.priors.StandardNormal(1), likelihood, guide), blobs(), epochs=5, **options)


FITS = (by_svi, by_em, by_online_em, by_cavi, by_mcem)


@pytest.mark.parametrize("by_setting", [False, True])
@pytest.mark.parametrize("fit", FITS)
def test_every_iterative_fit_calls_its_callbacks_and_stops_when_told(fit, by_setting):
    told, other, lengths = Recorder(stop_after=2, by_setting=by_setting), Recorder(), []
    fitted = fit(callbacks=[other, told], on_epoch=lambda history: lengths.append(len(history)))
    assert fitted.stopped == "callback"
    last = 3 if fit is by_online_em else 2  # its last E-step over all rows
    epochs = 10 if fit is by_em else 5
    assert told.calls == other.calls == [("start", 0, epochs), *range(1, last + 1), ("end", "callback")]
    assert lengths == list(range(1, last + 1))


@pytest.mark.parametrize("fit", FITS)
def test_callbacks_change_nothing_and_are_told_of_an_error(fit):
    class Fails(CallbackBase):
        def on_epoch(self, fit):
            raise KeyboardInterrupt

    def numbers(**options):
        torch.manual_seed(0)
        return [{**row, "seconds": 0.0} for row in fit(**options).history]

    assert numbers() == numbers(callbacks=[Recorder()])
    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt):
        fit(callbacks=[recorder, Fails()])
    assert recorder.calls[-1] == ("end", "")


def test_what_is_no_callback_is_refused():
    with pytest.raises(pv.InputError, match="CallbackBase"):
        all_callbacks([print], None, "none")


def test_a_plain_function_does_not_end_a_fit():
    assert len(by_svi(on_epoch=lambda history: True).history) == 5


def test_settings_are_a_config_with_overrides(tiny_vae):
    vae, x = tiny_vae
    fitted = pv.fit(vae, x, TrainConfig(epochs=4, batch_size=30, beta=2.0), epochs=2)
    assert [row.beta for row in fitted.history] == [2.0, 2.0]
    assert fitted.history[-1].step == 4
    with pytest.raises(pv.InputError, match="'batchsize'; did you mean 'batch_size'"):
        pv.fit(vae, x, batchsize=3)
    with pytest.raises(pv.InputError, match="'callback'; did you mean 'callbacks'"):
        pv.fit(vae, x, callback=[])
    with pytest.raises(pv.InputError, match="its own number of particles"):
        pv.fit(vae, x, loss=Trace_ELBO(2), num_particles=2)
    with pytest.raises(pv.InputError, match="Monte-Carlo EM does not read beta"):
        fit_mcem(vae, x, beta=2.0)


def test_the_keywords_are_the_settings():
    """`TrainOverrides`, for type checkers, has the fields of `TrainConfig` with their types."""
    assert typing.get_type_hints(TrainOverrides) == typing.get_type_hints(TrainConfig)
    assert list(TrainOverrides.__annotations__) == [field.name for field in dataclasses.fields(TrainConfig)]


def test_the_record_of_an_epoch_is_read_back_as_its_own_class():
    for fit, kind in ((by_svi, EpochRecord), (by_em, EMEpoch), (by_mcem, MCEMEpoch)):
        fitted = fit()
        again = FitResult.from_dict(fitted.to_dict())
        assert again == fitted
        assert {type(row) for row in again.history} == {kind}
        assert fitted.history[-1]["elbo"] == fitted.history[-1].elbo


def test_monte_carlo_em_resumes_in_the_same_loop(tiny_vae, tmp_path):
    """Its chains and step size are its state: a fit that was stopped continues to the same bits."""
    vae, x = tiny_vae
    start, config = copy_state(vae), TrainConfig(epochs=4, batch_size=25, optimizer="adagrad", learning_rate=0.02)
    whole = fit_with(MCEMMethod(), vae, x, config, valid=x[:10])
    expected = copy_state(vae)
    vae.load_state_dict(start)
    stopped = fit_with(
        MCEMMethod(), vae, x, config, valid=x[:10], checkpoint=tmp_path, callbacks=[Recorder(stop_after=2)]
    )
    assert stopped.stopped == "callback"
    found = fit_with(MCEMMethod(), vae, x, config, valid=x[:10], checkpoint=tmp_path)
    assert [{**row, "seconds": 0} for row in found.history] == [{**row, "seconds": 0} for row in whole.history]
    assert all(torch.equal(value, expected[name]) for name, value in copy_state(vae).items())


UNREAD = {"clip": (None,)}


class MeanMethod:
    """A fit method of a test: sets PPCA's mean to the batches' mean, moving half of the way each epoch."""

    name = "mean"
    without_effect = UNREAD

    def prepare(self, task):
        self.task, self.moved = task, torch.zeros(())
        torch.nn.init.zeros_(task.program.loc)

    def epoch(self, index, on_step):
        with torch.no_grad():
            difference = self.task.train.mean - self.task.program.loc
            self.task.program.loc += difference / 2
        self.moved += 1
        on_step()
        return EpochRecord(epoch=index + 1, step=index + 1, elbo=-float(difference.norm()))

    def state(self):
        return {"moved": self.moved.clone()}

    def load_state(self, state):
        self.moved = state["moved"]


def test_a_fit_method_is_one_object_and_one_entry(monkeypatch):
    """It is fitted in the shared loop, and by its name in a comparison."""
    x = torch.randn(40, 3) + 5
    fitted = fit_with(MeanMethod(), pv.PPCA(1, 3), x, TrainConfig(epochs=6))
    assert fitted.history[-1].elbo > fitted.history[0].elbo
    assert fitted.best_epoch == 6
    with pytest.raises(pv.InputError, match=r"mean does not read clip, so 3\.0 has no effect: leave it out"):
        fit_with(MeanMethod(), pv.PPCA(1, 3), x, TrainConfig(epochs=6, clip=3.0))
    monkeypatch.setattr(FIT_METHODS, "_entries", dict(FIT_METHODS._entries))
    entry = FitMethodEntry("mean", f"{__name__}:MeanMethod", "half of the way", models=("pyro_vae.models.ppca:PPCA",))
    FIT_METHODS.register(entry)
    program, result = fit_by_name(pv.PPCA(1, 3), "mean", pv.load_data(x), Budget(TrainConfig(epochs=3)))
    assert len(result.history) == 3
    assert isinstance(program, pv.PPCA)


@pytest.mark.parametrize("wrap", [np.bool_, torch.tensor])
def test_a_boolean_of_numpy_or_torch_stops_a_fit(tiny_vae, wrap):
    class Stop(CallbackBase):
        def on_epoch(self, fit):
            return wrap(True)

    assert pv.fit(*tiny_vae, epochs=3, callbacks=[Stop()]).stopped == "callback"


def test_every_callback_that_started_ends(tiny_vae):
    ended = []

    class Ends(CallbackBase):
        def on_fit_end(self, fit):
            ended.append(self)

    class Raises(CallbackBase):
        def on_fit_start(self, fit):
            raise ValueError("no start")

        def on_fit_end(self, fit):
            raise ValueError("no end")

    first = Ends()
    with pytest.raises(ValueError, match="no start"):
        pv.fit(*tiny_vae, epochs=1, callbacks=[first, Raises()])
    assert ended == [first]


def test_the_fit_method_that_contributors_copy_runs():
    """The class in CONTRIBUTING.md fits a program, and refuses settings of a guide."""
    text = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    source = re.search(r'```python\n(""".*?class ExactGradientMethod:.*?)```', text, re.S)[1]
    names = {}
    exec(compile(source, "CONTRIBUTING.md", "exec"), names)
    method, x = names["ExactGradientMethod"], torch.randn(40, 3) + 5
    fitted = fit_with(method(), pv.PPCA(1, 3), x, TrainConfig(epochs=6, learning_rate=0.1))
    assert fitted.history[-1].elbo > fitted.history[0].elbo
    with pytest.raises(pv.InputError, match="does not read beta"):
        fit_with(method(), pv.PPCA(1, 3), x, TrainConfig(beta=2.0))


def test_a_bar_is_on_standard_error_and_leaves_no_line_behind():
    bar = make_bar()
    assert bar.console.stderr
    assert bar.live.transient


@pytest.mark.parametrize("method", [pv.fit, fit_mcem])
def test_validation_rows_of_another_width_are_refused(method):
    likelihood, guide = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 6)), pv.guides.MeanFieldNormal(pv.nets.mlp(6, 4))
    vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, guide)
    with pytest.raises(pv.InputError, match="training rows of 6 columns, and validation rows of 5"):
        method(vae, torch.ones(20, 6), valid=torch.ones(9, 5), epochs=1)
