"""Pyro's own models: every verb, with numbers of other means, and the ELBO that Pyro has for the same noise."""

import pytest
import torch
from pyro_models import CASES, N, elbo_and_pyros, made

import pyro_vae as pv


@pytest.fixture
def case(request):
    torch.manual_seed(0)
    return CASES[request.param]


def refused(reason):
    return pytest.raises(pv.InputError, match=reason)


every_case = pytest.mark.parametrize("case", CASES, indirect=True)
pytestmark = pytest.mark.filterwarnings("ignore:training runs uncompiled")


@every_case
def test_the_elbo_is_pyros_for_the_same_weights_and_noise(case):
    """The first step of a fit has drawn the same numbers as Pyro's loss of the rows in that order."""
    found, expected = elbo_and_pyros(case)
    assert found == pytest.approx(expected, rel=1e-5)


@every_case
def test_fit_and_evidence(case):
    program, split = made(case), case.split
    fitted = pv.fit(program, split, **{"epochs": 60, "batch_size": 8, "learning_rate": 0.02, **case.fit})
    first, last = (fitted.history[i].elbo for i in (0, -1))
    if last is not None:
        assert last > first
    if isinstance(case.log_px, str):
        for verb in (pv.log_evidence, pv.auto_evidence):
            with refused(case.log_px):
                verb(program, split)
        return
    with torch.no_grad():
        expected = case.log_px(program, split)
    found = pv.log_evidence(program, split, case.draws)
    assert (found.log_px - expected).abs().max() < case.error
    assert abs(float((found.log_px - expected).mean())) < case.error / 5
    auto = pv.auto_evidence(program, split)
    assert (auto.log_px - expected).abs().max() < max(case.error, 0.1)


@every_case
def test_annealing_where_latents_are_continuous(case):
    program, split = made(case), case.split
    pv.fit(program, split, **{"batch_size": 8, **case.fit, "epochs": 1})
    few = split.head(3)
    if isinstance(case.annealed, str):
        with refused(case.annealed):
            pv.annealed_evidence(program, few, 5, start="prior")
        return
    with torch.no_grad():
        expected = case.log_px(program, few)
    found = pv.annealed_evidence(program, few, 100, start="prior")
    assert (found.log_px - expected).abs().max() < 0.5


@every_case
def test_encode_sample_save_and_load(case, tmp_path):
    program, split = made(case), case.split
    pv.fit(program, split, **{"batch_size": 8, **case.fit, "epochs": 1})
    inputs = split.row_inputs(slice(None))
    if isinstance(case.encodes, str):
        with refused(case.encodes):
            program.encode(split.x, **inputs)
    else:
        codes = program.encode(split.x, **inputs)
        assert codes.shape[0] == N
        assert codes.isfinite().all()
        assert program.reconstruct(split.x, **inputs).isfinite().all()
    few = {name: value[:5] for name, value in inputs.items()}
    if case.reads_x:
        with refused("the model reads x|whose values it may not read"):
            program.sample(5, seed=0, **few)
        few["x"] = split.x[:5]
    drawn = program.sample(5, seed=0, **few)
    assert drawn.shape[0] == 5
    assert drawn.isfinite().all()
    pv.save(program, tmp_path)

    again = pv.load(tmp_path, build=lambda: made(case))
    assert torch.equal(again.sample(5, seed=0, **few), drawn)
    if not isinstance(case.encodes, str):
        assert torch.equal(again.encode(split.x, **inputs), codes)
