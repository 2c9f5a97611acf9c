"""A VAE as an estimator of scikit-learn: a density of rows, a transformer to latents, a sampler, an imputer."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import narwhals.stable.v2 as nw
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from sklearn.utils import Tags, check_array
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyro_vae.context_managers import seeded
from pyro_vae.data import Dataset, Split
from pyro_vae.data.columns import Schema
from pyro_vae.data.data_config import DataConfig
from pyro_vae.data.frames import is_frame
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.data.stored_split import chunk_rows
from pyro_vae.errors import ImputationWarning, InputError
from pyro_vae.evidence.estimate_log_px import estimate_log_px
from pyro_vae.evidence.evidence_methods import Estimator
from pyro_vae.evidence.log_px_result import LogPx
from pyro_vae.inference.fit_result import FitResult
from pyro_vae.inference.svi.fit_svi import fit
from pyro_vae.inference.svi.train_config import DEVICE, TrainConfig
from pyro_vae.models.vae import VAE
from pyro_vae.options import Value
from pyro_vae.programs.sample_rows import sample
from pyro_vae.registry import ModelConfig
from pyro_vae.sklearn.check_rows import RandomState, RowsFormat, as_seed, check_rows, divide_rows
from pyro_vae.workflows.build_vae import build_vae
from pyro_vae.workflows.choose_likelihood import choose_likelihood, load_dataset
from pyro_vae.workflows.fill_rows import Imputing, fill_rows
from pyro_vae.workflows.fit_settings import FitSettings, fit_options
from pyro_vae.workflows.read_run import CHUNK_ROWS
from pyro_vae.workflows.source_frames import frame_of_source


class VAEDensity(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, BaseEstimator):
    r"""A variational autoencoder, $p(x) = \int p(z)\, p_\theta(x|z)\, dz$, with the interface of scikit-learn.

    Rows are arrays (N, D), or data frames of pandas, polars or pyarrow. The kind of each column is inferred, and all
    columns are modelled but those that name rows or do not vary. Columns are standardized inside, and every number is
    in the columns' own units; under a scaler in a pipeline it is in the scaler's.

    Args:
        latent_dim: Dimensions K of the latent z; of tables with four columns or more by default as many as columns, at
            most 8.
        prior: p(z): standard-normal, normal, laplace, mixture, vamp or flow; by default that of `pyro-vae fit`, a
            mixture of tables with four columns or more, else standard-normal.
        likelihood: p(x|z); auto chooses by the values of the data and says why.
        guide: q(z|x): mean-field, full-rank, low-rank, flow, iaf or mixture.
        network: Encoder and decoder networks: mlp, gated-mlp or linear.
        hidden: Hidden layers of the encoder, mirrored by the decoder; by default (500,).
        scale: Standard deviation of a normal, student-t or discretized-logistic likelihood, not of a prior, in the
            units of the model's x: a number, or learned (one for all), per-feature (one for each column), or network
            (an output of the decoder).
        components: Components of a mixture (prior mixture: 50; guide mixture: 4).
        columns: the kinds of columns by name, in place of those that their values suggest, as in `load_data`.
        missing: NaN and empty cells: refuse them, or mask: model the observed values, with the mask as input of the
            guide; auto masks them where the rows of the fit have some.
        epochs: Passes over the training rows, at most; by default those of `pyro-vae fit`, of tables with four columns
            or more enough for 2,000 steps, from 100 to 500.
        batch_size: Rows for each step.
        learning_rate: Learning rate; the highest one where a schedule changes it. Unless it is given pyro-vae fit takes
            0.01 for pictures with up to two latents.
        beta: Weight of the KL term in the objective; reports are always at 1.
        patience: Stop after so many epochs without a better validation ELBO; 0: never.
        validation_fraction: the share of rows that are set aside, by which the best epoch is kept; 0: none, and the
            last epoch is.
        num_samples: Draws S for each row, by which log p(x) is estimated where it is not exact.
        device: auto: an accelerator, if there is one. The fitted program is on the CPU.
        random_state: the seed of initial weights, order of rows and draws, or a generator that gives it; None takes it
            from NumPy's global generator.
        verbose: whether lines about the progress of a fit are printed.

    Attributes:
        program_: the fitted VAE, which every function of this package takes.
        preparation_: what turns rows into a `Split` for those functions: `vae.preparation_(X)`.
        schema_: the columns with their kinds.
        history_: the record of each epoch.
        n_iter_: the number of epochs.
        n_features_in_: the number of columns.
        feature_names_in_: their names, where the rows of the fit had some.

    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> vae = VAEDensity(latent_dim=2, hidden=(16,), epochs=5, random_state=0).fit(X)
    >>> vae.score_samples(X).shape, vae.transform(X).shape, vae.sample(4).shape
    ((150,), (150, 2), (4, 4))
    """

    def __init__(
        self,
        latent_dim: int | None = None,
        *,
        prior: str | None = None,
        likelihood: str = ModelConfig.likelihood,
        guide: str = ModelConfig.guide,
        network: str = ModelConfig.network,
        hidden: Sequence[int] | None = None,
        scale: float | str | None = None,
        components: int | None = None,
        columns: Mapping[str, str] | None = None,
        missing: str = DataConfig.missing,
        epochs: int | None = None,
        batch_size: int = TrainConfig.batch_size,
        learning_rate: float = TrainConfig.learning_rate,
        beta: float = TrainConfig.beta,
        patience: int | None = TrainConfig.patience,
        validation_fraction: float = 0.1,
        num_samples: int = Estimator.num_samples,
        device: str = str(DEVICE.default),
        random_state: RandomState = None,
        verbose: bool | int = False,
    ) -> None:
        self.latent_dim = latent_dim
        self.prior = prior
        self.likelihood = likelihood
        self.guide = guide
        self.network = network
        self.hidden = hidden
        self.scale = scale
        self.components = components
        self.columns = columns
        self.missing = missing
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.beta = beta
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.num_samples = num_samples
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: object, y: object = None, sample_weight: object = None) -> Self:
        """Fit to rows; without a warm start, so that a second fit begins anew.

        Args:
            X: the rows (N, D).
            y: not used.
            sample_weight: how much each row counts (N,), which multiplies its ELBO; rows of weight 0 are left out.

        Returns:
            Itself; `InputError`, a `ValueError`, for rows or settings that cannot be used.
        """
        self._seed = as_seed(self.random_state)
        settings, rows = self._settings(), check_rows(self, X, reset=True)
        parts, weights = divide_rows(rows, self.validation_fraction, sample_weight, self._seed)
        self._format = RowsFormat.of(X, rows)
        data = load_dataset(settings.data, settings.model.likelihood, parts)
        if weights is not None:
            data = replace(data, train=_weighted(data.train, weights), valid=_weighted(data.valid, weights))
        by_table = {"latent_dim": self.latent_dim, "prior": self.prior, "epochs": self.epochs}
        chosen = [name for name, value in by_table.items() if value is not None]
        settings = settings.with_table_defaults(chosen, data.num_features, len(data.train))
        self.preparation_ = replace(data.preparation, missing=settings.is_masked(data.has_missing))
        fitted = self._fit_program(settings, data)
        self.history_, self.n_iter_ = fitted.history, len(fitted.history)
        self._n_features_out = settings.model.latent_dim
        return self

    def _settings(self) -> FitSettings:
        """The parameters that are settings of a fit, checked."""
        params: dict[str, Value] = self.get_params(deep=False)
        given = {name: params[name] for name in fit_options() if params.get(name) is not None}
        kinds = tuple(f"{name}={kind}" for name, kind in (self.columns or {}).items())
        Estimator(num_samples=self.num_samples)
        return FitSettings.from_options(given | {"column": kinds, "seed": self._seed}, type(self).__name__)

    def _fit_program(self, settings: FitSettings, data: Dataset) -> FitResult:
        likelihood = choose_likelihood(settings.model, data)
        self.program_: VAE = build_vae(
            settings.model, likelihood, data, self._seed, settings.is_masked(data.has_missing)
        )
        fitted = fit(
            self.program_,
            data.train,
            settings.training,
            valid=data.valid if len(data.valid) else None,
            device=settings.device,
            progress="lines" if self.verbose else "none",
        )
        self.program_.to("cpu")
        return fitted

    @property
    def schema_(self) -> Schema:
        """The columns with their kinds."""
        schema: Schema = self.preparation_.schema
        return schema

    def log_px(self, X: object) -> LogPx:
        """log p(x) of each row with its kind, its Monte-Carlo error and its measure, by `auto_evidence`.

        Args:
            X: the rows (N, D).

        Returns:
            The result, nats per row.
        """
        split = self.preparation_(check_rows(self, X))
        return estimate_log_px(Estimator(num_samples=self.num_samples, seed=self._seed), self.program_, split)

    def score_samples(self, X: object) -> Array:
        """log p(x) of each row, nats, in the original units: a density in its real columns, a probability in others.

        Every Jacobian is counted, so numbers compare with those of `sklearn.mixture.GaussianMixture` on the same rows.
        Exact, or a lower bound within a Monte-Carlo error, which `log_px` gives with the measure. Of rows with missing
        values that of the observed ones.

        Args:
            X: the rows (N, D).

        Returns:
            The numbers (N,); −∞ outside the support.
        """
        return self.log_px(X).log_px.numpy()

    def score(self, X: object, y: object = None) -> float:
        """The mean of `score_samples`: nats per row, higher is better.

        Args:
            X: the rows (N, D).
            y: not used.

        Returns:
            The mean.
        """
        return float(self.score_samples(X).mean())

    def transform(self, X: object) -> Array:
        """The posterior means of z under the guide.

        Args:
            X: the rows (N, D).

        Returns:
            The means (N, K).
        """
        split = self.preparation_(check_rows(self, X))
        parts = split.chunks(chunk_rows(split.shape[1], CHUNK_ROWS))
        with seeded(self._seed):  # guides without a mean in closed form draw
            means = [self.program_.encode(part.x, **part.row_inputs(slice(None))) for part in parts]
        return torch.cat(means).double().numpy()

    def inverse_transform(self, Z: object) -> Any:
        """E[x | z] in the original units; of levels the most probable.

        Args:
            Z: latents (N, K).

        Returns:
            Rows (N, D), a frame of the library of the fit's rows where those were one.
        """
        check_is_fitted(self)
        z = torch.from_numpy(check_array(Z, dtype="float64"))
        if z.shape[1] != self._n_features_out:
            raise InputError(f"expected latents of {self._n_features_out} dimensions, got {z.shape[1]}")
        return self._format.restore(self.preparation_.to_frame(self.program_.decode(z), rounded=False))

    def sample(self, n_samples: int = 1, random_state: RandomState = None) -> Any:
        """New rows from the model: z from the prior, x from the likelihood.

        Args:
            n_samples: the number of rows.
            random_state: as that of the estimator.

        Returns:
            Rows (n_samples, D), a frame of the library of the fit's rows where those were one.
        """
        check_is_fitted(self)
        width, seed = self.preparation_.num_features, as_seed(random_state)
        drawn = sample(self.program_, n_samples, num_features=width, seed=seed)
        return self._format.restore(self.preparation_.to_frame(drawn))

    def impute(self, X: object, method: str = Imputing.method) -> Any:
        """Rows with their missing values filled by p(missing | observed), the others as they were.

        Args:
            X: the rows (N, D).
            method: draws; mean, of levels the most probable; or mode, that and the mean of numbers.

        Returns:
            Rows like X. Warns (`ImputationWarning`) of rows that are not to be trusted.
        """
        rows, preparation = check_rows(self, X), replace(self.preparation_, missing=True)
        split = preparation(rows)
        source = frame_of_source(rows, split, preparation, "auto", as_written=False)
        how = Imputing(method, num_samples=self.num_samples, seed=self._seed)
        filled = fill_rows([self.program_], split, source, preparation, how)
        for message in filled.warnings():
            warnings.warn(message, ImputationWarning, stacklevel=2)
        if not is_frame(X):
            return filled.frame.to_numpy()
        return nw.from_native(filled.frame).select(list(rows.columns)).to_native()  # the ids come first there

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing != "refuse"
        tags.input_tags.categorical = True
        return tags


def _weighted(split: Split, weights: Tensor) -> Split:
    assert split.index is not None  # the rows of a frame that was divided have their numbers
    return split.with_fields(weights=weights[split.index])
