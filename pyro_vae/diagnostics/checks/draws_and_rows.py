"""Draws of a model beside rows held out: classifier and kernel two-sample tests, precision and recall, memorization."""

from dataclasses import dataclass

import numpy as np

from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.diagnostics.checks.predictive_checks import format_number
from pyro_vae.diagnostics.checks.row_statistics import MAX_WIDTH, RowColumns, normal_scores
from pyro_vae.diagnostics.checks.verdicts import SIGNIFICANCE, Finding, Verdict
from pyro_vae.diagnostics.two_sample_test import classify

NUM_PERMUTATIONS = 999
NEIGHBOURS = 3
NAMED_COLUMNS, MIN_LOST = 5, 0.02  # columns that are named, and the AUC that is lost without one
MATTERS_AUC = 0.15  # above one half
MATTERS_MMD = 0.15
MATTERS_NEARER = 0.1  # above one half


def coordinates(rows: Array, columns: RowColumns) -> Array:
    """Rows as points whose distances say something: normal scores of numbers, indicators of levels.

    Pictures and rows wider than 200 are divided by the training standard deviation of all values.

    Args:
        rows: rows (n, D) in original units, NaN where a value is missing.
        columns: the columns.

    Returns:
        The points (n, d); a missing value is at the middle.
    """
    if columns.image_shape is not None or rows.shape[1] > MAX_WIDTH:
        return np.nan_to_num(rows) / float(np.sqrt((columns.scale**2).mean()))
    parts = [np.nan_to_num(normal_scores(rows, columns))]
    for i, levels in columns.levels.items():
        parts.append((rows[:, i, None] == np.arange(len(levels))) * np.sqrt(2))  # two levels are 2 apart
    return np.concatenate(parts, 1)


def classifier_verdict(rows: Array, draws: Array, columns: RowColumns, seed: int) -> Verdict:
    """The classifier two-sample test of rows and as many draws.

    Args:
        rows: rows (n, D) in original units.
        draws: draws (n, D).
        columns: the columns.
        seed: of the folds and the trees.

    Returns:
        The verdict, without a level.
    """
    found = classify(rows, draws, seed=seed)
    is_told = found.p_value <= SIGNIFICANCE
    findings = _used_columns(rows, draws, columns, seed) if is_told else ()
    return Verdict(
        "classifier",
        "Classifier two-sample test",
        effect=f"a classifier tells rows from draws with AUC {found.auc:.3f} (0.5: it cannot; 1: always)"
        + (f", mostly by {findings[0].name.removeprefix('AUC lost without ')}" if findings else ""),
        meaning="Boosted trees are fitted to tell rows held out from draws of the model, in five folds; the p-value is "
        "that of the ranks of their scores in each (Lopez-Paz and Oquab, arXiv:1610.06545).",
        advice=CLASSIFIER_ADVICE
        if findings
        else "The draws differ from the rows in a way that trees see, and not by one column or pixel alone: mend what "
        "columns, pairs or pictures say first, then try more latents, wider layers (--hidden), or another likelihood.",
        statistic=found.auc,
        p_value=found.p_value,
        findings=findings,
        relative=(found.auc - 0.5) / MATTERS_AUC,
        curves={"rows": found.real_score, "draws": found.drawn_score},
    )


def _used_columns(rows: Array, draws: Array, columns: RowColumns, seed: int) -> tuple[Finding, ...]:
    """The columns that the classifier uses most: the AUC that is lost when a column's values are permuted."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import train_test_split

    if columns.image_shape is not None or not 1 < rows.shape[1] <= MAX_WIDTH:
        return ()
    both, labels = np.concatenate([rows, draws]), np.repeat([1, 0], len(rows))
    fitted, other, fitted_labels, other_labels = train_test_split(
        both, labels, test_size=0.25, stratify=labels, random_state=seed
    )
    trees = HistGradientBoostingClassifier(random_state=seed).fit(fitted, fitted_labels)
    lost = permutation_importance(trees, other, other_labels, scoring="roc_auc", n_repeats=5, random_state=seed)
    order = np.argsort(-lost.importances_mean)[:NAMED_COLUMNS]
    nan = float("nan")
    return tuple(
        Finding(f"AUC lost without {columns.names[i]}", float(lost.importances_mean[i]), 0.0, nan, nan)
        for i in order
        if lost.importances_mean[i] > MIN_LOST
    )


def kernel_test(first: Array, second: Array, generator: np.random.Generator) -> tuple[float, float]:
    r"""The kernel two-sample test (Gretton et al. 2012) of n and n points, with a permutation p-value.

    $\mathrm{MMD}^2 = \overline{k(x, x')} + \overline{k(y, y')} - 2 \overline{k(x, y)}$ without the diagonals, for
    $k(x, y) = \exp(-\lVert x - y \rVert^2 / 2 h^2)$ with h the median distance of all points.

    Args:
        first: points (n, d).
        second: points (n, d).
        generator: of the permutations.

    Returns:
        The MMD, 0 where its square is estimated negative, and the p-value.
    """
    n = len(first)
    points = np.concatenate([first, second])
    squares = squared_distances(points, points)
    kernel = np.exp(-squares / max(float(np.median(squares[np.triu_indices(2 * n, 1)])), 1e-12) / 2)
    np.fill_diagonal(kernel, 0.0)
    signs = np.repeat([1.0, -1.0], n)
    labels = np.stack([signs, *(generator.permutation(signs) for _ in range(NUM_PERMUTATIONS))], 1)
    between = (labels * (kernel @ labels)).sum(0)  # within both less twice between
    # within: (total + between) / 2; the means need the pairs of each kind
    total = kernel.sum()
    within, across = (total + between) / 2, (total - between) / 2
    squared = within / (n * (n - 1)) - across / (n * n)
    return float(np.sqrt(max(squared[0], 0.0))), float((squared >= squared[0] - 1e-12).mean())


def squared_distances(first: Array, second: Array) -> Array:
    """The squared distances of all pairs.

    Args:
        first: points (n, d).
        second: points (m, d).

    Returns:
        The squares (n, m).
    """
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2 * first @ second.T
    return np.maximum(squares, 0.0)


CLASSIFIER_ADVICE = (
    "The draws differ from the rows in a way that trees see, mostly in the columns below. Where columns and pairs "
    "show nothing, look at their values: numbers on a grid (a count, a category, a rounded number) need a kind that "
    "has one (--column NAME=KIND). Otherwise try more latents or wider layers (--hidden)."
)


@dataclass(frozen=True)
class PrecisionRecall:
    """The share of draws within the neighbourhoods of rows, and of rows within those of draws (arXiv:1904.06991)."""

    precision: float
    recall: float


def precision_recall(rows: Array, draws: Array, neighbours: int = NEIGHBOURS) -> PrecisionRecall:
    """Precision and recall of draws (Kynkäänniemi et al., arXiv:1904.06991).

    A point is within a set where it is nearer to one of its points than that point's third nearest neighbour.

    Args:
        rows: rows (n, d).
        draws: draws (m, d).
        neighbours: which neighbour's distance is the radius of a point.

    Returns:
        The two shares.
    """

    def covered(points: Array, by: Array) -> float:
        radii = np.partition(squared_distances(by, by), neighbours, axis=1)[:, neighbours]
        return float((squared_distances(points, by) <= radii).any(1).mean())

    return PrecisionRecall(covered(draws, rows), covered(rows, draws))


def kernel_verdict(rows: Array, draws: Array, others: Array, seed: int) -> Verdict:
    """The kernel two-sample test, with precision and recall beside those of two sets of draws.

    Args:
        rows: rows as points (n, d).
        draws: as many draws.
        others: as many other draws.
        seed: of the permutations.

    Returns:
        The verdict, without a level.
    """
    mmd, p_value = kernel_test(rows, draws, np.random.default_rng(seed))
    found, expected = precision_recall(rows, draws), precision_recall(others, draws)
    findings = tuple(
        Finding(f"{name} of draws", getattr(found, name), getattr(expected, name), float("nan"), float("nan"))
        for name in ("precision", "recall")
    )
    return Verdict(
        "kernel",
        "Kernel two-sample test",
        effect=f"MMD {mmd:.3f}; precision {found.precision:.2f} and recall {found.recall:.2f}, where draws among "
        f"themselves have {expected.precision:.2f} and {expected.recall:.2f}",
        meaning="The distance of the two distributions' means in the feature space of a Gaussian kernel, 0 for equal "
        "ones (at most 1.4). Precision is the share of draws among the rows, recall the share of rows among the "
        "draws.",
        advice="Low precision: draws where no rows are (holes of the aggregate posterior; a richer prior). Low "
        "recall: rows that the model does not draw (more latents, or a likelihood with heavier tails).",
        statistic=mmd,
        p_value=p_value,
        findings=findings,
        relative=mmd / MATTERS_MMD,
    )


def memorization_verdict(draws: Array, rows: Array, training: Array, seed: int) -> Verdict:
    """Whether draws are nearer to training rows than to as many rows held out.

    Labels training and held out are exchangeable among the real rows if draws do not depend on which were trained on;
    the number of draws whose nearest real row is a training row is compared with that under permuted labels.

    Args:
        draws: draws as points (m, d).
        rows: rows held out (n, d).
        training: as many training rows.
        seed: of the permutations.

    Returns:
        The verdict, without a level.
    """
    n = min(len(rows), len(training))
    real = np.concatenate([training[:n], rows[:n]])
    generator = np.random.default_rng(seed)
    order = generator.permutation(2 * n)  # of equally near rows any may be the nearest
    nearest = order[squared_distances(draws, real[order]).argmin(1)]
    hits = np.bincount(nearest, minlength=2 * n).astype(float)
    labels = np.repeat([1.0, 0.0], n)
    share = float(hits @ labels / hits.sum())
    null = np.asarray([hits @ generator.permutation(labels) for _ in range(NUM_PERMUTATIONS)]) / hits.sum()
    known = {row.tobytes() for row in np.ascontiguousarray(training)}
    copies = sum(row.tobytes() in known for row in np.ascontiguousarray(draws))
    return Verdict(
        "memorization",
        "Draws beside training rows",
        effect=f"{share:.1%} of draws are nearest to a training row, of as many held out (50% without memorization)"
        + (f"; {copies} of {format_number(len(draws))} draws equal a training row" if copies else ""),
        meaning="Among equally many training rows and rows held out, the nearest to a draw is as often one as the "
        "other, unless the model has memorized rows.",
        advice="The model has memorized training rows: use a smaller network, fewer epochs, or a larger --scale.",
        statistic=share,
        p_value=float((1 + (null >= share - 1e-12).sum()) / (1 + NUM_PERMUTATIONS)),
        relative=(share - 0.5) / MATTERS_NEARER,
    )
