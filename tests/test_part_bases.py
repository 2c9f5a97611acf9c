"""What a part or a program may offer beyond its forward: the same with a base class, and without one."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae import part_bases as bases
from pyro_vae.programs import program_defaults
from pyro_vae.programs.row_inputs import accepts_row_inputs, bind_supported_kwargs
from pyro_vae.programs.sample_rows import sample

K, D, N = 2, 3, 5


class _Forward:
    """The forwards that parts with a base and parts without one share."""

    def prior(self):
        return dist.Normal(torch.zeros(K), 1.0).to_event(1)

    def likelihood(self, z):
        return dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], D), 0.5).to_event(1)

    def guide(self, x):
        return dist.Normal(x[..., :K], 1.0).to_event(1)


def module(kind, base, **more):
    """A module with one of these forwards, on a base class, with what else it offers."""
    forward = getattr(_Forward, kind)
    return type(kind.title(), (base,), {"forward": forward, **more})()


def plain(kind):
    forward = getattr(_Forward(), kind)
    return lambda *arguments: forward(*arguments)


def recording(name):
    """A method that keeps what it is called with."""

    def method(self, *values):
        self.__dict__.setdefault("calls", []).append((name, *values))

    return method


WITHOUT_MORE = {  # how a part that offers nothing is written: part(kind)
    "function": plain,
    "module": lambda kind: module(kind, nn.Module),
    "with base": lambda kind: module(
        kind,
        {"prior": bases.PriorModule, "likelihood": bases.LikelihoodModule, "guide": bases.GuideModule}[kind],
    ),
}


@pytest.mark.parametrize("make", WITHOUT_MORE.values(), ids=WITHOUT_MORE)
def test_a_part_that_offers_nothing_has_the_defaults(make):
    prior, likelihood, guide = make("prior"), make("likelihood"), make("guide")
    bases.init_part_from_data(prior, torch.zeros(N, D))
    bases.init_part_from_data(likelihood, torch.zeros(D))
    assert not bases.is_per_row(guide)
    assert not bases.scores_only_own_samples(guide)
    x, z, mask = torch.randn(N, D), torch.randn(N, K), torch.rand(N, D) < 0.5
    seen = bases.masked_likelihood(likelihood, z, mask)
    every = _Forward().likelihood(z).base_dist.log_prob(x)
    assert torch.equal(seen.log_prob(x), torch.where(mask, every, 0.0).sum(-1))
    assert torch.equal(bases.masked_likelihood(likelihood, z, None).log_prob(x), every.sum(-1))
    vae = pv.VAE(prior, likelihood, guide)
    reference = pv.VAE(*(module(kind, nn.Module) for kind in ("prior", "likelihood", "guide")))
    assert torch.equal(pv.log_evidence(vae, x, 20).log_px, pv.log_evidence(reference, x, 20).log_px)
    assert pv.fit(vae, x, epochs=1).history[-1]["elbo"] == pv.fit(reference, x, epochs=1).history[-1]["elbo"]


BASES = {
    "with base": (bases.PriorModule, bases.LikelihoodModule, bases.GuideModule),
    "module": (nn.Module,) * 3,
}


@pytest.mark.parametrize("bases_of_parts", BASES.values(), ids=BASES)
def test_what_a_part_offers_counts(bases_of_parts):
    prior = module("prior", bases_of_parts[0], init_from_data=recording("init"))
    likelihood = module(
        "likelihood", bases_of_parts[1], init_from_data=recording("init"), masked=lambda self, z, mask: "masked"
    )
    bases.init_part_from_data(prior, torch.ones(N, D))
    bases.init_part_from_data(likelihood, torch.ones(D))
    assert [call[1].shape for call in prior.calls + likelihood.calls] == [(N, D), (D,)]
    vae = pv.VAE(prior, likelihood, module("guide", bases_of_parts[2]))
    vae.init_from_data(torch.ones(D), torch.ones(N, D))
    vae.init_from_data(torch.ones(D), torch.ones(N, D))  # a second fit starts where the first one ended
    assert len(prior.calls) == len(likelihood.calls) == 2
    own = dist.Normal(torch.zeros(N, D), 1.0).to_event(1)
    likelihood = module("likelihood", bases_of_parts[1], masked=lambda self, z, mask: own)
    assert bases.masked_likelihood(likelihood, torch.zeros(N, K), torch.ones(N, D)) is own


@pytest.mark.parametrize("base", [bases.GuideModule, nn.Module])
@pytest.mark.parametrize(
    ("name", "message"), [("per_row", "cannot take"), ("scores_only_own_samples", "kind='coupling'")]
)
def test_what_a_guide_says_of_itself_counts(base, name, message):
    guide = module("guide", base, **{name: True})
    assert {"per_row": bases.is_per_row, "scores_only_own_samples": bases.scores_only_own_samples}[name](guide)
    with pytest.raises(pv.InputError, match=message):
        pv.priors.VampPrior(guide, 4, D)


def test_values_that_are_not_independent_ask_for_a_masked_likelihood():
    normal = dist.MultivariateNormal(torch.zeros(D), torch.eye(D))
    seen = bases.masked_likelihood(lambda z: normal, torch.zeros(N, K), torch.ones(N, D))
    with pytest.raises(pv.InputError, match=r"a method masked\(z, mask\)"):
        seen.log_prob(torch.zeros(N, D))


class Bare:
    """An object with a model and a guide, and nothing else."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(K), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([len(x), D]).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :K], 1.0).to_event(1))


def program_with_base():
    bare = Bare()
    return pv.Program(bare.model, bare.guide)


@pytest.mark.parametrize("make", [Bare, program_with_base])
def test_a_program_that_offers_nothing_has_the_defaults(make):
    program = make()
    assert program_defaults.no_density_reason(program) == ""
    assert program_defaults.num_features_of(program) is None
    assert program_defaults.log_prior_of(program) is None
    program_defaults.init_program_from_data(program, torch.zeros(D), torch.zeros(N, D))
    program_defaults.check_labels(program, torch.zeros(N))
    assert program_defaults.decoder_of(program) is None
    assert sample(program, 4, num_features=D).shape == (4, D)


class Offering(Bare):
    no_density = "it is a toy"
    num_features = None
    init_from_data = recording("init")
    check_labels = recording("labels")

    def log_prior(self):
        return torch.tensor(-1.5)

    def decode(self, z):
        return z


class OfferingProgram(pv.Program):
    """The same with the base."""

    no_density, log_prior, decode = Offering.no_density, Offering.log_prior, Offering.decode
    init_from_data, check_labels = Offering.init_from_data, Offering.check_labels


@pytest.mark.parametrize("make", [Offering, lambda: OfferingProgram(Bare().model, Bare().guide)])
def test_what_a_program_offers_counts(make):
    program = make()
    with pytest.raises(pv.InputError, match="it is a toy"):
        pv.log_evidence(program, torch.zeros(N, D))
    assert program_defaults.log_prior_of(program) == -1.5
    assert program_defaults.decoder_of(program)(torch.ones(2)).sum() == 2
    program_defaults.init_program_from_data(program, torch.zeros(D), torch.zeros(N, D))
    program_defaults.check_labels(program, torch.zeros(N))
    assert [call[0] for call in program.calls] == ["init", "labels"]
    program_defaults.set_num_features(program, D)
    program_defaults.set_num_features(program, 7)
    assert program_defaults.num_features_of(program) == D
    program_defaults.set_num_features(program, 7, replace=True)
    assert program_defaults.num_features_of(program) == 7


def test_only_functions_that_say_so_get_every_row_input():
    def any_keyword(x, **row_inputs):
        return sorted(row_inputs)

    given = {"rows": torch.arange(3), "labels": torch.zeros(3)}
    assert bind_supported_kwargs(any_keyword)(torch.zeros(3, D), given) == []
    assert bind_supported_kwargs(accepts_row_inputs(any_keyword))(torch.zeros(3, D), given) == ["labels", "rows"]
    with pytest.raises(TypeError, match="by keyword"):
        program_with_base().model(torch.zeros(3, D), torch.arange(3))
