"""The contract: any pair of model and guide can be fitted, scored, sampled, saved and loaded, with no special case."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from example_programs import (
    Cauchyish,
    Hierarchical,
    PerRowGuide,
    global_mean,
    plain_functions,
    vamp_vae,
)
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.nn import PyroModule, PyroParam

import pyro_vae as pv
from pyro_vae.programs.parameters import copy_state, named_parameters
from pyro_vae.programs.sample_rows import sample


def own_prior_vae():
    return pv.VAE(
        Cauchyish(2), pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 6)), pv.guides.MeanFieldNormal(pv.nets.mlp(6, 8, 4))
    )


def bits(n=60, D=6):
    probabilities = torch.tensor([[0.9, 0.8, 0.7, 0.1, 0.1, 0.2], [0.1, 0.2, 0.1, 0.9, 0.8, 0.9]])
    return torch.bernoulli(probabilities[torch.randint(0, 2, (n,))])


PROGRAMS = {"vamp": vamp_vae, "hierarchical": Hierarchical, "own prior": own_prior_vae}


@pytest.mark.parametrize("make", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_programs_of_a_user_go_through_everything(make, tmp_path):
    program, x, held_out = make(), bits(200), bits(100)
    before = pv.log_evidence(program, held_out, num_samples=50)
    start = copy_state(program)
    fitted = pv.fit(program, x, valid=held_out, epochs=12, batch_size=20, learning_rate=0.01)
    after = pv.log_evidence(program, held_out, num_samples=50)
    assert fitted.history[-1]["valid_elbo"] > fitted.history[0]["valid_elbo"]
    assert after.log_px.mean() > before.log_px.mean() + 0.3
    moved = [
        name
        for name, value in copy_state(program).items()
        if value.is_floating_point() and not torch.equal(value, start[name])
    ]
    assert set(moved) == set(named_parameters(program)), "every parameter learns"
    assert after.iwae[50].mean() >= after.elbo.mean()
    drawn = sample(program, 400, num_features=6, seed=1)
    assert drawn.shape == (400, 6)
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    assert abs(drawn.mean() - x.mean()) < 0.1
    pv.save(program, tmp_path)
    loaded = pv.load(tmp_path, build=make)
    again = pv.log_evidence(loaded, held_out, num_samples=50)
    assert torch.equal(again.log_px, after.log_px)


def test_a_users_part_says_how_to_load_it(tmp_path):
    pv.save(own_prior_vae(), tmp_path)
    with pytest.raises(
        pv.InputError, match=r"program.prior is example_programs.Cauchyish.*load it with pv.load\(dir, build=function\)"
    ):
        pv.load(tmp_path)


def test_plain_functions_keep_what_they_learned(tmp_path):
    x = torch.randn(300, 1) + 0.3 * torch.randn(300, 3) + torch.tensor([1.0, -2.0, 0.5])
    program = plain_functions()
    pv.fit(program, x, epochs=60, learning_rate=0.05, schedule="cosine")
    learned = named_parameters(program)
    assert set(learned) == {f"pyro.param/{name}" for name in ("loc", "noise", "weight", "bias", "scale")}
    torch.testing.assert_close(learned["pyro.param/loc"].detach(), x.mean(0), atol=0.2, rtol=0)
    assert not pyro.get_param_store(), "nothing is left in Pyro's global store"
    found = pv.log_evidence(program, x[:20], num_samples=100)
    assert program.sample(5).shape == (5, 3)
    pv.save(program, tmp_path)
    loaded = pv.load(tmp_path, build=plain_functions)
    assert torch.equal(pv.log_evidence(loaded, x[:20], num_samples=100).log_px, found.log_px)
    assert torch.equal(loaded.reconstruct(x[:4]), program.reconstruct(x[:4]))
    # saved again before any of its functions has run, a loaded program still holds everything
    pv.save(pv.load(tmp_path, build=plain_functions), tmp_path / "again")
    twice = pv.load(tmp_path / "again", build=plain_functions)
    assert torch.equal(pv.log_evidence(twice, x[:20], num_samples=100).log_px, found.log_px)


VERBS = {
    "encode": lambda program, x: program.encode(x),
    "reconstruct": lambda program, x: program.reconstruct(x),
    "sample": lambda program, x: program.sample(9, seed=0),
    "score": lambda program, x: pv.log_evidence(program, x, num_samples=9).log_px,
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS.keys())
def test_a_loaded_programs_first_call_sees_what_was_learned(tmp_path, verb):
    """Parameters that functions make are restored when they are made, whichever verb makes them."""
    x = torch.randn(60, 3) + 2
    program = plain_functions()
    fitted = pv.fit(program, x, valid=x[:20], epochs=10, learning_rate=0.1)
    assert fitted.history[-1]["active_units"] in (0, 1)
    pv.save(program, tmp_path)
    assert torch.equal(verb(pv.load(tmp_path, build=plain_functions), x), verb(program, x))
    assert torch.equal(verb(copy.deepcopy(pv.load(tmp_path, build=plain_functions)), x), verb(program, x))


def test_two_fits_in_one_process_never_meet():
    """The param store is global by name; both programs use the same names, and both must learn, each its own data."""
    low, high = torch.randn(200, 3) - 5, torch.randn(200, 3) + 5
    for make in (plain_functions, lambda: small_normal_vae()):
        one, two = make(), make()
        pv.fit(one, low, epochs=40, learning_rate=0.1, schedule="constant")
        pv.fit(two, high, epochs=40, learning_rate=0.1, schedule="constant")
        assert one.reconstruct(low).mean() < -3.5
        assert two.reconstruct(high).mean() > 3.5


def small_normal_vae():
    return pv.VAE(
        pv.priors.StandardNormal(1),
        pv.likelihoods.Normal(pv.nets.mlp(1, 3)),
        pv.guides.MeanFieldNormal(pv.nets.mlp(3, 2)),
    )


def test_two_vaes_under_pyros_own_svi_never_meet():
    """Pyro's store keeps the first model's tensors under a name; the second must train its own."""
    x = torch.randn(50, 3) + 4
    first, second = small_normal_vae(), small_normal_vae()
    for vae in (first, second):
        start = copy.deepcopy(vae.state_dict())
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        losses = [svi.step(x) for _ in range(50)]
        assert losses[-1] < losses[0]
        assert any(not torch.equal(value, start[name]) for name, value in vae.state_dict().items())


def test_a_replaced_part_is_the_one_that_learns():
    vae, x = small_normal_vae(), torch.randn(50, 3) + 4
    pv.fit(vae, x, epochs=1)
    vae.likelihood = pv.likelihoods.Normal(pv.nets.mlp(1, 3))
    pv.fit(vae, x, epochs=20, learning_rate=0.05)
    assert vae.reconstruct(x).mean() > 2


def test_pyros_tools_work_unaided(tiny_vae):
    vae, x = tiny_vae
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    assert svi.step(x) > 0
    drawn = Predictive(vae.model, guide=vae.guide, num_samples=7)(x)
    assert drawn["x"].shape == (7, 60, 6)
    assert drawn["z"].shape == (7, 60, 2)
    parallel = Predictive(vae.model, num_samples=7, parallel=True)(x)
    assert parallel["z"].shape == (7, 60, 2)
    mcmc = MCMC(NUTS(vae.model), num_samples=30, warmup_steps=30, disable_progbar=True)
    mcmc.run(x[:1])
    assert mcmc.get_samples()["z"].shape == (30, 1, 2)
    with pyro.plate("outer", 5, dim=-2):
        trace = pyro.poutine.trace(vae.guide).get_trace(x)
    assert trace.nodes["z"]["value"].shape == (5, 60, 2)


def test_a_guide_with_parameters_for_each_row_finds_each_posterior():
    weight, noise = torch.tensor([[1.0], [0.5]]), 0.7
    x = torch.randn(40, 2)
    program = PerRowGuide(40, weight, noise)
    pv.fit(program, x, epochs=300, batch_size=20, learning_rate=0.05, schedule="cosine", num_particles=16)
    precision = 1 + (weight**2).sum().item() / noise**2
    torch.testing.assert_close(program.loc.detach(), x @ weight / noise**2 / precision, atol=0.06, rtol=0)
    scale = torch.nn.functional.softplus(program.raw.detach())
    torch.testing.assert_close(scale, torch.full((40, 1), precision**-0.5), atol=0.06, rtol=0)
    # in this family the best q is the exact posterior, so the evidence is exact
    exact = dist.MultivariateNormal(torch.zeros(2), weight @ weight.T + noise**2 * torch.eye(2)).log_prob(x)
    found = pv.log_evidence(program, x, num_samples=1000, rows=torch.arange(40))
    assert abs((found.log_px - exact.double()).mean()) < 0.01
    with pytest.raises(pv.InputError, match="asks for rows, which these rows do not have"):
        pv.fit(program, x, valid=x, epochs=1)


def test_sampling_uses_the_prior_not_the_placeholder():
    vae = pv.VAE(
        pv.priors.Normal([3.0], [0.5]),
        pv.likelihoods.Normal(torch.nn.Identity(), scale=0.1),
        pv.guides.MeanFieldNormal(pv.nets.mlp(1, 2)),
    )
    drawn = vae.sample(4000, seed=0)
    assert drawn.mean().item() == pytest.approx(3.0, abs=0.05)
    assert drawn.std().item() == pytest.approx((0.5**2 + 0.1**2) ** 0.5, abs=0.03)
    assert torch.equal(drawn, vae.sample(4000, seed=0))


def test_encode_averages_draws_where_the_guide_has_no_mean():
    class NoMean(dist.TorchDistribution):
        arg_constraints = {}  # noqa: RUF012
        support = dist.constraints.independent(dist.constraints.real, 1)

        def __init__(self, loc):
            self.loc = loc
            super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

        def expand(self, shape, _instance=None):
            return NoMean(self.loc.expand(torch.Size(shape) + self.event_shape))

        def sample(self, shape=()):
            return self.loc + torch.randn(torch.Size(shape) + self.loc.shape)

        def log_prob(self, value):
            return dist.Normal(self.loc, 1.0).to_event(1).log_prob(value)

    vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Normal(pv.nets.mlp(2, 3)), lambda x: NoMean(x[:, :2]))
    x = torch.randn(500, 3)
    error = (vae.encode(x) - x[:, :2]).std().item()
    assert error == pytest.approx(1 / 8, rel=0.1)  # 64 draws of unit noise


def test_deterministic_values_and_global_programs_validate_too():
    x = torch.randn(64, 1) + 2
    fitted = pv.fit(global_mean(), x, valid=x, epochs=2, batch_size=8)
    assert fitted.history[-1]["active_units"] is None

    class Deterministic(type(own_prior_vae())):
        def model(self, x):
            pyro.deterministic("n", torch.tensor(1.0))
            with pyro.plate("outer", len(x)):
                pyro.deterministic("twice", 2 * x, event_dim=1)
            super().model(x)

    vae = own_prior_vae()
    program = Deterministic(vae.prior, vae.likelihood, vae.posterior)
    x = bits(20)
    assert program.reconstruct(x).shape == (20, 6)
    assert program.sample(5).shape == (5, 6)
    torch.testing.assert_close(
        pv.log_evidence(program, x, num_samples=9).log_px, pv.log_evidence(vae, x, num_samples=9).log_px
    )


def test_parameters_that_pyro_was_never_told_of_are_noticed():
    class Forgot(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = torch.nn.Parameter(torch.zeros(1))

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z[..., None] + self.loc, 1.0).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(pv.InputError, match=r"no parameter took part in the first step: .*pyro.module"):
        pv.fit(Forgot(), torch.randn(20, 1), epochs=1)


def test_modules_can_be_model_and_guide():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.noise = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)
            self.loc = torch.nn.Parameter(torch.zeros(2))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(self.loc + z[..., None], self.noise).to_event(1), obs=x)

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.net = PyroModule[torch.nn.Linear](2, 1)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.net(x).squeeze(-1), 0.5))

    program = pv.Program(Model(), Guide())
    x = torch.randn(200, 1) + torch.tensor([2.0, -1.0]) + 0.3 * torch.randn(200, 2)
    pv.fit(program, x, epochs=250, learning_rate=0.05)
    torch.testing.assert_close(program.owners[0].loc.detach(), x.mean(0), atol=0.25, rtol=0)
    assert program.owners[0].noise.item() < 0.6
    assert not pyro.get_param_store()


def test_a_copy_of_a_program_is_a_program_of_its_own():
    original = pv.Program(PerRowGuide(4, torch.ones(1, 1), 1.0).model, lambda x: None)
    module = small_normal_vae()
    twin = copy.deepcopy(module)
    pv.fit(twin, torch.randn(50, 3) + 4, epochs=5)
    assert not torch.equal(twin.likelihood.net[0].weight, module.likelihood.net[0].weight)
    assert copy.deepcopy(original)._model.__self__ is not original._model.__self__
    with pytest.raises(pv.InputError, match="a program already"):
        pv.Program(module.model, module.guide)
