"""A classifier two-sample test of rows drawn from a program against real rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pyro_vae.argument_checks import check_call
from pyro_vae.data import RowsGiven, Split, as_split
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.errors import InputError
from pyro_vae.programs.sample_rows import sample
from pyro_vae.typing import Program

FOLDS = 5


@dataclass(frozen=True)
class TwoSample:
    """How well a classifier distinguishes real rows from drawn ones, by cross-validation.

    `accuracy` is 0.5 where it cannot, with standard error `accuracy_se`; `auc` the area under its ROC curve; `p_value`
    the chance of as large areas under the folds' ROC curves if labels are permuted within each fold. `real_score` and
    `drawn_score` (n,) are the classifier's probabilities that a row is real.
    """

    accuracy: float
    accuracy_se: float
    auc: float
    p_value: float
    real_score: np.ndarray
    drawn_score: np.ndarray

    def __repr__(self) -> str:
        return (
            f"TwoSample({len(self.real_score)} real and as many drawn rows: told apart {self.accuracy:.1%} ± "
            f"{self.accuracy_se:.1%} of the time, AUC {self.auc:.3f}, p = {self.p_value:.2g})"
        )


@check_call
def two_sample(
    program: Program | Tensor,
    data: RowsGiven,
    num_rows: int = 1000,
    *,
    classifier: object = None,
    seed: int = 0,
) -> TwoSample:
    """A classifier two-sample test of generated rows (Lopez-Paz & Oquab, arXiv:1610.06545).

    As many rows are drawn from the program as there are real ones, and a classifier is fitted to tell them apart, in
    five folds. Labels are given to programs that take them. This test and log p(x) find different faults: a program may
    give real rows a high log p(x) and draw rows that look nothing like them.

    Raises `InputError` for fewer than 20 rows, or fewer draws than rows.

    Rows count alike, whatever weights they have.

    Args:
        program: the fitted program; or rows (N or more, D) that were drawn, in their order.
        data: rows x (N, D), a split, or a data set (its test split).
        num_rows: the first rows of it that are used.
        classifier: an object with scikit-learn's `fit` and `predict_proba`, its gradient-boosted trees by default; one
            of your own has to take NaN where rows have gaps.
        seed: of the draws, the folds and the trees.

    Returns:
        The accuracy with its standard error and p-value, and the AUC.

    >>> import pyro_vae as pv
    >>> data = pv.load_data("digits")
    >>> guide = pv.guides.MeanFieldNormal(pv.nets.mlp(64, 8, 4))
    >>> vae = pv.VAE(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.nets.mlp(2, 8, 64)), guide)
    >>> pv.diagnostics.two_sample(vae, data.train, num_rows=100).accuracy > 0.9  # not fitted: easy to distinguish
    True
    """
    split = as_split(data, "test").head(num_rows)
    real = split.x.cpu().numpy()
    if len(real) < 4 * FOLDS:
        raise InputError(f"a two-sample test needs {4 * FOLDS} rows or more, got {len(real)}")
    drawn = _draws(program, split, seed)
    if split.mask is not None:  # the same gaps on both sides, or they alone would separate them
        real, drawn = (np.where(split.mask.numpy(), rows, np.nan) for rows in (real, drawn))
    return classify(real, drawn, classifier, seed=seed)


def classify(real: Array, drawn: Array, classifier: object = None, *, seed: int = 0) -> TwoSample:
    """Fit a classifier to tell rows from as many draws, in five folds.

    The area under a fold's ROC curve is a Mann-Whitney statistic: under labels permuted within the fold, with the
    scores as they are, its distribution is known. The folds' p-values depend on each other, as each classifier was
    fitted to the other folds, and are combined by Cauchy's method (Liu & Xie, arXiv:1808.09011).

    Args:
        real: rows (n, D), NaN where a value is missing.
        drawn: draws (n, D).
        classifier: as in `two_sample`.
        seed: of the folds and the trees.

    Returns:
        The accuracy, the AUC and the p-value.
    """
    from scipy.stats import mannwhitneyu
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    rows, labels = np.concatenate([real, drawn]), np.repeat([1, 0], len(real))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    classifier = HistGradientBoostingClassifier(random_state=seed) if classifier is None else classifier
    share = cross_val_predict(classifier, rows, labels, cv=folds, method="predict_proba")[:, 1]
    p_values = []
    for _, fold in folds.split(rows, labels):
        scores, is_real = share[fold], labels[fold] == 1
        constant = np.ptp(scores) == 0
        ranked = mannwhitneyu(scores[is_real], scores[~is_real], alternative="greater", method="asymptotic")
        p_values.append(0.5 if constant else float(ranked.pvalue))
    accuracy = float(((share > 0.5) == labels).mean())
    return TwoSample(
        accuracy=accuracy,
        accuracy_se=float(np.sqrt(accuracy * (1 - accuracy) / len(rows))),
        auc=float(roc_auc_score(labels, share)),
        p_value=combine_p_values(p_values),
        real_score=share[: len(real)],
        drawn_score=share[len(real) :],
    )


def combine_p_values(p_values: Sequence[float]) -> float:
    r"""One p-value of several that may depend on each other: $P(C \geq \overline{\tan((1/2 - p_i)\pi)})$, C Cauchy's.

    Args:
        p_values: the p-values.

    Returns:
        The combined p-value.

    >>> round(combine_p_values([0.03, 0.03, 0.03]), 6)
    0.03
    """
    from scipy.stats import cauchy

    clipped = np.clip(p_values, 1e-300, 1 - 1e-12)
    return float(cauchy.sf(cauchy.isf(clipped).mean()))


def _draws(program: Program | Tensor, split: Split, seed: int) -> np.ndarray:
    """As many draws as there are rows."""
    N, D = split.shape
    if not isinstance(program, Tensor):
        given = {"labels": split.labels, **split.inputs}
        return sample(program, N, num_features=D, seed=seed, row_inputs=given).cpu().numpy()
    if len(program) < N or program.shape[1] != D:
        raise InputError(f"expected {N} drawn rows of {D} columns or more rows, got {tuple(program.shape)}")
    return program[:N].cpu().numpy()
