"""Models by name, for a comparison, and the same model without a guide of its own."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from pyro_vae.constructor_args import rebuild_with
from pyro_vae.data import Dataset
from pyro_vae.errors import InputError
from pyro_vae.models.bayesian_mixture import BayesianGaussianMixture
from pyro_vae.models.bernoulli_mixture import BernoulliMixture
from pyro_vae.models.finite_mixture import Mixture
from pyro_vae.models.gaussian_mixture import COVARIANCES, GaussianMixture
from pyro_vae.models.ppca import PPCA, FactorAnalysis
from pyro_vae.models.vae import VAE


def _gaussian_mixture(kind: str) -> Callable[[int, Dataset], Any]:
    return lambda size, data: GaussianMixture(size, data.num_features, kind)


MODELS: dict[str, tuple[int, Callable[[int, Dataset], Any]]] = {  # name: (default size, made of a size and the data)
    **{"gaussian-mixture" + f"-{kind}" * (kind != "full"): (10, _gaussian_mixture(kind)) for kind in COVARIANCES},
    "bernoulli-mixture": (10, lambda size, data: BernoulliMixture(size, data.num_features)),
    "bayesian-mixture": (
        10,
        lambda size, data: BayesianGaussianMixture(size, data.num_features, len(data.train)),
    ),
    "ppca": (2, lambda size, data: PPCA(size, data.num_features)),
    "factor-analysis": (2, lambda size, data: FactorAnalysis(size, data.num_features)),
}


def build_model(spec: str, data: Dataset) -> Any:
    """A new model from `NAME` or `NAME:SIZE`, components or latents; `InputError` for a name that is not known."""
    name, _, size = spec.partition(":")
    if name not in MODELS:
        raise InputError(f"no model called {name!r}; try one of {', '.join(MODELS)}, vae")
    if ":" in spec and not size.isdigit():
        raise InputError(f"{spec!r}: the size after the colon must be a whole number, as in {name}:{MODELS[name][0]}")
    default_size, make = MODELS[name]
    return make(int(size) if size else default_size, data)


class FromPrior(nn.Module):
    """A guide part that draws from the prior, whatever x: for programs that were fitted without a guide."""

    def __init__(self, prior: Any) -> None:
        super().__init__()
        self.shared_parts = [prior]

    def forward(self, x: Tensor) -> Any:
        fn = self.shared_parts[0]()
        return fn.expand([len(x)])


def without_guide(program: Any) -> Any:
    """The same model, its guide the prior, or a mixture's exact posterior."""
    if isinstance(program, VAE):
        return VAE(program.prior, program.likelihood, FromPrior(program.prior))
    if isinstance(program, Mixture) and program.posterior is not None:
        exact = rebuild_with(program, guide=None).to(program.logits)
        state = program.state_dict()
        exact.load_state_dict({name: state[name] for name in exact.state_dict()})
        return exact
    return program
