"""log p(x) of rows held out beside that of draws and of training rows, and beside that of baselines."""

import math
from dataclasses import dataclass

import numpy as np

from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.diagnostics.checks.verdicts import Finding, Verdict
from pyro_vae.evidence.pareto_smoothing import khat_limit

MATTERS_SD = 0.2  # of log p(x) over rows
MATTERS_KHAT = 0.05
MATTERS_NATS = 0.1  # a row, of a baseline's advantage
LOWEST = 0.01  # the share of rows that may dominate the mean
NUM_SHUFFLES = 999


@dataclass(frozen=True)
class RowDensities:
    """log p(x) of rows, of draws of the model, and of training rows, nats.

    Attributes:
        rows: of the rows held out (n,).
        draws: of draws of the model (m,).
        training: of training rows (t,); None where there are none.
    """

    rows: Array
    draws: Array
    training: Array | None


def _spread(values: Array) -> float:
    return max(float(values.std()), 1e-12)


def density_verdicts(found: RowDensities, seed: int) -> list[Verdict]:
    """The verdicts about log p(x): against draws, against training rows, and rows that dominate.

    Args:
        found: the log densities.
        seed: of the permutations.

    Returns:
        The verdicts, without levels.
    """
    verdicts = [_beside_draws(found, seed), _dominating(found, seed)]
    if found.training is not None:
        verdicts.append(_overfitting(found, found.training))
    return verdicts


def _beside_draws(found: RowDensities, seed: int) -> Verdict:
    from scipy.stats import mannwhitneyu

    lower = float(np.mean(found.rows) - np.mean(found.draws))
    p_value = float(mannwhitneyu(found.rows, found.draws).pvalue)
    return Verdict(
        "log p(x)",
        "log p(x) of rows and of draws",
        effect=f"rows have {found.rows.mean():.2f} nats, draws of the model {found.draws.mean():.2f}: {lower:+.2f} "
        "nats a row",
        meaning="If the model is right, its draws and rows held out have the same distribution of log p(x). Lower "
        "rows are less probable than the model expects; higher ones mean that the model is too wide.",
        advice="Rows below draws: overfitting, or tails that are too light. Rows above draws: a scale that is too "
        "large, or draws where no rows are.",
        statistic=lower,
        p_value=p_value,
        relative=abs(lower) / _spread(found.draws) / MATTERS_SD,
        curves={"rows": found.rows, "draws": found.draws},
    )


def lost_by_lowest(values: Array) -> Array:
    """What the lowest hundredth of rows takes off the mean, nats a row: the mean of the others less that of all."""
    lowest = max(1, math.ceil(LOWEST * values.shape[-1]))
    ordered = np.sort(values, axis=-1)
    return np.asarray(ordered[..., lowest:].mean(-1) - values.mean(-1))


def _dominating(found: RowDensities, seed: int) -> Verdict:
    """The lowest rows beside those of draws, with which they are exchangeable if the model is right."""
    generator = np.random.default_rng(seed)
    n = len(found.rows)
    pooled = np.concatenate([found.rows, found.draws])
    null = lost_by_lowest(np.stack([generator.permutation(pooled)[:n] for _ in range(NUM_SHUFFLES)]))
    lost = float(lost_by_lowest(found.rows))
    lowest = max(1, math.ceil(LOWEST * n))
    expected = float(lost_by_lowest(found.draws))
    few = f"the least probable of {n} rows takes" if lowest == 1 else f"the {lowest} least probable of {n} rows take"
    return Verdict(
        "lowest rows",
        "Rows that dominate the mean",
        effect=f"{few} {lost:.2f} nats a row off the mean, {expected:.2f} among draws",
        meaning="A mean log p(x) may hang on a few rows that the model finds all but impossible.",
        advice="Look at these rows (pyro-vae score, or the report): errors in the data, or tails that are too light "
        "(a student-t family).",
        statistic=lost,
        p_value=float((1 + (null >= lost).sum()) / (1 + NUM_SHUFFLES)),
        relative=(lost - expected) / _spread(found.draws) / MATTERS_SD,
    )


def _overfitting(found: RowDensities, training: Array) -> Verdict:
    from scipy.stats import mannwhitneyu

    gap = float(training.mean() - found.rows.mean())
    p_value = float(mannwhitneyu(training, found.rows, alternative="greater").pvalue)
    return Verdict(
        "overfitting",
        "Training rows beside rows held out",
        effect=f"training rows have {training.mean():.2f} nats, rows held out {found.rows.mean():.2f}: a gap of "
        f"{gap:+.2f} nats a row",
        meaning="What a fit gains on the rows that it was fitted to and not on others.",
        advice="Overfitting: fewer epochs (--patience), smaller layers (--hidden), or more rows.",
        statistic=gap,
        p_value=p_value,
        relative=gap / _spread(found.rows) / MATTERS_SD,
    )


def khat_verdict(rows: Array, draws: Array, num_samples: int) -> Verdict:
    """Whether the guide misses the posterior of more rows than of draws of the model.

    Args:
        rows: Pareto k-hat of rows held out (n,).
        draws: that of draws of the model (m,).
        num_samples: the number of draws of z that it is of.

    Returns:
        The verdict, without a level.
    """
    from scipy.stats import fisher_exact

    limit = khat_limit(num_samples)
    bad = [int((~(each <= limit)).sum()) for each in (rows, draws)]
    shares = bad[0] / len(rows), bad[1] / len(draws)
    table = [[bad[0], len(rows) - bad[0]], [bad[1], len(draws) - bad[1]]]
    return Verdict(
        "k-hat",
        "k-hat of rows and of draws",
        effect=f"the guide misses the posterior of {shares[0]:.1%} of rows and {shares[1]:.1%} of draws (k-hat above "
        f"{limit:.2f})",
        meaning="An amortized guide may suit rows of the model and not real ones: where only rows have high k-hat, "
        "the model or the guide is wrong there; where both have, the guide is.",
        advice="The guide fails on real rows more than on the model's: the model is wrong for them, or they are "
        "unlike the training rows. pyro-vae score names them.",
        statistic=shares[0] - shares[1],
        p_value=float(fisher_exact(table, alternative="greater").pvalue),
        findings=(Finding("share of rows with k-hat above its limit", *shares, float("nan"), float("nan")),),
        relative=(shares[0] - shares[1]) / MATTERS_KHAT,
    )


def baseline_verdict(name: str, program: Array, baseline: Array) -> Verdict:
    """Whether a baseline has a higher log p(x) on the same rows.

    Args:
        name: the baseline, in words.
        program: log p(x) under the program (n,) nats.
        baseline: under the baseline, on the same measure.

    Returns:
        The verdict, without a level.
    """
    from scipy.stats import t

    gain = program - baseline
    error = float(gain.std(ddof=1) / math.sqrt(len(gain)))
    p_value = float(t.cdf(gain.mean() / max(error, 1e-12), len(gain) - 1))
    return Verdict(
        f"baseline: {name}",
        f"log p(x) beside {name}",
        effect=f"the model is {gain.mean():+.2f} ± {error:.2f} nats a row from {name} ({baseline.mean():.2f})",
        meaning="A density in closed form, fitted to the same training rows by EM. A model that falls behind it has "
        "not learned what it could.",
        advice=f"Use {name} (pyro-vae compare), or fit longer, with more latents, or a likelihood whose residuals are "
        "correlated.",
        statistic=float(gain.mean()),
        p_value=p_value,
        relative=-float(gain.mean()) / MATTERS_NATS,
    )
