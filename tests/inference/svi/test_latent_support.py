"""A fit refuses a guide whose draws leave the prior's support, from the first draw that does, and checks no other."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.inference.svi.fit_loop import fit_with
from pyro_vae.inference.svi.progress import all_callbacks
from pyro_vae.inference.svi.svi_method import SVIMethod


def program(prior, family, start, with_second=False):
    """z ~ prior, x ~ N(z, 1); the guide is a family with one location for all rows, which starts somewhere."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)
            if with_second:
                pyro.sample("free", dist.Normal(0.0, 1.0))

    def guide(x):
        loc = pyro.param("loc", torch.tensor(start))
        with pyro.plate("data", len(x)):
            pyro.sample("z", family(loc + 0 * x[:, 0]))
            if with_second:
                pyro.sample("free", dist.Normal(0 * x[:, 0], 1.0))

    return pv.Program(model, guide)


MESSAGE = r"draws z from Normal on Real\(\), outside the support of its prior, Exponential on GreaterThanEq.*LogNormal"


@pytest.mark.parametrize("with_second", [False, True])
def test_refused_at_the_start(with_second):
    """ValueError with torch's own words before, and training on made-up numbers where the first batch had none."""
    own = program(dist.Exponential(1.0), lambda loc: dist.Normal(loc, 1.0), -1.0, with_second)
    with pytest.raises(pv.InputError, match=MESSAGE):
        pv.fit(own, torch.zeros(20, 1), epochs=1)


@pytest.mark.parametrize("compile_steps", [None, False])
@pytest.mark.parametrize("particles", [1, 4])
def test_refused_as_soon_as_a_draw_leaves(compile_steps, particles):
    """The guide starts ten standard deviations inside and moves out, in recorded and in other steps."""
    own, method = program(dist.Exponential(1.0), lambda loc: dist.Normal(loc, 0.3), 3.0), SVIMethod()
    config = pv.TrainConfig(
        epochs=200, batch_size=16, learning_rate=0.05, num_particles=particles, compile=compile_steps
    )
    seen = []
    with pytest.raises(pv.InputError, match=MESSAGE):
        fit_with(
            method,
            own,
            torch.full((64, 1), -1.0),
            config,
            callbacks=all_callbacks([], lambda history: seen.append(history[-1].elbo), "none"),
        )
    assert len(seen) > 2
    assert all(map(math.isfinite, seen)), "no whole epoch had a draw outside"
    if compile_steps is None:
        assert method.compiled.steps
        assert not method.compiled.fallback_reason


def test_validation_rows_count_too():
    """The guide is x itself: of the validation rows alone some lie outside."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Exponential(1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        scale = pyro.param("scale", torch.tensor(0.1), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0], scale))

    with pytest.raises(pv.InputError, match=MESSAGE):
        pv.fit(pv.Program(model, guide), torch.full((20, 1), 5.0), valid=torch.full((4, 1), -5.0), epochs=2)


def test_a_guide_inside_is_not_checked():
    """No operation is added to a step where what both declare says enough."""
    methods = []
    for family in (lambda loc: dist.LogNormal(loc, 0.3), lambda loc: dist.Gamma(loc.exp(), 1.0)):
        method, own = SVIMethod(), program(dist.Exponential(1.0), family, 0.0)
        fit_with(method, own, torch.ones(20, 1), pv.TrainConfig(epochs=1))
        methods.append(method)
    assert [method.terms.uncertain for method in methods] == [(), ()]


def map_program():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        weight = pyro.param("weight", torch.tensor(0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(weight * x[:, 0]))

    return pv.Program(model, guide)


def test_a_map_fit_reports_a_log_joint(capsys, monkeypatch):
    """The mode is x / 2, where log p(x, z) = −x²/4 − log 2π for each row; no ELBO is claimed."""
    monkeypatch.setattr("pyro_vae.inference.svi.progress.SECONDS_WITHOUT_WORD", 0.0)
    torch.manual_seed(0)
    own, x, valid = map_program(), torch.randn(200, 1), torch.randn(50, 1)
    fitted = pv.fit(own, x, valid=valid, epochs=150, learning_rate=0.05, progress="lines")
    last = fitted.history[-1]
    assert (last.elbo, last.reconstruction, last.kl, last.valid_elbo, last.valid_kl) == (None,) * 5
    assert last.log_joint == pytest.approx(float((-x.square() / 4).mean()) - 1.8379, abs=0.01)
    assert last.valid_log_joint == pytest.approx(float((-valid.square() / 4).mean()) - 1.8379, abs=0.01)
    assert "log joint" in capsys.readouterr().err
    assert "log joint" in repr(fitted)
    assert fitted.best_epoch == max(fitted.history, key=lambda row: row.valid_log_joint).epoch
    again = type(fitted).from_dict(fitted.to_dict())
    assert again.history[-1] == last


PROGRAM = """
import pyro, pyro.distributions as dist, torch, pyro_vae as pv

def build(data):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        weight = pyro.param("weight", torch.tensor(0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(weight * x[:, 0]))

    return pv.Program(model, guide)
"""


def command(capsys, *words):
    from pyro_vae.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code, *capsys.readouterr()


def test_map_by_the_commands(tmp_path, capsys):
    import json

    import numpy as np

    (tmp_path / "program.py").write_text(PROGRAM)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((100, 1)).astype(np.float32))
    own, run = ["--program", f"{tmp_path / 'program.py'}:build"], tmp_path / "run"
    code, out, err = command(
        capsys, "fit", *own, "--data", tmp_path / "x.npy", "--out", run, "--epochs", 3, "--no-standardize"
    )
    assert code == 0, err
    assert "validation log joint" in err
    assert "no density" in err
    record = json.loads((run / "evaluation.json").read_text())["valid"]
    assert [record[name] for name in ("elbo", "kl", "reconstruction", "log_px", "bound", "gap")] == [None] * 6
    code, _, err = command(capsys, "evaluate", run, *own)
    assert code == 2
    assert "annealing from the prior" in err
    for options in (["--method", "exact"], ["--method", "ais", "--start", "prior", "--temperatures", 50]):
        code, out, err = command(capsys, "evaluate", run, *own, *options, "--json")
        assert code == 0, err
        found = json.loads(out)
        assert found["elbo"] is None
        assert found["log_px"] == pytest.approx(-1.75, abs=0.4)
    assert command(capsys, "evaluate", run, *own, "--method", "exact")[0] == 0
    assert command(capsys, "score", run, *own)[0] == 2
    code, out, err = command(capsys, "info", run)
    assert code == 0, err


def test_observed_values_of_training_rows():
    """−3 under an Exponential in row 17 of a second site: the fit names both."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("a", dist.Normal(z, 1.0), obs=x[:, 0])
            pyro.sample("b", dist.Exponential(1.0), obs=x[:, 1])

    def guide(x):
        weight = pyro.param("weight", torch.tensor(0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(weight * x[:, 0], 1.0))

    x = torch.rand(40, 2)
    pv.fit(pv.Program(model, guide), x, epochs=1, batch_size=8)
    x[17, 1] = -3.0
    with pytest.raises(pv.InputError, match=r"site 'b' lies outside .* first in row 17"):
        pv.fit(pv.Program(model, guide), x, epochs=1, batch_size=8)
