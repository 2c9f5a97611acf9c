"""Counts with a total of their own in each row: Pyro's topic model, whose Multinomial has the batch's largest total."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.errors import InputError

NUM_WORDS, NUM_TOPICS = 12, 2


def documents(n=40):
    g = torch.Generator().manual_seed(0)
    topics = torch.softmax(2 * torch.randn(NUM_TOPICS, NUM_WORDS, generator=g), -1)
    rows = []
    for _ in range(n):
        words = topics[torch.randint(0, NUM_TOPICS, (1,), generator=g)]
        length = int(torch.randint(3, 40, (1,), generator=g))
        rows.append(torch.bincount(torch.multinomial(words[0], length, True, generator=g), minlength=NUM_WORDS))
    return torch.stack(rows).float()


class ProdLDA(nn.Module):
    """Srivastava & Sutton (arXiv:1703.01488), with the sites and plates of Pyro's tutorial; no batch norm."""

    def __init__(self, usual_total=0):
        super().__init__()
        self.encoder = pv.nets.mlp(NUM_WORDS, 16, 2 * NUM_TOPICS)
        self.decoder = nn.Linear(NUM_TOPICS, NUM_WORDS, bias=False)
        self.usual_total = usual_total

    def model(self, docs):
        pyro.module("decoder", self.decoder)
        with pyro.plate("documents", docs.shape[0]):
            loc, scale = docs.new_zeros((docs.shape[0], NUM_TOPICS)), docs.new_ones((docs.shape[0], NUM_TOPICS))
            logtheta = pyro.sample("logtheta", dist.Normal(loc, scale).to_event(1))
            words = torch.softmax(self.decoder(torch.softmax(logtheta, -1)), -1)
            total_count = int(docs.sum(-1).max()) or self.usual_total
            pyro.sample("obs", dist.Multinomial(total_count, words), obs=docs)

    def guide(self, docs):
        pyro.module("encoder", self.encoder)
        with pyro.plate("documents", docs.shape[0]):
            loc, raw = self.encoder(docs).chunk(2, -1)
            pyro.sample("logtheta", dist.Normal(loc, (0.5 * raw).exp()).to_event(1))


def test_evidence_against_a_grid():
    """Fitted, scored and encoded; log p(x) by quadrature over both topics' logits, and by auto."""
    torch.manual_seed(0)
    program, docs = ProdLDA(), documents()
    with pytest.warns(UserWarning, match="uncompiled"):  # the total is a number that depends on the rows
        fitted = pv.fit(program, docs, epochs=30, learning_rate=0.02, progress="none")
    assert fitted.history[-1]["elbo"] > fitted.history[0]["elbo"]
    line = torch.linspace(-7, 7, 281, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)
    words = torch.softmax(torch.softmax(z, -1) @ program.decoder.weight.detach().double().T, -1)
    log_prior = -0.5 * z.square().sum(-1) - math.log(2 * math.pi)
    rows = docs.double()
    constant = torch.lgamma(rows.sum(-1) + 1) - torch.lgamma(rows + 1).sum(-1)
    joint = (log_prior[:, None] + words.log() @ rows.T).logsumexp(0) + 2 * math.log(float(line[1] - line[0])) + constant
    found = pv.log_evidence(program, docs, 4000, seed=0)
    torch.testing.assert_close(found.log_px, joint, rtol=0, atol=0.05)
    assert float((found.log_px - joint).mean().abs()) < 0.01
    assert pv.auto_evidence(program, docs, 200, seed=0).log_px_mean == pytest.approx(float(joint.mean()), abs=0.02)


def test_counts_must_be_counts():
    for wrong in (documents() + 0.5, -documents()):
        with pytest.raises(InputError, match="outside the support"):
            pv.log_evidence(ProdLDA(), wrong, 5)


def test_draws_need_the_rows_whose_totals_they_have():
    from pyro_vae.programs.encode_rows import encode
    from pyro_vae.programs.sample_rows import sample

    assert encode(ProdLDA(), documents()).shape == (40, NUM_TOPICS)
    drawn = sample(ProdLDA(), 6, x=documents(6), seed=0)
    assert drawn.sum(-1).tolist() == [float(documents(6).sum(-1).max())] * 6  # the model: the largest
    for program in (ProdLDA(), ProdLDA(usual_total=20)):
        with pytest.raises(InputError, match=r"program.sample\(n, x=rows\)"):
            sample(program, 6, num_features=NUM_WORDS, seed=0)
