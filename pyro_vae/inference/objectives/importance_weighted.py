"""Objectives beside Pyro's own, each an ordinary Pyro ELBO that `SVI(model, guide, optimizer, loss)` takes as it is."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.infer.util import torch_item
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from pyro.util import warn_if_nan
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.errors import InputError, RowsError
from pyro_vae.models.rows import sample_sites

PARTICLES = "num_particles_vectorized"  # what Pyro calls the plate over particles


class OneLoss(Trace_ELBO):
    """An ELBO whose loss is one differentiable number: `loss`, `differentiable_loss` and `loss_and_grads` agree."""

    def tensor_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The same loss, none of whose values has been looked at."""
        return self._loss_of(list(self._get_traces(model, guide, args, kwargs)))

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        loss = self.tensor_loss(model, guide, *args, **kwargs)
        warn_if_nan(loss, "loss")
        return loss

    def _loss_of(self, traces: list[tuple[Trace, Trace]]) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        return torch_item(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)  # type: ignore[no-untyped-call]
        return torch_item(loss)


class ImportanceWeighted_ELBO(OneLoss):
    r"""The importance-weighted bound, $\sum_i \log \frac1S \sum_s p(x_i, z_{si}) / q(z_{si} | x_i)$.

    The IWAE of Burda et al. (arXiv:1509.00519); S is `num_particles`. A row is what lies in the plates that all sample
    sites share; scales (of a subsampling plate, say) multiply a row's bound *after* the log-sum-exp, and a scale that
    latent sites have beyond the observed ones' (β) is an exponent inside. One particle is `Trace_ELBO`. With
    `dreg=True` the guide's gradient is the doubly reparameterized one (Tucker et al., arXiv:1810.04152): it has the
    same mean, and its signal does not drown in noise as S grows. It runs the guide twice, so the guide has to be the
    same function of x and z each time (no dropout).

    Raises `RowsError` where a site lies outside the plates that the others share, `InputError` for latents without a
    reparameterized sampler, and, with `dreg`, for inverse autoregressive flows, which would score points that they did
    not draw.

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
    >>> fitted = pv.fit(vae, torch.ones(20, 5), epochs=2, loss=ImportanceWeighted_ELBO(5, dreg=True))
    """

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

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        if not self.dreg:
            return super()._get_trace(model, guide, args, kwargs)
        return _doubly_reparameterized(self.max_plate_nesting, model, guide, args, kwargs)

    def _loss_of(self, traces: list[tuple[Trace, Trace]]) -> Tensor:
        weighed = [_log_weights(model, guide) for model, guide in traces]
        log_weights = torch.stack([log_weight for log_weight, _ in weighed])
        together = (0, *((1 + self._particle_axis(log_weights[0]),) if len(traces) < self.num_particles else ()))
        bounds = torch.logsumexp(log_weights, together, keepdim=True) - math.log(self.num_particles)
        loss = -(weighed[0][1] * bounds).sum()
        if not self.dreg:
            return loss
        shares = torch.exp(log_weights - bounds - math.log(self.num_particles)).detach()
        for (_, guide), (_, row_scale), share in zip(traces, weighed, shares, strict=True):
            for name, site in sample_sites(guide).items():
                exponent = site["scale"] / row_scale  # β: q's score counts β times, so only so much of it moves
                guide.path_shares[name] = 1 - exponent + exponent * share  # type: ignore[attr-defined]
        surrogate = -(weighed[0][1] * (shares * log_weights).sum(together, keepdim=True)).sum()
        return surrogate + (loss - surrogate).detach()

    def _particle_axis(self, log_weights: Tensor) -> int:
        return log_weights.dim() - int(self.max_plate_nesting)


def _log_weights(model: Trace, guide: Trace) -> tuple[Tensor, Any]:
    """Log weights in the shape of the plates, those not shared by all sites summed to size 1; and a row's scale."""
    latents, observed = _latents_and_observed(model, guide)
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
    for of_model, of_guide in pairs:
        exponent = of_model["scale"] / row_scale
        total = total + exponent * (in_plates(of_model, keep, width) - in_plates(of_guide, keep, width))
    assert isinstance(total, Tensor)
    return total, row_scale


def shared_plates(sites: list[Any], what: str) -> tuple[set[int], int]:
    """The dims of the plates that all sites share, how many dims plates take; `RowsError` where rows are coupled."""
    stacks = [{(frame.dim, frame.size) for frame in site["cond_indep_stack"] if frame.vectorized} for site in sites]
    particles = {(f.dim, f.size) for site in sites for f in site["cond_indep_stack"] if f.name == PARTICLES}
    shared = set.intersection(*stacks)
    if shared == particles and any(stack != particles for stack in stacks):
        raise RowsError(
            f'{what} weighs each row, so every site has to lie inside one plate over rows (with pyro.plate("data", '
            "len(x)): …); a latent outside it couples the rows: take Trace_ELBO"
        )
    return {dim for dim, _ in shared}, max(-dim for dim, _ in set.union(*stacks, {(0, 0)}))


def in_plates(site: Any, keep: set[int], width: int) -> Tensor:
    """A site's log-probability with its mask, without its scale, its dims aligned to `width` plates."""
    log_prob = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
    log_prob = log_prob.reshape((1,) * (width - log_prob.dim()) + log_prob.shape)
    summed = [dim for dim in range(-width, 0) if dim not in keep]
    return log_prob.sum(summed, keepdim=True) if summed else log_prob


def same_scale(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return bool((torch.as_tensor(a) == torch.as_tensor(b)).all())
    return bool(a == b)


def _latents_and_observed(model: Trace, guide: Trace) -> tuple[dict[str, Any], list[Any]]:
    sites = sample_sites(model)
    for name, site in sample_sites(guide).items():
        if name not in sites:
            raise InputError(f"the guide draws {name}, which is no latent of the model; this objective takes none such")
        if not site["fn"].has_rsample:
            raise InputError(
                f"{name} has no reparameterized sampler ({type(site['fn']).__name__}), which this objective needs; "
                "take Trace_ELBO or TraceGraph_ELBO"
            )
    return (
        {name: site for name, site in sites.items() if not site["is_observed"]},
        [site for site in sites.values() if site["is_observed"]],
    )


def _doubly_reparameterized(nesting: Any, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
    """A pair of traces in which q's own parameters count only through the draws, whose gradients wait for their share.

    The draws are handed on as copies; a gradient on its way back from a copy is multiplied by the particle's share of
    the weight, `guide_trace.path_shares["share"]`, known once all particles are weighed.
    """
    drawn = poutine.trace(guide).get_trace(*args, **kwargs)
    shares: dict[str, Tensor] = {}
    copies = {}
    for name, site in sample_sites(drawn).items():
        if any(getattr(transform, "autoregressive", False) for transform in getattr(site["fn"], "transforms", ())):
            raise InputError(
                f"{name} is drawn by an autoregressive flow, which dreg would score at copies of its draws, one "
                "dimension at a time; take a coupling flow, or dreg=False"
            )
        copies[name] = site["value"].clone()
        if copies[name].requires_grad:
            copies[name].register_hook(_scaled_by(shares, name, site["fn"].event_dim))
    again = drawn.copy()
    for name, value in copies.items():
        again.nodes[name] = again.nodes[name] | {"value": value}
    model_trace = poutine.trace(poutine.replay(model, trace=again)).get_trace(*args, **kwargs)
    with _frozen(drawn):  # flows run their networks when they are scored, so that is done in here too
        guide_trace = prune_subsample_sites(
            poutine.trace(poutine.replay(guide, trace=again)).get_trace(*args, **kwargs)
        )
        guide_trace.compute_log_prob()
    model_trace = prune_subsample_sites(model_trace)
    model_trace.compute_log_prob()
    guide_trace.path_shares = shares  # type: ignore[attr-defined]
    return model_trace, guide_trace


def _scaled_by(shares: dict[str, Tensor], name: str, event_dim: int) -> Any:
    def scaled(gradient: Tensor) -> Tensor:
        share = shares[name]
        return gradient * share.reshape(share.shape + (1,) * event_dim)

    return scaled


@contextmanager
def _frozen(trace: Trace) -> Iterator[None]:
    """Inside, the parameters that a trace has seen take no part in gradients."""
    values: list[Any] = [site["value"] for site in trace.nodes.values() if site["type"] == "param"]
    leaves: list[Any] = [value.unconstrained() if hasattr(value, "unconstrained") else value for value in values]
    trained = [leaf for leaf in leaves if leaf.requires_grad]
    try:
        for leaf in trained:
            leaf.requires_grad_(False)
        with warnings.catch_warnings():  # `pyro.module` warns of parameters that are not trained
            warnings.filterwarnings("ignore", message=".* was not registered in the param store", category=UserWarning)
            yield
    finally:
        for leaf in trained:
            leaf.requires_grad_(True)


class FreeBits_ELBO(OneLoss):
    r"""An ELBO in which the first λ nats of KL are free, $E[\log p(x|z)] - \sum_j \max(\lambda, \mathrm{KL}_j)$.

    `free_bits` is λ in nats, and $\mathrm{KL}_j$ the batch's mean for each latent site, or with `each="dimension"` for
    each dimension of a site, which needs prior and guide with independent dimensions (Kingma et al., arXiv:1606.04934).
    Latents that carry less than λ are not pressed further towards the prior. KL is analytic where there is a closed
    form, otherwise from the draws. Raises `InputError` for latents without a reparameterized sampler or dimensions that
    depend on each other.

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
    >>> fitted = pv.fit(vae, torch.ones(20, 5), epochs=2, loss=FreeBits_ELBO(0.1, each="dimension"))
    """

    def __init__(self, free_bits: float, *, each: str = "site", num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, **options)
        if not free_bits >= 0:
            raise InputError(f"free_bits must not be negative, got {free_bits}")
        if each not in ("site", "dimension"):
            raise InputError(f"each is 'site' or 'dimension', got {each!r}")
        self.free_bits, self.each = free_bits, each

    def _loss_of(self, traces: list[tuple[Trace, Trace]]) -> Tensor:
        likelihood: Tensor | float = 0.0
        kls: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for model, guide in traces:
            latents, observed = _latents_and_observed(model, guide)
            likelihood = likelihood + sum(site["log_prob_sum"] for site in observed)
            for name, site in sample_sites(guide).items():
                kls.setdefault(name, []).append(self._kl(name, latents[name], site))
        loss = -torch.as_tensor(likelihood) / self.num_particles
        for found in kls.values():
            mean = torch.stack([mean for mean, _ in found]).mean(0)
            weight = torch.stack([weight for _, weight in found]).sum() / self.num_particles
            loss = loss + weight * mean.clamp(min=self.free_bits).sum()
        return loss

    def _kl(self, name: str, prior: Any, guide: Any) -> tuple[Tensor, Tensor]:
        """The site's mean KL over rows, for each dimension or as one number, and the sum of the rows' scales."""
        p, q = prior["fn"], guide["fn"]
        if self.each == "dimension":
            if not factorizes(p, q):
                raise InputError(
                    f"free bits for each dimension need a prior and a guide with independent dimensions; {name} has "
                    f"{type(p).__name__} and {type(q).__name__}: take each='site'"
                )
            p, q = p.base_dist, q.base_dist
        try:
            kl = kl_divergence(q, p)
        except NotImplementedError:
            kl = q.log_prob(guide["value"]) - p.log_prob(guide["value"])
        rows = guide["unscaled_log_prob"]
        seen = scale_and_mask(torch.ones_like(rows), mask=guide["mask"])
        weight = scale_and_mask(torch.ones_like(rows), scale=guide["scale"], mask=guide["mask"]).sum()
        kl = kl * seen.reshape(seen.shape + (1,) * (kl.dim() - rows.dim()))
        return kl.sum(list(range(rows.dim()))) / seen.sum() if rows.dim() else kl, weight


def factorizes(p: Any, q: Any) -> bool:
    """Whether two distributions over z both have independent dimensions: a KL for each exists."""
    return all(
        isinstance(fn, torch.distributions.Independent) and len(fn.event_shape) == 1 and fn.base_dist.event_shape == ()
        for fn in (p, q)
    )
