"""The objective in nats per row: what each site weighs, and its two terms as they pass by."""

import copy
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.errors import InputError
from pyro_vae.models.rows import Layout, sample_sites


class RowWeighted(Messenger):
    r"""Weigh every site so that the ELBO of a batch is the ELBO per row, with β on the latent sites.

    Sites inside the row plate weigh 1/B, sites outside it (global latents) 1/N: for a batch of B of the N rows the sum
    is $\frac1B\sum_i [\log p(x_i|z_i) + \beta(\log p(z_i) - \log q(z_i|x_i))] + \frac1N \beta [\log p(w) - \log q(w)]$.
    A plate that subsamples has scaled its sites by N/B already and weighs 1/N.
    """

    def __init__(self, layout: Layout, num_rows: int) -> None:
        super().__init__()
        self.row_dim, self.num_rows, self.beta = layout.row_dim, num_rows, 1.0

    def _pyro_sample(self, msg: Any) -> None:
        frame = next((f for f in msg["cond_indep_stack"] if f.dim is not None and f.dim == self.row_dim), None)
        weight = 1.0 / (self.num_rows if frame is None else frame.full_size or frame.size)
        msg["scale"] = msg["scale"] * (weight if msg["is_observed"] else weight * self.beta)


class Terms:
    """Sums over rows of the ELBO's two terms, at β = 1 whatever the objective, from the traces an ELBO makes.

    `reconstruction` sums log p of observed sites, `kl` sums log q − log p of latent ones; a site outside the row plate
    counts in the share of the batch. `exact_terms` is False where sites were enumerated and their sums mean something
    else.
    """

    def __init__(self, row_dim: int | None, num_rows: int) -> None:
        self.row_dim, self.num_rows = row_dim, num_rows
        self.reset()

    def reset(self) -> None:
        self.reconstruction: Tensor | float = 0.0
        self.kl: Tensor | float = 0.0
        self.rows, self.exact_terms = 0, True

    def watch(self, loss: ELBO) -> ELBO:
        """The same ELBO, its traces passing by here on their way."""
        watched, get_trace = copy.copy(loss), getattr(loss, "_get_trace", None)
        if get_trace is None:
            raise InputError(
                f"{type(loss).__name__} makes no pair of traces; use one of Pyro's trace ELBOs or a subclass"
            )

        def passing(*args: Any, **kwargs: Any) -> tuple[Trace, Trace]:
            pair = get_trace(*args, **kwargs)
            self.add(pair[0], pair[1], draws=loss.num_particles)
            return pair

        watched._get_trace = passing  # type: ignore[method-assign]
        return watched

    @torch.no_grad()
    def add(self, model_trace: Trace, guide_trace: Trace, draws: int = 1) -> None:
        model, guide = sample_sites(model_trace), sample_sites(guide_trace)
        if any(site["infer"].get("_enumerate_dim") is not None for site in (*model.values(), *guide.values())):
            self.exact_terms = False
            return
        for site in model.values():
            if site["is_observed"]:
                self.reconstruction = self.reconstruction + self._sum(site) / draws
            else:
                self.kl = self.kl - self._sum(site) / draws
        for site in guide.values():
            self.kl = self.kl + self._sum(site) / draws

    def _sum(self, site: Any) -> Tensor:
        total = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"]).sum()
        inside = any(frame.dim is not None and frame.dim == self.row_dim for frame in site["cond_indep_stack"])
        return total if inside or self.row_dim is None else total * (self.batch_rows / self.num_rows)

    def expect(self, batch_rows: int) -> None:
        """Announce a batch, so that its rows are counted."""
        self.batch_rows = batch_rows
        self.rows += batch_rows

    def means(self) -> tuple[float, float, float] | None:
        """(ELBO, reconstruction, KL) in nats per row; None where sites were enumerated."""
        if not self.exact_terms:
            return None
        reconstruction, kl = float(self.reconstruction) / self.rows, float(self.kl) / self.rows
        return reconstruction - kl, reconstruction, kl
