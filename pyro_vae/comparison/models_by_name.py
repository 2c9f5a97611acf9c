"""Models of a comparison by name, one entry each: plain data, which imports no torch."""

from dataclasses import dataclass

from pyro_vae.option_registry import Entry, Registry


@dataclass(frozen=True)
class ModelEntry(Entry):
    """A model: `path` is a class of (size, num_features).

    Attributes:
        size: components or latents where no size is given.
        for_num_rows: whether the class takes the number of training rows too.
    """

    size: int = 10
    for_num_rows: bool = False


MIXTURE, COVARIANCES = "pyro_vae.models.gaussian_mixture:GaussianMixture", ("full", "tied", "diagonal", "spherical")
MODELS = Registry(
    "model",
    [
        *(
            ModelEntry(
                "gaussian-mixture" + f"-{kind}" * (kind != "full"),
                MIXTURE,
                f"a mixture of normals with {kind} covariances",
                fixed={"covariance": kind},
            )
            for kind in COVARIANCES
        ),
        ModelEntry("bernoulli-mixture", "pyro_vae.models.bernoulli_mixture:BernoulliMixture", "for bits"),
        ModelEntry(
            "bayesian-mixture",
            "pyro_vae.models.bayesian_mixture:BayesianGaussianMixture",
            "a mixture of normals whose parameters are latents",
            for_num_rows=True,
        ),
        ModelEntry("ppca", "pyro_vae.models.ppca:PPCA", "probabilistic PCA", size=2),
        ModelEntry("factor-analysis", "pyro_vae.models.ppca:FactorAnalysis", "a scale for each column", size=2),
    ],
    "pyro_vae.models",
)
VAE = "vae"  # is built from its parts by name, as in `pyro-vae fit`
MODEL_NAMES = (*MODELS, VAE)
