"""Fit methods by name, one entry each, and the budget that each is given: plain data, which imports no torch.

>>> from pyro_vae.comparison.fit_methods import FIT_METHODS
>>> FIT_METHODS["mcem"].path
'pyro_vae.inference.em.fit_mcem:MCEMMethod'
"""

from dataclasses import dataclass, field, replace

from pyro_vae.inference.svi.train_config import TRAINING, TrainConfig
from pyro_vae.option_registry import Entry, Registry
from pyro_vae.options import setting

TABLE_EPOCHS, TABLE_RATE = 20, 4.0  # factors on the epochs and learning rate of a network, for a q that is a table


@dataclass(frozen=True)
class Budget:
    """What a fit may spend: every fit method uses training rows alone, and keeps its last epoch, EM its best start.

    No choice is made by held-out rows.

    Attributes:
        config: the training settings of methods that take gradient steps, and the seed of all.
        iterations: EM's iterations, at most.
        num_starts: EM's random starts.
        width: hidden units of a network q(c|x).
    """

    config: TrainConfig = field(default_factory=TrainConfig)
    iterations: int = setting(500, int, "EM's iterations, at most.", minimum=1, group=TRAINING)
    num_starts: int = setting(1, int, "EM's random starts, the best of them kept.", minimum=1, group=TRAINING)
    width: int = setting(64, int, "Hidden units of a network q(c|x).", minimum=1, group=TRAINING)

    def for_table(self, num_rows: int) -> TrainConfig:
        """The training settings for a q that is a table: full batches, since an entry moves only with its own row."""
        config = self.config
        rate = TABLE_RATE * config.learning_rate
        return replace(config, epochs=TABLE_EPOCHS * config.epochs, batch_size=num_rows, learning_rate=rate)


@dataclass(frozen=True)
class FitMethodEntry(Entry):
    """A fit method: `path` is a `FitMethod` class, made without argument, or a function as in `fit_by_name.py`.

    Attributes:
        models: the classes of the models that it fits, each as `package.module:name`.
        start: a function of a program, a data set and a budget, that gives the program its start or another guide.
        is_amortized: whether it has a q for held-out rows.
        has_epochs: whether its epochs are scored for a learning curve.
    """

    models: tuple[str, ...] = ()
    start: str = ""
    is_amortized: bool = True
    has_epochs: bool = True


HERE = "pyro_vae.comparison.fit_by_name"
SVI = "pyro_vae.inference.svi.svi_method:SVIMethod"
MIXTURE, VAE = "pyro_vae.models.finite_mixture:Mixture", "pyro_vae.models.vae:VAE"
BAYESIAN, PPCA = "pyro_vae.models.bayesian_mixture:BayesianGaussianMixture", "pyro_vae.models.ppca:PPCA"
LINEAR = (PPCA, "pyro_vae.models.ppca:FactorAnalysis")
# fmt: off
FIT_METHODS = Registry("fit method", [
    FitMethodEntry("em", f"{HERE}:em", "q is the exact posterior, the M-step a maximum", models=(MIXTURE, *LINEAR)),
    FitMethodEntry("online-em", f"{HERE}:online_em", "EM on exponentially weighted averages, batch by batch",
                   models=(MIXTURE, *LINEAR)),
    FitMethodEntry("hard-em", f"{HERE}:hard_em", "q is the posterior's mode (k-means, where scales are fixed)",
                   models=(MIXTURE,)),
    FitMethodEntry("closed-form", f"{HERE}:closed_form", "the maximum from eigenvectors", models=(PPCA,),
                   has_epochs=False),
    FitMethodEntry("svi", SVI, "gradients of the ELBO; q the exact posterior, or an encoder",
                   models=(MIXTURE, *LINEAR, VAE), start=f"{HERE}:start_of_em"),
    FitMethodEntry("table", f"{HERE}:table", "gradients; a free q(c) for each training row", models=(MIXTURE,),
                   start=f"{HERE}:with_table", is_amortized=False),
    FitMethodEntry("amortized", SVI, "gradients; a network q(c|x)", models=(MIXTURE,), start=f"{HERE}:with_network"),
    FitMethodEntry("cavi", f"{HERE}:cavi", "closed-form steps; q of weights, means, precisions, labels",
                   models=(BAYESIAN,), has_epochs=False),
    FitMethodEntry("per-row", f"{HERE}:table", "gradients; a free normal q(z) for each training row", models=(VAE,),
                   start=f"{HERE}:with_per_row_guide", is_amortized=False),
    FitMethodEntry("semi-amortized", SVI, "gradients; the encoder's q, refined for each row", models=(VAE,),
                   start=f"{HERE}:with_refined_guide"),
    FitMethodEntry("mcem", "pyro_vae.inference.em.fit_mcem:MCEMMethod",
                   "Monte-Carlo EM: the E-step is Hamiltonian Monte Carlo", models=(VAE,), is_amortized=False),
    FitMethodEntry("wake-sleep", f"{HERE}:wake_sleep", "the encoder is fitted to draws of the model", models=(VAE,)),
    FitMethodEntry("rws", f"{HERE}:reweighted_wake_sleep", "reweighted wake–sleep, 5 particles", models=(VAE,)),
], "pyro_vae.fit_methods")
# fmt: on
