"""Rows for the density tables: inputs over the range that data, networks and dtypes reach."""

import math
from dataclasses import dataclass, field

import torch
from density_oracles import LEVELS
from torch import Tensor

MAX = {torch.float32: 3e38, torch.float64: 1e308}


@dataclass(frozen=True)
class Row:
    """One row: outputs of a network (O,) or nothing, values (D,), and numbers that set the part's parameters."""

    values: Tensor
    outputs: Tensor = field(default_factory=lambda: torch.zeros(0))
    settings: dict[str, float] = field(default_factory=dict)


LOGITS = [0.0, 1e-30, 1e-4, 1e-3, 0.01, 0.2, 0.3, 1.0, 6.0, 15.0, 16.7, 20.0, 80.0, 88.0, 104.0, 1e3, 1e4]
SIGNED = [sign * logit for logit in LOGITS for sign in (1.0, -1.0)]
COUNTS = [0.0, 1.0, 7.0, 300.0, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9]


def bits(dtype):
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
    return [Row(r.values, r.outputs, {"log_count": log}) for r in near_counts(dtype) for log in (-7.0, -1.0, 2.0, 8.99)]


def positive_means(dtype):
    """Values near their mean and far from it."""
    return [
        Row(torch.tensor([math.exp(log_mean) * ratio]), torch.tensor([log_mean, raw]))
        for log_mean in (-69.0, -3.0, 0.0, 10.0, 29.0)
        for ratio in (1e-7, 0.5, 1.0, 1.001, 40.0)
        for raw in (-1e4, -3.0, 0.5, 30.0, 1e4)
    ]


def shares(dtype):
    eps = torch.finfo(dtype).eps
    return [
        Row(torch.tensor([x], dtype=dtype), torch.tensor([logit, raw]))
        for x in (1e-30, 0.01, 0.5, 0.9, 1 - eps)
        for logit in (-1e4, -20.0, -0.5, 0.0, 3.0, 90.0)
        for raw in (-1e4, -3.0, 0.5, 30.0, 1e4)
    ]


def inflated_counts(dtype):
    singles = [row for row in near_counts(dtype) if len(row.values) == 1]
    return [
        Row(r.values, torch.cat([torch.tensor([logit]), r.outputs]))
        for r in singles
        for logit in (-1e4, -20.0, 0.3, 1e4)
    ]


def latents(dtype):
    """Latents of two dimensions under priors of zero location: the second scale is one."""
    rows = []
    for scale in (1e-8, 1e-3, 1.0, 1e3, 1e8):
        for distance in (0.0, 1e-30, 1e-6, 0.7, 30.0, 1e4, 1e10, 1e18, 1e25):
            if (distance / scale) ** 2 < MAX[dtype] / 10:
                rows.append(Row(torch.tensor([distance, -0.3]), settings={"scale": scale}))
    return rows


def spread_latents(dtype):
    """Latents near and far from what a prior with seeded weights has most of."""
    torch.manual_seed(1)
    return [
        Row(spread * torch.randn(2), settings={"seed": seed}) for seed in range(4) for spread in (0.1, 1, 5, 100, 1e4)
    ]


def own_and_other_latents(outputs, num_latents):
    """Draws of a guide at seeded outputs of a network, which `outputs(spread)` gives, and other points."""

    def rows(dtype):
        torch.manual_seed(2)
        found = []
        for spread in (0.0, 1.0, 10.0, 100.0, 1e3):
            for distance in (0.0, 1e-3, 1.0, 30.0):
                out = spread * torch.randn(outputs)
                found.append(Row(out[:num_latents] + distance * torch.randn(num_latents), out))
        return found

    return rows


def noise(outputs, num_latents):
    """The noise of a guide's draws instead of the latents."""
    latents_of = own_and_other_latents(outputs, num_latents)
    return lambda dtype: [Row(row.values - row.outputs[:num_latents], row.outputs) for row in latents_of(dtype)]
