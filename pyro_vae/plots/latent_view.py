"""A program's latents on some rows: posterior means, draws, densities and decodings, computed once for all figures."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import ParamSpec

import numpy as np
import pyro.poutine as poutine
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint, MixtureSameFamilyConstraint

from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.data import Dataset, Split
from pyro_vae.data.columns.conditions import GIVEN
from pyro_vae.diagnostics.latent_usage import LatentUsage, latent_names, measure_latent_usage
from pyro_vae.errors import InputError
from pyro_vae.plots.display_units import observed, to_pixels
from pyro_vae.plots.style import escape_mathtext
from pyro_vae.programs.distribution_means import distribution_mean
from pyro_vae.programs.encode_rows import encode
from pyro_vae.programs.find_plates import find_plates
from pyro_vae.programs.parameters import device_and_dtype, use_param_store
from pyro_vae.programs.plates import PlateStructure
from pyro_vae.programs.program_defaults import decoder_of, no_density_reason
from pyro_vae.programs.row_batches import rows_to_score
from pyro_vae.programs.row_inputs import Batch, bind_supported_kwargs, model_takes
from pyro_vae.programs.traces import Site, SubstituteLatents, sample_sites
from pyro_vae.typing import Program, RowLatents, is_program

MAX_ROWS = 1000
NUM_DRAWS = 4000
DENSITY_ROWS = 1000
P = ParamSpec("P")


def none_if_unavailable(draw: Callable[P, Figure | None]) -> Callable[P, Figure | None]:
    """The same drawing function, returning None where it raises `InputError`: the program lacks what it needs."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure | None:
        try:
            return draw(*args, **kwargs)
        except InputError:
            return None

    return drawn


def require_program(program: object) -> Program:
    """The object as a program; `InputError` for what has no model and guide: principal components, a bare network."""
    if not is_program(program):
        reason = no_density_reason(program) or "both are needed to draw its latents"
        raise InputError(f"expected a program with a model and a guide, got a {type(program).__name__}: {reason}")
    return program


def decodes_z_alone(program: object) -> bool:
    """Whether a program has a `decode(z)` that needs nothing but z; a conditional VAE's takes labels too."""
    decode = decoder_of(program)
    return decode is not None and len(inspect.signature(decode).parameters) == 1


@dataclass(frozen=True, eq=False)
class LatentView:
    """A program and the first 1,000 rows of a split; each property is computed at its first use.

    Each raises `InputError` where the program does not have it. Latent sites are concatenated, K dimensions in total.

    >>> import pyro_vae as pv
    >>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 64))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(64, 8, 4)))
    >>> data = pv.load_data("digits")
    >>> view = LatentView(vae, data, data.valid)
    >>> view.means.shape, view.posterior_draws.shape, view.decode(view.means[:3], torch.arange(3)).shape
    (torch.Size([180, 2]), torch.Size([4140, 2]), torch.Size([3, 64]))
    """

    program: Program
    data: Dataset
    split: Split
    seed: int = 0

    @cached_property
    def rows(self) -> Split:
        return self.split.head(MAX_ROWS)

    @cached_property
    def guide_sites(self) -> tuple[PlateStructure, Batch, dict[str, Site]]:
        """The plates, the rows as a batch, and one draw of the guide's latent sites, all of them real-valued."""

        split, indices = rows_to_score(self.rows, None, None)
        device, dtype = device_and_dtype(self.program, like=split[:1])
        given = {"rows": indices, "num_rows": len(split), **split.row_inputs(slice(None))}
        batch = Batch.of(split.x.to(device, dtype), given)
        with torch.no_grad(), use_param_store(self.program), seeded(self.seed), evaluating(self.program):
            plates = find_plates(self.program, batch)
            sites = self._sites(batch, plates)
        if not sites or not all(_is_real(site["fn"].support) for site in sites.values()):
            raise InputError("the guide draws no latents for each row that are real numbers")
        return plates, batch, sites

    def _sites(self, batch: Batch, plates: PlateStructure) -> dict[str, Site]:
        """The guide's sites for each row, drawn anew."""
        return plates.code_sites(self._run_guide(batch))

    def _run_guide(self, batch: Batch) -> dict[str, Site]:
        guide = poutine.trace(bind_supported_kwargs(self.program.guide))
        return sample_sites(guide.get_trace(batch.x, batch.row_inputs))

    def _prior_sites(self, batch: Batch) -> dict[str, Site]:
        """The model's sites of the same names, drawn from the prior."""
        model = sample_sites(
            poutine.trace(bind_supported_kwargs(self.program.model)).get_trace(batch.x, batch.row_inputs)
        )
        return {name: model[name] for name in self.guide_sites[2]}

    @cached_property
    def latent_usage(self) -> LatentUsage:
        return measure_latent_usage(self.program, self.rows, seed=self.seed)

    @cached_property
    def order(self) -> list[int]:
        """The latents, the most used first; those of a program without a prior by the variance of their means."""
        if no_density_reason(self.program):
            return self.means.var(0).argsort(descending=True, stable=True).tolist()
        return self.latent_usage.order.tolist()

    def source_index(self, i: int) -> int:
        """The index of the split's row i in the file or data set it was read from."""
        return i if self.split.index is None else int(self.split.index[i])

    def name(self, k: int) -> str:
        """A latent's name for a figure."""
        plates, _, sites = self.guide_sites
        name = latent_names(plates, sites)[k]
        site, _, index = name.rstrip("]").partition("[")
        if len(sites) == 1 and len(site) == 1 and site.isalpha():
            return f"${site}_{{{int(index or 0) + 1}}}$"
        return escape_mathtext(name)

    @cached_property
    def means(self) -> RowLatents:
        """Posterior means, (n, K)."""
        batch = self.guide_sites[1]
        with seeded(self.seed):
            return encode(self.program, batch.x, **batch.row_inputs).cpu()

    @cached_property
    def posterior_draws(self) -> Tensor:
        """Draws of the aggregate posterior: from q(z|x), equally many for each row, (about 4,000, K)."""
        return self._draw_repeatedly(lambda batch: self._sites(batch, self.guide_sites[0]))

    @cached_property
    def prior_draws(self) -> Tensor:
        """As many draws from p(z)."""
        return self._draw_repeatedly(self._prior_sites)

    @torch.no_grad()
    def densities(self, points: RowLatents) -> tuple[Tensor, Tensor]:
        """The aggregate posterior (1/n) Σ q(z | x_i) of the rows, and p(z), at points (G, K), (G,) each."""
        plates, batch, _ = self.guide_sites
        batch = batch.take(torch.arange(min(DENSITY_ROWS, len(batch.x)), device=batch.x.device))
        with use_param_store(self.program), seeded(self.seed), evaluating(self.program):
            (q,) = self._sites(batch, plates).values()
            (p,) = self._prior_sites(batch).values()
            points = points.to(q["value"])
            if torch.equal(*_log_prob_of_rows(plates, p, points[:2]).aminmax(dim=1)):  # the same prior for all rows
                (p,) = self._prior_sites(batch.take(torch.arange(1, device=batch.x.device))).values()
            return _mean_density(plates, q, points), _mean_density(plates, p, points)

    def _draw_repeatedly(self, draw: Callable[[Batch], dict[str, Site]]) -> Tensor:
        """Equally many draws for each row, in large batches."""
        plates, batch, _ = self.guide_sites
        n = len(batch.x)
        index = torch.arange(n, device=batch.x.device).repeat(-(-NUM_DRAWS // n))
        with torch.no_grad(), use_param_store(self.program), seeded(self.seed), evaluating(self.program):
            drawn = [
                torch.cat([plates.rows_to_front(site, site["value"]) for site in draw(batch.take(some)).values()], -1)
                for some in index.chunk(-(-len(index) // MAX_ROWS))
            ]
        return torch.cat(drawn).cpu()

    @torch.no_grad()
    def decode(self, z: RowLatents, rows: Tensor) -> Tensor:
        """E[x | z] at some points.

        Args:
            z: the points (n, K).
            rows: the rows (n,) whose inputs a program gets that needs more than z.

        Returns:
            The decodings (n, D).
        """
        decode = decoder_of(self.program)
        if decode is not None and decodes_z_alone(self.program):
            return self._require_rows_of_x(decode(z))
        plates, batch, _ = self.guide_sites
        batch = batch.take(rows)
        z, start = z.to(*device_and_dtype(self.program, like=z)), 0
        values: dict[str, Tensor] = {}
        with use_param_store(self.program), seeded(self.seed), evaluating(self.program):
            guide = self._run_guide(batch)
            values |= {name: guide[name]["fn"].mode for name in plates.enumerated_in_guide}
            for name, site in plates.code_sites(guide).items():
                assert plates.row_dim is not None
                dim = plates.row_dim - site["fn"].event_dim
                shape = site["value"].movedim(dim, 0).shape
                size = shape[1:].numel()
                values[name] = z[:, start : start + size].reshape(shape).movedim(0, dim)
                start += size
            model = SubstituteLatents(values)(bind_supported_kwargs(self.program.model))
            sites = sample_sites(poutine.trace(model).get_trace(batch.x, batch.row_inputs)).values()
            seen = [site for site in sites if site["is_observed"] and plates.row_plate_frame(site)]
            return self._require_rows_of_x(
                torch.cat([plates.rows_to_front(site, distribution_mean(site["fn"])) for site in seen], -1)
            )

    def _require_rows_of_x(self, decoded: Tensor) -> Tensor:
        if decoded.shape[-1] != self.data.num_features:
            raise InputError("the model observes more than x, or less")
        return decoded.cpu()

    @property
    def takes_labels(self) -> bool:
        return model_takes(self.program, "labels")

    @property
    def takes_conditions(self) -> bool:
        return GIVEN in self.split.inputs

    def in_original_units(self, x: Tensor) -> np.ndarray:
        """Rows of a table in the data's own units."""
        return self.split.measure.to_original_units(x).double().cpu().numpy()

    def observed(self, rows: Tensor) -> np.ndarray:
        """The split's rows (n,) of a table in the data's own units, NaN where a value is missing."""
        return observed(self.split, rows)

    def to_pixels(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Images as pixels: grey ones from 0, white, to 1, black; in colour from 0, dark, to 1, light.

        Args:
            x: images (n, D) as the model sees them.
            rows: their indices (n,) in the split; values missing there are white.

        Returns:
            The images (n, D).
        """
        seen = None if rows is None or self.split.mask is None else self.split.mask[rows]
        return to_pixels(self.split, x, seen)


def _mean_density(plates: PlateStructure, site: Site, points: Tensor) -> Tensor:
    """The density at points (G, K), averaged over a site's rows, (G,) float64."""
    return torch.cat([_log_prob_of_rows(plates, site, some).exp().mean(1) for some in points.split(200)]).cpu()


def _log_prob_of_rows(plates: PlateStructure, site: Site, points: Tensor) -> Tensor:
    """The log-density of points (G, K) under each row's distribution, summed over plates inside a row, (G, n)."""
    assert plates.row_dim is not None
    fn, at = site["fn"], plates.row_dim - site["fn"].event_dim
    shape = site["value"].shape
    each = points.reshape(-1, *site["value"].movedim(at, 0).shape[1:]).unsqueeze(at).expand(-1, *shape)
    log_prob = fn.log_prob(each).double().movedim(plates.row_dim, 1)
    return log_prob.reshape(*log_prob.shape[:2], -1).sum(-1)


def _is_real(support: Constraint | None) -> bool:
    while isinstance(support, constraints.independent | MixtureSameFamilyConstraint):
        support = support.base_constraint
    return support is constraints.real
