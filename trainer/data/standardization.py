"""Pooled statistics of all edges, the choice of a standardization for every feature, and its application.

A feature is what dimension 1 of the inputs (N, F), (N, C, T) or (N, C, H, W) counts: a variable, a sensor, a colour.
Edges send moments, never samples. The moments pool exactly, whatever the order and the pieces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

SKEWNESS_LIMIT = 1.0
"""Above this, a distribution counts as highly skewed (Bulmer 1979)."""

WEIGHT_DECAY_UNIT = 1e-4
WEIGHT_DECAY_LIMIT = 1e-2

NEGLIGIBLE = 1e-9
"""A feature that deviates less than this share of its largest value is a constant with rounding errors."""

CHUNK_SAMPLES = 2048

Method = Literal["normalize", "log-normalize", "mixed"]


@dataclass(frozen=True, slots=True)
class Moments:
    """Of each feature: `m2`, `m3` are sums of squared and cubed deviations from `mean` over `count` values."""

    count: int
    mean: tuple[float, ...]
    m2: tuple[float, ...]
    m3: tuple[float, ...]
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]

    @property
    def features(self) -> int:
        """How many features there are."""
        return len(self.mean)

    def deviation(self, feature: int) -> float:
        """The standard deviation (population) of a feature; 1 for a constant."""
        deviation = math.sqrt(self.m2[feature] / self.count)
        largest = max(abs(self.minimum[feature]), abs(self.maximum[feature]))
        return deviation if deviation > NEGLIGIBLE * largest else 1.0

    def skewness(self, feature: int) -> float:
        """Fisher's moment coefficient of a feature; 0 if all its values are equal."""
        m2 = self.m2[feature]
        return math.sqrt(self.count) * self.m3[feature] / m2**1.5 if m2 > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Statistics:
    """What an edge tells about its samples: moments of the values and of their signed logarithms."""

    plain: Moments
    logged: Moments
    class_counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Standardization:
    """What all edges do to a value v of a feature: (g(v) - mean) / deviation, g = sign(v) log(1 + |v|) or v itself.

    `method` sums up `logged`, which tells for each feature whether g is the logarithm.
    """

    method: Method
    logged: tuple[bool, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    reason: str


def summarize(inputs: Tensor, labels: Tensor, classes: int) -> Statistics:
    """The statistics of an edge's inputs (N, features, ...) and labels (N,)."""
    chunks = [chunk.to(torch.float64) for chunk in torch.split(inputs, CHUNK_SAMPLES)]
    return Statistics(
        plain=pool_all([_moments(chunk) for chunk in chunks]),
        logged=pool_all([_moments(signed_log(chunk)) for chunk in chunks]),
        class_counts=tuple(torch.bincount(labels, minlength=classes).tolist()),
    )


def signed_log(values: Tensor) -> Tensor:
    """sign(v) log(1 + |v|): the logarithm, defined for every v."""
    return values.sign() * values.abs().log1p()


def _moments(inputs: Tensor) -> Moments:
    values = inputs.transpose(0, 1).flatten(1)  # (features, values of each)
    mean = values.mean(dim=1)
    away = values - mean[:, None]
    square = away * away
    columns = mean, square.sum(dim=1), (square * away).sum(dim=1), values.amin(dim=1), values.amax(dim=1)
    return Moments(values.shape[1], *(tuple(column.tolist()) for column in columns))


def pool(first: Moments, second: Moments) -> Moments:
    """The moments of both sets of values together, exactly.

    Source: Pebay 2008 (SAND2008-6212), equations 2.1 and 2.2.
    """
    n1, n2 = first.count, second.count
    n = n1 + n2
    mean, m2, m3 = [], [], []
    for feature in range(first.features):
        gap = second.mean[feature] - first.mean[feature]
        mean.append(first.mean[feature] + gap * n2 / n)
        m2.append(first.m2[feature] + second.m2[feature] + gap**2 * n1 * n2 / n)
        m3.append(
            first.m3[feature] + second.m3[feature]
            + gap**3 * n1 * n2 * (n1 - n2) / n**2
            + 3 * gap * (n1 * second.m2[feature] - n2 * first.m2[feature]) / n
        )
    return Moments(n, tuple(mean), tuple(m2), tuple(m3), tuple(map(min, first.minimum, second.minimum)),
                   tuple(map(max, first.maximum, second.maximum)))


def pool_all(moments: Sequence[Moments]) -> Moments:
    """Pool any number of sets, of the same features."""
    return reduce(pool, moments)


@dataclass(frozen=True, slots=True)
class FeatureChoice:
    """What was decided for a feature, and the figures that decided."""

    feature: int
    logged: bool
    minimum: float
    maximum: float
    skewness: float
    skewness_logged: float


def choices(statistics: Sequence[Statistics]) -> list[FeatureChoice]:
    """For every feature: the logarithm if no value is negative, it is highly skewed, and the logarithm is less so."""
    plain, logged = _pooled(statistics)
    result = []
    for feature in range(plain.features):
        skewness, skewness_logged = plain.skewness(feature), logged.skewness(feature)
        use_log = (plain.minimum[feature] >= 0 and abs(skewness) > SKEWNESS_LIMIT
                   and abs(skewness_logged) < abs(skewness))
        result.append(FeatureChoice(feature, use_log, plain.minimum[feature], plain.maximum[feature], skewness,
                                    skewness_logged))
    return result


def choose(statistics: Sequence[Statistics]) -> Standardization:
    """Normalize every feature over all edges together, and take the logarithm first of those in `choices`."""
    use_log = tuple(one.logged for one in choices(statistics))
    plain, logged = _pooled(statistics)
    chosen = [logged if log else plain for log in use_log]
    method: Method = "mixed" if any(use_log) else "normalize"
    return Standardization(
        method="log-normalize" if all(use_log) else method,
        logged=use_log,
        mean=tuple(one.mean[feature] for feature, one in enumerate(chosen)),
        deviation=tuple(one.deviation(feature) for feature, one in enumerate(chosen)),
        reason=f"{sum(use_log)} of {len(use_log)} features are taken as logarithms: those without negative values "
        f"whose |skewness| exceeds {SKEWNESS_LIMIT:g} and is lower for the logarithm",
    )


def _pooled(statistics: Sequence[Statistics]) -> tuple[Moments, Moments]:
    return pool_all([one.plain for one in statistics]), pool_all([one.logged for one in statistics])


def choose_weight_decay(samples: int, parameters: int) -> tuple[float, str]:
    """The L2 regularization, and why: the more parameters a sample must feed, the more.

    The rule: WEIGHT_DECAY_UNIT x parameters / samples, within [WEIGHT_DECAY_UNIT, WEIGHT_DECAY_LIMIT].
    """
    decay = min(max(WEIGHT_DECAY_UNIT * parameters / samples, WEIGHT_DECAY_UNIT), WEIGHT_DECAY_LIMIT)
    return decay, (
        f"{parameters} parameters over {samples} samples x {WEIGHT_DECAY_UNIT:g}, "
        f"within {WEIGHT_DECAY_UNIT:g}..{WEIGHT_DECAY_LIMIT:g}"
    )


def apply(inputs: Tensor, how: Standardization) -> Tensor:
    """Inputs (N, features, ...) as float32, standardized in double precision: a mean may be large."""
    shape = (1, -1, *[1] * (inputs.dim() - 2))
    logged = torch.tensor(how.logged).view(shape)
    mean = torch.tensor(how.mean, dtype=torch.float64).view(shape)
    deviation = torch.tensor(how.deviation, dtype=torch.float64).view(shape)
    standardized = torch.empty(inputs.shape)
    chunks = zip(torch.split(inputs, CHUNK_SAMPLES), torch.split(standardized, CHUNK_SAMPLES), strict=True)
    for source, target in chunks:
        values = source.to(torch.float64)
        if any(how.logged):
            values = torch.where(logged, signed_log(values), values)
        target.copy_(values.sub(mean).div_(deviation))
    return standardized
