"""Which latents a program uses: the KL of each, and how its posterior means vary over rows."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.data import RowsGiven
from pyro_vae.errors import InputError
from pyro_vae.inference.objectives.elbo_terms import Terms
from pyro_vae.programs.encode_rows import ACTIVE_VARIANCE, encode
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.plates import PlateStructure, require_guide_density
from pyro_vae.programs.row_batches import ScoredRows, rows_to_score
from pyro_vae.programs.traces import Site, sample_sites, trace_program
from pyro_vae.typing import Program

BATCH_SIZE = 1000


@dataclass(frozen=True)
class LatentUsage:
    """How much each latent of a program is used on some rows.

    `kl` holds E_q[log q − log p] of each latent site in nats per row, (K,) where prior and guide have independent
    dimensions, else one number (1,). `variance` (K,) is that of the posterior means over rows and `names` (K,) are the
    latents' names, over all sites in order.
    """

    kl: dict[str, Tensor]
    variance: Tensor
    names: tuple[str, ...]

    @property
    def kl_apart(self) -> Tensor | None:
        """The KL of each of the K latents, nats per row; None where some site has no KL for each dimension."""
        kl = torch.cat(list(self.kl.values()))
        return kl if len(kl) == len(self.names) else None

    @property
    def active(self) -> Tensor:
        """Which latents are used, (K,): their posterior means vary over rows by more than 0.01."""
        return self.variance > ACTIVE_VARIANCE

    @property
    def order(self) -> Tensor:
        """The latents' indices, (K,), the most used first: by KL, or by variance where there is none for each."""
        return (self.variance if self.kl_apart is None else self.kl_apart).argsort(descending=True, stable=True)

    def __repr__(self) -> str:
        total = sum(float(kl.sum()) for kl in self.kl.values())
        return f"LatentUsage({int(self.active.sum())} of {len(self.names)} latents active, KL {total:.2f} nats per row)"


@check_call
def measure_latent_usage(program: Program, data: RowsGiven, *, num_samples: int = 10, seed: int = 0) -> LatentUsage:
    r"""KL and variance of posterior means for each latent of a program.

    $\mathrm{KL}_k = \frac1N \sum_i E_{q(z|x_i)}[\log q(z_k|x_i) - \log p(z_k)]$, and $\mathrm{Var}_i\, E_q[z_k|x_i]$
    from two estimates of the means (Burda et al., arXiv:1509.00519). A latent that has collapsed has neither. Raises
    `InputError` where the guide draws no latent for each row.

    Rows count alike, whatever weights they have.

    Args:
        program: the fitted program.
        data: rows x (N, D), a split or a data set (its test rows).
        num_samples: draws of z for each row.
        seed: of the draws.

    Returns:
        The KL of each latent, nats per row, and the variances.

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
    >>> found = measure_latent_usage(vae, (torch.rand(30, 5) < 0.5).float())
    >>> found.names, found.kl["z"].shape, found.variance.shape
    (('z[0]', 'z[1]'), torch.Size([2]), torch.Size([2]))
    """
    if num_samples < 1:
        raise InputError(f"num_samples must be one or more, got {num_samples}")
    split, indices = rows_to_score(data, None, None)
    with torch.no_grad(), use_param_store(program), seeded(seed), evaluating(program):
        scored = ScoredRows(program, split, indices)
        require_guide_density(scored.plates)
        terms = Terms(scored.plates, len(split))
        terms.reset(by_site=True)
        encoded: list[tuple[Tensor, Tensor]] = []
        for batch in scored.batches(BATCH_SIZE):
            encoded.append((encode(program, batch.x, **batch.row_inputs), encode(program, batch.x, **batch.row_inputs)))
            for _ in range(num_samples):
                model, guide = trace_program(program, batch)
                terms.add(model, guide, draws=num_samples)
    first, second = (torch.cat(means).double().cpu() for means in zip(*encoded, strict=True))
    variance = ((first - first.mean(0)) * (second - second.mean(0))).mean(0)
    found = terms.site_kl_means()
    if found is None:
        raise InputError("latents that are summed out by enumeration have no draws to take a KL from")
    sites = scored.plates.code_sites(sample_sites(guide))
    kl = {name: torch.as_tensor(found[name], dtype=torch.float64).reshape(-1) for name in sites if name in found}
    return LatentUsage(kl, variance, latent_names(scored.plates, sites))


def latent_names(plates: PlateStructure, sites: Mapping[str, Site]) -> tuple[str, ...]:
    """A name for each latent of the guide's sites, in order: `z[0]`, `z[1]`, …, or `z` alone.

    Args:
        plates: the program's plates.
        sites: the guide's sites by name.

    Returns:
        The K names.
    """
    sizes = {name: plates.rows_to_front(site, site["value"]).shape[1] for name, site in sites.items()}
    return tuple(f"{name}[{k}]" if size > 1 else name for name, size in sizes.items() for k in range(size))
