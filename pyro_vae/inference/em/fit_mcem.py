"""Monte-Carlo EM: an E-step by Hamiltonian Monte Carlo on each row's own latents, an M-step by gradients."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_vae.context import evaluating, seeded
from pyro_vae.data import Dataset, Split, as_split
from pyro_vae.errors import InputError
from pyro_vae.inference.fit_result import FitResult
from pyro_vae.inference.posterior.hmc import State, state_at, transition
from pyro_vae.inference.svi.optimizer import FusedOptimizer
from pyro_vae.inference.svi.progress import Progress, Style
from pyro_vae.inference.svi.train_config import TrainConfig
from pyro_vae.inference.svi.trainer import VALID_BATCH_SIZE, Trainer
from pyro_vae.programs.parameters import DeviceAndDtype, device_and_dtype, named_parameters, use_param_store
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint
from pyro_vae.typing import PerRow, RowLatents

FIRST_STEP, GAIN = 0.1, 0.5  # of the leapfrog steps, and how fast their logarithm follows the acceptance


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
    on_epoch: Callable[[list[dict[str, Any]]], None] | None = None,
    progress: Style = "auto",
) -> FitResult:
    r"""Climb the log-likelihood itself, $\frac1N\sum_i \log p_\theta(x_i)$, with posterior draws in place of a guide.

    By Fisher's identity $\nabla_\theta \log p_\theta(x) = E_{p(z|x)}[\nabla_\theta \log p_\theta(x, z)]$. Each row has
    a Markov chain of its own, which starts from the prior and goes on from epoch to epoch. For each batch the E-step
    moves its rows' chains by one Hamiltonian transition of `leapfrog` steps over the unconstrained latents u of
    `Joint`, their one size tuned towards a share `target_accept` of proposals taken; the M-step takes `updates`
    gradient steps on $-\frac1B\sum_i \log p_\theta(x_i, u_i)$ (Wei & Tanner 1990; with these numbers Kingma & Welling,
    arXiv:1312.6114, section 5). Where x is drawn afresh each epoch (`binarize="stochastic"`) a chain follows a
    posterior that moves with it; one transition an epoch is also short of a draw from the posterior, a bias that
    vanishes only as learning slows down.

    What the model's log-density has no gradient in, such as a guide's own parameters, stays bit for bit, and so do
    frozen parameters; the program ends with the weights of the last epoch. There is no bound: `elbo` and its terms are
    None in the history, which has `log_joint`, the mean of log p(x, u) over rows after their E-steps (Jacobians
    counted), `acceptance` and `step_size`. Rows held out have chains too, from which nothing is learned, and
    `valid_log_joint`. Other arguments as in `fit`; same seed, same machine, same bits.

    Raises `InputError` for settings or rows that cannot be used and for latents that are not continuous, `RowsError`
    where a site lies outside the plate over rows, `DivergedError` when log p(x, u) is no longer finite.

    >>> import pyro_vae as pv
    >>> _ = torch.manual_seed(0)
    >>> likelihood, guide = pv.likelihoods.Normal(pv.nets.mlp(1, 3)), pv.guides.MeanFieldNormal(pv.nets.mlp(3, 2))
    >>> vae, x = pv.VAE(pv.priors.StandardNormal(1), likelihood, guide), 2 * torch.randn(200, 3)
    >>> before = pv.exact_evidence(vae, x).log_px.mean()
    >>> fitted = fit_mcem(vae, x, epochs=5)
    >>> bool(pv.exact_evidence(vae, x).log_px.mean() > before + 0.1), fitted.history[4]["elbo"]
    (True, None)
    """
    settings = TrainConfig(epochs, batch_size, learning_rate, optimizer, schedule, clip, seed=seed)
    settings.check()
    if leapfrog < 1 or updates < 0 or not 0 < target_accept < 1:
        raise InputError(
            "leapfrog must be one or more, updates not negative and target_accept between 0 and 1, got "
            f"{leapfrog}, {updates} and {target_accept}"
        )
    train = as_split(data, "train")
    held_out = as_split(valid, "valid") if valid is not None else data.valid if isinstance(data, Dataset) else None
    with use_param_store(program), seeded(seed):
        walk = _Walk(leapfrog, target_accept, updates)
        trainer = _MCEMTrainer(
            program, train, held_out, settings, labels, device_and_dtype(program, like=train[:1]), walk
        )
        return trainer.fit(None, on_epoch, progress)


class _Walk:
    """How chains move, and how they fared."""

    def __init__(self, leapfrog: int, target_accept: float, updates: int) -> None:
        self.leapfrog, self.target_accept, self.updates = leapfrog, target_accept, updates
        self.log_step = math.log(FIRST_STEP)
        self.reset()

    def reset(self) -> None:
        self.accepted, self.moves = 0.0, 0

    def __call__(self, joint: UnconstrainedJoint, u: RowLatents, adapt: bool = True) -> State:
        """Where chains at u are after one transition."""

        def at(u: Tensor) -> State:
            return state_at(lambda u: [log_joint(joint, u)], u)

        step = torch.full_like(u, math.exp(self.log_step))
        state, chance = transition(at, at(u), u.new_ones(1), step, self.leapfrog)
        if adapt:
            self.log_step += GAIN * (float(chance.mean()) - self.target_accept)
            self.accepted, self.moves = self.accepted + float(chance.sum()), self.moves + len(chance)
        return state


def log_joint(joint: UnconstrainedJoint, u: RowLatents) -> PerRow:
    """log p(x, u) of each row, nats, the Jacobian counted."""
    point = joint.at(u)
    return point.likelihood + point.prior


class _MCEMTrainer(Trainer):
    """The loop of `fit`, its steps an E-step and an M-step."""

    def __init__(
        self,
        program: Any,
        train: Split,
        valid: Split | None,
        settings: TrainConfig,
        labels: Tensor | None,
        target: DeviceAndDtype,
        walk: _Walk,
    ) -> None:
        self.walk = walk
        super().__init__(program, train, valid, settings, None, labels, target)
        with torch.no_grad(), evaluating(program), pyro.validation_enabled(False):
            batches = (self._batch(train[index], index) for index in torch.arange(self.num_rows).split(self.batch_size))
            self.u = self._drawn_from_prior(batches)
            self.held_out_u = self.u[:0] if valid is None else self._drawn_from_prior(self._held_out_batches())

    def _drawn_from_prior(self, batches: Iterable[Batch]) -> RowLatents:
        return torch.cat([self._joint(batch).from_prior().cpu() for batch in batches])

    def _held_out_batches(self) -> Iterator[Batch]:
        assert self.valid is not None
        for start in range(0, len(self.valid), VALID_BATCH_SIZE):
            batch = self._held_out(start, start + VALID_BATCH_SIZE)
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
            mean = log_joint(joint, joint.from_prior()).mean()
        every = {name: value for name, value in named_parameters(self.program).items() if value.requires_grad}
        if mean.requires_grad:
            slopes = torch.autograd.grad(mean, list(every.values()), allow_unused=True)
            pairs = zip(every.items(), slopes, strict=True)
            self.optimizer.add_parameters({name: value for (name, value), slope in pairs if slope is not None})
        if self.walk.updates and not self.optimizer.parameters:
            raise InputError(
                "log p(x, z) has a gradient in no parameter that is free to move, so there is nothing to fit; tell "
                "Pyro of the model's (pyro.module), unfreeze some, or take updates=0 to let chains move alone"
            )

    def _step(self, batch: Batch, first: bool) -> float:
        assert batch.rows is not None
        rows = batch.rows.cpu()
        with pyro.validation_enabled(first):
            with evaluating(self.program):
                joint = self._joint(batch)
                state = self.walk(joint, self.u[rows].to(batch.x.device))
            self._check_finite(mean := float(state.terms.mean()))
            self.u[rows] = state.u.cpu()
            for _ in range(self.walk.updates):
                self._update(joint, state.u)
        return -mean

    def _update(self, joint: UnconstrainedJoint, u: RowLatents) -> None:
        """One gradient step of the model's parameters, the latents held where they are."""
        mean = log_joint(joint, u).mean()
        self._check_finite(mean.item())
        parameters = list(self.optimizer.parameters.values())
        slopes = torch.autograd.grad(-mean, parameters, allow_unused=True)
        for parameter, slope in zip(parameters, slopes, strict=True):
            parameter.grad = slope
        self.optimizer(parameters)

    def _check_finite(self, mean: float) -> None:
        if not math.isfinite(mean):
            raise self._diverged(f"log p(x, z) became {mean}", self.epoch + 1)

    def _train_epoch(self, progress: Progress) -> dict[str, Any]:
        self.walk.reset()
        row = super()._train_epoch(progress) | {"beta": None}
        return row | {"acceptance": self.walk.accepted / self.walk.moves, "step_size": math.exp(self.walk.log_step)}

    def _epoch_terms(self, prefix: str, elbo: float | None, split: Split) -> dict[str, Any]:
        """The mean of log p(x, u), which stands where `fit` has the ELBO, in the data's units."""
        mean = None if elbo is None else elbo + float(split.log_jacobian.mean())
        nothing: dict[str, Any] = dict.fromkeys(prefix + name for name in ("elbo", "reconstruction", "kl"))
        return nothing | {f"{prefix}log_joint": mean}

    def _validate(self) -> dict[str, Any]:
        """The chains of rows held out move on, and nothing is learned from them."""
        nothing = dict.fromkeys(("valid_kl_apart", "active_units"))
        if self.valid is None:
            return self._epoch_terms("valid_", None, self.train) | nothing
        places = self.held_out_u.split(VALID_BATCH_SIZE)
        with evaluating(self.program), pyro.validation_enabled(False):
            states = [
                self.walk(self._joint(batch), u.to(batch.x.device), adapt=False)
                for batch, u in zip(self._held_out_batches(), places, strict=True)
            ]
        self.held_out_u = torch.cat([state.u.cpu() for state in states])
        log_joint = torch.cat([state.terms[0] for state in states])
        return self._epoch_terms("valid_", float(log_joint.mean()), self.valid) | nothing
