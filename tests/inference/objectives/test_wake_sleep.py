"""Wake–sleep compared with enumerated gradients: every latent, every pair of draws, every simulated row."""

import copy
import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from example_programs import Hierarchical, PerRowGuide, global_mean, vamp_vae
from oracles import LinearGaussian
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.poutine.messenger import Messenger
from torch import nn

import pyro_vae as pv
from pyro_vae.context_managers import seeded
from pyro_vae.data import Measure, Split
from pyro_vae.inference.objectives.elbo_terms import RowWeighted
from pyro_vae.inference.objectives.wake_sleep import ReweightedWakeSleep, WakeSleep
from pyro_vae.programs.find_plates import find_plates
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.traces import sample_sites

RWS = ReweightedWakeSleep
PATTERNS = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
PAIRS = torch.tensor(list(itertools.product(range(4), repeat=2)))


class Discrete(nn.Module):
    """z in {0, 1, 2, 3}, three binary values given z; the guide's logits are a linear map of x."""

    def __init__(self, D=3, seed=0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.prior = nn.Parameter(torch.randn(4, generator=g, dtype=torch.float64))
        self.table = nn.Parameter(torch.randn(4, D, generator=g, dtype=torch.float64))
        self.weight = nn.Parameter(torch.randn(D, 4, generator=g, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(4, generator=g, dtype=torch.float64))

    def model(self, x):
        pyro.module("theta", nn.ParameterList([self.prior, self.table]))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=self.prior))
            pyro.sample("x", dist.Bernoulli(logits=self.table[z.long()]).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("phi", nn.ParameterList([self.weight, self.bias]))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=x @ self.weight + self.bias))

    def tables(self, x):
        """log p(z, x) and log q(z | x), (4, n) each, without Pyro."""
        log_px = (x @ self.table.T - nn.functional.softplus(self.table).sum(-1)).T
        return self.prior.log_softmax(0)[:, None] + log_px, (x @ self.weight + self.bias).log_softmax(-1).T


class ValuesFromBank(Messenger):
    """Gives sites values from a bank, one after another, instead of draws."""

    def __init__(self, **bank):
        super().__init__()
        self.bank = {name: iter(values) for name, values in bank.items()}

    def _pyro_sample(self, msg):
        if msg["name"] in self.bank and not msg["done"] and not msg["is_observed"]:
            msg["value"], msg["done"] = next(self.bank[msg["name"]]), True


def gradients(loss, program, *args, parameters=None, weigh=lambda function: function, seed=0, **kwargs):
    with seeded(seed):
        value = loss.differentiable_loss(weigh(program.model), weigh(program.guide), *args, **kwargs)
    found = torch.autograd.grad(value, parameters or list(program.parameters()), allow_unused=True)
    return [torch.zeros(()) if gradient is None else gradient for gradient in found]


def flat(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients])


def assert_all_close(found, expected, **tolerance):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def expected_gradients(program, x, insomnia):
    """Of rows x with two particles: every pair of draws and every simulated row, weighted by its probability."""
    log_p, log_q = program.tables(x)
    log_weights = (log_p - log_q).detach()[PAIRS]  # (16, 2, n)
    shares = log_weights.softmax(1)
    chance = log_q.detach()[PAIRS].sum(1).exp()  # (16, n)
    wake_theta = -(chance * (shares * log_p[PAIRS]).sum(1)).sum()
    wake_phi = -(chance * (shares * log_q[PAIRS]).sum(1)).sum()
    joint, posterior = program.tables(PATTERNS)
    sleep_phi = -len(x) * (joint.detach().exp() * posterior).sum()
    objective = wake_theta + insomnia * wake_phi + (1 - insomnia) * sleep_phi
    return torch.autograd.grad(objective, list(program.parameters()))


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("row", range(8))
def test_a_rows_wake_gradients_are_exact_over_all_pairs_of_draws(row, vectorize):
    """One row for each pair, scaled by the pair's probability: the sum is the expectation."""
    program, x = Discrete(), PATTERNS[row].expand(16, 3)
    chance = program.tables(PATTERNS[row : row + 1])[1].detach()[PAIRS].sum(1).exp()[:, 0]
    bank = [PAIRS.T] if vectorize else [*PAIRS.T]
    loss = RWS(2, vectorize_particles=vectorize, max_plate_nesting=1)
    with ValuesFromBank(z=bank):
        found = gradients(loss, program, x, weigh=poutine.scale(scale=chance))
    assert_all_close(found, expected_gradients(program, PATTERNS[row : row + 1], insomnia=1.0))


def test_the_sleep_gradient_is_exact_over_all_simulated_rows():
    """The 32 pairs (z, x) as one dream, scaled by their probabilities; θ gets nothing from it."""
    program = Discrete()
    z, x = torch.arange(4).repeat_interleave(8), PATTERNS.repeat(4, 1)
    log_p, log_q = program.tables(PATTERNS)
    chance = log_p.detach().exp().flatten()
    torch.testing.assert_close(chance.sum(), torch.tensor(1.0).double())
    with ValuesFromBank(z=[z, z], x=[x]):
        found = gradients(WakeSleep(), program, x, weigh=poutine.scale(scale=chance))
    wake_theta = -(chance * log_p.flatten()).sum()
    sleep_phi = -(log_p.detach().exp() * log_q).sum()
    parameters = list(program.parameters())
    assert_all_close(found[:2], torch.autograd.grad(wake_theta, parameters[:2]))
    assert_all_close(found[2:], torch.autograd.grad(sleep_phi, parameters[2:]))


@pytest.mark.parametrize("insomnia", [0.0, 0.5, 1.0])
def test_the_gradients_of_draws_average_to_the_enumerated_ones(insomnia):
    """40 batches of each pattern 250 times: every parameter within 4.5 standard errors, which are small."""
    program, x = Discrete(), PATTERNS.repeat(250, 1)
    loss = RWS(2, insomnia=insomnia, vectorize_particles=True, max_plate_nesting=1)
    found = torch.stack([flat(gradients(loss, program, x, seed=seed)) for seed in range(40)]) / 250
    expected, error = flat(expected_gradients(program, PATTERNS, insomnia)), found.std(0) / 40**0.5
    assert ((found.mean(0) - expected).abs() < 4.5 * error).all()
    assert error.norm() < 0.05 * expected.norm()


def test_many_particles_reach_the_likelihood_and_the_posterior():
    """As S grows, wake-θ is the gradient of −log p(x) and wake-φ that of −Σ p(z | x) log q(z | x)."""
    program = Discrete()
    log_p, log_q = program.tables(PATTERNS)
    parameters = list(program.parameters())
    expected = [
        *torch.autograd.grad(-log_p.logsumexp(0).sum(), parameters[:2], retain_graph=True),
        *torch.autograd.grad(-(log_p.detach().softmax(0) * log_q).sum(), parameters[2:]),
    ]
    found = gradients(RWS(40_000, vectorize_particles=True, max_plate_nesting=1), program, PATTERNS)
    assert_all_close(found, expected, atol=0.1, rtol=0)  # about 5 standard errors
    with seeded(0), torch.no_grad():
        value = RWS(40_000, vectorize_particles=True, max_plate_nesting=1).loss(program.model, program.guide, PATTERNS)
    assert value == pytest.approx(-log_p.logsumexp(0).sum().item(), abs=0.02)


def test_a_batch_is_the_sum_of_its_parts_and_vectorized_equals_sequential():
    program, z = Discrete(), torch.randint(4, (3, 8))
    simulated = {"z": torch.randint(4, (8,)), "x": PATTERNS[torch.randperm(8)]}

    def gradients_of(rows, vectorize):
        bank = [z[:, rows]] if vectorize else [*z[:, rows]]
        loss = RWS(3, insomnia=0.3, vectorize_particles=vectorize, max_plate_nesting=1)
        with ValuesFromBank(z=[*bank, simulated["z"][rows]], x=[simulated["x"][rows]]):
            return gradients(loss, program, PATTERNS[rows])

    whole = gradients_of(slice(None), True)
    assert_all_close(whole, gradients_of(slice(None), False))
    parts_of_batch = [
        gradients_of(slice(0, 3), True),
        gradients_of(slice(3, 4), False),
        gradients_of(slice(4, 8), True),
    ]
    assert_all_close(whole, [sum(parts) for parts in zip(*parts_of_batch, strict=True)])


def test_with_the_exact_posterior_as_guide_all_shares_are_equal():
    oracle, posterior, S = LinearGaussian(2, 4), LinearGaussian(2, 4, inflate=1.0), 3
    x = oracle.rows(6)
    oracle.W.requires_grad_()
    loss = RWS(S, vectorize_particles=True, max_plate_nesting=1)
    with seeded(0):
        loss = loss.differentiable_loss(oracle.model, posterior.guide, x)
    torch.testing.assert_close(loss.detach(), -oracle.exact(x).sum().detach(), rtol=1e-5, atol=1e-4)
    found = torch.autograd.grad(loss, oracle.W)[0]
    with seeded(0), pyro.plate("draws", S, dim=-2):
        z = poutine.trace(posterior.guide).get_trace(x).nodes["z"]["value"].detach()
    log_px = dist.Normal(z @ oracle.W.T + oracle.b, oracle.noise).log_prob(x)
    torch.testing.assert_close(found, torch.autograd.grad(-log_px.sum() / S, oracle.W)[0], rtol=1e-3, atol=1e-3)


def test_one_particles_decoder_gradient_is_that_of_the_elbo(tiny_vae):
    vae, x = tiny_vae
    parameters = list(vae.likelihood.parameters())
    found, expected = (gradients(loss, vae, x, parameters=parameters) for loss in (WakeSleep(), Trace_ELBO()))
    assert_all_close(found, expected)
    with seeded(0):
        value = WakeSleep().loss(vae.model, vae.guide, x)
    with seeded(0):
        assert value == pytest.approx(Trace_ELBO().loss(vae.model, vae.guide, x), rel=1e-6)


def test_theta_and_phi_have_their_own_objectives():
    """θ is the same whatever φ's objective is; φ is a mixture of its two."""
    program = Discrete()
    found = {insomnia: gradients(RWS(2, insomnia=insomnia), program, PATTERNS) for insomnia in (0.0, 0.25, 1.0)}
    for theta in (0, 1):
        assert_all_close([found[0.0][theta], found[0.25][theta]], [found[1.0][theta]] * 2)
    for phi in (2, 3):
        assert_all_close([found[0.25][phi]], [0.25 * found[1.0][phi] + 0.75 * found[0.0][phi]])


def test_the_decoder_has_no_gradient_from_simulated_rows():
    likelihood = pv.likelihoods.Normal(pv.nets.mlp(2, 8, 6), scale="learned")
    prior, guide = pv.priors.Normal([0.0, 0.0], 1.0, learned=True), pv.guides.MeanFieldNormal(pv.nets.mlp(6, 8, 4))
    vae, x = pv.VAE(prior, likelihood, guide), torch.randn(20, 6)
    parameters = [*prior.parameters(), *likelihood.parameters()]
    found, expected = (gradients(RWS(2, insomnia=share), vae, x, parameters=parameters) for share in (0.0, 1.0))
    assert all(gradient.norm() > 0 for gradient in found)
    assert_all_close(found, expected)


def test_a_shared_parameter_has_the_sum_of_both_gradients():
    """A VampPrior's guide is of θ and of φ: with a copy of it in the prior, the two add up to that of the shared."""
    vae, x = vamp_vae(), (torch.rand(20, 6) < 0.4).float()
    apart = copy.deepcopy(vae)
    apart.prior.shared_parts = [copy.deepcopy(vae.posterior)]
    for insomnia in (0.0, 0.5, 1.0):
        loss = RWS(3, insomnia=insomnia)
        shared = gradients(loss, vae, x, parameters=list(vae.posterior.parameters()))
        of_phi = gradients(loss, apart, x, parameters=list(apart.posterior.parameters()))
        of_theta = gradients(loss, apart, x, parameters=list(apart.prior.shared_parts[0].parameters()))
        assert min(flat(of_phi).norm(), flat(of_theta).norm()) > 0.1
        assert_all_close(shared, [a + b for a, b in zip(of_phi, of_theta, strict=True)])


def test_no_gradient_flows_through_a_draw_to_an_earlier_draw():
    """x → z1 → z2: the gradient of −Σ w̄ log q(z1, z2 | x) with z1 held fixed in q(z2 | z1), written out."""
    program, x = Hierarchical(), (torch.rand(5, 6) < 0.5).float()
    parameters = [*program.to_first.parameters(), *program.to_second.parameters()]
    found = gradients(RWS(2), program, x, parameters=parameters)
    log_p, log_q = [], []
    with seeded(0):
        for _ in range(2):
            guide = poutine.trace(program.guide).get_trace(x)
            model = poutine.trace(poutine.replay(program.model, trace=guide)).get_trace(x)
            z1, z2 = (guide.nodes[name]["value"].detach() for name in ("z1", "z2"))
            log_q.append(
                program.normal(program.to_first(x)).log_prob(z1) + program.normal(program.to_second(z1)).log_prob(z2)
            )
            model.compute_log_prob()
            log_p.append(sum(site["log_prob"] for site in sample_sites(model).values()))
    log_p, log_q = torch.stack(log_p), torch.stack(log_q)
    shares = (log_p - log_q).detach().softmax(0)
    assert_all_close(found, torch.autograd.grad(-(shares * log_q).sum(), parameters), rtol=1e-4, atol=1e-5)


def test_deterministic_values_keep_their_gradients():
    weight = torch.tensor([0.5, -1.0], requires_grad=True)

    def program(named):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                mean = pyro.deterministic("mean", z * weight[0]) if named else z * weight[0]
                pyro.sample("x", dist.Normal(mean[..., None], 1.0).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x[:, 0] * weight[1], 1.0))

        return pv.Program(model, guide)

    x = torch.randn(7, 1)
    found, expected = (gradients(RWS(2, insomnia=0.5), program(kind), x, parameters=[weight]) for kind in (True, False))
    assert (found[0] != 0).all()
    assert_all_close(found, expected)


@pytest.mark.parametrize("insomnia", [0.0, 0.5, 1.0])
def test_scales_multiply_a_rows_terms_and_fit_weighs_rows_equally(insomnia):
    """10 of 40 rows: Pyro's N/B gives four times the plain gradient, the fit's 1/B a tenth, of either."""
    plain = Discrete()

    class Subsampled(Discrete):
        def model(self, x):
            with pyro.plate("data", 40, subsample=x):
                z = pyro.sample("z", dist.Categorical(logits=self.prior))
                pyro.sample("x", dist.Bernoulli(logits=self.table[z.long()]).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("data", 40, subsample=x):
                pyro.sample("z", dist.Categorical(logits=x @ self.weight + self.bias))

    scaled, x = Subsampled(), PATTERNS[torch.randint(8, (10,))]
    loss = RWS(3, insomnia=insomnia)
    expected = gradients(loss, plain, x)
    assert_all_close(gradients(loss, scaled, x), [4 * gradient for gradient in expected])
    for program in (plain, scaled):
        weigh = RowWeighted(find_plates(plain, Batch(x)), num_rows=40)
        assert_all_close(gradients(loss, program, x, weigh=weigh), [gradient / 10 for gradient in expected])
    with seeded(0):
        value = loss.loss(scaled.model, scaled.guide, x)
    with seeded(0):
        bound = pv.ImportanceWeighted_ELBO(3)
        assert value == pytest.approx(4 * loss.loss(plain.model, plain.guide, x), rel=1e-9)
    vae = pv.VAE(  # a bound that ImportanceWeighted_ELBO can take: continuous latents
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.nets.mlp(2, 3)),
        pv.guides.MeanFieldNormal(pv.nets.mlp(3, 4)),
    )
    values = []
    for each in (loss, bound):
        with seeded(0):
            values.append(each.loss(vae.model, vae.guide, PATTERNS.float()))
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_masked_rows_count_for_nothing():
    program, seen = Discrete(), torch.arange(8) < 5
    z = torch.randint(4, (3, 8))
    masked, alone = ((PATTERNS, z, poutine.mask(mask=seen)), (PATTERNS[:5], z[:, :5], lambda function: function))
    found = []
    for x, draws, around in (masked, alone):
        with ValuesFromBank(z=[*draws, draws[0]], x=[x]):
            found.append(gradients(RWS(3, insomnia=0.5), program, x, weigh=around))
    assert_all_close(*found)


def recording_program(calls):
    """A program with all row inputs, which records the arguments of its guide."""
    weight = torch.zeros(3, requires_grad=True)

    def model(x, labels=None, mask=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = 5.0 + z[..., None] + labels[:, None]
            pyro.sample("x", dist.Normal(loc.expand(*loc.shape[:-1], 3), 0.1).to_event(1), obs=x)

    def guide(x, labels, mask):
        calls.append((x, labels, mask))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ weight, 1.0))

    return pv.Program(model, guide)


def test_simulated_rows_have_the_same_labels_and_mask_and_other_values():
    calls, x, labels = [], torch.zeros(4, 3), torch.tensor([0, 10, 20, 30])
    mask = torch.rand(4, 3) < 0.5
    program = recording_program(calls)
    WakeSleep().loss_and_grads(program.model, program.guide, x, labels=labels, mask=mask)
    wake, sleep = calls
    assert wake[0] is x
    torch.testing.assert_close(sleep[0][mask], (5.0 + labels[:, None]).expand(4, 3)[mask], atol=5.0, rtol=0)
    assert (sleep[0][~mask] == 0).all()
    assert sleep[1] is labels
    assert sleep[2] is mask
    with torch.no_grad():
        WakeSleep().loss(program.model, program.guide, x, labels=labels, mask=mask)
    assert len(calls) == 3  # without gradients no rows are simulated


def clusters(n=400):
    """Rows of 8 binary values from four patterns, each value flipped with probability 0.1."""
    patterns = (torch.rand(4, 8) < 0.5).double()
    return (patterns[torch.randint(4, (n,))] - (torch.rand(n, 8) < 0.1).double()).abs()


@pytest.mark.parametrize("loss", [WakeSleep(), RWS(5), RWS(5, insomnia=0.5)], ids=["ws", "rws", "both"])
def test_fit_in_batches_learns_discrete_latents(loss):
    """log p(x) by enumeration rises by more than 0.5 nats a row, and the guide comes close to the posterior."""
    x, program = clusters(), Discrete(D=8)
    exact = lambda: program.tables(x)[0].logsumexp(0).mean().item()  # noqa: E731
    before = exact()
    fitted = pv.fit(program, x[:300], valid=x[300:], epochs=20, batch_size=64, learning_rate=0.05, loss=loss)
    assert exact() > before + 0.5
    log_p, log_q = program.tables(x)
    gap = (log_q.exp() * (log_q - log_p)).sum(0).mean().item() + exact()  # KL(q ‖ p)
    assert 0 < gap < 0.3
    best = fitted.history[fitted.best_epoch - 1]["valid_elbo"]
    elbo = (log_q.exp() * (log_p - log_q)).sum(0)[300:].mean().item()
    assert best == pytest.approx(elbo, abs=0.1)  # what is reported is the ELBO, whatever the objective


@pytest.mark.parametrize("loss", [WakeSleep(), RWS(5, insomnia=0.5)], ids=["ws", "rws"])
def test_a_vae_improves_with_vectorized_particles(loss, tiny_vae):
    vae, _ = tiny_vae
    x = clusters()[:, :6].float()
    fitted = pv.fit(vae, x[:300], valid=x[300:], epochs=15, batch_size=64, learning_rate=0.03, loss=loss)
    elbos = [row["valid_elbo"] for row in fitted.history]
    assert elbos[-1] > elbos[0] + 0.2
    assert not loss.vectorize_particles  # the caller's loss is not changed


def test_labels_and_missing_values_are_supported():
    x = clusters().float()
    labels = torch.randint(3, (len(x),))
    conditional = pv.ConditionalVAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.nets.mlp(2 + 3, 8, 8)),
        pv.guides.MeanFieldNormal(pv.nets.mlp(8 + 3, 8, 4)),
        num_labels=3,
    )
    fitted = pv.fit(conditional, x, labels=labels, epochs=5, learning_rate=0.02, loss=WakeSleep())
    assert fitted.history[-1]["elbo"] > fitted.history[0]["elbo"]
    holes = Split("holes", torch.where(torch.rand_like(x) < 0.2, torch.nan, x), Measure())
    masked = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 8)),
        pv.guides.MaskAwareGuide(pv.guides.MeanFieldNormal(pv.nets.mlp(16, 8, 4))),
    )
    fitted = pv.fit(masked, holes, epochs=5, learning_rate=0.02, loss=RWS(3, insomnia=0.5))
    assert fitted.history[-1]["elbo"] > fitted.history[0]["elbo"]


@pytest.mark.parametrize("loss", [WakeSleep(), RWS(4, insomnia=0.5, vectorize_particles=True)], ids=["ws", "rws"])
def test_it_works_with_pyros_svi(loss, tiny_vae):
    vae, _ = tiny_vae
    x = clusters(100)[:, :6].float()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.02}), loss)
    losses = [svi.step(x) for _ in range(80)]
    assert sum(losses[-10:]) < sum(losses[:10]) - 100
    assert svi.evaluate_loss(x) < losses[0]


def two_observations():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("a", dist.Normal(z, 1.0), obs=x[:, 0])
            pyro.sample("b", dist.Normal(z, 1.0), obs=x[:, 1])

    def guide(x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(-1), scale))

    return pv.Program(model, guide)


def test_unsupported_settings_and_programs_raise(tiny_vae):
    vae, x = tiny_vae
    iaf = pv.VAE(vae.prior, vae.likelihood, pv.guides.FlowGuide(pv.nets.mlp(6, 8), 2, kind="autoregressive"))
    table = PerRowGuide(60, torch.randn(6, 2), 1.0)
    two = two_observations()
    for make, message in [
        (lambda: RWS(0), "one or more"),
        (lambda: RWS(3, insomnia=1.5), "from 0"),
        (lambda: RWS(1), "mean zero"),
        (lambda: pv.fit(vae, x, epochs=2, kl_warmup=1, loss=RWS(3)), "kl_warmup=0"),
        (lambda: pv.fit(vae, x, epochs=2, beta=0.5, loss=WakeSleep()), "beta=1"),
        (lambda: RWS(3).loss(iaf.model, iaf.guide, x), "coupling flow"),
        (lambda: pv.fit(table, x, epochs=1, loss=WakeSleep()), "take insomnia=1: .* asks for rows"),
        (lambda: pv.fit(two, x[:, :2], epochs=1, loss=WakeSleep()), "the whole of it at one site"),
    ]:
        with pytest.raises(pv.InputError, match=message):
            make()
    with pytest.raises(pv.errors.RowsError, match="inside one plate over rows"):
        pv.fit(global_mean(), torch.randn(20, 1), epochs=1, loss=RWS(3))
    with pyro.validation_enabled(False), pytest.raises(pv.InputError, match="only one of them draws z"):
        RWS(3).loss(vae.model, lambda x: None, x)  # Pyro's own validation would warn
    pv.fit(table, x, epochs=1, loss=RWS(3))  # without sleep-φ, both can be fitted
    pv.fit(two, x[:, :2], epochs=1, loss=RWS(3))
