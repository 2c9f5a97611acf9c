"""EM and VI on the one-parameter mixture, against torch's mixture, enumeration and autograd."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, MixtureSameFamily, Normal, kl_divergence

from pyro_vae.errors import InputError
from pyro_vae.studies.coordinate_ascent import coordinate_ascent_demo

WEIGHT, SCALE, BACKGROUND = 0.4, 0.9, 2.5


SETTINGS = [{}, {"cuts": ()}, {"cuts": (0.0, 1.5)}, {"weight": WEIGHT, "scale": SCALE, "background": BACKGROUND}]


@pytest.fixture(params=SETTINGS)
def settings(request):
    return request.param


@pytest.fixture
def found(settings):
    return coordinate_ascent_demo(**settings)


def mixture(theta, weight=WEIGHT, scale=SCALE, background=BACKGROUND):
    loc = torch.stack([torch.zeros_like(theta), theta], -1)
    spread = torch.tensor([background, scale], dtype=torch.float64).expand_as(loc)
    weights = torch.tensor([1 - weight, weight], dtype=torch.float64).expand_as(loc)
    return MixtureSameFamily(Categorical(weights), Normal(loc, spread))


def normal(loc, scale):
    return Normal(*(torch.as_tensor(value, dtype=torch.float64) for value in (loc, scale)))


def test_the_curve_is_that_of_torchs_mixture():
    found = coordinate_ascent_demo(weight=WEIGHT, scale=SCALE, background=BACKGROUND)
    expected = mixture(found.theta).log_prob(found.x[:, None]).mean(0)
    torch.testing.assert_close(found.log_px, expected, atol=1e-13, rtol=0)


def test_bounds_lie_below_and_ems_touch(found):
    for path in (found.em, found.vi):
        assert (path.bounds <= found.log_px + 1e-12).all()
        assert (path.bounds <= path.best + 1e-12).all()
        assert (path.best <= found.log_px + 1e-12).all()
    torch.testing.assert_close(found.em.elbo, found.em.log_px, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.em.best, found.log_px, atol=1e-12, rtol=0)


def test_the_gap_is_the_divergence_from_the_posterior():
    found = coordinate_ascent_demo(weight=WEIGHT, scale=SCALE, background=BACKGROUND)
    for path in (found.em, found.vi):
        for t, theta in enumerate(path.theta):
            joint = torch.stack(
                [
                    normal(0.0, BACKGROUND).log_prob(found.x) + math.log(1 - WEIGHT),
                    normal(theta, SCALE).log_prob(found.x) + math.log(WEIGHT),
                ]
            )
            posterior = Bernoulli(joint.softmax(0)[1])
            kl = kl_divergence(Bernoulli(path.shares[t]), posterior).mean()
            assert path.kl[t] == pytest.approx(kl.item(), abs=1e-10)
    assert (found.vi.kl > 1e-3).all()


def test_steps_never_go_down(found):
    assert (found.em.log_px.diff() >= -1e-13).all()
    assert (found.vi.elbo.diff() >= -1e-13).all()


def test_the_best_q_is_the_best_of_all_in_its_family():
    """The derivative of F in the log-odds of each cell is zero there, and F is concave in its shares."""
    found = coordinate_ascent_demo(cuts=(0.0, 1.5))
    cell = torch.bucketize(found.x, torch.tensor([0.0, 1.5], dtype=torch.float64))
    odds = torch.tensor([torch.logit(found.vi.shares[0][cell == k][0]) for k in range(3)], dtype=torch.float64)
    odds.requires_grad_()
    still = normal(0.0, 3.0).log_prob(found.x)
    moving = normal(found.vi.theta[0], 1.0).log_prob(found.x)
    q = torch.sigmoid(odds)[cell]
    F = (q * moving + (1 - q) * still + torch.special.entr(q) + torch.special.entr(1 - q)).mean()
    (slope,) = torch.autograd.grad(F, odds)
    assert slope.abs().max() < 1e-10


def test_em_rests_where_the_likelihood_is_level(found, settings):
    theta = torch.tensor(found.em.limit, dtype=torch.float64, requires_grad=True)
    given = [settings.get(name, value) for name, value in (("weight", 0.5), ("scale", 1.0), ("background", 3.0))]
    (slope,) = torch.autograd.grad(mixture(theta, *given).log_prob(found.x).mean(), theta)
    assert abs(slope.item()) < 1e-12


def test_each_rests_where_its_best_bound_is_highest(found, settings):
    for name in ("em", "vi"):
        limit = getattr(found, name).limit
        fine = coordinate_ascent_demo(low=limit - 0.02, high=limit + 0.02, num_points=401, **settings)
        best = getattr(fine, name).best
        assert abs(float(fine.theta[best.argmax()]) - limit) <= 1e-4


def test_em_and_vi_part_and_vi_with_a_cell_for_each_row_is_em():
    found = coordinate_ascent_demo()
    assert found.em.limit > 1.5
    assert found.vi.limit < -1.5
    x = found.x.sort().values
    apart = coordinate_ascent_demo(x, cuts=((x[1:] + x[:-1]) / 2).tolist())
    torch.testing.assert_close(apart.vi.theta, apart.em.theta, atol=1e-12, rtol=0)
    shared = coordinate_ascent_demo(cuts=())
    assert shared.vi.limit == pytest.approx(float(shared.x.mean()), abs=1e-12)


@pytest.mark.parametrize(
    "wrong", [{"weight": 1.0}, {"scale": 0.0}, {"steps": 0}, {"low": 1.0, "high": 1.0}, {"x": torch.zeros(3, 2)}]
)
def test_what_makes_no_mixture_is_refused(wrong):
    with pytest.raises(InputError, match="expected"):
        coordinate_ascent_demo(**wrong)
