"""Every likelihood, prior and guide of the registry against its density in 120 digits, over the range that it reaches.

`python tests/density_tables.py` prints the table of docs/densities.md. The oracles take the inputs as they are rounded
to the dtype: data, outputs of a network and parameters. Flows are compared with themselves in float64, where
tests/test_flows.py compares them with Pyro's.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import density_oracles as oracles
import density_rows as rows
import mpmath as mp
import torch
from density_oracles import softplus
from density_rows import Row
from torch import nn

from pyro_vae import guides, likelihoods, priors
from pyro_vae.data.columns import Column, Schema
from pyro_vae.likelihoods.loc_scale import SCALE_FLOOR
from pyro_vae.part_bases import scores_only_own_samples

K = 2
Settings = dict[str, float]


@dataclass(frozen=True)
class Case:
    """A part over a range.

    Attributes:
        covers: the part, and which of its options.
        in_words: the range.
        make: a function of a row's settings that makes the part.
        rows: a function of the dtype that gives the inputs.
        log_prob: the oracle, of values, outputs, settings and the part; None for the part itself in float64.
    """

    covers: str
    in_words: str
    make: Callable[[Settings], nn.Module]
    rows: Callable[[torch.dtype], list[Row]]
    log_prob: Callable[..., mp.mpf] | None


def exactly(tensor: torch.Tensor) -> list:
    """Nested lists of the exact values of a tensor."""
    return [exactly(part) for part in tensor] if tensor.dim() else mp.mpf(float(tensor.detach()))


def normal_with(**options):
    return lambda settings: likelihoods.Normal(nn.Identity(), **options, **settings)


def make_student(settings):
    part = likelihoods.StudentT(nn.Identity(), scale="network", df="learned")
    part.raw_df.data.fill_(settings["raw_df"])
    return part


def make_negative_binomial(settings):
    part = likelihoods.NegativeBinomial(nn.Identity(), 1)
    part.log_total_count.data.fill_(settings["log_count"])
    return part


def make_logistic(settings):
    return likelihoods.DiscretizedLogistic(nn.Identity(), scale="network", levels=oracles.LEVELS)


def make_mixture(settings):
    torch.manual_seed(settings["seed"])
    prior = priors.MixtureOfNormals(K, 3)
    prior.logits.data.copy_(10.0 ** settings["seed"] * torch.randn(3))
    prior.raw_scale.data.copy_(4 * torch.randn(3, K))
    return prior


def make_vamp(settings):
    torch.manual_seed(settings["seed"])
    prior = priors.VampPrior(guides.MeanFieldNormal(nn.Identity()), 3, 2 * K)
    prior.pseudo.data.copy_(4 * torch.randn(3, 2 * K))
    return prior


def make_flow_prior(settings):
    torch.manual_seed(settings["seed"])
    return with_weights(priors.FlowPrior(K, layers=2, hidden=8))


def with_weights(part):
    """The part with weights that are not near the identity."""
    torch.manual_seed(3)
    for parameter in part.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return part


def make_mixture_guide(settings):
    torch.manual_seed(0)
    return guides.MixtureGuide(nn.Identity(), K, 3)


def each(function):
    """The sum over values of a function of (value, output)."""
    return lambda x, out, settings, part: mp.fsum(map(function, x, out))


def with_setting(function):
    """The same with the row's one setting as third argument."""
    return lambda x, out, settings, part: mp.fsum(
        function(a, b, *settings.values()) for a, b in zip(x, out, strict=True)
    )


def with_scale(function, floor):
    """The sum over values with locations in the first half of the outputs and raw scales in the second."""

    def log_prob(x, out, settings, part):
        pairs = zip(x, out[: len(x)], out[len(x) :], strict=True)
        return mp.fsum(function(a, loc, softplus(raw) + mp.mpf(floor), *settings.values()) for a, loc, raw in pairs)

    return log_prob


def normal_of_log_scale(x, out, settings, part):
    """A normal whose scale is the exponential of the second output, between −5 and 5, times L."""
    scale = mp.exp(min(max(out[1], mp.mpf(-5)), mp.mpf(5))) * exactly(part.residual())[0][0]
    return oracles.normal(x[0], out[0], scale)


def log_normal(x, loc, scale):
    return oracles.normal(mp.log(x), loc, scale) - mp.log(x)


def one_column(kind, family=""):
    return Schema((Column("x", kind, family=family),), coding="columns")


def gamma_column(x, out, settings, part):
    shape = softplus(out[1]) + mp.mpf(SCALE_FLOOR)
    return oracles.gamma(x[0], min(out[0], mp.mpf(30)), shape)


def beta_column(x, out, settings, part):
    return oracles.beta(x[0], out[0], softplus(out[1]) + mp.mpf(SCALE_FLOOR))


def zero_inflated_column(x, out, settings, part):
    counted = oracles.negative_binomial(x[0], min(out[1], mp.mpf(30)), mp.mpf(1)) + oracles.log_sigmoid(-out[0])
    return oracles.log_sum_exp([counted, oracles.log_sigmoid(out[0])]) if x[0] == 0 else counted


def at_zero(function):
    """A prior of two latents of location zero, the first with the row's scale, the second with scale one."""
    return lambda x, out, settings, part: mp.fsum(
        function(a, 0, b) for a, b in zip(x, exactly(part.scale), strict=True)
    )


def categorical(x, out, settings, part):
    C = len(out) // len(x)
    return mp.fsum(oracles.log_softmax(out[C * d : C * d + C])[int(value)] for d, value in enumerate(x))


def mixture_prior(x, out, settings, part):
    scales = [[softplus(raw) + mp.mpf(priors.SCALE_FLOOR) for raw in row] for row in exactly(part.raw_scale)]
    return oracles.mixture_of_normals(x, exactly(part.logits), exactly(part.loc), scales)


def vamp_prior(x, out, settings, part):
    locs, raws = ([row[:K] for row in exactly(part.pseudo)], [row[K:] for row in exactly(part.pseudo)])
    scales = [[softplus(raw) + mp.mpf(guides.normal.SCALE_FLOOR) for raw in row] for row in raws]
    return oracles.mixture_of_normals(x, [mp.mpf(0)] * len(locs), locs, scales)


def mixture_guide(x, out, settings, part):
    apart, C = exactly(part.apart), part.num_components
    locs = [[out[C + K * c + k] + apart[c][k] for k in range(K)] for c in range(C)]
    raws = [out[C + K * (C + c) : C + K * (C + c + 1)] for c in range(C)]
    scales = [[softplus(raw) + mp.mpf(guides.normal.SCALE_FLOOR) for raw in row] for row in raws]
    return oracles.mixture_of_normals(x, out[:C], locs, scales)


def full_rank(x, out, settings, part):
    loc, raw, below = out[:3], out[3:6], out[6:]
    diagonal = [softplus(each) + mp.mpf(guides.normal.SCALE_FLOOR) for each in raw]
    tril = mp.matrix([[diagonal[0], 0, 0], [below[0], diagonal[1], 0], [below[1], below[2], diagonal[2]]])
    return oracles.multivariate_normal(x, loc, tril * tril.T)


def low_rank(x, out, settings, part):
    loc, raw, rank = out[:3], out[3:6], 2
    factor = mp.matrix([[out[6 + rank * i + j] for j in range(rank)] for i in range(3)])
    diagonal = mp.diag([(softplus(each) + mp.mpf(guides.normal.SCALE_FLOOR)) ** 2 for each in raw])
    return oracles.multivariate_normal(x, loc, diagonal + factor * factor.T / rank)


STUDENT_T_4 = lambda x, loc, scale: oracles.student_t(x, loc, scale, mp.mpf(4))  # noqa: E731
STUDENT_T = lambda x, loc, scale, raw: oracles.student_t(x, loc, scale, softplus(raw) + mp.mpf(2.01))  # noqa: E731
WIDE = "scales 1e-8 to 1e8, values to 1e30"
NETWORK = "outputs of the network to ±1,000, points to 30 from the location"
LIKELIHOODS = {
    "bernoulli": [
        Case(
            "bernoulli",
            "logits to ±1e4",
            lambda s: likelihoods.Bernoulli(nn.Identity()),
            rows.bits,
            each(oracles.bernoulli),
        )
    ],
    "continuous-bernoulli": [
        Case(
            "continuous-bernoulli",
            "logits to ±1e4",
            lambda s: likelihoods.ContinuousBernoulli(nn.Identity()),
            rows.grey_levels,
            each(oracles.continuous_bernoulli),
        )
    ],
    "normal": [
        Case(
            "normal", WIDE, lambda s: likelihoods.Normal(nn.Identity(), **s), rows.reals, with_setting(oracles.normal)
        ),
        Case(
            "normal, scale of the network",
            "raw scales ±1e4",
            lambda s: likelihoods.Normal(nn.Identity(), scale="network"),
            rows.raw_scales,
            with_scale(oracles.normal, SCALE_FLOOR),
        ),
    ],
    "multivariate-normal": [
        Case(
            "multivariate-normal",
            "logarithms of scales ±1e4, which end at ±5",
            lambda s: likelihoods.MultivariateNormal(nn.Identity(), 1),
            rows.raw_scales,
            normal_of_log_scale,
        )
    ],
    "columns": [
        Case(
            "columns, real",
            "raw scales ±1e4",
            lambda s: likelihoods.Columns(nn.Identity(), one_column("real")),
            rows.raw_scales,
            with_scale(oracles.normal, SCALE_FLOOR),
        ),
        Case(
            "columns, positive",
            "raw scales ±1e4, values to 1e5",
            lambda s: likelihoods.Columns(nn.Identity(), one_column("positive")),
            lambda dtype: [Row(row.values.abs() + 1e-3, row.outputs) for row in rows.raw_scales(dtype)],
            with_scale(log_normal, SCALE_FLOOR),
        ),
        Case(
            "columns, gamma",
            "means 1e-30 to 1e13, raw concentrations ±1e4",
            lambda s: likelihoods.Columns(nn.Identity(), one_column("positive", "gamma")),
            rows.positive_means,
            gamma_column,
        ),
        Case(
            "columns, beta",
            "logits and raw concentrations ±1e4",
            lambda s: likelihoods.Columns(nn.Identity(), one_column("bounded", "beta")),
            rows.shares,
            beta_column,
        ),
        Case(
            "columns, zero-inflated",
            "logits ±1e4, counts to 1e9",
            lambda s: likelihoods.Columns(nn.Identity(), one_column("count", "zero-inflated")),
            rows.inflated_counts,
            zero_inflated_column,
        ),
    ],
    "student-t": [
        Case(
            "student-t", WIDE, lambda s: likelihoods.StudentT(nn.Identity(), **s), rows.reals, with_setting(STUDENT_T_4)
        ),
        Case(
            "student-t, learned df",
            "raw scales ±1e4, df 2 to 1e6",
            make_student,
            rows.with_df,
            with_scale(STUDENT_T, SCALE_FLOOR),
        ),
    ],
    "discretized-logistic": [
        Case(
            "discretized-logistic",
            "locations and raw scales to ±1e4",
            make_logistic,
            rows.stored_levels,
            with_scale(oracles.logistic_bin, 1e-3),
        )
    ],
    "categorical": [
        Case(
            "categorical",
            "logits to ±1e4",
            lambda s: likelihoods.Categorical(nn.Identity(), 4),
            rows.categories,
            categorical,
        )
    ],
    "poisson": [
        Case(
            "poisson",
            "counts to 1e9, rates 1e-30 to 1e10",
            lambda s: likelihoods.Poisson(nn.Identity()),
            rows.near_counts,
            each(oracles.poisson),
        )
    ],
    "negative-binomial": [
        Case(
            "negative-binomial",
            "counts to 1e9, total counts 1e-3 to 8,000",
            make_negative_binomial,
            rows.dispersed_counts,
            with_setting(oracles.negative_binomial),
        )
    ],
}
PRIORS = {
    "standard-normal": [
        Case(
            "standard-normal",
            "latents to 1e18",
            lambda s: priors.StandardNormal(2),
            lambda dtype: [row for row in rows.latents(dtype) if row.settings["scale"] == 1],
            at_zero(oracles.normal),
        )
    ],
    "normal": [
        Case(
            "normal",
            "scales 1e-8 to 1e8, latents to 1e25",
            lambda s: priors.Normal([0.0, 0.0], [s["scale"], 1.0]),
            rows.latents,
            at_zero(oracles.normal),
        )
    ],
    "laplace": [
        Case(
            "laplace",
            "scales 1e-8 to 1e8, latents to 1e25",
            lambda s: priors.Laplace([0.0, 0.0], [s["scale"], 1.0]),
            rows.latents,
            at_zero(oracles.laplace),
        )
    ],
    "mixture": [Case("mixture", "latents to 1e4, logits to 1e3", make_mixture, rows.spread_latents, mixture_prior)],
    "vamp": [Case("vamp", "latents to 1e4", make_vamp, rows.spread_latents, vamp_prior)],
    "flow": [Case("flow", "latents to 1e4", make_flow_prior, rows.spread_latents, None)],
}
GUIDES = {
    "mean-field": [
        Case(
            "mean-field",
            NETWORK,
            lambda s: guides.MeanFieldNormal(nn.Identity()),
            rows.own_and_other_latents(2 * K, K),
            with_scale(oracles.normal, guides.normal.SCALE_FLOOR),
        )
    ],
    "full-rank": [
        Case(
            "full-rank",
            NETWORK,
            lambda s: guides.FullRankNormal(nn.Identity(), 3),
            rows.own_and_other_latents(9, 3),
            full_rank,
        )
    ],
    "low-rank": [
        Case(
            "low-rank",
            NETWORK,
            lambda s: guides.LowRankNormal(nn.Identity(), 3, 2),
            rows.own_and_other_latents(12, 3),
            low_rank,
        )
    ],
    "flow": [
        Case(
            "flow",
            NETWORK,
            lambda s: with_weights(guides.FlowGuide(nn.Identity(), K, layers=2, hidden=8)),
            rows.own_and_other_latents(4 * K, K),
            None,
        )
    ],
    "iaf": [
        Case(
            "iaf",
            NETWORK,
            lambda s: with_weights(guides.FlowGuide(nn.Identity(), K, layers=2, hidden=8, kind="autoregressive")),
            rows.noise(4 * K, K),
            None,
        )
    ],
    "mixture": [
        Case("mixture", NETWORK, make_mixture_guide, rows.own_and_other_latents(3 * (2 * K + 1), K), mixture_guide)
    ],
}
KINDS = {"likelihood": LIKELIHOODS, "prior": PRIORS, "guide": GUIDES}


@dataclass(frozen=True)
class Found:
    """The worst row of a case: share of the bar, error and true value in nats, the worst gradient's share, where."""

    share: float
    error: float
    true: float
    gradient: float
    where: str


def bar(true) -> float:
    """1e-4 of a number, or 1e-3 where that is more."""
    return max(1e-3, 1e-4 * abs(float(true)))


def log_prob_of(part, values, outputs):
    """log p of values given outputs; the values are noise for a guide that scores only its own samples."""
    if not len(outputs):
        return part().log_prob(values)
    fn, values = part(outputs[None]), values[None]
    if scores_only_own_samples(part):
        values = torch.distributions.ComposeTransform(fn.transforms)(values)
    return fn.log_prob(values)[0]


def evaluate(case: Case, dtype: torch.dtype) -> Found:
    """The worst row of a case, and the worst element of a gradient, in units of the bar."""
    worst, gradient = Found(-1.0, 0.0, 0.0, 0.0, ""), 0.0
    for row in case.rows(dtype):
        part = case.make(row.settings).to(dtype)
        if isinstance(part, priors.VampPrior):
            part.shared_parts[0].to(dtype)
        values, outputs = row.values.to(dtype), row.outputs.to(dtype)
        true, slope = truth(case, part, values, outputs, row.settings)
        with torch.no_grad():
            found = float(log_prob_of(part, values, outputs))
        error = float(abs(mp.mpf(found) - true)) if abs(found) < float("inf") else float("inf")
        if len(values) + len(outputs) < 20:
            gradient = max(gradient, gradient_share(part, values, outputs, slope))
        if error / bar(true) > worst.share:
            where = f"x {values[:3].tolist()}, outputs {outputs[:3].tolist()}, {row.settings}, {len(values)} values"
            worst = Found(error / bar(true), error, float(true), 0.0, where)
    return Found(worst.share, worst.error, worst.true, gradient, worst.where)


def truth(case, part, values, outputs, settings):
    """The true log density, and a function that gives its true derivative by the i-th number of values and outputs."""
    if case.log_prob is None:
        wide = copy.deepcopy(part).double()
        leaves = [values.double().requires_grad_(), outputs.double().requires_grad_()]
        log_prob = log_prob_of(wide, *leaves)
        gradients = torch.autograd.grad(log_prob, leaves, allow_unused=True)
        flat = torch.cat([part for part in gradients if part is not None])
        return mp.mpf(log_prob.item()), lambda i: mp.mpf(float(flat[i]))
    exact = {name: exactly(torch.tensor(value, dtype=values.dtype)) for name, value in settings.items()}
    inputs, D = exactly(values) + exactly(outputs), len(values)
    log_prob = lambda inputs: case.log_prob(inputs[:D], inputs[D:], exact, part)  # noqa: E731

    def slope(i):
        step = mp.mpf(10) ** -20 * max(mp.mpf(10) ** -10, abs(inputs[i]))
        high, low = (log_prob([*inputs[:i], inputs[i] + sign * step, *inputs[i + 1 :]]) for sign in (1, -1))
        return (high - low) / (2 * step)

    return log_prob(inputs), slope


def gradient_share(part, values, outputs, slope) -> float:
    """The largest error in the gradient by outputs, or by latents where there are none, against its largest element."""
    leaves = [values.clone().requires_grad_(not len(outputs)), outputs.clone().requires_grad_(len(outputs) > 0)]
    log_prob = log_prob_of(part, *leaves)
    (found,) = torch.autograd.grad(log_prob, [leaf for leaf in leaves if leaf.requires_grad])
    first = len(values) if len(outputs) else 0
    true = [slope(first + i) for i in range(len(found))]
    pairs = [(mp.mpf(float(a)), b) for a, b in zip(found, true, strict=True) if abs(b) < rows.MAX[values.dtype]]
    largest = max((abs(b) for _, b in pairs), default=0)
    return max((float(abs(a - b)) / bar(largest) for a, b in pairs), default=0.0)


def main() -> None:
    for dtype in (torch.float32, torch.float64):
        for kind, table in KINDS.items():
            for case in (case for cases in table.values() for case in cases):
                if case.log_prob is None and dtype == torch.float64:
                    continue
                try:
                    found = evaluate(case, dtype)
                except Exception as error:  # of a version that cannot make the distribution
                    found = Found(float("inf"), float("inf"), 0.0, 0.0, str(error))
                numbers = f"{found.error:.2g} | {found.true:.6g} | {found.share:.2g} | {found.gradient:.2g}"
                print(f"| {kind} {case.covers} | {dtype} | {case.in_words} | {numbers} | {found.where} |", flush=True)


if __name__ == "__main__":
    main()
