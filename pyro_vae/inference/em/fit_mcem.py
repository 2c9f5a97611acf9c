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
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Unpack

import pyro
import torch
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.context_managers import evaluating
from pyro_vae.data import RowsGiven
from pyro_vae.data.row_weights import weighted_mean
from pyro_vae.distributed import SINGLE_PROCESS
from pyro_vae.errors import DivergedError, InputError
from pyro_vae.inference.fit_result import FitResult, MCEMEpoch
from pyro_vae.inference.posterior.hmc import State, state_at, transition
from pyro_vae.inference.svi.callbacks import Callback, OnEpoch
from pyro_vae.inference.svi.fit_loop import fit_with
from pyro_vae.inference.svi.fit_method import WITHOUT_GUIDE, FitTask, Step, Unread
from pyro_vae.inference.svi.optimizer import FusedOptimizer
from pyro_vae.inference.svi.progress import Style, all_callbacks
from pyro_vae.inference.svi.train_config import TrainConfig, TrainOverrides
from pyro_vae.programs.parameters import named_parameters
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint
from pyro_vae.typing import Program, RowLatents

INITIAL_STEP_SIZE = 0.1  # of the leapfrog integrator
ADAPTATION_RATE = 0.5  # of the log step size, towards the target acceptance
MCEM_CONFIG = TrainConfig(optimizer="adagrad", learning_rate=0.02, schedule="constant")
UNREAD: Unread = {**WITHOUT_GUIDE, "patience": (None, 0)}


@check_call
def fit_mcem(
    program: Program,
    data: RowsGiven,
    config: TrainConfig | None = None,
    *,
    valid: RowsGiven | None = None,
    leapfrog: int = 10,
    target_accept: float = 0.9,
    updates: int = 5,
    labels: Tensor | None = None,
    callbacks: Sequence[Callback] = (),
    on_epoch: OnEpoch | None = None,
    progress: Style = "auto",
    **overrides: Unpack[TrainOverrides],
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
    history, which has `log_joint`, the weighted mean of log p(x, u) over rows after their E-steps (Jacobians counted),
    `acceptance` and `step_size`. Held-out rows have chains too, from which nothing is learned, and `valid_log_joint`.
    Same seed, same machine, same bits.

    Raises `InputError` for settings or rows that cannot be used and for latents that are not continuous, `RowsError`
    where a site lies outside the plate over rows, `DivergedError` when log p(x, u) is no longer finite.

    Args:
        program: any object with `model(x)` and `guide(x)`, its latents continuous; trained in place.
        data: the training rows x (N, D), or a data set, whose validation rows are used too.
        config: the training settings, by default Adagrad at a constant rate of 0.02; those of the guide, of the ELBO
            and of patience have no effect, so other values than their defaults are an `InputError`.
        valid: held-out rows (M, D), instead of the data set's.
        leapfrog: the leapfrog steps of a transition.
        target_accept: the acceptance rate that the step size is adapted to.
        updates: gradient steps of an M-step; 0 runs the chains only.
        labels: labels (N,) of the training rows.
        callbacks: called at the start, after each epoch and at the end (`Callback`).
        on_epoch: a plain function, called with the history after each epoch.
        progress: as in `fit`.
        **overrides: fields of `TrainConfig` that replace those of `config`.

    Returns:
        The history, whose records are `MCEMEpoch`.
    """
    method = MCEMMethod(leapfrog, target_accept, updates)
    settings = TrainConfig.with_overrides(config or MCEM_CONFIG, overrides, fit_mcem)
    shown = all_callbacks(callbacks, on_epoch, progress)
    return fit_with(method, program, data, settings, valid=valid, labels=labels, callbacks=shown, group=SINGLE_PROCESS)


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


class MCEMMethod:
    """An E-step and an M-step for each batch, a `FitMethod`.

    Args:
        leapfrog: the leapfrog steps of a transition.
        target_accept: the acceptance rate that the step size is adapted to.
        updates: gradient steps of an M-step.
    """

    name = "Monte-Carlo EM"
    without_effect = UNREAD

    def __init__(self, leapfrog: int = 10, target_accept: float = 0.9, updates: int = 5) -> None:
        if leapfrog < 1 or updates < 0 or not 0 < target_accept < 1:
            raise InputError(
                "leapfrog must be one or more, updates not negative and target_accept between 0 and 1, got "
                f"{leapfrog}, {updates} and {target_accept}"
            )
        self.kernel, self.updates = _Kernel(leapfrog, target_accept), updates

    def prepare(self, task: FitTask) -> None:
        """Set up the optimizer of the parameters that log p(x, u) has a gradient in, and draw the chains' start."""
        if not task.group.is_single:
            raise InputError("Monte-Carlo EM runs as one process: start it without torchrun")
        self.task = task
        self._set_up_optimizer(task)
        with torch.no_grad(), evaluating(task.program), pyro.validation_enabled(False):
            index = torch.arange(task.num_rows).split(task.batch_size)
            u = self._draw_from_prior(task.batch(task.train[rows], rows) for rows in index)
            places = torch.arange(task.num_rows) if task.places is None else task.places
            self.u = u.new_zeros(task.num_places, u.shape[1]).index_copy_(0, places, u)
            self.held_out_u = self.u[:0] if task.valid is None else self._draw_from_prior(self._held_out_batches())

    def epoch(self, index: int, on_step: Callable[[], None]) -> MCEMEpoch:
        """An E-step and an M-step on each batch; the held-out rows' chains move too.

        Args:
            index: the number of the epoch, from zero.
            on_step: called after each batch.

        Returns:
            The mean of log p(x, u) in nats per row, and what the sampler did.
        """
        task = self.task
        self.kernel.reset()
        total = task.train_epoch(index, self._step, on_step)
        task.end_epoch(self.optimizer.parameters.values())
        return MCEMEpoch(
            epoch=index + 1,
            step=(index + 1) * task.steps_per_epoch,
            learning_rate=self.optimizer.learning_rate,
            log_joint=-float(total) / task.num_rows + weighted_mean(task.train.log_jacobian, task.train.weights),
            valid_log_joint=self._validate(),
            acceptance=self.kernel.accepted / self.kernel.proposed,
            step_size=math.exp(self.kernel.log_step),
        )

    def state(self) -> dict[str, Tensor]:
        """The optimizer's state, all chains, and the step size of the integrator."""
        log_step = torch.tensor(self.kernel.log_step, dtype=torch.float64)
        chains = {"chains": self.u.clone(), "held-out chains": self.held_out_u.clone(), "log step": log_step}
        return self.optimizer.get_state() | chains

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Set what `state` gave."""
        moments = dict(state)
        self.u, self.held_out_u = moments.pop("chains"), moments.pop("held-out chains")
        self.kernel.log_step = float(moments.pop("log step"))
        self.optimizer.set_state(moments)

    def _set_up_optimizer(self, task: FitTask) -> None:
        self.optimizer = FusedOptimizer.from_config(task.config)
        with pyro.validation_enabled(False), evaluating(task.program):
            joint = self._joint(task.example)
            mean = joint.at(joint.from_prior()).log_joint.mean()
        trainable = {name: value for name, value in named_parameters(task.program).items() if value.requires_grad}
        if mean.requires_grad:
            gradients = torch.autograd.grad(mean, list(trainable.values()), allow_unused=True)
            pairs = zip(trainable.items(), gradients, strict=True)
            self.optimizer.add_parameters({name: value for (name, value), gradient in pairs if gradient is not None})
        if self.updates and not self.optimizer.parameters:
            raise InputError(
                "log p(x, z) has a gradient in no trainable parameter, so there is nothing to fit; register the "
                "model's parameters (pyro.module), unfreeze some, or set updates=0 to run the chains only"
            )

    def _draw_from_prior(self, batches: Iterable[Batch]) -> RowLatents:
        return torch.cat([self._joint(batch).from_prior().cpu() for batch in batches])

    def _held_out_batches(self) -> Iterator[Batch]:
        assert self.task.held_out is not None
        for batch in self.task.held_out.batches():
            self.task.plates.check(batch.x, batch.mask)
            yield batch

    def _joint(self, batch: Batch) -> UnconstrainedJoint:
        return UnconstrainedJoint(self.task.program, self.task.plates, batch)

    def _step(self, step: Step) -> float:
        """An E-step and an M-step on a batch; −log p(x, u) in nats per row after the E-step."""
        batch = step.batch
        assert batch.rows is not None
        rows = batch.rows.cpu()
        self.optimizer.start_step(step)
        with pyro.validation_enabled(step.is_first):
            with evaluating(self.task.program):
                joint = self._joint(batch)
                state = self.kernel(joint, self.u[rows].to(batch.x.device))
            mean = float(_mean(state.terms, batch))
            _require_finite(mean)
            self.u[rows] = state.u.cpu()
            for _ in range(self.updates):
                self._update(joint, state.u, batch)
        return -mean

    def _update(self, joint: UnconstrainedJoint, u: RowLatents, batch: Batch) -> None:
        """One gradient step of the model's parameters with fixed latents."""
        mean = _mean(joint.at(u).log_joint, batch)
        _require_finite(mean.item())
        parameters = list(self.optimizer.parameters.values())
        gradients = torch.autograd.grad(-mean, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()  # two parameters may share a gradient
        self.optimizer(parameters)

    def _validate(self) -> float | None:
        """Move the held-out rows' chains, from which nothing is learned: their mean log p(x, u)."""
        if self.task.valid is None:
            return None
        assert self.task.held_out is not None
        blocks = self.held_out_u.split(self.task.held_out.batch_size)
        with evaluating(self.task.program), pyro.validation_enabled(False):
            states = [
                self.kernel(self._joint(batch), u.to(batch.x.device), adapt=False)
                for batch, u in zip(self._held_out_batches(), blocks, strict=True)
            ]
        self.held_out_u = torch.cat([state.u.cpu() for state in states])
        log_joint = torch.cat([state.terms[0] for state in states])
        return weighted_mean(log_joint.double() + self.task.valid.log_jacobian, self.task.valid.weights)


def _mean(log_joint: Tensor, batch: Batch) -> Tensor:
    """The sum over a batch's rows, each with its weight, divided by their number."""
    return (log_joint if batch.weights is None else log_joint * batch.weights).mean()


def _require_finite(mean: float) -> None:
    if not math.isfinite(mean):
        raise DivergedError(f"log p(x, z) became {mean}")
