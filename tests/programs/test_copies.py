"""Copies of programs and results by pickle, deepcopy, torch.save, joblib and another process give the same numbers."""

import copy
import io
import multiprocessing
import pickle

import joblib
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import constraints

import pyro_vae as pv
from pyro_vae.comparison.comparison_table import Fitted
from pyro_vae.errors import InputError
from pyro_vae.programs.parameters import copy_state, load_state

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) + 1
BITS = (X > 1).float()


def model(x):
    loc = pyro.param("loc.mean", torch.zeros(3))  # a name with a dot
    scale = pyro.param("scale", torch.ones(3), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(loc + z[..., None], scale).to_event(1), obs=x)


def guide(x):
    weight = pyro.param("weight", 0.1 * torch.ones(3))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ weight, 1.0))


def functions():
    return pv.Program(model, guide)


def vae(guide=None, prior=None):
    return pv.VAE(
        prior or pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 3)),
        guide or pv.guides.MeanFieldNormal(pv.nets.mlp(3, 8, 4)),
    )


PROGRAMS = {
    "functions": (functions, X),
    "vae": (vae, BITS),
    "flow guide": (lambda: vae(pv.guides.FlowGuide(pv.nets.mlp(3, 8, 8), 2, 2)), BITS),
    "mixture prior": (lambda: vae(prior=pv.priors.MixtureOfNormals(2, 3)), BITS),
    "mixture": (lambda: pv.GaussianMixture(2, 3, prior_rows=1), X),
    "amortized mixture": (
        lambda: pv.GaussianMixture(2, 3, prior_rows=1, guide=pv.guides.CategoricalGuide(pv.nets.mlp(3, 8, 2))),
        X,
    ),
    "ppca": (lambda: pv.PPCA(1, 3), X),
}


def by_torch(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def by_joblib(value):
    file = io.BytesIO()
    joblib.dump(value, file)
    file.seek(0)
    return joblib.load(file)


COPIERS = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "deepcopy": copy.deepcopy,
    "torch.save": by_torch,
    "joblib": by_joblib,
}


def numbers(program, x):
    """log p(x) of rows, a draw, codes, and the state."""
    evidence = pv.log_evidence(program, x, 5, seed=0)
    torch.manual_seed(0)  # a flow's means are of draws
    return [evidence.log_px, program.sample(3, seed=0), program.encode(x), *copy_state(program).values()]


@pytest.mark.parametrize("way", COPIERS)
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("fitted", [False, True])
def test_copies_of_programs(name, way, fitted):
    make, x = PROGRAMS[name]
    torch.manual_seed(0)
    program = make()
    if fitted:
        pv.fit(program, x, epochs=2, progress="none")
    else:
        pv.log_evidence(program, x, 2)  # Pyro has seen the parameters
    other = COPIERS[way](program)
    for ours, theirs in zip(numbers(program, x), numbers(other, x), strict=True):
        assert torch.equal(ours, theirs)
    for parameter in other.parameters():
        parameter.data.add_(0.01)
    assert not torch.equal(numbers(other, x)[0], numbers(program, x)[0])  # nothing is shared
    again = COPIERS[way](other)
    first = pv.fit(again, x, epochs=1, seed=3, progress="none").history[0]["elbo"]
    assert first == pv.fit(other, x, epochs=1, seed=3, progress="none").history[0]["elbo"]


@pytest.mark.parametrize("way", COPIERS)
def test_a_program_that_has_not_run_and_loaded_values_that_wait(way):
    program, waiting = functions(), functions()
    pv.fit(program, X, epochs=2, progress="none")
    assert COPIERS[way](functions()).state_dict() == {}
    waiting.load_state_dict(program.state_dict())
    other = COPIERS[way](waiting)
    assert set(other.state_dict()) == set(program.state_dict())
    assert torch.equal(numbers(other, X)[0], numbers(program, X)[0])


@pytest.mark.parametrize("way", COPIERS)
def test_copies_of_results(way):
    program = vae()
    result = pv.fit(program, BITS, epochs=2, progress="none")
    evidence, exact = pv.log_evidence(program, BITS, 5, seed=0), pv.exact_evidence(pv.PPCA(1, 3), X)
    data = pv.load_data("pinwheel")
    config = pv.TrainConfig(epochs=3)
    assert COPIERS[way](config) == config
    other = COPIERS[way](result)
    assert [dict(row) for row in other.history] == [dict(row) for row in result.history]
    for ours, theirs in ((evidence, COPIERS[way](evidence)), (exact, COPIERS[way](exact))):
        assert torch.equal(ours.log_px, theirs.log_px)
        assert str(ours) == str(theirs)
    split = COPIERS[way](data.train)
    assert torch.equal(split.x, data.train.x)
    assert split.fingerprint == data.train.fingerprint
    assert torch.equal(COPIERS[way](data).test.x, data.test.x)
    fitted = COPIERS[way](Fitted("vae", "svi", program, result))
    assert fitted.name == "vae svi"
    assert torch.equal(numbers(fitted.program, BITS)[0], numbers(program, BITS)[0])


def log_px_there(program, queue):
    queue.put(pv.log_evidence(program, X, 5, seed=0).log_px.tolist())


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_another_process(method):
    program = functions()
    pv.fit(program, X, epochs=2, progress="none")
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=log_px_there, args=(program, queue))
    process.start()
    found = queue.get(timeout=120)
    process.join()
    assert found == pytest.approx(pv.log_evidence(program, X, 5, seed=0).log_px.tolist(), abs=1e-6)


def test_parameters_of_functions_are_the_modules():
    """state_dict, named_parameters, double, requires_grad_ and strict loading mean what they mean in torch."""
    program = functions()
    assert dict(program.named_parameters()) == {}
    pv.fit(program, X, epochs=2, progress="none")
    names = {"pyro.param/loc.mean", "pyro.param/scale", "pyro.param/weight"}
    assert set(dict(program.named_parameters())) == set(program.state_dict()) == names
    assert all(isinstance(value, nn.Parameter) for value in program.parameters())
    other = functions()
    assert str(other.load_state_dict(program.state_dict())) == "<All keys matched successfully>"
    assert torch.equal(numbers(other, X)[0], numbers(program, X)[0])
    used = functions()
    before = numbers(used, X)[0]
    used.load_state_dict(program.state_dict())
    assert not torch.equal(numbers(used, X)[0], before)
    assert torch.equal(numbers(used, X)[0], numbers(program, X)[0])
    part = {name: value for name, value in program.state_dict().items() if "scale" not in name}
    with pytest.raises(RuntimeError, match="Missing key"):
        used.load_state_dict(part)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        used.load_state_dict(program.state_dict() | {"odd": X})
    with pytest.raises(RuntimeError, match="size mismatch"):
        used.load_state_dict(program.state_dict() | {"pyro.param/scale": torch.ones(4)})
    with pytest.raises(InputError, match="do not fit"):
        load_state(used, part)
    assert used.load_state_dict(part, strict=False).missing_keys == ["pyro.param/scale"]
    used.double()
    assert pv.log_evidence(used, X.double(), 5).log_px.dtype == torch.float64
    assert {value.dtype for value in used.parameters()} == {torch.float64}


def test_a_frozen_parameter_stays():
    program = functions()
    pv.log_evidence(program, X, 2)
    dict(program.named_parameters())["pyro.param/scale"].requires_grad_(False)
    before = program.state_dict()["pyro.param/scale"].clone()
    pv.fit(program, X, epochs=3, progress="none")
    assert torch.equal(program.state_dict()["pyro.param/scale"], before)
    assert not torch.equal(program.state_dict()["pyro.param/loc.mean"], torch.zeros(3))


def test_pyros_own_svi_and_a_cleared_store():
    """Pyro's optimizers find the same tensors; a store that is cleared inside leaves no parameter behind."""
    program = functions()
    svi = pyro.infer.SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
    svi.step(X)
    before = program.state_dict()["pyro.param/weight"].clone()
    svi.step(X)
    assert not torch.equal(program.state_dict()["pyro.param/weight"], before)

    def forgetful(x):
        pyro.clear_param_store()
        model(x)

    cleared = pv.Program(forgetful, guide)
    cleared.model(X)
    assert set(cleared.state_dict()) == {"pyro.param/loc.mean", "pyro.param/scale"}


def test_a_program_inside_a_module_keeps_its_parameters_there():
    class Service(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = functions()

    service, other = Service(), Service()
    pv.fit(service.inner, X, epochs=2, progress="none")
    assert set(service.state_dict()) == {f"inner.{name}" for name in service.inner.state_dict()}
    other.load_state_dict(service.state_dict())
    assert torch.equal(numbers(other.inner, X)[0], numbers(service.inner, X)[0])
