"""The records of the study of encoders: the metrics of a latent space, for one fit and as means over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

from pyro_vae.json_records import Record

T = TypeVar("T")
MeanAndError = tuple[float, float | None]  # over seeds; the error is None for one seed


@dataclass(frozen=True)
class EncoderMetrics(Record, Generic[T]):
    """The metrics of a latent space, a number or a mean with its standard error; None for one that does not exist.

    Attributes:
        reconstruction_error: squared error per value, in squared units of x.
        knn_accuracy: how often the ten nearest training codes vote for a row's label, a share.
        off_centre: distance of the codes' mean from the origin, in standard deviations.
        anisotropy: from 0, isotropic, to 1.
        area_gini: Gini's coefficient of the labels' areas, for K = 2.
        precision: the share of decoded draws that lie among reconstructions of rows.
        coverage: the share of reconstructions that have such a neighbour.
        box_precision: `precision` of draws from the codes' box.
        nearest: latent distance of a draw to the nearest code, in units of that between codes.
        path_ratio: the length of decoded straight lines over the distance of their ends, a mean over pairs.
    """

    reconstruction_error: T | None = None
    knn_accuracy: T | None = None
    off_centre: T | None = None
    anisotropy: T | None = None
    area_gini: T | None = None
    precision: T | None = None
    coverage: T | None = None
    box_precision: T | None = None
    nearest: T | None = None
    path_ratio: T | None = None


METRICS = tuple(field.name for field in fields(EncoderMetrics))


@dataclass(frozen=True)
class _OneFit(Record):
    kind: str
    num_latents: int
    seed: int
    seconds: float
    num_parameters: int | None


@dataclass(frozen=True)
class EncoderRow(EncoderMetrics[float], _OneFit):
    """One encoder with one seed: its kind, its latents, the seconds and parameters of its fit, and its metrics."""


@dataclass(frozen=True)
class _Seeds(Record):
    kind: str
    num_latents: int
    num_seeds: int


@dataclass(frozen=True)
class EncoderMeans(EncoderMetrics[MeanAndError], _Seeds):
    """A kind of encoder with a number of latents: the mean of each metric over seeds, and its standard error."""


def mean_over_seeds(rows: Sequence[EncoderRow]) -> list[EncoderMeans]:
    """One record for each kind and number of latents: mean and standard error over seeds of each of `METRICS`.

    Each seed is one fit (of networks) and one set of draws. The error is None where there is one seed.
    """
    groups: dict[tuple[str, int], list[EncoderRow]] = {}
    for row in rows:
        groups.setdefault((row.kind, row.num_latents), []).append(row)
    return [
        EncoderMeans(kind, K, len(group), **{name: _mean([row[name] for row in group]) for name in METRICS})
        for (kind, K), group in groups.items()
    ]


def _mean(found: Sequence[float | None]) -> MeanAndError | None:
    values = [value for value in found if value is not None]
    if not values:
        return None
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
