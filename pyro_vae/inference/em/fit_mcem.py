"""Monte-Carlo EM: an E-step by Hamiltonian Monte Carlo on each row's latents, an M-step by gradients.

>>> import pyro_vae as pv
>>> _ = torch.manual_seed(0)
>>> likelihood, guide = pv.likelihoods.Normal(pv.nets.mlp(1, 3)), pv.guides.MeanFieldNormal(pv.nets.mlp(3, 2))
>>> vae, x = pv.VAE(pv.priors.StandardNormal(1), likelihood, guide), 2 * torch.randn(200, 3)
>>> before = pv.exact_evidence(vae, x).log_px.mean()
>>> fitted = fit_mcem(vae, x, epochs=5)
>>> bool(pv.exact_evidence(vae, x).log_px.mean() > before + 0.1), fitted.history[4]["elbo"]
(True, None)
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.data import Dataset, Split, as_split
from pyro_vae.errors import InputError
from pyro_vae.inference.fit_result import EpochRecord, FitResult, MCEMEpoch
from pyro_vae.inference.posterior.hmc import State, state_at, transition
from pyro_vae.inference.svi.optimizer import FusedOptimizer
from pyro_vae.inference.svi.progress import Progress, Style
from pyro_vae.inference.svi.train_config import TrainConfig
from pyro_vae.inference.svi.trainer import Trainer
from pyro_vae.inference.svi.validation_elbo import VALID_BATCH_SIZE
from pyro_vae.programs.parameters import DeviceAndDtype, device_and_dtype, named_parameters, use_param_store
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint
from pyro_vae.typing import RowLatents

INITIAL_STEP_SIZE = 0.1  # of the leapfrog integrator
ADAPTATION_RATE = 0.5  # of the log step size, towards the target acceptance


def fit_mcem(
    program: Any,
    data: Dataset | Split | Tensor,
    *,
    valid: Split | Tensor | None = None,
    epochs: int = 100,
    batch_size: int = 100,
    leapfrog: int = 10,
    target_accept: float = 0.9,
    updates: int = 5,
    learning_rate: float = 0.02,
    optimizer: str = "adagrad",
    schedule: str = "constant",
    clip: float | None = None,
    seed: int = 0,
    labels: Tensor | None = None,
    on_epoch: Callable[[list[EpochRecord]], object] | None = None,
    progress: Style = "auto",
) -> FitResult:
    r"""Maximize $\frac1N\sum_i \log p_\theta(x_i)$ itself, with posterior draws instead of a guide.

    By Fisher's identity $\nabla_\theta \log p_\theta(x) = E_{p(z|x)}[\nabla_\theta \log p_\theta(x, z)]$. Each row has
    a Markov chain, which starts from the prior and continues over the epochs. For each batch the E-step moves its rows'
    chains by one Hamiltonian transition of `leapfrog` steps over the unconstrained latents u of `UnconstrainedJoint`,
    with one step size for all, adapted to the acceptance rate `target_accept`. The M-step takes `updates` gradient
    steps on $-\frac1B\sum_i \log p_\theta(x_i, u_i)$ (Wei & Tanner 1990; with these numbers Kingma & Welling,
    arXiv:1312.6114, section 5). Where x is drawn again each epoch (`binarize="stochastic"`) a chain's target changes
    with it. One transition an epoch is also no exact draw from the posterior, a bias that vanishes only as learning
    slows down.

    Parameters that the model's log-density has no gradient in, such as a guide's, and frozen parameters do not change;
    the program ends with the weights of the last epoch. There is no bound: `elbo` and its terms are None in the
    history, which has `log_joint`, the mean of log p(x, u) over rows after their E-steps (Jacobians counted),
    `acceptance` and `step_size`. Held-out rows have chains too, from which nothing is learned, and `valid_log_joint`.
    Other arguments as in `fit`; same seed, same machine, same bits.

    Raises `InputError` for settings or rows that cannot be used and for latents that are not continuous, `RowsError`
    where a site lies outside the plate over rows, `DivergedError` when log p(x, u) is no longer finite.
    """
    settings = TrainConfig(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, optimizer=optimizer, schedule=schedule,
        clip=clip, seed=seed,
    )  # fmt: skip
    if leapfrog < 1 or updates < 0 or not 0 < target_accept < 1:
        raise InputError(
            "leapfrog must be one or more, updates not negative and target_accept between 0 and 1, got "
            f"{leapfrog}, {updates} and {target_accept}"
        )
    train = as_split(data, "train")
    held_out = as_split(valid, "valid") if valid is not None else data.valid if isinstance(data, Dataset) else None
    with use_param_store(program), seeded(seed):
        kernel, target = _Kernel(leapfrog, target_accept), device_and_dtype(program, like=train[:1])
        trainer = _MCEMTrainer(program, train, held_out, settings, labels, target, kernel, updates)
        return trainer.fit(None, on_epoch, progress)


class _Kernel:
    """A Hamiltonian transition with an adaptive step size, and its acceptance over an epoch."""

    def __init__(self, leapfrog: int, target_accept: float) -> None:
        self.leapfrog, self.target_accept = leapfrog, target_accept
        self.log_step = math.log(INITIAL_STEP_SIZE)
        self.reset()

    def reset(self) -> None:
        self.accepted, self.proposed = 0.0, 0

    def __call__(self, joint: UnconstrainedJoint, u: RowLatents, adapt: bool = True) -> State:
        """The chains' state after one transition from u."""

        def at(u: Tensor) -> State:
            return state_at(lambda u: [joint.at(u).log_joint], u)

        step = torch.full_like(u, math.exp(self.log_step))
        state, probability = transition(at, at(u), u.new_ones(1), step, self.leapfrog)
        if adapt:
            self.log_step += ADAPTATION_RATE * (float(probability.mean()) - self.target_accept)
            self.accepted += float(probability.sum())
            self.proposed += len(probability)
        return state


class _MCEMTrainer(Trainer):
    """The training loop of `fit`, with an E-step and an M-step for each batch."""

    record_class = MCEMEpoch

    def __init__(
        self,
        program: Any,
        train: Split,
        valid: Split | None,
        settings: TrainConfig,
        labels: Tensor | None,
        target: DeviceAndDtype,
        kernel: _Kernel,
        updates: int,
    ) -> None:
        self.kernel, self.updates = kernel, updates
        super().__init__(program, train, valid, settings, None, labels, target)
        with torch.no_grad(), evaluating(program), pyro.validation_enabled(False):
            batches = (self._batch(train[index], index) for index in torch.arange(self.num_rows).split(self.batch_size))
            self.u = self._draw_from_prior(batches)
            self.held_out_u = self.u[:0] if valid is None else self._draw_from_prior(self._held_out_batches())

    def _draw_from_prior(self, batches: Iterable[Batch]) -> RowLatents:
        return torch.cat([self._joint(batch).from_prior().cpu() for batch in batches])

    def _held_out_batches(self) -> Iterator[Batch]:
        assert self.held_out is not None
        for batch in self.held_out.batches():
            self.plates.check(batch.x)
            yield batch

    def _joint(self, batch: Batch) -> UnconstrainedJoint:
        return UnconstrainedJoint(self.program, self.plates, batch)

    def _set_up_svi(self, loss: ELBO) -> None:
        """Set up the optimizer of the parameters that log p(x, u) has a gradient in."""
        super()._set_up_svi(loss)
        self.optimizer = FusedOptimizer(self.settings.optimizer, self.settings.learning_rate, self.settings.clip)
        example = self._batch(self.train[: self.batch_size], torch.arange(self.batch_size))
        with pyro.validation_enabled(False), evaluating(self.program):
            joint = self._joint(example)
            mean = joint.at(joint.from_prior()).log_joint.mean()
        trainable = {name: value for name, value in named_parameters(self.program).items() if value.requires_grad}
        if mean.requires_grad:
            gradients = torch.autograd.grad(mean, list(trainable.values()), allow_unused=True)
            pairs = zip(trainable.items(), gradients, strict=True)
            self.optimizer.add_parameters({name: value for (name, value), gradient in pairs if gradient is not None})
        if self.updates and not self.optimizer.parameters:
            raise InputError(
                "log p(x, z) has a gradient in no trainable parameter, so there is nothing to fit; register the "
                "model's parameters (pyro.module), unfreeze some, or set updates=0 to run the chains only"
            )

    def _step(self, batch: Batch, first: bool) -> float:
        assert batch.rows is not None
        rows = batch.rows.cpu()
        with pyro.validation_enabled(first):
            with evaluating(self.program):
                joint = self._joint(batch)
                state = self.kernel(joint, self.u[rows].to(batch.x.device))
            self._check_finite(mean := float(state.terms.mean()))
            self.u[rows] = state.u.cpu()
            for _ in range(self.updates):
                self._update(joint, state.u)
        return -mean

    def _update(self, joint: UnconstrainedJoint, u: RowLatents) -> None:
        """One gradient step of the model's parameters with fixed latents."""
        mean = joint.at(u).log_joint.mean()
        self._check_finite(mean.item())
        parameters = list(self.optimizer.parameters.values())
        gradients = torch.autograd.grad(-mean, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer(parameters)

    def _check_finite(self, mean: float) -> None:
        if not math.isfinite(mean):
            raise self._diverged(f"log p(x, z) became {mean}", self.state.epoch + 1)

    def _train_epoch(self, progress: Progress) -> dict[str, Any]:
        self.kernel.reset()
        row = super()._train_epoch(progress) | {"beta": None}
        return row | {
            "acceptance": self.kernel.accepted / self.kernel.proposed,
            "step_size": math.exp(self.kernel.log_step),
        }

    def _epoch_terms(self, prefix: str, elbo: float | None, split: Split) -> dict[str, Any]:
        """The mean of log p(x, u), reported instead of the ELBO, in the data's units."""
        mean = None if elbo is None else elbo + float(split.log_jacobian.mean())
        missing: dict[str, Any] = dict.fromkeys(prefix + name for name in ("elbo", "reconstruction", "kl"))
        return missing | {f"{prefix}log_joint": mean}

    def _validate(self) -> dict[str, Any]:
        """Move the held-out rows' chains; nothing is learned from them."""
        missing = dict.fromkeys(("valid_kl_apart", "active_units"))
        if self.valid is None:
            return self._epoch_terms("valid_", None, self.train) | missing
        blocks = self.held_out_u.split(VALID_BATCH_SIZE)
        with evaluating(self.program), pyro.validation_enabled(False):
            states = [
                self.kernel(self._joint(batch), u.to(batch.x.device), adapt=False)
                for batch, u in zip(self._held_out_batches(), blocks, strict=True)
            ]
        self.held_out_u = torch.cat([state.u.cpu() for state in states])
        log_joint = torch.cat([state.terms[0] for state in states])
        return self._epoch_terms("valid_", float(log_joint.mean()), self.valid) | missing
