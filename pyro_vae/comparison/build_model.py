"""A new model by its name and size, and the same model without a guide of its own."""

from torch import Tensor, nn

from pyro_vae.comparison.models_by_name import MODEL_NAMES, MODELS
from pyro_vae.constructor_args import rebuild_with
from pyro_vae.data import Dataset
from pyro_vae.errors import InputError
from pyro_vae.models.finite_mixture import Mixture
from pyro_vae.models.vae import VAE
from pyro_vae.typing import Distribution, Prior, Program


def build_model(spec: str, data: Dataset) -> Program:
    """A new model.

    Args:
        spec: `NAME` or `NAME:SIZE`, components or latents; `InputError` for a name that is not known.
        data: the data set that it is for.

    Returns:
        The model, not fitted.
    """
    name, _, size = spec.partition(":")
    if name not in MODELS:
        raise InputError(f"no model called {name!r}; try one of {', '.join(MODEL_NAMES)}")
    entry = MODELS[name]
    if ":" in spec and not size.isdigit():
        raise InputError(f"{spec!r}: the size after the colon must be a whole number, as in {name}:{entry.size}")
    rows = {"num_rows": len(data.train)} if entry.for_num_rows else {}
    model: Program = entry.load()(int(size) if size else entry.size, data.num_features, **rows, **entry.fixed)
    return model


class FromPrior(nn.Module):
    """A guide part that draws from the prior, whatever x: for programs that were fitted without a guide."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.shared_parts = [prior]

    def forward(self, x: Tensor) -> Distribution:
        return self.shared_parts[0]().expand([len(x)])


def without_guide(program: Program) -> Program:
    """The same model, its guide the prior, or a mixture's exact posterior."""
    if isinstance(program, VAE):
        return VAE(program.prior, program.likelihood, FromPrior(program.prior))
    if isinstance(program, Mixture) and program.posterior is not None:
        exact = rebuild_with(program, guide=None).to(program.logits)
        state = program.state_dict()
        exact.load_state_dict({name: state[name] for name in exact.state_dict()})
        return exact
    return program
