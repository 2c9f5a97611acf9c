"""Rounding errors of a program's densities are found by one float64 pass over a few rows, and named."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from part_tables import GUIDES, LIKELIHOODS, PRIORS, D, make_guide, make_likelihood

import pyro_vae as pv
from pyro_vae.errors import PrecisionWarning
from pyro_vae.programs.find_plates import find_plates
from pyro_vae.programs.precision_check import check_precision, in_float64
from pyro_vae.programs.row_inputs import Batch


def program_of(likelihood, width=1):
    """A program of one latent whose rows have the given likelihood."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", likelihood(z[..., None].expand(*z.shape, width)).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", x.new_zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc.expand(len(x)), 0.1))

    return pv.Program(model, guide)


def checked(program, x, dtype=torch.float32):
    batch = Batch(x.to(dtype))
    return check_precision(program, find_plates(program, batch), batch, x)


def test_a_binomial_of_millions_is_named():
    """−8.07 in float32 where −5.52 is true."""
    program = program_of(lambda z: dist.Binomial(5_000_000, probs=torch.full_like(z, 0.002)))
    found = checked(program, torch.full((5, 1), 10_000.0))
    assert found.site == "x"
    wide = dist.Binomial(5_000_000, probs=torch.tensor(0.002).double())
    assert found.true == pytest.approx(wide.log_prob(torch.tensor(1e4).double()).item())
    assert found.error > 0.5
    for words in ("site 'x'", "--dtype float64", "float32", f"{found.true:.6g}"):
        assert words in found.message


def test_rows_near_1_7e9_are_compared_before_they_were_rounded():
    program = program_of(lambda z: dist.Normal(z + 1.7e9, 50.0))
    x = (1.7e9 + 40 * torch.randn(8, 1)).double() + torch.tensor([[61.3]]).double()
    found = checked(program, x)
    assert found.error > 1e-2
    assert "digits that float32 does not hold" in found.message
    assert checked(program, x.float().double()).message == ""


def test_torchs_continuous_bernoulli_is_named_and_this_packages_is_not():
    x = torch.ones(4, 3)
    wrong = checked(program_of(lambda z: dist.ContinuousBernoulli(logits=20 + 0 * z), 3), x)
    assert wrong.error > 0.5
    part = pv.likelihoods.ContinuousBernoulli(torch.nn.Identity())
    assert checked(program_of(lambda z: part(20 + 0 * z).base_dist, 3), x).message == ""


def test_densities_that_only_float64_can_hold():
    found = checked(program_of(lambda z: dist.Normal(0 * z, 1e-30)), torch.full((3, 1), 1e-30))
    assert "float64" in found.message


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("guide", [*GUIDES])
def test_parts_of_this_package_have_nothing_to_report(likelihood, guide):
    guide_part = make_guide(guide)
    prior = list(PRIORS)[len(likelihood) % len(PRIORS)]
    prior = "flow" if prior == "vamp" and guide == "iaf" else prior
    vae = pv.VAE(PRIORS[prior](guide_part), make_likelihood(likelihood), guide_part)
    x = vae.likelihood(torch.randn(9, 2)).sample().float()
    before, rng = {k: v.clone() for k, v in vae.state_dict().items()}, torch.get_rng_state()
    found = checked(vae, x)
    assert found.message == "", found
    assert found.site
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_other_dtypes_and_masks():
    vae = pv.VAE(PRIORS["normal"](None), make_likelihood("normal"), make_guide("mean-field")).double()
    assert checked(vae, torch.randn(5, D).double(), torch.float64).message == ""
    vae = vae.float()
    x, mask = torch.randn(5, D), torch.rand(5, D) < 0.5
    batch = Batch(x, mask=mask)
    assert check_precision(vae, find_plates(vae, batch), batch).message == ""


def test_in_float64_leaves_the_given_distribution():
    fn = dist.TransformedDistribution(
        dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1),
        [dist.transforms.AffineTransform(torch.ones(2), torch.ones(2), cache_size=1)],
    ).mask(torch.tensor(True))
    fn.log_prob(torch.zeros(2))
    wide = in_float64(fn)
    assert wide.log_prob(torch.zeros(2).double()).dtype == torch.float64
    assert fn.log_prob(torch.zeros(2)).dtype == torch.float32
    assert in_float64("text") == "text"


def test_fit_warns_once_and_says_how_much():
    x = torch.full((40, 1), 10_000.0)
    program = program_of(lambda z: dist.Binomial(5_000_000, probs=torch.full_like(z, 0.002)))
    with pytest.warns(PrecisionWarning, match="dtype float64") as seen:
        pv.fit(program, x, epochs=1, batch_size=20)
    assert len([each for each in seen if each.category is PrecisionWarning]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrecisionWarning)
        pv.fit(program_of(lambda z: dist.Normal(z, 1.0)), torch.randn(40, 1), epochs=1, batch_size=20)


def test_the_remedy_works_for_a_table_that_float32_cannot_hold():
    """Its digits reach a float64 program, and a float32 program says that they do not."""
    x = 1.7e9 + torch.randn(60, 2, dtype=torch.float64)
    data = pv.load_data(x, standardize=False)
    assert data.train.x.dtype == torch.float64
    assert pv.load_data(x).train.x.dtype == torch.float32
    assert pv.load_data(x - 1.7e9, standardize=False).train.x.dtype == torch.float32
    for dtype in (torch.float32, torch.float64):
        program = program_of(lambda z: dist.Normal(z + torch.tensor(1.7e9, dtype=z.dtype), 1.0), 2)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always", PrecisionWarning)
            pv.fit(program, data, epochs=1, batch_size=20, dtype=dtype)
        messages = [str(each.message) for each in seen if each.category is PrecisionWarning]
        assert len(messages) == (dtype == torch.float32)
        assert all("digits that float32" in message for message in messages)


def test_a_binomial_can_be_fitted_in_batches():
    """Its support has the counts of the rows that it was found with as bounds."""
    program = program_of(lambda z: dist.Binomial(7, logits=z))
    fitted = pv.fit(program, torch.full((50, 1), 3.0), valid=torch.full((9, 1), 2.0), epochs=2, batch_size=20)
    assert fitted.history[-1].valid_elbo < 0
    with pytest.raises(pv.InputError, match="outside the support"):
        pv.fit(program, torch.full((50, 1), 8.0), epochs=1, batch_size=20)
