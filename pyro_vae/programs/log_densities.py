"""Sums of sites' log densities over their plates, and the two terms of the log weights."""

import math
from collections.abc import Iterable
from functools import partial

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.programs.enumeration import is_enumerated, log_joint_and_prior
from pyro_vae.programs.support import zero_outside_support
from pyro_vae.programs.traces import Site, sample_sites


def sum_over_plates(site: Site, keep: set[int], *, on_support: bool = True) -> Tensor:
    """A site's log-probability with its mask and without its scale, nats; −∞ outside the support of its distribution.

    Args:
        site: a site whose log density was computed.
        keep: the dimensions of the plates that are kept, counted from the right (−1, −2, …).
        on_support: whether the support is checked; False where the numbers are not used.

    Returns:
        The sum over all other plates, with one axis for each plate kept.
    """
    unmasked = site["unscaled_log_prob"]
    if on_support:
        unmasked = zero_outside_support(site["fn"], site["value"], unmasked)
    log_prob: Tensor = scale_and_mask(unmasked, mask=site["mask"])
    summed = [dim for dim in range(-log_prob.dim(), 0) if dim not in keep]
    return log_prob.sum(summed) if summed else log_prob


def sum_sites(sites: Iterable[Site], keep: set[int], *, on_support: bool = True) -> Tensor:
    """The log-probability of several sites together, nats: −∞ where that of one of them is, whatever the others are.

    Args:
        sites: sites whose log density was computed.
        keep: the dimensions of the plates that are kept.
        on_support: whether supports are checked.

    Returns:
        The sum over sites and all other plates, with one axis for each plate kept.
    """
    parts = [sum_over_plates(site, keep, on_support=on_support) for site in sites]
    total = sum(parts, torch.zeros(()))
    if on_support and len(parts) > 1:
        for part in parts:
            total = torch.where(part == -math.inf, -math.inf, total)
    return total


def enumerated_weight_terms(
    model: Trace, guide: Trace, keep: set[int], values: set[int], *, on_support: bool = True
) -> tuple[Tensor, ...]:
    """The terms of the log weights of a run in which the guide has enumerated latents, nats, with these summed out.

    With y such a latent and z the others, drawn for each of its values, a weight is $\\sum_y p(x, y, z_y) / q(z_y | x,
    y)$, whose mean is p(x); q(y|x) is in the ELBO only.

    Args:
        model: the model's trace, replayed against the guide's.
        guide: the guide's trace.
        keep: the dimensions of the plates that are kept; the terms are summed over all others.
        values: the dimensions of the values.
        on_support: whether supports are checked.

    Returns:
        The two terms of the log weights, as `log_weight_terms` has them, and of the ELBO, the expectations under q(y|x)
        of log p(x|z, y) and of log p(z, y) − log q(z, y|x).
    """
    sites, drawn = sample_sites(model).values(), [s for s in sample_sites(guide).values() if not s["is_observed"]]
    sum_some = partial(sum_sites, keep=keep | values, on_support=on_support)
    likelihood = sum_some(site for site in sites if site["is_observed"])
    prior = sum_some(site for site in sites if not site["is_observed"])
    ratio = prior - sum_some(site for site in drawn if "_enumerate_dim" not in site["infer"])
    log_q = sum_some(site for site in drawn if "_enumerate_dim" in site["infer"])
    likelihood, ratio, log_q = torch.broadcast_tensors(likelihood, ratio, log_q)
    dims, q = sorted(values), log_q.exp()
    log_ratio = torch.logsumexp(ratio, dims)
    log_likelihood = torch.logsumexp(likelihood + ratio, dims) - log_ratio
    expected = (torch.where(q > 0, q * term, 0).sum(dims) for term in (likelihood, ratio - log_q))
    return log_likelihood, log_ratio, *expected


def log_weight_terms(model: Trace, guide: Trace, keep: set[int], *, on_support: bool = True) -> tuple[Tensor, Tensor]:
    """The two terms of the log weights, nats, each summed over its sites, and over the values of enumerated latents.

    Args:
        model: the model's trace, replayed against the guide's.
        guide: the guide's trace.
        keep: the dimensions of the plates that are kept; the terms are summed over all others.
        on_support: whether supports are checked.

    Returns:
        log p(x | z) and log p(z) − log q(z | x), with one axis for each plate kept. The second is −∞ where the prior's
        density is zero, and there the first is not NaN.
    """
    sites, drawn = sample_sites(model).values(), sample_sites(guide).values()
    sum_some = partial(sum_sites, keep=keep, on_support=on_support)
    if is_enumerated(model):
        joint, prior = log_joint_and_prior(model, keep, on_support=on_support)
        likelihood = joint - prior
    else:
        likelihood = sum_some(site for site in sites if site["is_observed"])
        prior = sum_some(site for site in sites if not site["is_observed"])
    ratio = prior - sum_some(site for site in drawn if not site["is_observed"])  # a factor is a term of a loss
    if not on_support:
        return likelihood, ratio
    is_zero = prior == -math.inf
    return torch.where(is_zero & likelihood.isnan(), -math.inf, likelihood), torch.where(is_zero, -math.inf, ratio)
