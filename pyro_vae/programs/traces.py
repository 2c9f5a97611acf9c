"""Traces of a program's model and guide, their sample sites, and the log weights' terms."""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer.enum import get_importance_trace
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent

from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs


def trace_program(
    program: Any, batch: Batch, around: Callable[[Any], Any] = lambda function: function
) -> tuple[Trace, Trace]:
    """The model's trace, replayed against the guide's, and the guide's; `around` wraps both functions."""
    model, guide = bind_supported_kwargs(program.model), bind_supported_kwargs(program.guide)
    wrapped = around(lambda: model(batch.x, batch.row_inputs)), around(lambda: guide(batch.x, batch.row_inputs))
    with pyro.validation_enabled(False):
        return get_importance_trace("flat", float("inf"), *wrapped, (), {})


class UnconditionObserved(UnconditionMessenger):
    """Draw observed sites; `pyro.deterministic` sites are no observations, though Pyro marks them so."""

    def _pyro_sample(self, msg: Any) -> None:
        if not (msg["infer"] or {}).get("_deterministic"):
            super()._pyro_sample(msg)


def sample_sites(trace: Trace) -> dict[str, Any]:
    """The sample sites of a trace by name, in order, without plates' own sites and deterministic values."""
    drawn = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
    sites = {name: site for name, site in drawn.items() if not site_is_subsample(site)}
    return {name: site for name, site in sites.items() if not (site["infer"] or {}).get("_deterministic")}


def unwrap_independent(fn: Any) -> Any:
    """A site's distribution without the `Independent`s around it."""
    return unwrap_independent(fn.base_dist) if isinstance(fn, Independent) else fn


class SubstituteLatents(Messenger):
    """Latent sites of the guide take given values instead of draws."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"] and not msg["done"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


def sum_over_plates(site: Any, keep: set[int]) -> Tensor:
    """A site's log-probability with its mask and without its scale, summed over all plates but those kept."""
    log_prob = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
    summed = [dim for dim in range(-log_prob.dim(), 0) if dim not in keep]
    return log_prob.sum(summed) if summed else log_prob


def log_weight_terms(model: Trace, guide: Trace, keep: set[int]) -> tuple[Tensor, Tensor]:
    """log p(x | z) and log p(z) − log q(z | x), each summed over its sites and over all plates but those kept."""
    sites, drawn = sample_sites(model).values(), sample_sites(guide).values()
    likelihood = sum((sum_over_plates(site, keep) for site in sites if site["is_observed"]), torch.zeros(()))
    prior = sum((sum_over_plates(site, keep) for site in sites if not site["is_observed"]), torch.zeros(()))
    ratio = torch.as_tensor(prior) - sum((sum_over_plates(site, keep) for site in drawn), torch.zeros(()))
    return torch.as_tensor(likelihood), ratio
