"""Held-out log p(x) of mixtures over their number of components."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_vae.argument_checks import check_call
from pyro_vae.errors import InputError
from pyro_vae.inference.em.select_mixture import MixtureScore, best_score
from pyro_vae.plots import style
from pyro_vae.plots.style import COLOURS


@check_call
def plot_selection(scores: Sequence[MixtureScore]) -> Figure:
    """Held-out log p(x) by cross-validation over the number of components, a line for each form of covariances.

    The bars are a standard error over folds; the circle is the best. Folds are the same for all, so that two mixtures
    differ by less than their bars say.

    Args:
        scores: of all that was tried, as in `MixtureSelection.scores`.

    Returns:
        The figure; `InputError` without scores.

    >>> figure = plot_selection([MixtureScore(1, "full", (-3.0, -3.2)), MixtureScore(2, "full", (-2.5, -2.6))])
    >>> figure.axes[0].get_title(loc="left")
    'Best: full, 2 components'
    """
    if not scores:
        raise InputError("there are no scores to draw")
    by_form: dict[str, list[MixtureScore]] = {}
    for score in scores:
        by_form.setdefault(score.covariance, []).append(score)
    best = best_score(scores)
    with style.figure_style():
        figure = Figure(figsize=(6.0, 3.6))
        axes = figure.subplots()
        for (form, found), color in zip(by_form.items(), COLOURS, strict=False):
            sizes, means = [score.num_components for score in found], [score.mean for score in found]
            errors = [score.standard_error for score in found] if len(best.folds) > 1 else None
            axes.errorbar(sizes, means, errors, marker=".", capsize=2, linewidth=1, color=color, label=form or None)
        axes.plot(best.num_components, best.mean, marker="o", markersize=11, mfc="none", mec="0.2", linestyle="none")
        axes.set(xlabel="components", ylabel="held-out log p(x), nats per row")
        axes.set_title(f"Best: {best}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(by_form) > 1:
            axes.legend()
    return figure
