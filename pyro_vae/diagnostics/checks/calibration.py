"""Simulation-based calibration of a guide: latents drawn from the prior, rows from the likelihood, ranks in q(z|x)."""

import math
from dataclasses import dataclass

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_vae.context_managers import PYRO_LOCK, evaluating, seeded
from pyro_vae.data import Split
from pyro_vae.data.ondisk.rows_on_disk import Array
from pyro_vae.diagnostics.checks.rank_tests import RankTest, rank_all
from pyro_vae.diagnostics.checks.verdicts import Finding, Verdict
from pyro_vae.diagnostics.latent_usage import latent_names
from pyro_vae.errors import InputError
from pyro_vae.programs.find_plates import find_plates_on_few
from pyro_vae.programs.log_weights import LogWeightSampler
from pyro_vae.programs.parameters import use_param_store
from pyro_vae.programs.plates import PlateStructure
from pyro_vae.programs.row_inputs import Batch, checked_batch
from pyro_vae.programs.sample_rows import simulate
from pyro_vae.programs.traces import sample_sites, trace_program
from pyro_vae.programs.unconstrained_joint import UnconstrainedJoint
from pyro_vae.typing import Program

POINTS_PER_BLOCK = 20_000
FEW_ROWS = 8  # that a program is looked at with
INTERVAL = 0.9  # whose coverage is reported
MATTERS_COVERAGE = 0.05
MATTERS_SHIFT = 0.25  # standard deviations of the guide
MATTERS_SPREAD = 0.2  # of the guide's standard deviation, relative


@dataclass(frozen=True)
class Simulations:
    """Rows simulated from a model, the latents that they came from, and draws from the guide given each row.

    Attributes:
        u: the latents (L + 1, M, K), unconstrained and concatenated: first those that the rows came from, then L draws
            from the guide.
        log_joint: log p(x, u) of each, (L + 1, M) nats.
        x: the rows (M, D).
        names: the K latents' names.
    """

    u: Array
    log_joint: Array
    x: Array
    names: tuple[str, ...]


def simulate_posteriors(
    program: Program, like: Split, num_simulations: int, num_draws: int, seed: int = 0
) -> Simulations:
    """Simulate rows with their latents from a model, and draw latents from its guide given each row.

    Raises `InputError` where latents are not continuous, the guide has none for each row, or the model reads x.

    Args:
        program: the program.
        like: rows whose width, conditions and other inputs the simulated ones have.
        num_simulations: the number M of rows.
        num_draws: the number L of draws from the guide for each.
        seed: of the draws.

    Returns:
        The rows, the latents and their log densities.
    """
    some = max(1, POINTS_PER_BLOCK // (num_draws + 1))
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    space: _Space | None = None
    with PYRO_LOCK, torch.no_grad(), use_param_store(program), seeded(seed), evaluating(program):
        for start in range(0, num_simulations, some):
            index = torch.arange(start, min(start + some, num_simulations)) % len(like)
            placeholder = checked_batch(program, torch.zeros(len(index), like.shape[1]), like.row_inputs(index))
            with pyro.validation_enabled(False):
                x, latents = simulate(program, placeholder)
                x = x if placeholder.mask is None else torch.where(placeholder.mask, x, 0.0)
                batch = Batch.of(x, placeholder.row_inputs)
                space = space or _Space(program, batch)
                parts.append((*space.draw(batch, latents, num_draws), x))
    assert space is not None
    u, log_joint, x = (torch.cat(each, axis) for each, axis in zip(zip(*parts, strict=True), (1, 1, 0), strict=True))
    flat, log_p, rows = (each.double().cpu().numpy() for each in (u, log_joint, x))
    return Simulations(flat, log_p, rows, space.names)


class _Space:
    """The latents of a program as points u, found once from some rows, and draws of its guide there."""

    def __init__(self, program: Program, batch: Batch) -> None:
        few = batch.take(torch.arange(min(FEW_ROWS, len(batch.x)), device=batch.x.device))
        plates = find_plates_on_few(program, few, lambda: batch)[1]
        self.vectorized = LogWeightSampler(program, plates, batch).vectorized
        self.joint = UnconstrainedJoint(program, plates, batch)
        self.names = _names(program, plates, few, self.joint)

    def draw(self, batch: Batch, latents: dict[str, Tensor], num_draws: int) -> tuple[Tensor, Tensor]:
        """u of the latents that rows came from and of L draws of the guide, (L + 1, n, K), and log p(x, u)."""
        single = self.joint.over(batch)
        known = single.flat({name: value for name, value in latents.items() if name in single.sizes})[None]
        if self.vectorized:
            u = torch.cat([known, single.over(batch, num_draws).from_guide()])
            return u, single.over(batch, num_draws + 1).at(u).log_joint
        u = torch.cat([known, torch.stack([single.from_guide() for _ in range(num_draws)])])
        return u, torch.stack([single.at(each).log_joint for each in u])


def _names(program: Program, plates: PlateStructure, batch: Batch, joint: UnconstrainedJoint) -> tuple[str, ...]:
    sites = plates.code_sites(sample_sites(trace_program(program, batch)[1]))
    names = latent_names(plates, {name: sites[name] for name in joint.sizes if name in sites})
    return names if len(names) == joint.dim else tuple(f"u[{k}]" for k in range(joint.dim))


def reference_points(x: Array, u: Array, generator: np.random.Generator) -> Array:
    """A point (M, K) for each row that depends on the row: a random projection of x on the scale of the latents.

    Args:
        x: the rows (M, D).
        u: the latents that they came from (M, K).
        generator: of the projection.

    Returns:
        The points.
    """
    scale = x.std(0)
    standardized = (x - x.mean(0)) / np.where(scale > 0, scale, 1.0)
    projected = standardized @ generator.standard_normal((x.shape[1], u.shape[1]))
    spread = projected.std(0)
    return np.asarray(u.mean(0) + u.std(0) * projected / np.where(spread > 0, spread, 1.0))


def calibration_verdicts(found: Simulations, seed: int = 0) -> list[Verdict]:
    """The verdicts of simulation-based calibration: ranks of the latents, of log p(x, z), and expected coverage.

    Args:
        found: the simulations.
        seed: of the order of ties, of the random choices and of the reference points.

    Returns:
        Three verdicts, without levels.
    """
    generator = np.random.default_rng(seed)
    finite = np.isfinite(found.log_joint)
    if not (np.isfinite(found.u).all() and finite[0].all()):
        raise InputError("some latents or log densities of simulated rows are not finite")
    log_joint = np.where(finite, found.log_joint, -np.inf)
    scale = found.u[0].std(0)
    distance = np.linalg.norm(
        (found.u - reference_points(found.x, found.u[0], generator)) / np.where(scale > 0, scale, 1.0), axis=-1
    )
    tests = {
        name: RankTest(rank_all(values, generator), generator)
        for name, values in (("latents", found.u), ("joint", log_joint[..., None]), ("tarp", distance[..., None]))
    }
    return [
        _latents_verdict(found, tests["latents"]),
        _joint_verdict(tests["joint"]),
        _coverage_verdict(tests["tarp"]),
    ]


def _curves(test: RankTest) -> dict[str, Array]:
    low, high = test.band
    return {"fractions": test.fractions, "distribution": test.distribution, "low": low, "high": high}


def _latents_verdict(found: Simulations, test: RankTest) -> Verdict:
    drawn = found.u[1:]
    mean, spread = drawn.mean(0), drawn.std(0, ddof=1)
    residual = (found.u[0] - mean) / np.where(spread > 0, spread, 1.0)
    num_draws = len(drawn)
    shift = residual.mean(0)
    of_draws = (num_draws - 3) / (num_draws - 1), 1 / num_draws  # the errors of their variance and of their mean
    ratio = np.sqrt(np.maximum(residual.var(0) * of_draws[0] - of_draws[1], 0.0))
    coverage = test.coverage(INTERVAL)
    findings = []
    for k, name in enumerate(found.names):
        relative = max(
            abs(shift[k]) / MATTERS_SHIFT,
            abs(ratio[k] - 1) / MATTERS_SPREAD,
            abs(coverage[k] - INTERVAL) / MATTERS_COVERAGE,
        )
        findings.append(
            Finding(
                f"{name}: 90% intervals (the posterior is shifted by {shift[k]:+.2f} of the guide's standard "
                f"deviations, and {ratio[k]:.2f} times as wide)",
                float(coverage[k]),
                INTERVAL,
                math.sqrt(INTERVAL * (1 - INTERVAL) / found.u.shape[1]),
                float((coverage[k] - INTERVAL) / math.sqrt(INTERVAL * (1 - INTERVAL) / found.u.shape[1])),
                relative=float(relative),
                is_significant=bool(test.scores[k] >= test.limit),
            )
        )
    findings.sort(key=lambda finding: (not finding.is_significant, -finding.relative))
    first = findings[0]
    significant = [finding for finding in findings if finding.is_significant]
    return Verdict(
        "guide",
        "Calibration of the guide",
        effect=first.name.replace("90% intervals", f"90% intervals hold {first.rows:.1%} of the latents"),
        meaning="Latents z are drawn from the prior and rows x from the likelihood at z; if the guide is the "
        "posterior, the rank of z among draws of q(z|x) is uniform. Below 90% the guide is too narrow or off; "
        "above, too wide.",
        advice="The guide is not the posterior of the model: try a richer one (--guide full-rank, --guide flow), "
        "wider hidden layers, or more epochs. log p(x) by importance sampling corrects for it; codes and their "
        "spread do not.",
        statistic=float(test.scores.max()),
        p_value=test.p_value,
        findings=tuple(findings),
        relative=max((finding.relative for finding in significant), default=0.0),
        curves=_curves(test),
    )


def _joint_verdict(test: RankTest) -> Verdict:
    """The rank of log p(x, z): low ranks say that the guide draws more probable latents than the posterior does."""
    within = 1 - float(np.interp(1 - INTERVAL, test.fractions, test.distribution[0]))
    return Verdict(
        "joint",
        "Rank of log p(x, z)",
        effect=f"the guide's 90% of most probable draws hold {within:.1%} of the latents that rows came from",
        meaning="The rank of log p(x, z) among draws of q(z|x), which depends on x: a guide that ignores x passes "
        "the ranks of z, and fails here (Modrák et al., arXiv:2211.02383). Below 90% the guide stays too close to "
        "the mode.",
        advice="See the advice on the guide's calibration.",
        statistic=float(test.scores.max()),
        p_value=test.p_value,
        relative=abs(within - INTERVAL) / MATTERS_COVERAGE,
        curves=_curves(test),
    )


def _coverage_verdict(test: RankTest) -> Verdict:
    levels = np.interp([INTERVAL], test.fractions, test.distribution[0])
    worst = float(np.abs(test.distribution[0] - test.fractions).max())
    return Verdict(
        "coverage",
        "Expected coverage (TARP)",
        effect=f"expected coverage is off by {worst:.1%} at most, {levels[0]:.1%} at {INTERVAL:.0%}",
        meaning="Regions around random points that depend on x, of each credibility, should hold the latents as "
        "often as that (Lemos et al., arXiv:2302.03026). Unlike ranks of single latents it sees correlations that "
        "the guide lacks.",
        advice="See the advice on the guide's calibration; where ranks of single latents are uniform, the guide "
        "lacks correlations: --guide full-rank or --guide flow.",
        statistic=float(test.scores.max()),
        p_value=test.p_value,
        relative=worst / MATTERS_COVERAGE,
        curves=_curves(test),
    )
