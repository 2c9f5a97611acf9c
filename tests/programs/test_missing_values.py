"""Missing values and labels: densities of what was observed, against the closed form of a linear-Gaussian model."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from example_programs import Hierarchical
from torch import nn

import pyro_vae as pv
from pyro_vae.data import Measure, Split

W, NOISE = torch.tensor([[1.0], [-0.5], [0.8]]), 0.6


class Wide(nn.Module):
    """A guide N(0, 1.5²), whatever it sees."""

    def forward(self, x, mask=None):
        return dist.Normal(torch.zeros(len(x), 1), 1.5).to_event(1)


def linear_vae(guide=None):
    net = nn.Linear(1, 3)
    with torch.no_grad():
        net.weight.copy_(W)
        net.bias.zero_()
    return pv.VAE(pv.priors.StandardNormal(1), pv.likelihoods.Normal(net, scale=NOISE), guide or Wide())


def rows_with_gaps(n=40):
    x = torch.randn(n, 1) @ W.T + NOISE * torch.randn(n, 3)
    mask = torch.rand(n, 3) < 0.6
    return torch.where(mask, x, float("nan")), mask


def conditional(x, mask):
    """Of one row, exactly: log p(observed), and E[x] with the missing values at their conditional mean."""
    cov = W @ W.T + NOISE**2 * torch.eye(3)
    o, m = mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]
    if not len(o):
        return 0.0, torch.zeros(3)
    known = torch.distributions.MultivariateNormal(torch.zeros(len(o)), cov[o][:, o])
    full = x.clone()
    full[m] = cov[m][:, o] @ torch.linalg.solve(cov[o][:, o], x[o])
    return known.log_prob(x[o]).item(), full


def test_log_px_is_that_of_the_observed_values():
    x, mask = rows_with_gaps()
    split = Split("valid", x, Measure())
    assert torch.equal(split.mask, mask)
    found = pv.log_evidence(linear_vae(), split, num_samples=4000)
    exact = torch.tensor([conditional(*pair)[0] for pair in zip(x, mask, strict=True)])
    difference = found.log_px - exact
    assert difference.abs().max() < 5 * found.mc_se.max()
    assert difference.mean().abs() < 4 * found.log_px_mc_se + 1e-3
    assert found.measure == "Lebesgue measure on R^3 (original units), observed values only"


def test_imputed_values_are_conditional_means():
    x, mask = rows_with_gaps()
    filled = linear_vae().impute(x, num_samples=20_000)
    exact = torch.stack([conditional(*pair)[1] for pair in zip(x, mask, strict=True)])
    assert torch.equal(filled[mask], x[mask])
    torch.testing.assert_close(filled, exact, atol=0.05, rtol=0)


def test_standardizing_counts_only_the_observed_columns():
    array = 5 * np.random.default_rng(0).normal(size=(200, 3)) * [1.0, 10.0, 100.0]
    array[np.random.default_rng(1).random((200, 3)) < 0.3] = np.nan
    data = pv.load_data(array, missing="mask")
    scale = torch.tensor(data.train.measure.scale, dtype=torch.float64)
    expected = -(data.valid.mask.double() * scale.log()).sum(1)
    torch.testing.assert_close(data.valid.log_jacobian, expected)
    kept = torch.where(data.train.mask, data.train.x, float("nan"))
    torch.testing.assert_close(kept.nanmean(0), torch.zeros(3), atol=1e-5, rtol=0)
    assert data.train.x[~data.train.mask].eq(0).all()


def test_a_fit_with_gaps_learns_and_its_guide_sees_them():
    x, _ = rows_with_gaps(400)
    guide = pv.guides.MaskAwareGuide(pv.guides.MeanFieldNormal(pv.nets.mlp(6, 16, 2)))
    vae = linear_vae(guide)
    train, valid = Split("train", x[:300], Measure()), Split("valid", x[300:], Measure())
    fitted = pv.fit(vae, train, valid=valid, epochs=30, learning_rate=0.01)
    assert fitted.history[-1]["valid_elbo"] > fitted.history[0]["valid_elbo"] + 0.2
    row = torch.zeros(2, 3)
    means = vae.encode(row, mask=torch.tensor([[True, True, True], [False, False, True]]))
    assert means[0] != means[1]


def test_missing_values_are_refused_where_nobody_is_told():
    x, _ = rows_with_gaps()
    six = torch.cat([x, x], 1)
    for make, message in [
        (lambda: pv.load_data(x), r"missing \(NaN\).*missing='mask'"),
        (lambda: pv.load_data(x, missing="maks"), "'refuse' or 'mask'"),
        (lambda: pv.fit(linear_vae(), x, epochs=1), "NaN or infinity"),
        (lambda: pv.fit(Hierarchical(), Split("train", six, Measure()), epochs=1), "takes no mask"),
        (lambda: pv.log_evidence(Hierarchical(), Split("test", six, Measure())), "takes no mask"),
        (lambda: pv.load_data(torch.full((20, 2), float("nan")), missing="mask"), "no value in any training row"),
    ]:
        with pytest.raises(pv.InputError, match=message):
            make()


def conditional_vae(num_labels=3):
    return pv.ConditionalVAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.nets.mlp(2 + num_labels, 16, 6)),
        pv.guides.MeanFieldNormal(pv.nets.mlp(6 + num_labels, 16, 4)),
        num_labels,
    )


def test_a_conditional_vae_learns_what_the_label_says(tmp_path):
    labels = torch.randint(0, 3, (600,))
    x = (torch.rand(600, 6) < torch.eye(6)[:3].repeat_interleave(2, 0)[::2][labels] * 0.8 + 0.1).float()
    vae = conditional_vae()
    rows = [
        Split(name, x[part], Measure(), labels[part])
        for name, part in (("train", slice(500)), ("valid", slice(500, 600)))
    ]
    pv.fit(vae, rows[0], valid=rows[1], epochs=40, learning_rate=0.01)
    right = pv.log_evidence(vae, rows[1], num_samples=100).log_px.mean()
    wrong = Split("valid", rows[1].stored, Measure(), (rows[1].labels + 1) % 3)
    assert right > pv.log_evidence(vae, wrong, num_samples=100).log_px.mean() + 0.5
    drawn = vae.sample(900, seed=0, labels=torch.arange(900) % 3)
    torch.testing.assert_close(drawn[1::3].mean(0), x[labels == 1].mean(0), atol=0.12, rtol=0)
    assert torch.equal(vae.sample(900, seed=0), drawn)  # without labels each takes its turn
    assert vae.decode(torch.zeros(2, 2), torch.tensor([0, 1])).shape == (2, 6)
    pv.save(vae, tmp_path)
    again = pv.log_evidence(pv.load(tmp_path), rows[1], num_samples=100).log_px.mean()
    assert again == right


def test_labels_a_conditional_vae_cannot_take_are_named():
    x = torch.zeros(4, 6)
    for make, message in [
        (lambda: conditional_vae(1), "two labels"),
        (lambda: pv.log_evidence(conditional_vae(), x), "needs labels"),
        (lambda: conditional_vae().sample(2, labels=torch.tensor([0, 3])), "labels from 0 to 3, expected 0 to 2"),
        (lambda: conditional_vae().impute(x), "impute is not implemented"),
    ]:
        with pytest.raises(pv.InputError, match=message):
            make()


def test_a_conditional_vae_hands_the_mask_to_its_guide_and_needs_it_on_no_split(tmp_path):
    x, _ = rows_with_gaps(200)
    labels = torch.arange(200) % 2
    guide = pv.guides.MaskAwareGuide(pv.guides.MeanFieldNormal(pv.nets.mlp(2 * (3 + 2), 8, 2)))
    vae = pv.ConditionalVAE(pv.priors.StandardNormal(1), pv.likelihoods.Normal(pv.nets.mlp(3, 8, 3)), guide, 2)
    train = Split("train", x[:150], Measure(), labels[:150])
    whole = Split("valid", x[150:].nan_to_num(), Measure(), labels[150:])  # no gaps here
    fitted = pv.fit(vae, train, valid=whole, epochs=3)
    assert fitted.history[-1]["valid_elbo"] > fitted.history[0]["valid_elbo"]
    seen = vae.encode(torch.zeros(1, 3), labels=labels[:1], mask=torch.tensor([[True, True, True]]))
    unseen = vae.encode(torch.zeros(1, 3), labels=labels[:1], mask=torch.tensor([[False, True, True]]))
    assert seen != unseen
    assert pv.log_evidence(vae, whole.x, num_samples=5, labels=labels[150:]).log_px.shape == (50,)


def test_refine_and_impute_take_a_splits_mask():
    x, mask = rows_with_gaps()
    guide = pv.guides.MaskAwareGuide(pv.guides.MeanFieldNormal(pv.nets.mlp(6, 8, 2)))
    split, vae = Split("valid", x, Measure()), linear_vae(guide)
    assert torch.equal(vae.impute(split), vae.impute(x))
    refined = pv.refine(vae, split, steps=150)
    found = pv.log_evidence(refined, split, num_samples=500, rows=torch.arange(len(x)))
    exact = torch.tensor([conditional(*pair)[0] for pair in zip(x, mask, strict=True)])
    assert (exact - found.elbo).abs().max() < 0.05


def test_a_likelihood_of_ones_own_is_masked_too():
    class Own(nn.Module):
        def forward(self, z):
            return dist.Normal(z @ W.T, NOISE).to_event(1)

    x, _ = rows_with_gaps()
    split = Split("valid", x, Measure())
    ours = pv.log_evidence(linear_vae(), split, num_samples=50).log_px
    vae = pv.VAE(pv.priors.StandardNormal(1), Own(), Wide())
    torch.testing.assert_close(pv.log_evidence(vae, split, num_samples=50).log_px, ours)


def test_a_relaxed_likelihood_says_so_under_a_mask_and_counts_name_their_gaps():
    x = torch.where(torch.rand(30, 4) < 0.8, torch.randint(0, 2, (30, 4)).float(), float("nan"))
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(4, 2))
    for likelihood, measure in [
        (pv.likelihoods.Bernoulli(pv.nets.mlp(1, 4), relaxed=True), "relaxed Bernoulli on grey levels: not a density"),
        (pv.likelihoods.Poisson(pv.nets.mlp(1, 4)), "counting measure on {0, 1, 2, …}^4, observed values only"),
        (pv.likelihoods.Categorical(pv.nets.mlp(1, 8), 2), "counting measure on {0, …, 1}^4, observed values only"),
    ]:
        vae = pv.VAE(pv.priors.StandardNormal(1), likelihood, guide)
        split = Split("valid", x, Measure())
        assert pv.log_evidence(vae, split, num_samples=5).measure == measure
        assert vae.reconstruct(split.x, mask=split.mask).isfinite().all()


def test_a_collapsed_flow_has_no_active_units():
    from pyro_vae.programs.encode_rows import active_units

    net = pv.nets.linear(3, pv.guides.FlowGuide.outputs(2))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.zero_()
    vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Normal(pv.nets.linear(2, 3)), pv.guides.FlowGuide(net, 2))
    assert active_units(vae, torch.randn(500, 3)) == (0, 2)


def test_a_constant_column_has_no_density_to_give():
    array = np.column_stack([np.random.default_rng(0).normal(size=177), np.full(177, 0.1), np.full(177, 1 / 3)])
    data = pv.load_data(array)
    assert data.train.measure.scale[1:] == (1.0, 1.0)
    assert data.train.x[:, 1:].abs().max() < 1e-6


def by_obs_mask(guide_draws):
    """The linear model with Pyro's `obs_mask`; its guide draws what was not observed, or leaves it to the model."""

    def model(x, mask=None):
        scale = pyro.param("scale", torch.tensor(NOISE))
        with pyro.plate("rows", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("columns", 3, dim=-1):
                pyro.sample("x", dist.Normal(z * W[:, 0], scale), obs=x, obs_mask=mask)

    def guide(x, mask=None):
        loc = pyro.param("loc", torch.tensor(0.1))
        with pyro.plate("rows", len(x), dim=-2):
            pyro.sample("z", dist.Normal(loc * x.sum(-1, keepdim=True), 1.2))
            if guide_draws and mask is not None:
                with pyro.plate("columns", 3, dim=-1), pyro.poutine.mask(mask=~mask):
                    pyro.sample("x_unobserved", dist.Normal(torch.zeros(3), 1.5))

    return pv.Program(model, guide)


@pytest.mark.parametrize("guide_draws", [False, True])
def test_values_that_obs_mask_leaves_out(guide_draws):
    """Every row against its exact density, whether the guide draws the missing values or leaves them to the model."""
    x, mask = rows_with_gaps()
    split, program = Split("valid", x, Measure()), by_obs_mask(guide_draws)
    exact = torch.tensor([conditional(*pair)[0] for pair in zip(x, mask, strict=True)])
    found = pv.log_evidence(program, split, num_samples=4000)
    assert (found.log_px - exact).abs().max() < (0.4 if guide_draws else 0.1)
    assert abs(float((found.log_px - exact).mean())) < 0.02
    if not guide_draws:
        assert (pv.exact_evidence(program, split).log_px - exact).abs().max() < 1e-4
        assert (pv.annealed_evidence(program, split.head(3), 60).log_px - exact[:3]).abs().max() < 0.5
    fitted = pv.fit(program, split, epochs=20, batch_size=10, learning_rate=0.05)
    assert fitted.history[-1].elbo > fitted.history[0].elbo
    assert program.encode(split.x, mask=split.mask).shape == (len(x), 4 if guide_draws else 1)  # what the guide draws
    assert program.sample(5).shape == (5, 3)
    assert pv.log_evidence(program, torch.zeros(4, 3), 50).log_px.isfinite().all()


def test_a_latent_of_such_a_name_is_one():
    """Only what Pyro makes of `obs_mask` is left to the model."""

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z_unobserved", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(x):
        pass

    with pytest.raises(pv.InputError, match="the model draws z_unobserved, which the guide does not"):
        pv.log_evidence(pv.Program(model, guide), torch.zeros(4, 1))
