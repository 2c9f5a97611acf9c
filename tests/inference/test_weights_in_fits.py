"""Weights of rows in fits: whole numbers are copies of rows, weights of 0 leave rows out, equal ones change nothing."""

import warnings

import pytest
import torch
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from row_noise import NoisyVAE
from torch import Tensor
from weighted_fits import COUNTS, OBJECTIVES, X, loss_and_gradients, new_vae, require_equal, split

import pyro_vae as pv
from pyro_vae.errors import HandlersWarning, InputError
from pyro_vae.inference.objectives.free_bits import FreeBits_ELBO
from pyro_vae.inference.objectives.importance_weighted import ImportanceWeighted_ELBO
from pyro_vae.inference.objectives.wake_sleep import ReweightedWakeSleep, WakeSleep
from pyro_vae.inference.svi.fit_method import FitTask
from pyro_vae.inference.svi.svi_method import SVIMethod
from pyro_vae.inference.svi.train_config import TrainConfig
from pyro_vae.programs.parameters import device_and_dtype, use_param_store


@pytest.mark.parametrize("name", OBJECTIVES)
def test_whole_weights_are_copies_of_rows(name: str) -> None:
    copies = X.repeat_interleave(COUNTS.long(), 0)
    weighted = loss_and_gradients(new_vae(), OBJECTIVES[name](), split(X, COUNTS))
    require_equal(weighted, loss_and_gradients(new_vae(), OBJECTIVES[name](), split(copies)))
    other = loss_and_gradients(new_vae(), OBJECTIVES[name](), split(X))
    assert abs(other[0] - weighted[0]) > 1e-3  # the weights do matter


@pytest.mark.parametrize("name", OBJECTIVES)
def test_weights_are_taken_up_to_a_factor(name: str) -> None:
    once = loss_and_gradients(new_vae(), OBJECTIVES[name](), split(X, COUNTS))
    require_equal(once, loss_and_gradients(new_vae(), OBJECTIVES[name](), split(X, 0.003 * COUNTS)))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_row_of_weight_zero_changes_nothing(name: str) -> None:
    absurd = torch.cat([X[:2], torch.tensor([[1e200, -torch.inf, torch.nan]], dtype=X.dtype), X[2:]])
    weights = torch.cat([COUNTS[:2], torch.zeros(1), COUNTS[2:]])
    without = loss_and_gradients(new_vae(), OBJECTIVES[name](), split(X, COUNTS))
    with_it = loss_and_gradients(new_vae(), OBJECTIVES[name](), split(absurd, weights))
    assert with_it[0] == without[0]
    assert all(torch.equal(with_it[1][name], gradient) for name, gradient in without[1].items())


@pytest.mark.parametrize("loss", [Trace_ELBO(), TraceMeanField_ELBO(), FreeBits_ELBO(0.1)])
def test_global_latents_count_once(loss: ELBO) -> None:
    """(1/N) [Σ w_i ELBO_i − KL of the globals], w with the mean 1: by differences of unweighted objectives."""
    w, n = COUNTS / COUNTS.mean(), len(X)
    weighted = loss_and_gradients(new_vae(shared=True), loss, split(X, COUNTS))[0]
    plain = loss_and_gradients(new_vae(shared=True), loss, split(X))[0]
    if isinstance(loss, FreeBits_ELBO):
        heavy = loss_and_gradients(new_vae(shared=True), loss, split(X, 1e-12 + COUNTS))[0]
        assert weighted == pytest.approx(heavy, rel=1e-9)
        assert weighted != plain
        return
    program = new_vae(shared=True)
    with use_param_store(program):
        elbos, kl = (one.detach() for one in row_elbos(program, X, isinstance(loss, TraceMeanField_ELBO)))
    assert plain == pytest.approx(float(-(elbos.sum() - kl) / n), rel=1e-12)
    assert weighted == pytest.approx(float(-((w * elbos).sum() - kl) / n), rel=1e-12)


def row_elbos(program: NoisyVAE, x: Tensor, analytic: bool) -> tuple[Tensor, Tensor]:
    """Each row's ELBO (N,) and the KL of the global latent, written without Pyro's objectives."""
    shift_q = torch.distributions.Normal(program.shift[0], program.shift[1].exp())
    shift = program.shift[0]  # its noise is sin(0)
    loc, log_scale = program.encoder(x).chunk(2, -1)
    q = torch.distributions.Normal(loc, log_scale.exp())
    z = loc + log_scale.exp() * torch.sin(7.0 * x[:, :2] + x[:, 2:])
    prior = torch.distributions.Normal(torch.zeros_like(loc), 1.0)
    likelihood = torch.distributions.Normal(program.decoder(torch.tanh(z)) + shift, 0.7).log_prob(x).sum(-1)
    standard = torch.distributions.Normal(torch.zeros((), dtype=x.dtype), 1.0)
    if analytic:
        kl = torch.distributions.kl_divergence
        return likelihood - kl(q, prior).sum(-1), kl(shift_q, standard)
    return likelihood + (prior.log_prob(z) - q.log_prob(z)).sum(-1), shift_q.log_prob(shift) - standard.log_prob(shift)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if "graph" not in name and "enumeration" not in name])
def test_a_recorded_step_takes_the_weights_of_its_batch(name: str) -> None:
    x = torch.randn(23, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weights = torch.rand(23, generator=torch.Generator().manual_seed(3)) * 4
    histories = []
    for compile in (None, False):
        vae = new_vae()
        with warnings.catch_warnings():
            warnings.simplefilter("error", HandlersWarning)
            fitted = pv.fit(
                vae,
                split(x, weights),
                valid=split(x, weights.flip(0), "valid"),
                loss=OBJECTIVES[name](),
                epochs=4,
                batch_size=5,  # the last batch has three rows
                compile=compile,
                kl_warmup=0.0 if "sleep" in name else 2.0,
            )
        histories.append([(row.elbo, row.kl, row.valid_elbo, row.valid_kl) for row in fitted.history])
        state = torch.cat([value.flatten() for value in vae.state_dict().values()])
        histories[-1].append(tuple(state.tolist()))
    torch.testing.assert_close(*map(torch.tensor, (histories[0][-1], histories[1][-1])), rtol=1e-9, atol=1e-10)
    for recorded, handlers in zip(histories[0], histories[1], strict=True):
        assert recorded == pytest.approx(handlers, rel=1e-8)


def test_history_has_weighted_means() -> None:
    """At a learning rate that changes nothing, ELBO, its terms and validation are weighted means of the rows' own."""
    x = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weights = torch.rand(40, generator=torch.Generator().manual_seed(3), dtype=torch.float64) ** 3
    vae = new_vae()
    options = {"epochs": 1, "batch_size": 7, "learning_rate": 1e-300}
    fitted = pv.fit(vae, split(x, weights), valid=split(x, weights, "valid"), **options)
    elbos, _ = row_elbos(new_vae(), x, analytic=False)
    elbos = elbos - elbo_shift(x)
    (row,) = fitted.history
    expected = float((weights * elbos.detach()).sum() / weights.sum())
    assert row.valid_elbo == pytest.approx(expected, rel=1e-9)
    assert row.elbo == pytest.approx(expected, rel=1e-9)
    assert row.elbo == pytest.approx(row.reconstruction - row.kl, rel=1e-9)
    assert sum(row.valid_kl_apart["z"]) == pytest.approx(row.valid_kl, rel=1e-9)


def elbo_shift(x: Tensor) -> Tensor:
    """What the global shift of `row_elbos` changes in each row's ELBO, to be taken out."""
    vae = new_vae()
    shifted, _ = row_elbos(vae, x, analytic=False)
    with torch.no_grad():
        vae.shift.zero_()
    return (shifted - row_elbos(vae, x, analytic=False)[0]).detach()


@pytest.mark.parametrize("value", [1.0, 0.1, 7e5])
def test_equal_weights_give_the_bits_of_no_weights(value: float) -> None:
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(2))
    states = []
    for weights in (None, torch.full((30,), value)):
        torch.manual_seed(0)
        vae = pv.VAE(
            pv.priors.StandardNormal(2),
            pv.likelihoods.Normal(pv.nets.mlp(2, 8, 3)),
            pv.guides.MeanFieldNormal(pv.nets.mlp(3, 8, 4)),
        )
        fitted = pv.fit(vae, split(x, weights), valid=split(x, weights, "valid"), epochs=3, batch_size=8)
        states.append([*vae.state_dict().values(), torch.tensor([row.valid_elbo for row in fitted.history])])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_sleep_of_rows_with_weights() -> None:
    """The bound is weighted; the sleep phase simulates a row for each, with its weight."""
    x = torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weights = torch.rand(30, generator=torch.Generator().manual_seed(3))
    for loss in (WakeSleep(), ReweightedWakeSleep(3, insomnia=0.5)):
        vae = new_vae()
        with warnings.catch_warnings():
            warnings.simplefilter("error", HandlersWarning)
            fitted = pv.fit(vae, split(x, weights), loss=loss, epochs=5, batch_size=10, learning_rate=0.02)
        assert fitted.history[-1].elbo > fitted.history[0].elbo


def test_batches_without_a_row_that_counts() -> None:
    """Rows of weight 0 are in no batch: the fit is that of the other rows, however many there are."""
    x = torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weights = torch.zeros(60)
    weights[[3, 17, 59]] = torch.tensor([1.0, 4.0, 2.0])
    vaes = [new_vae(), new_vae()]
    for vae, rows in zip(vaes, (split(x, weights), split(x[weights > 0], weights[weights > 0])), strict=True):
        fitted = pv.fit(vae, rows, epochs=3, batch_size=2)
        assert all(row.elbo is not None and row.elbo == row.elbo for row in fitted.history)
    assert all(torch.equal(a, b) for a, b in zip(*(vae.state_dict().values() for vae in vaes), strict=True))


def test_other_weights_do_not_resume_a_checkpoint(tmp_path: object) -> None:
    pv.fit(new_vae(), split(X, COUNTS), epochs=2, batch_size=5, checkpoint=str(tmp_path))
    with pytest.raises(InputError, match="training rows"):
        pv.fit(new_vae(), split(X, COUNTS.flip(0)), epochs=2, batch_size=5, checkpoint=str(tmp_path))


def test_linear_vae_with_weights_ends_at_weighted_ppca() -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(60, 1, dtype=torch.float64, generator=generator) * torch.tensor([2.0, 1.0, -1.0])
    x = x + 0.4 * torch.randn(60, 3, dtype=torch.float64, generator=generator)
    weights = torch.rand(60, dtype=torch.float64, generator=generator) ** 4 + 0.01
    ppca = pv.PPCA(num_latents=1, num_features=3)
    best = pv.fit_closed_form(ppca, split(x, weights)).history[0].elbo
    assert best == pytest.approx(float((weights * ppca.log_prob(x)).sum() / weights.sum()), rel=1e-12)
    torch.manual_seed(0)
    likelihood = pv.likelihoods.Normal(pv.nets.mlp(1, 3), scale="learned")
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(3, 2))
    vae = pv.VAE(pv.priors.StandardNormal(1), likelihood, guide).double()
    options = {"epochs": 800, "batch_size": 60, "learning_rate": 0.05, "num_particles": 16}
    pv.fit(vae, split(x, weights), **options)
    reached = pv.exact_evidence(vae, split(x, weights)).log_px_mean
    assert best - 0.01 < reached <= best + 1e-9
    assert pv.exact_evidence(vae, split(x)).log_px_mean < pv.fit_closed_form(ppca, split(x)).history[0].elbo - 0.02


@pytest.mark.parametrize("loss", [Trace_ELBO(), TraceMeanField_ELBO(), ImportanceWeighted_ELBO(4)])
def test_shards_of_a_batch_add_up(loss: ELBO) -> None:
    """The loss of a batch is the sum of those of its shards, each times its share of the rows."""
    with use_param_store(program := new_vae()):
        task = FitTask(program, split(X, COUNTS), None, TrainConfig(batch_size=5), None, device_and_dtype(program))
        method = SVIMethod(loss)
        method.prepare(task)
        parts = [torch.arange(5), torch.arange(3), torch.arange(3, 5)]
        batches = [task.batch(task.train[index], index) for index in parts]
        whole, *shards = (float(method.svi.evaluate_loss(*batch.objective_arguments)) for batch in batches)
    assert whole == pytest.approx(0.6 * shards[0] + 0.4 * shards[1], rel=1e-12)


def test_an_autoencoder_with_weights_is_that_of_copies() -> None:
    states = []
    for rows in (split(X, COUNTS), split(X.repeat_interleave(COUNTS.long(), 0))):
        torch.manual_seed(0)
        likelihood = pv.likelihoods.Normal(pv.nets.mlp(2, 4, 3))
        autoencoder = pv.Autoencoder(pv.nets.mlp(3, 4, 2), likelihood, num_latents=2).double()
        autoencoder.started.fill_(True)  # the start is from a mean in float32
        pv.fit(autoencoder, rows, epochs=20, batch_size=len(rows), optimizer="sgd")
        states.append(torch.cat([value.double().flatten() for value in autoencoder.state_dict().values()]))
    torch.testing.assert_close(*states, rtol=1e-8, atol=1e-10)
