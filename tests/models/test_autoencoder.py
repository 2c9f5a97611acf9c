"""The autoencoder: its objective is the reconstruction term alone, its linear form is PCA, and it has no density."""

import pytest
import torch
from sklearn import decomposition

import pyro_vae as pv
from pyro_vae.errors import InputError
from pyro_vae.models.pca import KernelPCA


def autoencoder(likelihood="bernoulli", D=6, K=2, **options):
    net = pv.nets.mlp(K, 8, D)
    made = pv.likelihoods.Bernoulli(net) if likelihood == "bernoulli" else pv.likelihoods.Normal(net, scale=1.0)
    return pv.Autoencoder(pv.nets.mlp(D, 8, K), made, num_latents=K, **options)


@pytest.fixture
def binary():
    return (torch.rand(80, 6) < 0.4).float()


def test_the_objective_is_the_likelihood_at_the_code(binary):
    model = autoencoder()
    fitted = pv.fit(model, binary, epochs=3, batch_size=80, learning_rate=1e-9, schedule="constant")
    expected = model.likelihood(model.encoder(binary)).log_prob(binary).mean().detach()
    assert fitted.history[-1]["elbo"] == pytest.approx(float(expected), rel=1e-5)
    assert fitted.history[-1]["kl"] == pytest.approx(0, abs=1e-9)
    assert fitted.history[-1]["reconstruction"] == fitted.history[-1]["elbo"]


def test_encode_and_reconstruct_are_the_networks(binary):
    model = autoencoder()
    codes = model.encoder(binary)
    torch.testing.assert_close(model.encode(binary), codes)
    torch.testing.assert_close(model.reconstruct(binary), model.likelihood(codes).mean)
    torch.testing.assert_close(model.decode(codes), model.likelihood(codes).mean)


def test_the_linear_autoencoder_of_squared_error_ends_where_pca_is():
    x = torch.randn(300, 2) @ torch.randn(2, 5) + 0.1 * torch.randn(300, 5)
    linear = pv.Autoencoder(pv.nets.linear(5, 2), pv.likelihoods.Normal(pv.nets.linear(2, 5), scale=1.0), num_latents=2)
    pv.fit(linear, x, epochs=1500, learning_rate=0.05, batch_size=300)
    known = pv.PCA(2).fit(x)
    ours, best = (float((x - m.reconstruct(x)).square().mean()) for m in (linear, known))
    assert best <= ours < best * 1.01


@pytest.mark.parametrize(("corruption", "level"), [("masking", 0.5), ("gaussian", 0.7)])
def test_a_denoising_autoencoder_sees_damaged_rows_in_training_alone(binary, corruption, level):
    model = autoencoder(denoising=level, corruption=corruption)
    seen = []
    model.encoder.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    model.train()
    model.guide(binary)
    model.eval()
    model.guide(binary)
    damaged, whole = seen
    assert torch.equal(whole, binary)
    if corruption == "masking":
        kept = damaged[binary == 1].mean()
        assert torch.equal(damaged[binary == 0], binary[binary == 0])
        assert float(kept) == pytest.approx(0.5, abs=0.15)
    else:
        assert float((damaged - binary).std()) == pytest.approx(0.7, rel=0.12)


def test_denoising_recovers_masked_values_better_than_a_plain_one():
    """x has three copies of each of two bits, so that a masked value can be told from its copies."""
    bits = (torch.rand(400, 2) < 0.5).float().repeat(1, 3)
    damaged = bits * (torch.rand_like(bits) >= 0.3)
    errors = {}
    for level in (0.0, 0.3):
        model = autoencoder(denoising=level)
        pv.fit(model, bits, epochs=60, learning_rate=0.02, seed=1)
        errors[level] = float((model.reconstruct(damaged) - bits).square().mean())
    assert errors[0.3] < 0.7 * errors[0.0]


def test_frozen_halves_stay_as_they_are(binary):
    model = autoencoder()
    model.encoder.requires_grad_(False)
    before = [p.clone() for p in model.encoder.parameters()]
    pv.fit(model, binary, epochs=2)
    assert all(torch.equal(a, b) for a, b in zip(before, model.encoder.parameters(), strict=True))


def test_it_is_saved_and_loaded(binary, tmp_path):
    model = autoencoder(denoising=0.2)
    pv.fit(model, binary, epochs=1)
    pv.save(model, tmp_path)
    again = pv.load(tmp_path)
    assert again.denoising == 0.2
    assert torch.equal(again.reconstruct(binary), model.reconstruct(binary))


def models_of(x):
    yield autoencoder()
    for projection in (pv.PCA(2), KernelPCA(2)):
        projection.model = projection.guide = None  # the tests' type checker lets only programs pass
        yield projection.fit(x)


def test_asked_for_a_density_they_say_why_there_is_none(binary):
    for model in models_of(binary):
        for ask in (
            lambda m: pv.log_evidence(m, binary),
            lambda m: pv.exact_evidence(m, binary),
            lambda m: pv.annealed_evidence(m, binary),
            lambda m: pv.laplace_approximation(m, binary),
            lambda m: pv.nuts(m, binary[:2]),
            lambda m: pv.score(m, binary, binary),
            lambda m: pv.diagnostics.inference_gaps(m, binary),
        ):
            with pytest.raises(InputError, match="no density"):
                ask(model)
        with pytest.raises(InputError, match=r"prior to draw|draws no rows"):
            model.sample(3)


def test_wrong_arguments_say_what_to_do(binary):
    with pytest.raises(InputError, match="masking, gaussian"):
        autoencoder(corruption="salt")
    with pytest.raises(InputError, match="below 1"):
        autoencoder(denoising=1.0)
    with pytest.raises(InputError, match="num_latents=3"):
        pv.Autoencoder(pv.nets.mlp(6, 2), pv.likelihoods.Bernoulli(pv.nets.mlp(3, 6)), 3).encode(binary)
    with pytest.raises(InputError, match="call fit"):
        pv.PCA(2).encode(binary)
    with pytest.raises(InputError, match="fewer latents"):
        pv.PCA(6).fit(binary)
    with pytest.raises(InputError, match="fit to 20000 or fewer"):
        KernelPCA(1).fit(torch.zeros(20_001, 2))


def test_pca_is_scikit_learns_and_exact_with_all_but_nothing_left():
    x = torch.randn(60, 2) @ torch.randn(2, 5) + 3.0
    model = pv.PCA(2).fit(x)
    torch.testing.assert_close(model.reconstruct(x), x, rtol=0, atol=1e-5)
    theirs = decomposition.PCA(2, svd_solver="full").fit(x.double().numpy())
    torch.testing.assert_close(
        model.encode(x).double(), torch.from_numpy(theirs.transform(x.double())), atol=1e-5, rtol=0
    )
    assert model.decode(model.encode(x)[None]).shape == (1, 60, 5)


def test_kernel_pca_unbends_a_circle_where_pca_cannot():
    angle = torch.rand(200, dtype=torch.float64) * 2 * torch.pi
    radius = torch.where(torch.arange(200) % 2 == 0, 1.0, 3.0).double()
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    kernel = KernelPCA(1, gamma=0.3).fit(torch.cat([x, torch.zeros(200, 1)], 1))
    codes = kernel.encode(torch.cat([x, torch.zeros(200, 1)], 1))[:, 0]
    inner, outer = codes[radius == 1], codes[radius == 3]
    assert inner.min() > outer.max() or inner.max() < outer.min()
    assert kernel.reconstruct(torch.zeros(2, 3)).shape == (2, 3)
