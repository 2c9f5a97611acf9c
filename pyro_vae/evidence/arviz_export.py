"""A program's draws, weights and rows as ArviZ's container.

>>> import pyro_vae as pv
>>> likelihood = pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 5))
>>> vae = pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(pv.nets.mlp(5, 8, 4)))
>>> inference_data = pv.to_inference_data(vae, torch.ones(3, 5), num_samples=40)
>>> dict(inference_data["posterior"].sizes)
{'chain': 1, 'draw': 40, 'row': 3, 'z_dim': 2}
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.arviz_compat import container, write_netcdf
from pyro_vae.context_managers import evaluating, seeded
from pyro_vae.data import RowsGiven, Split
from pyro_vae.errors import InputError
from pyro_vae.evidence.pareto_smoothing import pareto_smoothed
from pyro_vae.programs.log_densities import log_weight_terms, sum_over_plates
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.plates import PlateStructure, require_guide_density, require_rows
from pyro_vae.programs.row_batches import ScoredRows, rows_to_score
from pyro_vae.programs.row_inputs import Batch
from pyro_vae.programs.traces import (
    Site,
    draw_observed,
    sample_sites,
    trace_program,
)
from pyro_vae.typing import Program

Group = dict[str, tuple[tuple[str, ...], np.ndarray]]
Draw = dict[str, dict[str, Tensor]]  # tensors by group and site
Draws = dict[str, dict[str, np.ndarray]]


@check_call
def to_inference_data(
    program: Program,
    data: RowsGiven,
    num_samples: int = 200,
    *,
    columns: Sequence[str] = (),
    rows: Tensor | None = None,
    labels: Tensor | None = None,
    path: str | Path | None = None,
    seed: int = 0,
) -> Any:
    r"""A program's guide, model and rows as ArviZ's `InferenceData` (0.23) or `DataTree` (1.x).

    Groups: `posterior` the guide's draws of every latent; `posterior_predictive` x drawn at each of them, and
    `log_likelihood` $\log p(x_i | z_{si})$; `sample_stats` their `log_weight` $\log p(x_i, z_{si}) - \log q(z_{si} |
    x_i)$ and each row's `khat`; `prior` and `prior_predictive` as many rows from the model alone; `observed_data`.
    Axes: `chain` (one), `draw`, `row` (the rows' indices in their source), `feature`, and one for each latent. The
    guide's draws are draws from q: weight them by `log_weight` for p(z|x). It has S · N · D numbers: choose rows. x and
    its densities are in the units that the attribute `measure` names (standardizing undone), NaN where x was not
    observed.

    Raises `RowsError` where a row has no weight of its own.

    Args:
        program: any program.
        data: a tensor (N, D), a split, or a data set (its test split).
        num_samples: draws S for each row.
        columns: the names of the D features.
        rows: the rows' indices (N,) in the training set, for programs that take them.
        labels: their labels (N,), for programs that take them.
        path: a file that it is also written to, as netCDF.
        seed: seed of the draws.

    Returns:
        ArviZ's container; log densities in nats.
    """
    if num_samples < 1:
        raise InputError(f"num_samples must be one or more, got {num_samples}")
    split, rows = rows_to_score(data, rows, labels)
    if columns and len(columns) != split.shape[1]:
        raise InputError(f"{len(columns)} columns named, and rows of {split.shape[1]}")
    with torch.no_grad(), use_param_store(program), seeded(seed), evaluating(program), pyro.validation_enabled(False):
        scored = ScoredRows(program, split, rows)
        (batch,) = scored.batches(len(split))
        require_rows(scored.plates)
        require_guide_density(scored.plates)
        guided = _stack([_draw_from_guide(program, scored.plates, batch) for _ in range(num_samples)])
        prior = _stack([_draw_from_model(program, scored.plates, batch) for _ in range(num_samples)])
    groups = _groups(split, guided, prior)
    coords = _coordinates(split, num_samples, columns)
    inference_data = container(groups, coords, {"measure": scored.measure, "inference_library": "pyro_vae"})
    if path is not None:
        write_netcdf(inference_data, Path(path))
    return inference_data


def _groups(split: Split, guided: Draws, prior: Draws) -> dict[str, Group]:
    """All groups of arrays with the names of their axes; x in the units that the measure names."""
    observed = {name: values[0, 0] for name, values in guided.pop("observed").items()}
    x_sites = [name for name, values in observed.items() if values.shape == tuple(split.shape)]
    if len(x_sites) == 1 and len(observed) == 1:
        _to_measure_units(split, guided, prior, observed, x_sites[0])
    khat = pareto_smoothed(np.ascontiguousarray(guided["sample_stats"]["log_weight"][0].T.astype(np.float64)))[0]
    groups = {group: _with_axes(group, values, x_sites) for group, values in (guided | prior).items()}
    groups["sample_stats"]["khat"] = (("row",), khat)
    groups["observed_data"] = _with_axes("observed_data", observed, x_sites)
    return groups


def _coordinates(split: Split, num_samples: int, columns: Sequence[str]) -> dict[str, Sequence[int | str] | np.ndarray]:
    index = np.arange(len(split)) if split.index is None else split.index.numpy()
    return {"row": index, "chain": [0], "draw": np.arange(num_samples)} | (
        {"feature": list(columns)} if columns else {}
    )


def _draw_from_guide(program: Program, plates: PlateStructure, batch: Batch) -> Draw:
    """One draw from the guide for each row, with the densities and the new x that it leads to."""
    model, guide = trace_program(program, batch)
    sites = sample_sites(model)
    observed = {name: site for name, site in sites.items() if site["is_observed"]}
    row_dim = require_rows(plates)
    return {
        "posterior": _values(plates, {name: s for name, s in sample_sites(guide).items() if name in sites}),
        "posterior_predictive": {name: plates.rows_to_front(s, s["fn"].sample()) for name, s in observed.items()},
        "log_likelihood": {
            name: sum_over_plates(site, {row_dim}).expand(len(batch.x)) for name, site in observed.items()
        },
        "sample_stats": {
            "log_weight": torch.stack(log_weight_terms(model, guide, {row_dim})).sum(0).expand(len(batch.x))
        },
        "observed": _values(plates, observed),
    }


def _draw_from_model(program: Program, plates: PlateStructure, batch: Batch) -> Draw:
    """One draw from the model for each row, x included."""
    sites = draw_observed(program, batch)
    x_sites = {name: site for name, site in sites.items() if site["infer"].get("was_observed")}
    latent = {name: site for name, site in sites.items() if name not in x_sites and not site["is_observed"]}
    return {"prior": _values(plates, latent), "prior_predictive": _values(plates, x_sites)}


def _values(plates: PlateStructure, sites: dict[str, Site]) -> dict[str, Tensor]:
    return {name: plates.rows_to_front(site, site["value"]) for name, site in sites.items()}


def _stack(draws: list[Draw]) -> Draws:
    """Draws stacked as one chain, (1, S, …)."""
    return {
        group: {name: torch.stack([draw[group][name] for draw in draws])[None].cpu().numpy() for name in names}
        for group, names in draws[0].items()
    }


def _to_measure_units(split: Split, guided: Draws, prior: Draws, observed: dict[str, np.ndarray], name: str) -> None:
    """Convert x and its densities to the units that the measure names; values that were not observed become NaN."""
    for group in (guided["posterior_predictive"], prior["prior_predictive"], observed):
        group[name] = split.measure.to_original_units(torch.from_numpy(group[name])).numpy()
    if split.mask is not None:
        observed[name] = np.where(split.mask.numpy(), observed[name], np.nan)
    log_jacobian = split.log_jacobian.numpy()
    guided["log_likelihood"][name] = guided["log_likelihood"][name] + log_jacobian
    guided["sample_stats"]["log_weight"] = guided["sample_stats"]["log_weight"] + log_jacobian


def _with_axes(group: str, values: dict[str, np.ndarray], x_sites: Sequence[str]) -> Group:
    """Arrays with the names of their axes; the last axis of a site of x is `feature`."""
    leading = ("row",) if group == "observed_data" else ("chain", "draw", "row")
    named: Group = {}
    for name, value in values.items():
        last = "feature" if name in x_sites else f"{name}_dim"
        named[name] = ((*leading, last)[: value.ndim], value)
    return named
