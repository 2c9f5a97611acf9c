"""Weights of rows in an objective: which programs can have them, and the ELBO with enumeration that takes them."""

from collections.abc import Mapping

import torch
from opt_einsum import shared_intermediates
from pyro.infer import TraceEnum_ELBO
from pyro.infer.traceenum_elbo import _compute_model_factors
from pyro.infer.util import Dice
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.rings import SampleRing
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.errors import RowsError
from pyro_vae.inference.objectives.differentiable_elbo import PyroFunction
from pyro_vae.programs.plates import PlateStructure
from pyro_vae.programs.traces import Site, sample_sites

ROW_WEIGHTS = "row_weights"  # in what `infer` has of a site inside the row plate


def row_weights_of(site: Site) -> Tensor | None:
    """The weights of a site's rows, in a shape that broadcasts with its log density; None where there are none."""
    weights = site["infer"].get(ROW_WEIGHTS)
    return weights if isinstance(weights, Tensor) else None


def require_weighable(plates: PlateStructure, model: Mapping[str, Site], guide: Mapping[str, Site]) -> None:
    """`RowsError` where rows have no term of their own in the objective, which a weight could multiply.

    Args:
        plates: of the program.
        model: the model's sites by name, in a run.
        guide: the guide's.
    """
    if plates.row_dim is None:
        raise RowsError(
            "rows have weights, and the program has no plate over rows in which they are independent: put what belongs "
            'to a row inside with pyro.plate("data", len(x)): …, or leave the weights out'
        )
    shared = [name for name in guide if name in model]
    inside = [{name for name in shared if plates.row_plate_frame(sites[name])} for sites in (model, guide)]
    if apart := plates.joint or sorted(inside[0] ^ inside[1]):
        raise RowsError(
            f"rows have weights, and the guide draws the latents of all rows together ({', '.join(apart)}), so that "
            "log q is of no row: take AutoNormal or a guide that is a function of x, or leave the weights out"
        )


class RowWeightedEnum_ELBO(TraceEnum_ELBO):
    """`TraceEnum_ELBO` with a weight for each row, which multiplies its costs after latents are summed out.

    Pyro's own takes one scale for all sites with an enumerated latent. Sites have their rows' weights in `infer`.

    Args:
        loss: the ELBO whose settings it has.
        row_plates: the names of the plates over rows.
    """

    def __init__(self, loss: TraceEnum_ELBO, row_plates: frozenset[str]) -> None:
        vars(self).update(vars(loss))
        self.row_plates = row_plates

    def differentiable_loss(self, model: PyroFunction, guide: PyroFunction, *args: object, **kwargs: object) -> Tensor:
        pairs = self._get_traces(model, guide, args, kwargs)
        elbo = sum((self._elbo(*pair) for pair in pairs), torch.zeros(()))
        return -elbo / self.num_particles

    @torch.no_grad()
    def loss(self, model: PyroFunction, guide: PyroFunction, *args: object, **kwargs: object) -> float:
        return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: PyroFunction, guide: PyroFunction, *args: object, **kwargs: object) -> float:
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            torch.autograd.backward(loss)
        return float(loss.detach())

    def _elbo(self, model: Trace, guide: Trace) -> Tensor:
        """The weighted sum over rows, as Pyro's `_compute_dice_elbo` sums them."""
        costs, log_factors, ordering, sum_dims, scale = _compute_model_factors(model, guide)
        if log_factors:
            terms = [term for of_plates in log_factors.values() for term in of_plates]
            sizes = {dim: size for term in terms for dim, size in zip(term._pyro_dims, term.shape, strict=True)}
            with shared_intermediates() as cache:
                ring = SampleRing(cache=cache, dim_to_size=sizes)
                log_factors = contract_tensor_tree(log_factors, sum_dims, ring=ring)
            for plates, terms in log_factors.items():
                costs.setdefault(plates, []).extend(packed.scale_and_mask(term, scale=scale) for term in terms)
        for name, site in sample_sites(guide).items():
            costs.setdefault(ordering[name], []).append(packed.neg(site["packed"]["log_prob"]))
        return torch.as_tensor(Dice(guide, ordering).compute_expectation(self._weighted(costs, model, guide)))

    def _weighted(self, costs: dict[frozenset[str], list[Tensor]], model: Trace, guide: Trace) -> object:
        """The costs with those inside the row plate multiplied by their rows' weights."""
        sites = [*sample_sites(model).values(), *sample_sites(guide).values()]
        weights = next((found for site in sites if (found := row_weights_of(site)) is not None), None)
        symbols = {symbol for name, symbol in model.plate_to_symbol.items() if name in self.row_plates}
        if weights is None:
            return costs
        weighted = {}
        for plates, terms in costs.items():
            if own := plates & symbols:
                of_rows = packed.pack(weights, {-weights.dim(): min(own)})
                terms = [_multiplied(term, of_rows) for term in terms]
            weighted[plates] = terms
        return weighted


def _multiplied(term: Tensor, weights: Tensor) -> Tensor:
    """The product of two packed tensors; Pyro's own passes einsum an argument that torch does not take."""
    term, weights = packed.broadcast_all(term, weights)
    product = term * weights
    product._pyro_dims = term._pyro_dims  # type: ignore[attr-defined]  # by which Pyro names dimensions
    return product
