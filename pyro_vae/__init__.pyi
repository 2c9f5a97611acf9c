from . import data as data
from . import diagnostics as diagnostics
from . import distributed as distributed
from . import errors as errors
from . import flows as flows
from . import guides as guides
from . import likelihoods as likelihoods
from . import models as models
from . import nets as nets
from . import plots as plots
from . import priors as priors
from . import sklearn as sklearn
from . import studies as studies
from . import typing as typing
from .comparison.comparison_table import compare as compare
from .comparison.paired_differences import compare_evidence as compare_evidence
from .data import Dataset as Dataset
from .data import Split as Split
from .data import load_data as load_data
from .diagnostics.anomaly_scores import score as score
from .errors import DivergedError as DivergedError
from .errors import InputError as InputError
from .evidence.annealed_importance import annealed_evidence as annealed_evidence
from .evidence.annealed_importance import bidirectional as bidirectional
from .evidence.arviz_export import to_inference_data as to_inference_data
from .evidence.auto_evidence import auto_evidence as auto_evidence
from .evidence.conditional_evidence import conditional_evidence as conditional_evidence
from .evidence.exact_log_px import exact_evidence as exact_evidence
from .evidence.importance_sampling import Evidence as Evidence
from .evidence.importance_sampling import log_evidence as log_evidence
from .inference.em.fit_cavi import fit_cavi as fit_cavi
from .inference.em.fit_closed_form import fit_closed_form as fit_closed_form
from .inference.em.fit_em import fit_em as fit_em
from .inference.em.fit_mcem import fit_mcem as fit_mcem
from .inference.em.select_mixture import select_mixture as select_mixture
from .inference.fit_result import FitResult as FitResult
from .inference.objectives.free_bits import FreeBits_ELBO as FreeBits_ELBO
from .inference.objectives.importance_weighted import ImportanceWeighted_ELBO as ImportanceWeighted_ELBO
from .inference.objectives.wake_sleep import ReweightedWakeSleep as ReweightedWakeSleep
from .inference.objectives.wake_sleep import WakeSleep as WakeSleep
from .inference.posterior.laplace import laplace_approximation as laplace_approximation
from .inference.posterior.nuts import nuts as nuts
from .inference.posterior.refine_posterior import refine as refine
from .inference.svi.callbacks import Callback as Callback
from .inference.svi.fit_svi import fit as fit
from .inference.svi.train_config import TrainConfig as TrainConfig
from .loggers.tensorboard import TensorBoard as TensorBoard
from .models.autoencoder import Autoencoder as Autoencoder
from .models.bayesian_mixture import BayesianGaussianMixture as BayesianGaussianMixture
from .models.bernoulli_mixture import BernoulliMixture as BernoulliMixture
from .models.columns_mixture import ColumnsMixture as ColumnsMixture
from .models.conditional_vae import ConditionalVAE as ConditionalVAE
from .models.exact_density import Density as Density
from .models.gaussian_mixture import GaussianMixture as GaussianMixture
from .models.pca import PCA as PCA
from .models.ppca import PPCA as PPCA
from .models.ppca import FactorAnalysis as FactorAnalysis
from .models.vae import VAE as VAE
from .programs.model_and_guide import Program as Program
from .report.html_page import write_report as write_report
from .serialization import load as load
from .serialization import save as save
from .workflows.read_run import open_run as open_run

__version__: str

__all__ = [
    "PCA",
    "PPCA",
    "VAE",
    "Autoencoder",
    "BayesianGaussianMixture",
    "BernoulliMixture",
    "Callback",
    "ColumnsMixture",
    "ConditionalVAE",
    "Dataset",
    "Density",
    "DivergedError",
    "Evidence",
    "FactorAnalysis",
    "FitResult",
    "FreeBits_ELBO",
    "GaussianMixture",
    "ImportanceWeighted_ELBO",
    "InputError",
    "Program",
    "ReweightedWakeSleep",
    "Split",
    "TensorBoard",
    "TrainConfig",
    "WakeSleep",
    "annealed_evidence",
    "auto_evidence",
    "bidirectional",
    "compare",
    "compare_evidence",
    "conditional_evidence",
    "data",
    "diagnostics",
    "distributed",
    "errors",
    "exact_evidence",
    "fit",
    "fit_cavi",
    "fit_closed_form",
    "fit_em",
    "fit_mcem",
    "flows",
    "guides",
    "laplace_approximation",
    "likelihoods",
    "load",
    "load_data",
    "log_evidence",
    "models",
    "nets",
    "nuts",
    "open_run",
    "plots",
    "priors",
    "refine",
    "save",
    "score",
    "select_mixture",
    "sklearn",
    "studies",
    "to_inference_data",
    "typing",
    "write_report",
]
