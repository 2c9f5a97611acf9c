"""A new model by its name and size, and the same model without a guide of its own."""

from collections.abc import Callable

from torch import Tensor, nn

from pyro_vae.comparison.models_by_name import AUTO, FOR_COLUMNS, MODEL_NAMES, MODELS, VAE, ModelEntry
from pyro_vae.constructor_args import rebuild_with
from pyro_vae.data import Dataset
from pyro_vae.errors import InputError
from pyro_vae.inference.em.select_mixture import MixtureScore, best_score, score_mixtures
from pyro_vae.models import vae
from pyro_vae.models.finite_mixture import Mixture
from pyro_vae.typing import Distribution, Prior, Program


def build_model(spec: str, data: Dataset) -> Program:
    """A new model.

    Args:
        spec: `NAME` or `NAME:SIZE`, components or latents; `InputError` for a name that is not known. Where the size
            or the form is "auto" the usual one is built.
        data: the data set that it is for.

    Returns:
        The model, not fitted.
    """
    entry, size = _entry(spec)
    _require_kinds(entry, data)
    rows = {"num_rows": len(data.train)} if entry.for_num_rows else {}
    number = int(size) if size.isdigit() else entry.size
    columns = data.schema if entry.for_columns else data.num_features
    model: Program = entry.load()(number, columns, **rows, **entry.fixed)
    return model


def _require_kinds(entry: ModelEntry, data: Dataset) -> None:
    """`InputError` where a model has no density of the rows: of columns with kinds, or of rows without."""
    has_kinds = data.schema.coding == "columns"
    if has_kinds == entry.for_columns:
        return
    if has_kinds:
        kinds = ", ".join(dict.fromkeys(column.kind for column in data.schema.modelled))
        raise InputError(
            f"{entry.name} takes {entry.takes}, and the columns of {data.name} are of several kinds ({kinds}): compare "
            f"{', '.join((*FOR_COLUMNS, VAE))}, or code categories as numbers (--coding one-hot)"
        )
    raise InputError(
        f"{entry.name} takes {entry.takes}, and the rows of {data.name} are plain numbers: code them so (--coding "
        "columns), or compare gaussian-mixture (real numbers) or bernoulli-mixture (bits)"
    )


def choose_model(
    spec: str, data: Dataset, on_scored: Callable[[MixtureScore], object] | None = None
) -> tuple[str, tuple[MixtureScore, ...]]:
    """The name of a model with its size, chosen by cross-validation on training rows where it says "auto".

    Args:
        spec: `NAME`, `NAME:SIZE` or `NAME:auto`.
        data: the data set that it is for.
        on_scored: called with each score, as they come.

    Returns:
        `NAME:SIZE` of the best, or `spec` where nothing is to be chosen, and the scores.
    """
    entry, size = _entry(spec)
    if not entry.is_chosen(size):
        return spec, ()
    components: str | int = AUTO if size == AUTO else int(size or entry.size)
    _require_kinds(entry, data)
    schema = data.schema if entry.for_columns else None
    scores = score_mixtures(data.train, components, entry.covariances, on_scored=on_scored, schema=schema)
    best = best_score(scores)
    if entry.for_columns:
        return f"{entry.name}:{best.num_components}", tuple(scores)
    form = "" if best.covariance in ("", "full") else f"-{best.covariance}"
    kind = "gaussian-mixture" if best.covariance else "bernoulli-mixture"
    return f"{kind}{form}:{best.num_components}", tuple(scores)


def _entry(spec: str) -> tuple[ModelEntry, str]:
    """The entry of a model and what stands after the colon; `InputError` for names and sizes that there are not."""
    name, _, size = spec.partition(":")
    if name not in MODELS:
        raise InputError(f"no model called {name!r}; try one of {', '.join(MODEL_NAMES)}")
    entry = MODELS[name]
    if ":" in spec and not size.isdigit() and not (size == AUTO and entry.covariances):
        automatic = f" or {name}:{AUTO}" if entry.covariances else ""
        raise InputError(f"{spec!r}: after the colon comes a whole number, as in {name}:{entry.size}{automatic}")
    return entry, size


class FromPrior(nn.Module):
    """A guide part that draws from the prior, whatever x: for programs that were fitted without a guide."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.shared_parts = [prior]

    def forward(self, x: Tensor) -> Distribution:
        return self.shared_parts[0]().expand([len(x)])


def without_guide(program: Program) -> Program:
    """The same model, its guide the prior, or a mixture's exact posterior."""
    if isinstance(program, vae.VAE):
        return vae.VAE(program.prior, program.likelihood, FromPrior(program.prior))
    if isinstance(program, Mixture) and program.posterior is not None:
        exact = rebuild_with(program, guide=None).to(program.logits)
        state = program.state_dict()
        exact.load_state_dict({name: state[name] for name in exact.state_dict()})
        return exact
    return program
