"""Every likelihood, prior and guide of the registry against its density in 60 digits, over the range that it reaches.

`python tests/density_tables.py` prints the table of docs/densities.md. The oracles take the inputs as they are rounded
to the dtype: data, outputs of a network and parameters.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import mpmath as mp
import torch
from torch import Tensor, nn

from pyro_vae import likelihoods

mp.mp.dps = 60
MAX = {torch.float32: 3e38, torch.float64: 1e308}
LEVELS = 255


@dataclass(frozen=True)
class Row:
    """One row: outputs of a network (O,) or nothing, values (D,), and numbers that set the part's parameters."""

    values: Tensor
    outputs: Tensor = field(default_factory=lambda: torch.zeros(0))
    settings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A part over a range: `make(settings)` builds it, `rows(dtype)` are its inputs, `log_prob(row)` is its oracle."""

    covers: str
    make: Callable[[dict[str, float]], nn.Module]
    rows: Callable[[torch.dtype], list[Row]]
    log_prob: Callable[[list, list, dict], mp.mpf]
    in_words: str


def softplus(raw):
    return mp.log1p(mp.exp(raw)) if raw < 200 else raw + mp.exp(-raw)


def log_sigmoid(a):
    return -softplus(-a)


def rounded(value: float, dtype: torch.dtype) -> float:
    return float(torch.tensor(value, dtype=dtype))


def bernoulli(x, logit):
    return x * logit - softplus(logit)


def continuous_bernoulli(x, logit):
    return x * logit - (mp.log(mp.expm1(logit) / logit) if logit else mp.mpf(0))


def normal(x, loc, scale):
    return -(((x - loc) / scale) ** 2) / 2 - mp.log(scale) - mp.log(2 * mp.pi) / 2


def laplace(x, loc, scale):
    return -abs(x - loc) / scale - mp.log(2 * scale)


def student_t(x, loc, scale, df):
    constant = mp.loggamma((df + 1) / 2) - mp.loggamma(df / 2) - mp.log(df * mp.pi) / 2 - mp.log(scale)
    return constant - (df + 1) / 2 * mp.log1p(((x - loc) / scale) ** 2 / df)


def logistic_bin(x, loc, scale):
    half = mp.mpf(1) / (2 * LEVELS)
    above, below = (x - loc + half) / scale, (x - loc - half) / scale
    if x < half:
        return log_sigmoid(above)
    if x > 1 - half:
        return log_sigmoid(-below)
    return log_sigmoid(above) + log_sigmoid(-below) + mp.log(-mp.expm1(below - above))


def poisson(x, log_rate):
    return x * log_rate - mp.exp(log_rate) - mp.loggamma(x + 1)


def negative_binomial(x, log_mean, log_count):
    count = mp.exp(log_count)
    logit = log_mean - log_count
    choices = mp.loggamma(count + x) - mp.loggamma(x + 1) - mp.loggamma(count)
    return count * log_sigmoid(-logit) + x * log_sigmoid(logit) + choices


def log_sum_exp(terms):
    top = max(terms)
    return top + mp.log(sum(mp.exp(term - top) for term in terms))


def log_softmax(logits):
    total = log_sum_exp(logits)
    return [logit - total for logit in logits]


LOGITS = [0.0, 1e-30, 1e-4, 1e-3, 0.01, 0.2, 0.3, 1.0, 6.0, 15.0, 16.7, 20.0, 80.0, 88.0, 104.0, 1e3, 1e4]
SIGNED = [sign * logit for logit in LOGITS for sign in (1.0, -1.0)]
COUNTS = [0.0, 1.0, 7.0, 300.0, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9]


def matched_bits(dtype):
    """Single logits with both values, and rows of 784 logits whose values are the likely ones."""
    singles = [Row(torch.tensor([x]), torch.tensor([logit])) for logit in SIGNED for x in (0.0, 1.0)]
    torch.manual_seed(0)
    sure = torch.cat([torch.randn(700).clamp(min=0.5), torch.full((84,), 0.5)]) * 3e3
    return [*singles, Row(torch.ones(784), sure), Row(torch.cat([torch.zeros(1), torch.ones(783)]), sure)]


def grey_levels(dtype):
    eps = torch.finfo(dtype).eps
    values = [0.0, 1e-30, 0.2, 0.5, 0.7, 1 - eps, 1.0]
    singles = [Row(torch.tensor([x], dtype=dtype), torch.tensor([logit])) for logit in SIGNED for x in values]
    return [*singles, Row(torch.ones(784), torch.full((784,), 20.0)), Row(torch.zeros(784), torch.full((784,), -90.0))]


def reals(dtype):
    """Distances and scales over the range in which the density itself is a number of the dtype."""
    rows = []
    for scale in (1e-8, 1e-4, 0.3, 1.0, 1e4, 1e8):
        for distance in (0.0, 1e-30, 1e-6, 0.5, 3.0, 1e3, 1e7, 1e12, 1e18, 1e25, 1e30):
            for loc in (0.0, -1e3, 1e9):
                if (distance / scale) ** 2 < MAX[dtype] / 10:
                    rows.append(Row(torch.tensor([loc + distance, loc]), torch.tensor([loc, loc]), {"scale": scale}))
    return rows


def raw_scales(dtype):
    raws = (-1e4, -90.0, -20.0, -3.0, 0.0, 4.0, 30.0, 1e4)
    return [
        Row(torch.tensor([loc + distance]), torch.tensor([loc, raw]))
        for raw in raws
        for loc in (0.0, 17.0)
        for distance in (0.0, 0.1, -3.0, 1e3, 1e5)
    ]


def with_df(dtype):
    rows = raw_scales(dtype)
    return [Row(r.values, r.outputs, {"raw_df": raw}) for r in rows for raw in (-30.0, 2.0, 20.0, 1e3, 1e6)]


def stored_levels(dtype):
    levels = torch.tensor([0.0, 1.0, 17.0, 128.0, 254.0, 255.0], dtype=dtype) / LEVELS
    return [
        Row(levels[i : i + 1], torch.tensor([loc, raw]))
        for i in range(len(levels))
        for loc in (0.0, 0.1, 0.5, 0.999, 1.5, -40.0, 1e3, -1e4)
        for raw in (-90.0, -6.0, -2.0, 0.0, 10.0, 1e4)
    ]


def categories(dtype):
    spread = [torch.tensor([0.0, a, b, -a]) for a in (1e-3, 5.0, 100.0, 1e4) for b in (0.0, 4.9999, 1e4)]
    singles = [Row(torch.tensor([float(c)]), logits) for logits in spread for c in range(4)]
    torch.manual_seed(0)
    many = 9.99e3 + torch.rand(50, 4)
    return [*singles, Row(torch.arange(50.0) % 4, many.flatten())]


def near_counts(dtype):
    """Counts at their rate, a few standard deviations off, and far off; a row of 100 columns near each size."""
    rows = []
    for count in COUNTS:
        for off in (0.0, 1.0, -3.0, 30.0):
            rate = max(count + off * math.sqrt(count), 1e-30)
            rows.append(Row(torch.tensor([count]), torch.tensor([math.log(rate)])))
        rows += [Row(torch.tensor([count]), torch.tensor([log_rate])) for log_rate in (-69.0, 0.0, 12.0, 23.0)]
        columns = count + math.sqrt(count) * torch.linspace(-2, 2, 100, dtype=torch.float64)
        if count:
            rows.append(Row(columns.clamp(min=0).round(), torch.full((100,), math.log(count))))
    return rows


def dispersed_counts(dtype):
    return [Row(r.values, r.outputs, {"log_count": log}) for r in near_counts(dtype) for log in (-7.0, -1.0, 2.0, 9.0)]


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
    return likelihoods.DiscretizedLogistic(nn.Identity(), scale="network", levels=LEVELS)


def each(function):
    """The sum over values of a function of (value, output)."""
    return lambda x, out, settings: mp.fsum(function(a, b) for a, b in zip(x, out, strict=True))


def with_scale(function, floor):
    """The sum over values with locations in the first half of the outputs and raw scales in the second."""
    floor = mp.mpf(floor)

    def log_prob(x, out, settings):
        D = len(x)
        pairs = zip(x, out[:D], out[D:], strict=True)
        return mp.fsum(function(a, loc, softplus(raw) + floor, settings) for a, loc, raw in pairs)

    return log_prob


def categorical(x, out, settings):
    C = len(out) // len(x)
    return mp.fsum(log_softmax(out[C * d : C * d + C])[int(value)] for d, value in enumerate(x))


LIKELIHOODS: dict[str, list[Case]] = {
    "bernoulli": [
        Case(
            "bernoulli", lambda s: likelihoods.Bernoulli(nn.Identity()), matched_bits, each(bernoulli), "logits to ±1e4"
        )
    ],
    "continuous-bernoulli": [
        Case(
            "continuous-bernoulli",
            lambda s: likelihoods.ContinuousBernoulli(nn.Identity()),
            grey_levels,
            each(continuous_bernoulli),
            "logits to ±1e4",
        )
    ],
    "normal": [
        Case(
            "normal, fixed scale",
            normal_with(),
            reals,
            lambda x, out, s: mp.fsum(normal(a, b, s["scale"]) for a, b in zip(x, out, strict=True)),
            "scales 1e-8 to 1e8, values to 1e30",
        ),
        Case(
            "normal, scale of the network",
            normal_with(scale="network"),
            raw_scales,
            with_scale(lambda a, loc, scale, s: normal(a, loc, scale), likelihoods.SCALE_FLOOR),
            "raw scales ±1e4",
        ),
    ],
    "student-t": [
        Case(
            "student-t, fixed scale",
            lambda s: likelihoods.StudentT(nn.Identity(), **s),
            reals,
            lambda x, out, s: mp.fsum(student_t(a, b, s["scale"], mp.mpf(4)) for a, b in zip(x, out, strict=True)),
            "scales 1e-8 to 1e8, values to 1e30",
        ),
        Case(
            "student-t, scale of the network, learned df",
            make_student,
            with_df,
            with_scale(
                lambda a, loc, scale, s: student_t(a, loc, scale, softplus(s["raw_df"]) + mp.mpf(2.01)),
                likelihoods.SCALE_FLOOR,
            ),
            "raw scales ±1e4, df 2 to 1e6",
        ),
    ],
    "discretized-logistic": [
        Case(
            "discretized-logistic",
            make_logistic,
            stored_levels,
            with_scale(lambda a, loc, scale, s: logistic_bin(a, loc, scale), 1e-3),
            "locations and raw scales to ±1e4",
        )
    ],
    "categorical": [
        Case(
            "categorical",
            lambda s: likelihoods.Categorical(nn.Identity(), 4),
            categories,
            categorical,
            "logits to ±1e4",
        )
    ],
    "poisson": [
        Case(
            "poisson",
            lambda s: likelihoods.Poisson(nn.Identity()),
            near_counts,
            each(poisson),
            "counts to 1e9, rates 1e-30 to 1e10",
        )
    ],
    "negative-binomial": [
        Case(
            "negative-binomial",
            make_negative_binomial,
            dispersed_counts,
            lambda x, out, s: mp.fsum(negative_binomial(a, b, s["log_count"]) for a, b in zip(x, out, strict=True)),
            "counts to 1e9, total counts 1e-3 to 8,000",
        )
    ],
}


@dataclass(frozen=True)
class Found:
    """The worst error of a case, in units of the bar and in nats, and the row where it is."""

    share_of_bar: float
    error: float
    true: float
    gradient: float
    where: str


def bar(true) -> float:
    return max(1e-3, 1e-4 * abs(float(true)))


def evaluate(case: Case, dtype: torch.dtype, *, gradients: bool = True) -> Found:
    """The worst row of a case: its error in nats against the bar, and the worst gradient's, in units of its bar."""
    worst, worst_gradient = Found(0.0, 0.0, 0.0, 0.0, ""), 0.0
    for row in case.rows(dtype):
        part = case.make(row.settings).to(dtype)
        values, outputs = row.values.to(dtype), row.outputs.to(dtype)
        settings = {name: mp.mpf(rounded(value, dtype)) for name, value in row.settings.items()}
        exact = [list(map(mp.mpf, tensor.double().tolist())) for tensor in (values, outputs)]
        true = case.log_prob(*exact, settings)
        with torch.no_grad():
            found = part(outputs).log_prob(values)
        error = abs(mp.mpf(float(found)) - true) if found.isfinite() else mp.inf
        share = float(error) / bar(true)
        if gradients and len(outputs) <= 4:
            worst_gradient = max(worst_gradient, gradient_share(case, part, values, outputs, exact, settings))
        if share > worst.share_of_bar or not worst.where:
            where = f"x {values[:2].tolist()}, outputs {outputs[:3].tolist()}, {row.settings}, {len(values)} values"
            worst = Found(share, float(error), float(true), 0.0, where)
    return Found(worst.share_of_bar, worst.error, worst.true, worst_gradient, worst.where)


def gradient_share(case, part, values, outputs, exact, settings) -> float:
    """The worst error of the gradient with respect to the outputs, in units of 1e-4 of it or 1e-3."""
    leaf = outputs.clone().requires_grad_()
    (found,) = torch.autograd.grad(part(leaf).log_prob(values), leaf)
    shares = []
    for i, output in enumerate(exact[1]):
        others = lambda new, i=i: [*exact[1][:i], new, *exact[1][i + 1 :]]  # noqa: E731
        step = mp.mpf(10) ** -20 * max(1, abs(output))
        high, low = (case.log_prob(exact[0], others(output + sign * step), settings) for sign in (1, -1))
        true = (high - low) / (2 * step)
        if abs(true) > 3e38:
            continue
        shares.append(float(abs(mp.mpf(float(found[i])) - true) / max(1e-3, 1e-4 * abs(true))))
    return max(shares, default=0.0)


def main() -> None:
    for dtype in (torch.float32, torch.float64):
        for cases in LIKELIHOODS.values():
            for case in cases:
                found = evaluate(case, dtype)
                print(
                    f"| {case.covers} | {dtype} | {case.in_words} | {found.error:.2g} of {found.true:.6g} | "
                    f"{found.share_of_bar:.2g} | {found.gradient:.2g} | {found.where}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
