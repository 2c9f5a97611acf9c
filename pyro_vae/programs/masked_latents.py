"""Masks of latents: of those that a row has none of, as the steps after the end of a short sequence."""

import math

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.torch_distribution import ExpandedDistribution
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Independent

from pyro_vae.errors import InputError
from pyro_vae.programs.traces import Site, sample_sites, unwrap_independent


def mask_of(site: Site) -> Tensor | None:
    """A site's mask in the shape of its plates, of a handler or of its distribution; None where it has none."""
    mask, fn = site["mask"], site["fn"]
    found = [mask] if isinstance(mask, Tensor) else []
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        if isinstance(fn, MaskedDistribution) and isinstance(fn._mask, Tensor):
            found.append(fn._mask.expand(fn.batch_shape))
        fn = fn.base_dist
    if not found:
        return None
    row = [each.reshape(*each.shape[: len(site["fn"].batch_shape)], -1).all(-1) for each in found]
    return torch.stack(torch.broadcast_tensors(*row)).all(0)


def require_masks_alike(model: Trace, guide: Trace) -> None:
    """`InputError` where a latent's log q would count in rows where its log p does not, or the other way round.

    Args:
        model: a run of the model.
        guide: a run of the guide on the same rows.
    """
    ours, theirs = sample_sites(model), sample_sites(guide)
    if apart := [name for name in theirs if name in ours and _masks_differ(ours[name], theirs[name])]:
        raise InputError(
            f"model and guide mask {', '.join(apart)} differently: where only one of log p and log q counts, a weight "
            "means nothing; give both the same mask"
        )


def _masks_differ(model: Site, guide: Site) -> bool:
    first, second = mask_of(model), mask_of(guide)
    if first is None or second is None:
        return first is not second
    return not torch.equal(*torch.broadcast_tensors(first, second))


def uniform_where_masked(site: Site, log_prob: Tensor) -> Tensor:
    """The log-probability of a latent that is summed out, where it is masked that of a uniform draw.

    A mask leaves log p = 0 of each of the K values, and their sum would be K instead of one.

    Args:
        site: the latent's site.
        log_prob: its log-probability with the mask, nats.

    Returns:
        The same where the latent has no mask.
    """
    if site["is_observed"] or (mask := mask_of(site)) is None:
        return log_prob
    num_values = len(unwrap_independent(site["fn"]).enumerate_support(expand=False))
    return torch.where(mask, log_prob, -math.log(num_values))
