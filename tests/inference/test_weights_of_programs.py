"""Weights of rows in fits of programs of several kinds, and which programs are refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from row_noise import NoisyVAE, RowNoise
from torch import Tensor
from weighted_fits import COUNTS, OBJECTIVES, X, loss_and_gradients, new_vae, require_equal, split

import pyro_vae as pv
from pyro_vae.data import Measure
from pyro_vae.data.ondisk.rows_on_disk import rows_from_npy
from pyro_vae.data.ondisk.split_on_disk import SplitOnDisk
from pyro_vae.errors import InputError, RowsError
from pyro_vae.inference.objectives.wake_sleep import ReweightedWakeSleep


class SummedMixture(pv.Program):
    """A mixture whose component the model sums out; `by_guide`, the guide does. A global latent shifts all rows."""

    def __init__(self, by_guide: bool) -> None:
        torch.nn.Module.__init__(self)
        self.num_features, self.by_guide = 3, by_guide
        generator = torch.Generator().manual_seed(0)
        self.loc = torch.nn.Parameter(torch.randn(4, 3, dtype=torch.float64, generator=generator))
        self.logits = torch.nn.Parameter(torch.tensor([0.1, 0.5, -0.3, 0.0], dtype=torch.float64))
        self.shift = torch.nn.Parameter(torch.tensor(0.2, dtype=torch.float64))

    def model(self, x: Tensor) -> None:
        pyro.module("mixture", self)
        shift = pyro.sample("shift", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(self.loc[c] + shift, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("mixture", self)
        pyro.sample("shift", dist.Delta(self.shift))
        if self.by_guide:
            with pyro.plate("data", len(x)):
                pyro.sample("c", dist.Categorical(logits=x @ self.loc.T), infer={"enumerate": "parallel"})


@pytest.mark.parametrize("by_guide", [False, True])
def test_weights_multiply_rows_whose_latents_are_summed(by_guide: bool) -> None:
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    value, gradients = loss_and_gradients(SummedMixture(by_guide), loss, split(X, COUNTS))
    program = SummedMixture(by_guide)
    log_joint = torch.distributions.Normal(program.loc + program.shift, 1.0).log_prob(X[:, None]).sum(-1)
    log_joint = log_joint + program.logits.log_softmax(-1)
    if by_guide:
        log_q = (X @ program.loc.T).log_softmax(-1)
        elbos = (log_q.exp() * (log_joint - log_q)).sum(-1)
    else:
        elbos = log_joint.logsumexp(-1)
    prior = torch.distributions.Normal(torch.zeros((), dtype=X.dtype), 1.0).log_prob(program.shift)
    expected = -((COUNTS / COUNTS.mean() * elbos).sum() + prior) / len(X)
    expected.backward()
    expected = expected.detach()
    known = {name: value.grad for name, value in program.named_parameters()}
    require_equal((value, gradients), (float(expected), known))


def test_one_row_whose_latent_is_summed() -> None:
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    both = split(X[:2], torch.tensor([0.0, 2.0])), split(X[1:2])
    require_equal(*(loss_and_gradients(SummedMixture(False), loss, rows) for rows in both))


def test_programs_keep_the_places_of_rows() -> None:
    """A table of q for each training row: a row of weight 0 keeps its place, and what it has there."""
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(2))
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0, 3.0, 1.0, 1.0])
    vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Normal(pv.nets.mlp(2, 3)), pv.guides.PerRowNormal(8, 2))
    before = [value.clone() for value in vae.posterior.parameters()]
    pv.fit(vae, split(x, weights), epochs=3, batch_size=8)
    for old, new in zip(before, vae.posterior.parameters(), strict=True):
        assert torch.equal((old != new).flatten(1).any(1), weights > 0)


def test_weights_are_no_input_of_a_program() -> None:
    seen = []

    class Nosy(NoisyVAE):
        @pv.programs.row_inputs.accepts_row_inputs
        def model(self, x: Tensor, **row_inputs: object) -> None:
            seen.append(set(row_inputs))
            super().model(x)

    torch.manual_seed(0)
    pv.fit(Nosy(), split(X, COUNTS), epochs=1, batch_size=5)
    assert seen
    assert set.union(*seen) == {"rows", "num_rows"}


class Coupled(NoisyVAE):
    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        loc, log_scale = self.encoder(x).chunk(2, -1)
        pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(2))


class WithoutPlate(NoisyVAE):
    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2, dtype=x.dtype), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(self.decoder(z), 0.7).to_event(2), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        loc, log_scale = self.encoder(x).chunk(2, -1)
        pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(2))


@pytest.mark.parametrize("program", [Coupled, WithoutPlate])
def test_rows_that_are_not_independent_are_refused(program: type[NoisyVAE]) -> None:
    with pytest.raises(RowsError, match="rows have weights"):
        pv.fit(program(), split(X, COUNTS), epochs=1, batch_size=5)


def test_a_subclass_of_the_enumerating_elbo_is_refused() -> None:
    class Own(TraceEnum_ELBO):
        pass

    with pytest.raises(InputError, match="takes no weights of rows"):
        pv.fit(SummedMixture(False), split(X, COUNTS), loss=Own(max_plate_nesting=1), epochs=1, batch_size=5)


class RowBernoulli(dist.Bernoulli):
    """Bits that are 1 where the rows' noise, in [0, 1], lies below the probability; without a pathwise gradient."""

    def __init__(self, logits: Tensor, noise: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)
        self.noise = noise

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "RowBernoulli":
        return RowBernoulli(self.logits.expand(batch_shape), self.noise)

    def sample(self, sample_shape: torch.Size | None = None) -> Tensor:
        return (self.noise.expand_as(self.probs) < self.probs).to(self.probs)


class Bits(NoisyVAE):
    """Two bits for each row, of which the second depends on the first: gradients need the score function."""

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(torch.full((len(x),), 0.4, dtype=x.dtype)))
            b = pyro.sample("b", dist.Bernoulli(0.2 + 0.6 * a))
            loc = self.decoder(torch.stack([a, b], -1))
            pyro.sample("x", dist.Normal(loc, 0.7).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        logits, noise = self.encoder(x), torch.sigmoid(3 * x)
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", RowBernoulli(logits[:, 0], noise[:, 0]))
            pyro.sample("b", RowBernoulli(logits[:, 1] + a * logits[:, 2], noise[:, 1]))


@pytest.mark.parametrize("loss", [Trace_ELBO, TraceGraph_ELBO, lambda: ReweightedWakeSleep(2)])
def test_whole_weights_are_copies_with_discrete_latents(loss: Callable[[], ELBO]) -> None:
    found = []
    for rows in (split(X, COUNTS), split(X.repeat_interleave(COUNTS.long(), 0)), split(X)):
        torch.manual_seed(0)
        found.append(loss_and_gradients(Bits(), loss(), rows))
    require_equal(found[0], found[1])
    assert abs(found[0][0] - found[2][0]) > 1e-3


class Nested(NoisyVAE):
    """Rows in the left one of two plates, with a mask: weights have their dimension."""

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x), dim=-2):
            loc = torch.zeros(len(x), 1, 2, dtype=x.dtype)
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            with pyro.plate("columns", 3, dim=-1), pyro.poutine.mask(mask=x > -1):
                pyro.sample("x", dist.Normal(self.decoder(z)[..., 0, :], 0.7), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        loc, log_scale = self.encoder(x)[:, None].chunk(2, -1)
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", RowNoise(loc, log_scale.exp(), 7.0 * x[:, None, :2]).to_event(1))


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if "enumeration" not in name])
def test_weights_with_plates_inside_the_rows(name: str) -> None:
    found = []
    for rows in (split(X, COUNTS), split(X.repeat_interleave(COUNTS.long(), 0))):
        torch.manual_seed(0)
        found.append(loss_and_gradients(Nested(), OBJECTIVES[name](), rows))
    require_equal(*found)


def test_a_plate_that_subsamples() -> None:
    """A plate of all rows that takes those of the batch: its sites are scaled by N/B, and by the weights."""

    class Subsampled(NoisyVAE):
        def model(self, x: Tensor, rows: Tensor | None = None, num_rows: int = 0) -> None:
            pyro.module("decoder", self.decoder)
            rows = torch.arange(len(x)) if rows is None else rows
            with pyro.plate("data", num_rows or len(x), subsample=rows):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2, dtype=x.dtype), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(torch.tanh(z)), 0.7).to_event(1), obs=x)

    require_equal(
        loss_and_gradients(new_vae(), None, split(X, COUNTS)),
        loss_and_gradients(with_parameters(Subsampled()), None, split(X, COUNTS)),
    )


def with_parameters(program: NoisyVAE) -> NoisyVAE:
    program.load_state_dict(new_vae().state_dict())
    return program


def test_rows_on_disk_with_weights(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", X.numpy())
    rows = rows_from_npy(tmp_path / "rows.npy")
    weights = torch.cat([COUNTS[:4], torch.zeros(1)])
    found = [
        loss_and_gradients(new_vae(), None, kind("train", stored, Measure(), weights=weights))
        for kind, stored in ((SplitOnDisk, rows), (pv.Split, X))
    ]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    fitted = pv.fit(new_vae(), SplitOnDisk("train", rows, Measure(), weights=weights), epochs=2, batch_size=2)
    assert fitted.history[-1].elbo is not None
