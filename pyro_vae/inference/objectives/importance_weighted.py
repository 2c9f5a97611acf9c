"""The importance-weighted bound, and its doubly reparameterized gradient."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import TransformedDistribution

from pyro_vae.argument_checks import check_call
from pyro_vae.context_managers import is_recording
from pyro_vae.errors import InputError, RowsError
from pyro_vae.inference.objectives.differentiable_elbo import Arguments, DifferentiableELBO, Keywords, PyroFunction
from pyro_vae.programs.traces import Site, sample_sites

PARTICLES = "num_particles_vectorized"  # the name of Pyro's plate over particles
Scale = Tensor | float
PATH_SHARES = "path_shares"  # attribute of the guide's trace: the share of each particle by site


class ImportanceWeighted_ELBO(DifferentiableELBO):
    r"""The importance-weighted bound, $\sum_i \log \frac1S \sum_s p(x_i, z_{si}) / q(z_{si} | x_i)$.

    The IWAE of Burda et al. (arXiv:1509.00519). Rows are indexed by the plates that all sample
    sites share. Scales (of a subsampling plate, say) multiply a row's bound *after* the log-sum-exp; a further scale of
    the latent sites (β) is an exponent inside. With one particle it is `Trace_ELBO`. With `dreg=True` the guide's
    gradient is the doubly reparameterized one (Tucker et al., arXiv:1810.04152): it has the same mean, and its
    signal-to-noise ratio does not fall as S grows. It runs the guide twice, so the guide has to be the same function of
    x and z each time (no dropout).

    Args:
        num_particles: S, draws of z for each row and step.
        dreg: whether gradients are doubly reparameterized.
        vectorize_particles: whether the draws are vectorized, by a plate to the left of the program's own.
        max_plate_nesting: the number of the program's plate dimensions; by default found in the first step.

    Raises `RowsError` where a site lies outside the plates that the others share, `InputError` for latents without a
    reparameterized sampler, and, with `dreg`, for inverse autoregressive flows, which would score points that they did
    not draw.

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
    >>> fitted = pv.fit(vae, torch.ones(20, 5), epochs=2, loss=ImportanceWeighted_ELBO(5, dreg=True))
    """

    @check_call
    def __init__(
        self,
        num_particles: int = 8,
        *,
        dreg: bool = False,
        vectorize_particles: bool = False,
        max_plate_nesting: int | float = math.inf,
    ) -> None:
        super().__init__(num_particles, max_plate_nesting, vectorize_particles=vectorize_particles)
        if num_particles < 1:
            raise InputError(f"num_particles must be one or more, got {num_particles}")
        self.dreg = dreg

    def _get_trace(
        self, model: PyroFunction, guide: PyroFunction, args: Arguments, kwargs: Keywords
    ) -> tuple[Trace, Trace]:
        if not self.dreg:
            pair: tuple[Trace, Trace] = super()._get_trace(model, guide, args, kwargs)
            return pair
        return _doubly_reparameterized(self.max_plate_nesting, model, guide, args, kwargs)

    def _loss_of(self, traces: list[tuple[Trace, Trace]]) -> Tensor:
        weights_and_scales = [_log_weights(model, guide) for model, guide in traces]
        log_weights = torch.stack([log_weight for log_weight, _ in weights_and_scales])
        row_scale = weights_and_scales[0][1]
        particle_dims = (0, *((1 + self._particle_axis(log_weights[0]),) if len(traces) < self.num_particles else ()))
        bounds = torch.logsumexp(log_weights, particle_dims, keepdim=True) - math.log(self.num_particles)
        loss = -(row_scale * bounds).sum()
        if not self.dreg:
            return loss
        shares = torch.exp(log_weights - bounds - math.log(self.num_particles)).detach()
        for (_, guide), (_, scale), share in zip(traces, weights_and_scales, shares, strict=True):
            for name, site in sample_sites(guide).items():
                exponent = site["scale"] / scale  # β: log q counts β times in the weight, and so does its gradient
                vars(guide)[PATH_SHARES][name] = 1 - exponent + exponent * share
        surrogate = -(row_scale * (shares * log_weights).sum(particle_dims, keepdim=True)).sum()
        return surrogate + (loss - surrogate).detach()

    def _particle_axis(self, log_weights: Tensor) -> int:
        return log_weights.dim() - int(self.max_plate_nesting)


def _log_weights(model: Trace, guide: Trace) -> tuple[Tensor, Scale]:
    """Log weights in the shape of the plates, those that not all sites share summed to size 1; and a row's scale."""
    latents, observed = reparameterized_sites(model, guide)
    pairs = [(latents[name], site) for name, site in sample_sites(guide).items()]
    if not observed:
        raise InputError("the model observes nothing, so there is nothing to weigh")
    row_scale = observed[0]["scale"]
    if not all(same_scale(site["scale"], row_scale) for site in observed):
        raise InputError("observed sites have different scales: an importance weight has one for each row")
    sites = [*observed, *latents.values(), *(site for _, site in pairs)]
    keep, width = shared_plates(sites, "an importance-weighted bound")
    total: Tensor | float = 0.0
    for site in observed:
        total = total + in_plates(site, keep, width)
    for p, q in pairs:
        exponent = p["scale"] / row_scale
        total = total + exponent * (in_plates(p, keep, width) - in_plates(q, keep, width))
    assert isinstance(total, Tensor)
    return total, row_scale


def shared_plates(sites: Sequence[Site], what: str) -> tuple[set[int], int]:
    """The plates that all sites share; `RowsError` where rows are coupled.

    Args:
        sites: the sites of model and guide.
        what: the objective, for the message.

    Returns:
        The plates' dims, and the number of plate dims.
    """
    stacks = [
        {(frame.dim or 0, frame.size) for frame in site["cond_indep_stack"] if frame.vectorized} for site in sites
    ]
    particles = {(f.dim, f.size) for site in sites for f in site["cond_indep_stack"] if f.name == PARTICLES}
    shared = set.intersection(*stacks)
    if shared == particles and any(stack != particles for stack in stacks):
        raise RowsError(
            f'{what} weighs each row, so every site has to lie inside one plate over rows (with pyro.plate("data", '
            "len(x)): …); a latent outside it couples the rows: take Trace_ELBO"
        )
    return {dim for dim, _ in shared}, max(-dim for dim, _ in set.union(*stacks, {(0, 0)}))


def in_plates(site: Site, keep: set[int], width: int) -> Tensor:
    """A site's log-probability with its mask but without its scale, in the shape of the plates.

    Args:
        site: a sample site.
        keep: the dims that are kept; all others are summed to size 1.
        width: the number of plate dims.

    Returns:
        A tensor of `width` dims, nats.
    """
    log_prob = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
    log_prob = log_prob.reshape((1,) * (width - log_prob.dim()) + log_prob.shape)
    summed = [dim for dim in range(-width, 0) if dim not in keep]
    return log_prob.sum(summed, keepdim=True) if summed else log_prob


def same_scale(a: Scale, b: Scale) -> bool:
    """Whether two scales are equal.

    Args:
        a: a number or a tensor.
        b: another.

    Returns:
        Whether they are equal everywhere.
    """
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        if is_recording():  # scales with weights of rows: their values were compared in the first step
            return True
        return bool((torch.as_tensor(a) == torch.as_tensor(b)).all())
    return bool(a == b)


def is_autoregressive(fn: object) -> bool:
    """Whether a distribution is an inverse autoregressive flow, which cannot score points that it did not draw."""
    transforms = fn.transforms if isinstance(fn, TransformedDistribution) else ()
    return any(getattr(transform, "autoregressive", False) for transform in transforms)  # an attribute of Pyro's


def reparameterized_sites(model: Trace, guide: Trace) -> tuple[dict[str, Site], list[Site]]:
    """The sites of the model; `InputError` for latents without `rsample`.

    Args:
        model: the model's trace.
        guide: the guide's, whose latents are drawn.

    Returns:
        The latent sites by name, and the observed ones.
    """
    sites = sample_sites(model)
    for name, site in sample_sites(guide).items():
        if name not in sites:
            raise InputError(
                f"the guide draws {name}, which is no latent of the model; this objective does not support that"
            )
        if not site["fn"].has_rsample:
            raise InputError(
                f"{name} has no reparameterized sampler ({type(site['fn']).__name__}), which this objective needs; "
                "take Trace_ELBO or TraceGraph_ELBO"
            )
    return (
        {name: site for name, site in sites.items() if not site["is_observed"]},
        [site for site in sites.values() if site["is_observed"]],
    )


def _doubly_reparameterized(
    nesting: float, model: PyroFunction, guide: PyroFunction, args: Arguments, kwargs: Keywords
) -> tuple[Trace, Trace]:
    """A pair of traces in which q's parameters have gradients through the draws only, each weighted by its share.

    Model and guide are scored at copies of the draws. In the backward pass the gradient of a copy is multiplied by the
    particle's share of the weight, kept with the guide's trace, which is set once all log weights are known.
    """
    drawn = poutine.trace(guide).get_trace(*args, **kwargs)
    shares: dict[str, Tensor] = {}
    copies = {}
    for name, site in sample_sites(drawn).items():
        if is_autoregressive(site["fn"]):
            raise InputError(
                f"{name} is drawn by an autoregressive flow, which dreg would score at copies of its draws, one "
                "dimension at a time; take a coupling flow, or dreg=False"
            )
        copies[name] = site["value"].clone()
        if copies[name].requires_grad:
            copies[name].register_hook(_multiply_by_share(shares, name, site["fn"].event_dim))
    copied = drawn.copy()
    for name, value in copies.items():
        copied.nodes[name] = copied.nodes[name] | {"value": value}
    model_trace = poutine.trace(poutine.replay(model, trace=copied)).get_trace(*args, **kwargs)
    with _frozen(drawn):  # a flow runs its networks when it is scored, so that happens here too
        guide_trace = prune_subsample_sites(
            poutine.trace(poutine.replay(guide, trace=copied)).get_trace(*args, **kwargs)
        )
        guide_trace.compute_log_prob()
    model_trace = prune_subsample_sites(model_trace)
    model_trace.compute_log_prob()
    vars(guide_trace)[PATH_SHARES] = shares
    return model_trace, guide_trace


def _multiply_by_share(shares: dict[str, Tensor], name: str, event_dim: int) -> Callable[[Tensor], Tensor]:
    """A hook that multiplies the gradient of a latent site by the share of its particle."""

    def multiply(gradient: Tensor) -> Tensor:
        share = shares[name]
        return gradient * share.reshape(share.shape + (1,) * event_dim)

    return multiply


@contextmanager
def _frozen(trace: Trace) -> Iterator[None]:
    """Exclude the parameters of a trace from gradients inside."""
    values: list[Any] = [site["value"] for site in trace.nodes.values() if site["type"] == "param"]
    leaves = [value.unconstrained() if hasattr(value, "unconstrained") else value for value in values]
    trained: list[Tensor] = [leaf for leaf in leaves if leaf.requires_grad]
    try:
        for leaf in trained:
            leaf.requires_grad_(False)
        with warnings.catch_warnings():  # `pyro.module` warns of parameters that are not trained
            warnings.filterwarnings("ignore", message=".* was not registered in the param store", category=UserWarning)
            yield
    finally:
        for leaf in trained:
            leaf.requires_grad_(True)
