"""Models of a comparison by name, one entry each: plain data, which imports no torch."""

from dataclasses import dataclass

from pyro_vae.option_registry import Entry, Registry


@dataclass(frozen=True)
class ModelEntry(Entry):
    """A model: `path` is a class of (size, num_features), or of (size, schema).

    Attributes:
        size: components or latents where no size is given.
        for_num_rows: whether the class takes the number of training rows too.
        covariances: for a mixture, the forms of covariances that cross-validation chooses from.
        for_columns: whether the class takes the schema, and rows that are coded by the kinds of their columns.
        takes: the values that it is a density of, in words.
    """

    size: int = 10
    for_num_rows: bool = False
    covariances: tuple[str, ...] = ()
    for_columns: bool = False
    takes: str = "real numbers"

    def is_chosen(self, size: str) -> bool:
        """Whether cross-validation chooses the model's size or form.

        Args:
            size: what stands after the colon, empty where nothing does.
        """
        return size == AUTO or len(self.covariances) > 1


AUTO = "auto"
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
                covariances=(kind,),
            )
            for kind in COVARIANCES
        ),
        ModelEntry(
            f"gaussian-mixture-{AUTO}",
            MIXTURE,
            "a mixture of normals whose covariances have the form that cross-validation chooses",
            covariances=COVARIANCES,
        ),
        ModelEntry(
            "bernoulli-mixture",
            "pyro_vae.models.bernoulli_mixture:BernoulliMixture",
            "for bits",
            covariances=("",),
            takes="values of 0 and 1",
        ),
        ModelEntry(
            "columns-mixture",
            "pyro_vae.models.columns_mixture:ColumnsMixture",
            "products of columns, each of its kind, for tables of several kinds",
            covariances=("",),
            for_columns=True,
            takes="columns coded by their kinds",
        ),
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
FOR_COLUMNS = tuple(name for name, entry in MODELS.items() if entry.for_columns)
