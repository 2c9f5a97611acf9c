from .aggregate_posterior import AggregatePosterior as AggregatePosterior
from .aggregate_posterior import aggregate as aggregate
from .anomaly_scores import Scores as Scores
from .anomaly_scores import score as score
from .checks.check_program import check as check
from .checks.check_size import CheckSize as CheckSize
from .checks.model_check import ModelCheck as ModelCheck
from .checks.verdicts import Finding as Finding
from .checks.verdicts import Verdict as Verdict
from .density_grid import density_on_grid as density_on_grid
from .gaps import Gaps as Gaps
from .gaps import inference_gaps as inference_gaps
from .latent_interpolation import interpolate as interpolate
from .latent_usage import LatentUsage as LatentUsage
from .latent_usage import measure_latent_usage as measure_latent_usage
from .multiple_imputation import PooledEstimate as PooledEstimate
from .multiple_imputation import pool_estimates as pool_estimates
from .samples.compare_samples import SampleComparison as SampleComparison
from .samples.compare_samples import compare_samples as compare_samples
from .samples.nearest_rows import NearestRows as NearestRows
from .strange_columns import Explanations as Explanations
from .strange_columns import StrangeColumn as StrangeColumn
from .strange_columns import explain_rows as explain_rows
from .two_sample_test import TwoSample as TwoSample
from .two_sample_test import two_sample as two_sample

__all__ = [
    "AggregatePosterior",
    "CheckSize",
    "Explanations",
    "Finding",
    "Gaps",
    "LatentUsage",
    "ModelCheck",
    "NearestRows",
    "PooledEstimate",
    "SampleComparison",
    "Scores",
    "StrangeColumn",
    "TwoSample",
    "Verdict",
    "aggregate",
    "check",
    "compare_samples",
    "density_on_grid",
    "explain_rows",
    "inference_gaps",
    "interpolate",
    "measure_latent_usage",
    "pool_estimates",
    "score",
    "two_sample",
]
