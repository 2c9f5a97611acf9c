"""Other libraries' arms of `scripts/benchmark.py`, each as its documentation or example shows it.

Same network, same pixels, same number of steps, validation of the same rows with one draw a row after each epoch.
What differs from the examples: the network, and logits where an example has probabilities, which is quicker.
"""

import tempfile
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from benchmark_arms import begin, draw, networks, rows_and_mixture
from benchmark_turns import Case, MixtureCase, Turns, Unavailable
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO
from pyro.optim import Adam  # type: ignore[attr-defined]  # Pyro makes its optimizers at import
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae.inference.svi.validation_elbo import VALID_BATCH_SIZE


class PyroVAE(nn.Module):
    """Model and guide of Pyro's VAE example."""

    def __init__(self, case: Case, num_features: int) -> None:
        super().__init__()
        self.latent_dim = case.latent_dim
        self.encoder, self.decoder = networks(case, num_features)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            shape = (x.shape[0], self.latent_dim)
            z = pyro.sample("z", dist.Normal(x.new_zeros(shape), x.new_ones(shape)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z), validate_args=False).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def stock_pyro(case: Case, turns: Turns, jit: bool = False, fused: bool = False) -> float:
    """Pyro's VAE example: a DataLoader, `SVI.step`, Pyro's own Adam, the loss summed as a Python number."""
    train, valid = case.splits()
    vae, held_out = PyroVAE(case, train.shape[1]), valid.x.to(case.device)
    pyro.clear_param_store()
    objective = JitTrace_ELBO(ignore_jit_warnings=True) if jit else Trace_ELBO()
    svi = SVI(vae.model, vae.guide, Adam({"lr": case.learning_rate, **({"fused": True} if fused else {})}), objective)
    loader = DataLoader(TensorDataset(train.stored), batch_size=case.batch_size, shuffle=True)
    for _ in turns:
        total = 0.0
        for (pixels,) in loader:
            total += svi.step(draw(pixels.to(case.device)))
        turns.value = elbo = -sum(svi.evaluate_loss(x) for x in held_out.split(VALID_BATCH_SIZE)) / len(held_out)
    return elbo


def numpyro_networks(case: Case, num_features: int) -> tuple[Any, Any]:
    """Encoder and decoder in stax, as NumPyro's example writes them."""
    from jax.example_libraries import stax

    encoder = stax.serial(stax.Dense(case.hidden), stax.Tanh, stax.Dense(2 * case.latent_dim))
    return encoder, stax.serial(stax.Dense(case.hidden), stax.Tanh, stax.Dense(num_features))


def numpyro_svi(case: Case, num_features: int) -> Any:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as npdist

    encoder, decoder = numpyro_networks(case, num_features)

    def model(x: Any) -> None:
        decode = numpyro.module("decoder", decoder, (len(x), case.latent_dim))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", npdist.Normal(0, 1).expand([case.latent_dim]).to_event(1))
            numpyro.sample("x", npdist.Bernoulli(logits=decode(z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        encode = numpyro.module("encoder", encoder, (len(x), num_features))
        loc, log_scale = jnp.split(encode(x), 2, axis=-1)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", npdist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    return numpyro.infer.SVI(model, guide, numpyro.optim.Adam(case.learning_rate), numpyro.infer.Trace_ELBO())


def numpyro_jitted(case: Case, turns: Turns) -> float:
    """NumPyro's VAE example: the whole epoch one jitted `fori_loop` of `svi.update`."""
    import jax
    import jax.numpy as jnp

    if case.device.startswith("cuda") and jax.default_backend() == "cpu":
        raise Unavailable("this JAX has no CUDA device")
    train, valid = case.splits()
    pixels, held_out = jnp.asarray(train.stored.numpy()), valid.x.numpy()
    svi = numpyro_svi(case, pixels.shape[1])
    state = svi.init(jax.random.key(0), jnp.zeros((case.batch_size, pixels.shape[1])))

    @jax.jit
    def epoch(state: Any, key: Any, pixels: Any, order: Any) -> Any:
        def step(i: Any, carry: Any) -> Any:
            total, state = carry
            index = jax.lax.dynamic_slice_in_dim(order, i * case.batch_size, case.batch_size)
            x = jax.random.bernoulli(jax.random.fold_in(key, i), jnp.take(pixels, index, axis=0) / 255.0)
            state, loss = svi.update(state, x.astype(jnp.float32))
            return total + loss, state

        return jax.lax.fori_loop(0, case.steps, step, (0.0, state))

    score = jax.jit(svi.evaluate)
    blocks = [jnp.asarray(held_out[i : i + VALID_BATCH_SIZE]) for i in range(0, len(held_out), VALID_BATCH_SIZE)]
    rng = np.random.default_rng(0)
    for turn in turns:
        _, state = epoch(state, jax.random.key(turn), pixels, rng.permutation(len(pixels)))
        elbo = -float(sum(score(state, x) for x in blocks)) / len(held_out)
        jax.block_until_ready(state)
        turns.value = elbo
    return elbo


def pythae_model(case: Case, num_features: int) -> Any:
    """Pythae's VAE with the same network; it needs probabilities and the log of the variance."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = encoder

        def forward(self, x: Tensor) -> Any:
            loc, log_scale = self.net(x).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=2 * log_scale)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.net(z).sigmoid())

    encoder, decoder = networks(case, num_features)
    config = VAEConfig(input_dim=(num_features,), latent_dim=case.latent_dim, reconstruction_loss="bce")
    return VAE(config, encoder=Encoder(), decoder=Decoder())


def pythae_trainer(case: Case, turns: Any, fused: bool = False) -> float:
    """Pythae's `BaseTrainer`. Its data set holds floats, so all pixels of an epoch are drawn at its start.

    Checkpoints are off; the one model that it saves when training ends falls outside the turns.
    """
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    train, valid = case.splits()
    rows = BaseDataset(train.x, torch.zeros(len(train)))
    scored: list[float] = []

    class Turn(TrainingCallback):
        def on_epoch_begin(self, training_config: Any, **kwargs: Any) -> None:
            rows.data = draw(train.stored)

        def on_log(self, training_config: Any, logs: Any, **kwargs: Any) -> None:
            scored.append(logs["eval_epoch_loss"])
            turns.value = -scored[-1]
            next(turns, None)

    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=begin(turns),
            per_device_train_batch_size=case.batch_size,
            per_device_eval_batch_size=VALID_BATCH_SIZE,
            learning_rate=case.learning_rate,
            optimizer_cls="Adam",
            optimizer_params={"fused": True} if fused else None,
            no_cuda=case.device == "cpu",
        )
        trainer = BaseTrainer(
            pythae_model(case, train.shape[1]), rows, BaseDataset(valid.x, torch.zeros(len(valid))), config, [Turn()]
        )
        trainer.train()
    return -scored[-1]


def scikit_learn(case: MixtureCase, turns: Any) -> None:
    """An iteration of scikit-learn's `GaussianMixture`: its E- and M-step, from the same parameters."""
    from em_vs_vi import _scikit_learn_seconds

    x, start = rows_and_mixture(case)
    for _ in turns:
        turns.measured = _scikit_learn_seconds(start, x, iterations=1)
