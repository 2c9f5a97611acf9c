"""What a fit is about to do, in words."""

from typing import Any

from pyro_vae.data import Dataset
from pyro_vae.programs.plates import find_plates
from pyro_vae.programs.row_inputs import probe_batch
from pyro_vae.programs.scored_rows import describe_measure
from pyro_vae.registry import LikelihoodChoice


def describe_fit(
    model: dict[str, Any], data: Dataset, program: Any, likelihood: LikelihoodChoice | None, own: str | None
) -> str:
    """Lines on the rows, the likelihood and why it was chosen, the measure and the parts.

    `own` names a user's program, which has no choice of a likelihood.
    """
    rows = f"{len(data.train)} training, {len(data.valid)} validation and {len(data.test)} test rows"
    labels = f", labels from {data.label_name!r}" if data.label_name else ""
    lines = [f"{data.name}: {rows} of {data.num_features} columns{labels}"]
    measure = describe_measure(data.train, find_plates(program, probe_batch(data)))
    if likelihood is None:
        return "\n".join([*lines, f"program {own}; {measure}"])
    scale = "" if likelihood.scale is None else f" with scale {likelihood.scale}"
    lines.append(f"likelihood {likelihood.name}{scale}: {likelihood.reason}; {measure}")
    lines.append(
        f"prior {model['prior']}, guide {model['guide']}, network {model['network']}, K = {model['latent_dim']}"
    )
    return "\n".join(lines)
