"""Checks of the latents: the aggregate posterior beside the prior, inactive latents, what each latent moves."""

import numpy as np
import torch

from pyro_vae.data import Split
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.diagnostics.checks.calibration import Simulations
from pyro_vae.diagnostics.checks.draws_and_rows import kernel_test
from pyro_vae.diagnostics.checks.row_statistics import RowColumns, normal_scores, original_values
from pyro_vae.diagnostics.checks.verdicts import Finding, Verdict
from pyro_vae.diagnostics.latent_codes import sample_codes, sample_prior_codes
from pyro_vae.diagnostics.latent_usage import LatentUsage
from pyro_vae.typing import Program

MATTERS_AGGREGATE = 0.15  # MMD
MOVED = 3  # columns named for each latent
MIN_CORRELATION = 0.1


def aggregate_verdict(program: Program, rows: Split, names: tuple[str, ...], seed: int) -> Verdict:
    """Draws of q(z|x) over rows beside draws of the prior: equal in distribution if model and guide are right.

    Args:
        program: the program.
        rows: rows held out (n).
        names: the latents' names.
        seed: of the draws and the permutations.

    Returns:
        The verdict, without a level.
    """
    codes = sample_codes(program, rows, seed=seed).double().cpu().numpy()
    prior = sample_prior_codes(program, len(rows), rows, seed=seed + 1).double().cpu().numpy()
    scale = np.where(prior.std(0) > 0, prior.std(0), 1.0)
    mmd, p_value = kernel_test(codes / scale, prior / scale, np.random.default_rng(seed))
    shift, ratio = (codes.mean(0) - prior.mean(0)) / scale, codes.std(0) / scale
    worst = int(np.argmax(np.abs(np.log(np.maximum(ratio, 1e-6))) + np.abs(shift)))
    name = names[worst] if len(names) == codes.shape[1] else f"latent {worst + 1}"
    correlation = _largest_correlation(codes)
    return Verdict(
        "aggregate",
        "Aggregate posterior beside the prior",
        effect=f"MMD {mmd:.3f}; {name} has shift {shift[worst]:+.2f} and standard deviation × {ratio[worst]:.2f} of "
        f"the prior's; largest correlation of two latents {correlation:.2f}",
        meaning="Latents drawn from q(z|x) for rows held out are distributed as the prior if model and guide are "
        "right. Where they are not, draws of the prior fall into holes that no row uses.",
        advice="Try a prior that can follow the rows: --prior vamp, mixture or flow.",
        statistic=mmd,
        p_value=p_value,
        relative=mmd / MATTERS_AGGREGATE,
        curves={"rows": codes[:, :2], "draws": prior[:, :2]},
    )


def _largest_correlation(codes: Array) -> float:
    spread = codes.std(0)
    if codes.shape[1] < 2 or (spread == 0).any():
        return 0.0
    found = np.corrcoef(codes, rowvar=False)
    return float(np.abs(found[np.triu_indices(len(found), 1)]).max())


def usage_verdict(usage: LatentUsage, moved: dict[str, str]) -> Verdict:
    """Which latents are active, and what they move.

    Args:
        usage: the use of the latents on rows held out.
        moved: what each latent moves, in words, by its name.

    Returns:
        The verdict, whose level is set: a model without an active latent has collapsed.
    """
    active, number = int(usage.active.sum()), len(usage.names)
    each = usage.kl_apart
    kl = [float(value) for value in each] if each is not None else [float("nan")] * number
    order, nan, unit = usage.order.tolist(), float("nan"), "nats a row"
    findings = tuple(
        Finding(f"KL of {name}" + (f", which moves {moved[name]}" if name in moved else ""), kl[k], 0.0, nan, nan, unit)
        for k, name in ((k, usage.names[k]) for k in order)
    )
    collapsed = active == 0
    return Verdict(
        "latents",
        "Use of the latents",
        "matters" if collapsed else "none",
        effect=f"{active} of {number} latents are active" + ("; the posterior has collapsed" if collapsed else ""),
        meaning="The posterior mean of an active latent varies over rows by more than 0.01; the others say nothing "
        "about a row, and could be left out.",
        advice="No latent is used: the likelihood explains the rows alone. Give it less freedom (--likelihood "
        "normal), warm up the KL term (--kl-warmup), or use --free-bits."
        if collapsed
        else "",
        statistic=float(active),
        findings=findings,
        relative=float(collapsed),
    )


def moved_columns(found: Simulations, like: Split, columns: RowColumns) -> dict[str, str]:
    """What each latent moves in the model's own draws, in words: the columns with the largest correlations.

    Args:
        found: rows simulated from the model, with their latents.
        like: rows with their measure.
        columns: the columns.

    Returns:
        By the latent's name, as in "age (+0.81), income (−0.40)"; without those that move nothing much.
    """
    if columns.image_shape is not None or not len(columns.knots):
        return {}
    values = original_values(like, torch.from_numpy(found.x))
    names = [columns.names[i] for i in columns.numbers]
    parts = [normal_scores(values, columns)]
    for i, levels in columns.levels.items():
        parts.append((values[:, i, None] == np.arange(len(levels))).astype(float))
        names += [f"{columns.names[i]} = {level}" for level in levels]
    scores = np.concatenate(parts, 1)
    standardized = [
        (each - each.mean(0)) / np.where(each.std(0) > 0, each.std(0), np.inf) for each in (found.u[0], scores)
    ]
    correlations = standardized[0].T @ standardized[1] / len(scores)
    words = {}
    for name, row in zip(found.names, correlations, strict=True):
        largest = [j for j in np.argsort(-np.abs(row))[:MOVED] if abs(row[j]) > MIN_CORRELATION]
        if largest:
            words[name] = ", ".join(f"{names[j]} ({row[j]:+.2f})" for j in largest)
    return words
