"""Stochastic variational inference as a fit method: steps of Pyro's `SVI`, and the validation ELBO."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pyro
import torch
from pyro.infer import ELBO, SVI, Trace_ELBO, TraceEnum_ELBO
from torch import Tensor

from pyro_vae.context_managers import evaluating, seeded, set_training
from pyro_vae.data import Split
from pyro_vae.data.row_weights import weighted_mean
from pyro_vae.distributed import GradientReducer
from pyro_vae.errors import DivergedError, InputError
from pyro_vae.inference.compile.compiled_elbo import Compiled_ELBO, is_recorded
from pyro_vae.inference.compile.reduced_products import ReducedProducts
from pyro_vae.inference.fit_result import EpochRecord, map_record
from pyro_vae.inference.objectives.elbo_terms import RowWeighted, Terms
from pyro_vae.inference.objectives.row_weights import RowWeightedEnum_ELBO, require_weighable
from pyro_vae.inference.svi.choose_precision import choose_precision
from pyro_vae.inference.svi.fit_method import READS_ALL, FitTask, Loss, Step
from pyro_vae.inference.svi.optimizer import FusedOptimizer
from pyro_vae.inference.svi.prepare_fit import default_loss, loss_name, vectorize_particles
from pyro_vae.programs.latent_support import latents_outside, outside_error
from pyro_vae.programs.parameters import named_parameters
from pyro_vae.programs.program_defaults import log_prior_of, no_density_reason
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs
from pyro_vae.programs.traces import sample_sites, trace_program

SEARCH_DRAWS = 20  # of the guide, to name the latent that it drew outside the prior's support
MIN_KL = -1e4  # nats per row, of exact densities never below 0
GRAPH_CHECK_STEPS = (1, 1, 1, 100)  # steps between checks of a graph at the start of the first epochs, and of others
IS_REDUCED = "precision/bfloat16"  # in the method's state: what "auto" has chosen, which a resumed fit keeps


class SVIMethod:
    """Gradient steps on the ELBO, a `FitMethod`.

    Args:
        loss: any of Pyro's trace ELBOs; by default `Trace_ELBO`, `TraceEnum_ELBO` where sites are enumerated.
    """

    without_effect = READS_ALL

    def __init__(self, loss: ELBO | None = None) -> None:
        self.loss, self.name = loss, "SVI"  # once it is prepared the objective's name

    def prepare(self, task: FitTask) -> None:
        """Set up the optimizer, the terms and `SVI` on the program with scaled sites; all its parameters exist."""
        config, program, plates = task.config, task.program, task.plates
        self.task, self.reducer = task, GradientReducer(task.group)
        self.is_map = bool(plates.point_masses) and not no_density_reason(program)
        if task.latents_outside:
            raise outside_error(task.latents_outside, task.uncertain_latents)
        loss = self.loss or default_loss(task.guide_trace, plates, config.num_particles or 1)
        loss = vectorize_particles(loss, program, plates, task.example)
        self.name = loss_name(loss)
        self.optimizer = FusedOptimizer.from_config(config)
        self.optimizer.add_parameters(named_parameters(program))
        if log_prior_of(program) is not None:
            self.optimizer.penalty = self._penalty
        self.weigh, self.terms = (
            RowWeighted(plates, task.num_rows),
            Terms(plates, task.num_rows, task.uncertain_latents),
        )
        if config.beta != 1 or config.kl_warmup:  # a tensor may change between calls of a graph, a number may not
            self.weigh.beta = torch.ones((), dtype=task.target.dtype, device=task.target.device)
        if task.has_weights:
            loss = self._with_row_weights(loss)
        elbo = self.terms.attach(loss)
        self.compiled: Compiled_ELBO | None = None
        if config.compile or (config.compile is None and is_recorded(loss)):
            parameters = lambda: self.optimizer.parameters.values()  # noqa: E731
            self.compiled = Compiled_ELBO(
                elbo,
                fuse=bool(config.compile),
                terms=self.terms,
                trainable_parameters=parameters,
                reuse_gradients=True,  # the optimizer has used them by then
            )
        model, guide = (self.weigh.around(bind_supported_kwargs(each)) for each in (program.model, program.guide))
        around = ReducedProducts().around
        self._svi = {
            "float32": SVI(model, guide, self.optimizer, self.compiled or elbo),
            "bfloat16": SVI(around(model), around(guide), self.optimizer, self.compiled or elbo),
        }
        trace_elbo, arguments = cast(Trace_ELBO, elbo), task.example.objective_arguments
        with seeded(config.epoch_seed(-2)), evaluating(program), pyro.validation_enabled(False):
            task.precision = choose_precision(
                config.precision,
                task.target,
                run=lambda mode: trace_elbo.loss(mode.around(model), mode.around(guide), *arguments),
                gradient=lambda precision: self._first_gradient(trace_elbo, self._svi[precision]),
            )
        if not task.group.is_single:
            self.optimizer.reduce = self.reducer
            for svi in self._svi.values():
                svi.loss_and_grads = self.reducer.capture_loss(svi.loss_and_grads)

    @property
    def svi(self) -> SVI:
        """Of the steps; scores are those of the one in float32."""
        return self._svi[self.task.precision]

    def _first_gradient(self, elbo: Trace_ELBO, svi: SVI) -> list[Tensor | None]:
        """The gradient of the objective on the first batch, by Pyro's handlers."""
        task, parameters = self.task, list(self.optimizer.parameters.values())
        try:
            with seeded(task.config.epoch_seed(-2)):
                elbo.loss_and_grads(svi.model, svi.guide, *task.example.objective_arguments)
            return [parameter.grad for parameter in parameters]
        finally:
            for parameter in parameters:
                parameter.grad = None

    def _with_row_weights(self, loss: ELBO) -> ELBO:
        """The objective for rows with weights; `RowsError` or `InputError` where it or the program takes none."""
        task, plates = self.task, self.task.plates
        with torch.no_grad(), seeded(task.config.epoch_seed(-2)), evaluating(task.program):
            model, guide = (sample_sites(trace) for trace in trace_program(task.program, task.example))
        require_weighable(plates, model, guide)
        if not isinstance(loss, TraceEnum_ELBO):
            return loss
        if type(loss) is not TraceEnum_ELBO:
            raise InputError(f"{type(loss).__name__} takes no weights of rows: take TraceEnum_ELBO, or leave them out")
        self.weigh.is_in_scale = False
        return RowWeightedEnum_ELBO(loss, plates.row_plates)

    def epoch(self, index: int, on_step: Callable[[], None]) -> EpochRecord:
        """Take a step on each batch, then score the validation rows.

        Args:
            index: the number of the epoch, from zero.
            on_step: called after each step.

        Returns:
            The epoch's metrics, nats per row.
        """
        task = self.task
        self.terms.reset()
        if self.compiled:  # the program's Python code may depend on the epoch
            self.compiled.check_after = GRAPH_CHECK_STEPS[min(index, 3)]
        total = task.train_epoch(index, self._step, on_step)
        task.end_epoch(self.optimizer.parameters.values())
        self.terms.all_reduce(task.group)
        beta = float(self.weigh.beta)
        elbo, reconstruction, kl = self._terms(-float(total) / task.num_rows if beta == 1 else None, task.train)
        record = EpochRecord(
            epoch=index + 1,
            step=(index + 1) * task.steps_per_epoch,
            elbo=elbo,
            reconstruction=reconstruction,
            kl=kl,
            learning_rate=self.optimizer.learning_rate,
            beta=beta,
        )
        record = self._validate(record)
        return map_record(record) if self.is_map else record

    def state(self) -> dict[str, Tensor]:
        """The optimizer's moments and step counts, and the precision where it is not simply float32."""
        state = self.optimizer.get_state()
        if self.task.config.precision != "float32":
            state[IS_REDUCED] = torch.tensor(self.task.precision == "bfloat16")
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Set the optimizer's moments and step counts, and the choice of the fit that is resumed."""
        if self.task.config.precision == "auto":
            self.task.precision = "bfloat16" if state.get(IS_REDUCED) else "float32"
        self.optimizer.set_state({name: value for name, value in state.items() if name != IS_REDUCED})

    def _penalty(self) -> Tensor:
        """−log p(θ)/N, which the objective adds where the program has a prior of its parameters."""
        log_prior = log_prior_of(self.task.program)
        assert log_prior is not None
        return -log_prior / self.task.num_rows

    def _step(self, step: Step) -> Loss:
        """Take one step of `SVI`; its loss on the batch of all processes, a number or a tensor on the device."""
        batch, config = step.batch, self.task.config
        self.reducer.share = len(batch.x) / step.num_rows
        self.optimizer.start_step(step)
        self._set_kl_weight(config.kl_weight(step.done))
        if not len(batch.x):  # this rank has no row of a small last batch, and takes part in the reduction
            self.reducer.loss = 0.0
            self.optimizer(self.optimizer.parameters.values())
            return self.reducer.loss
        loss: Loss
        try:
            with pyro.validation_enabled(step.is_first):
                if self.compiled and self.compiled.steps:  # empty until the first graph, and after a fallback
                    # `SVI.step` without its param capture
                    loss = self.svi.loss_and_grads(self.svi.model, self.svi.guide, *batch.objective_arguments)
                    self.optimizer(self.optimizer.parameters.values())
                else:
                    loss = self.svi.step(*batch.objective_arguments)
        except ValueError:  # torch's, of a value outside its support
            self._require_latents_inside(batch)
            raise
        if self.task.uncertain_latents and not math.isfinite(self.terms.kl):
            self._require_latents_inside(batch)
        if step.is_first and self.optimizer.parameters and not self.optimizer.has_stepped:
            raise InputError(
                "no parameter took part in the first step: tell Pyro of a module's parameters in model or guide "
                '(pyro.module("decoder", decoder)), or make them by pyro.param'
            )
        return loss if self.task.group.is_single else self.reducer.loss

    @torch.no_grad()
    def _validate(self, record: EpochRecord) -> EpochRecord:
        """The record with the validation ELBO and its terms, with the same random numbers every epoch."""
        task, beta = self.task, float(self.weigh.beta)
        if task.held_out is None or task.valid is None:
            return record
        self.terms.reset(by_site=True)
        self._set_kl_weight(1.0)
        set_training(task.program, False)
        seed, is_first = task.config.epoch_seed(-1), record.epoch == 1
        loss = task.held_out.mean_loss(
            self._svi["float32"].evaluate_loss, task.plates, task.group, seed, check=is_first
        )
        self._set_kl_weight(beta)
        self.terms.all_reduce(task.group)
        if task.uncertain_latents and not math.isfinite(self.terms.kl):
            self._require_latents_inside(task.held_out.batch(0, task.held_out.batch_size))
        elbo, reconstruction, kl = self._terms(-loss, task.valid)
        if elbo is None or not math.isfinite(elbo):
            raise DivergedError(f"the validation ELBO became {elbo}")
        return replace(
            record,
            valid_elbo=elbo,
            valid_reconstruction=reconstruction,
            valid_kl=kl,
            valid_kl_apart=self.terms.site_kl_means(),
            active_units=task.held_out.active_units(task.program, task.plates) if task.group.is_main else None,
        )

    def _terms(self, elbo: float | None, split: Split) -> tuple[float | None, float | None, float | None]:
        """ELBO, reconstruction and KL in the data's units, from the traces; only `elbo` where sites are enumerated."""
        elbo, reconstruction, kl = self.terms.means() or (elbo, None, None)
        if kl is not None and kl < MIN_KL and not self.is_map:
            raise DivergedError(f"the KL, which is never negative, became {kl:.2g}: log q has lost all its digits")
        jacobian = weighted_mean(split.log_jacobian, split.weights)
        return _add(elbo, jacobian), _add(reconstruction, jacobian), kl

    @torch.no_grad()
    def _require_latents_inside(self, batch: Batch) -> None:
        """`InputError` where the guide has drawn outside the prior's support: it is run again to name the latents."""
        uncertain = self.task.uncertain_latents
        for _ in range(SEARCH_DRAWS if uncertain else 0):
            with pyro.validation_enabled(False):
                model, _ = trace_program(self.task.program, batch)
            if outside := latents_outside(sample_sites(model), uncertain):
                raise outside_error(outside, uncertain)
        if self.terms.kl == math.inf:
            raise outside_error(uncertain, uncertain)

    def _set_kl_weight(self, beta: float) -> None:
        if isinstance(self.weigh.beta, Tensor):
            self.weigh.beta.fill_(beta)


def _add(value: float | None, other: float) -> float | None:
    return None if value is None else value + other
