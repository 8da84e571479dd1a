"""Per-feature standardization, chosen from the pooled moments of all edges.

A feature is an index of dimension 1 of the inputs (N, F), (N, C, T) or (N, C, H, W): a variable, a sensor, a colour.
Edges send moments, never samples. Pooling of moments is exact in any order and grouping.
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
"""Absolute skewness above which a distribution counts as highly skewed (Bulmer 1979)."""

HIGH_CLASS_SKEW = 0.25
"""`class_skew` above which a run warns."""

WEIGHT_DECAY_UNIT = 1e-4
WEIGHT_DECAY_LIMIT = 1e-2

NEGLIGIBLE = 1e-9
"""A feature whose deviation is below this share of its largest value is a constant with rounding errors."""

CHUNK_VALUES = 2**20
"""Values that are held in double precision at once, whatever the number of samples."""

Method = Literal["none", "minmax", "normalize", "log-normalize", "mixed", "unit-norm"]


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments of each feature: `m2`, `m3` are sums of squared and cubed deviations from `mean` over `count` values."""

    count: int
    mean: tuple[float, ...]
    m2: tuple[float, ...]
    m3: tuple[float, ...]
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]

    @property
    def features(self) -> int:
        """Number of features."""
        return len(self.mean)

    def deviation(self, feature: int) -> float:
        """Return the population standard deviation of a feature; 1 for a constant."""
        deviation = math.sqrt(self.m2[feature] / self.count)
        largest = max(abs(self.minimum[feature]), abs(self.maximum[feature]))
        return deviation if deviation > NEGLIGIBLE * largest else 1.0

    def skewness(self, feature: int) -> float:
        """Return Fisher's moment coefficient of skewness of a feature; 0 for a constant."""
        m2 = self.m2[feature]
        return math.sqrt(self.count) * self.m3[feature] / m2**1.5 if m2 > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of an edge's samples: moments of the values and of their signed logarithms."""

    plain: Moments
    logged: Moments
    class_counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Standardization:
    """Standardizes a value v of a feature to (g(v) - mean) / deviation, where g(v) = sign(v) log(1 + |v|) or v.

    `logged`: for each feature, whether g is the logarithm; `method` summarizes it. With "minmax" `mean` is the minimum
    and `deviation` the range. "unit-norm" divides each sample by its Euclidean norm instead, and "none" leaves values
    as they are, also whole numbers.
    """

    method: Method
    logged: tuple[bool, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    reason: str


def summarize(inputs: Tensor, labels: Tensor, classes: int) -> Statistics:
    """Return the statistics of an edge's inputs (N, features, ...) and labels: classes (N, ...), or values."""
    plain, logged = _moments_of_bytes(inputs) if inputs.dtype == torch.uint8 else _moments_of_any(inputs)
    return Statistics(
        plain=plain,
        logged=logged,
        class_counts=() if labels.dtype.is_floating_point else tuple(
            torch.bincount(labels.flatten(), minlength=classes).tolist()),
    )


def _moments_of_any(inputs: Tensor) -> tuple[Moments, Moments]:
    """Return the moments of the values (N, features, ...) and of their signed logarithms."""
    plain, logged = _MomentStream(inputs.shape[1]), _MomentStream(inputs.shape[1])
    for chunk in _chunks(inputs):
        values = chunk.transpose(0, 1).flatten(1).to(torch.float64)  # (features, values)
        plain.add(values)
        logged.add(signed_log(values))
    return plain.moments(), logged.moments()


def _moments_of_bytes(inputs: Tensor) -> tuple[Moments, Moments]:
    """Return what `_moments_of_any` returns, from how often each of the 256 values occurs: a thirtieth of the time."""
    counts = torch.stack([torch.bincount(inputs[:, feature].flatten(), minlength=256)
                          for feature in range(inputs.shape[1])]).to(torch.float64)  # (features, 256)
    values = torch.arange(256, dtype=torch.float64)
    return _moments_of_counts(counts, values), _moments_of_counts(counts, signed_log(values))


def _moments_of_counts(counts: Tensor, values: Tensor) -> Moments:
    """Return the moments of values (V) that occur so often (features, V)."""
    count = int(counts[0].sum())
    mean = counts @ values / count
    deviations = values - mean[:, None]
    m2, m3 = ((counts * deviations**power).sum(dim=1) for power in (2, 3))
    present = counts > 0
    minimum = values.where(present, math.inf).amin(dim=1)
    maximum = values.where(present, -math.inf).amax(dim=1)
    return Moments(count, *(tuple(column.tolist()) for column in (mean, m2, m3, minimum, maximum)))


def signed_log(values: Tensor) -> Tensor:
    """Return sign(v) log(1 + |v|), a logarithm defined for every v."""
    return values.sign() * values.abs().log1p()


def _chunks(inputs: Tensor) -> tuple[Tensor, ...]:
    """Divide inputs (N, ...) into parts of at most CHUNK_VALUES values, or single samples if these are larger."""
    return torch.split(inputs, max(1, CHUNK_VALUES // max(1, math.prod(inputs.shape[1:]))))


class _MomentStream:
    """Moments of each feature over values that come in chunks; only sums are kept.

    Source: Pebay 2008 (SAND2008-6212), equations 2.1 and 2.2, for all features at once (Chan, Golub & LeVeque 1983).
    """

    def __init__(self, features: int) -> None:
        self._count = 0
        self._mean, self._m2, self._m3 = (torch.zeros(features, dtype=torch.float64) for _ in range(3))
        self._minimum = torch.full((features,), math.inf, dtype=torch.float64)
        self._maximum = -self._minimum

    def add(self, values: Tensor) -> None:
        """Add values (features, values) in double precision."""
        n1, n2 = self._count, values.shape[1]
        n = self._count = n1 + n2
        mean = values.mean(dim=1)
        deviations = values - mean[:, None]
        square = deviations * deviations
        m2 = square.sum(dim=1)
        m3 = square.mul_(deviations).sum(dim=1)
        gap = mean - self._mean
        self._m3 += m3 + gap**3 * n1 * n2 * (n1 - n2) / n**2 + 3 * gap * (n1 * m2 - n2 * self._m2) / n
        self._m2 += m2 + gap**2 * n1 * n2 / n
        self._mean += gap * n2 / n
        self._minimum = torch.minimum(self._minimum, values.amin(dim=1))
        self._maximum = torch.maximum(self._maximum, values.amax(dim=1))

    def moments(self) -> Moments:
        """Return the moments of all values so far."""
        columns = self._mean, self._m2, self._m3, self._minimum, self._maximum
        return Moments(self._count, *(tuple(column.tolist()) for column in columns))


def pool(first: Moments, second: Moments) -> Moments:
    """Return the moments of two sets of values together, exactly.

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
    """Pool the moments of any number of sets of values of the same features."""
    return reduce(pool, moments)


@dataclass(frozen=True, slots=True)
class FeatureChoice:
    """The transformation chosen for a feature, and the figures it was chosen by."""

    feature: int
    logged: bool
    minimum: float
    maximum: float
    skewness: float
    skewness_logged: float


def feature_choices(statistics: Sequence[Statistics]) -> list[FeatureChoice]:
    """Choose the logarithm for each feature without negative values that is highly skewed and less so in logarithms."""
    plain, logged = _pooled(statistics)
    result = []
    for feature in range(plain.features):
        skewness, skewness_logged = plain.skewness(feature), logged.skewness(feature)
        use_log = (plain.minimum[feature] >= 0 and abs(skewness) > SKEWNESS_LIMIT
                   and abs(skewness_logged) < abs(skewness))
        result.append(FeatureChoice(feature, use_log, plain.minimum[feature], plain.maximum[feature], skewness,
                                    skewness_logged))
    return result


def choose_standardization(
    statistics: Sequence[Statistics], wanted: str = "auto", integers: bool = False
) -> Standardization:
    """Choose the standardization of every feature over all edges; logarithms as in `feature_choices`.

    `wanted`: "auto", or a method of the option --standardization. `integers`: the inputs are whole numbers that the
    model takes as they are.
    """
    plain, logged = _pooled(statistics)
    features = plain.features
    if wanted == "none" or (wanted == "auto" and integers):
        why = ("the inputs are whole numbers, which the model takes as they are" if integers and wanted == "auto"
               else "the inputs reach the model as they are, as configured")
        return Standardization("none", (False,) * features, (0.0,) * features, (1.0,) * features, why)
    if wanted == "unit-norm":
        return Standardization("unit-norm", (False,) * features, (0.0,) * features, (1.0,) * features,
                               "each sample is divided by its Euclidean norm, as configured")
    if wanted == "minmax":
        ranges = (largest - least for least, largest in zip(plain.minimum, plain.maximum, strict=True))
        return Standardization("minmax", (False,) * features, plain.minimum, tuple(width or 1.0 for width in ranges),
                               "each feature is scaled to 0..1 by its minimum and maximum, as configured")
    if wanted in ("zscore", "log"):
        use_log = (wanted == "log",) * features
    else:
        use_log = tuple(choice.logged for choice in feature_choices(statistics))
    moments = [logged if log else plain for log in use_log]
    method: Method = "mixed" if any(use_log) else "normalize"
    return Standardization(
        method="log-normalize" if all(use_log) else method,
        logged=use_log,
        mean=tuple(source.mean[feature] for feature, source in enumerate(moments)),
        deviation=tuple(source.deviation(feature) for feature, source in enumerate(moments)),
        reason=f"each feature is scaled to mean 0 and deviation 1; {_logged_features(use_log, wanted)}",
    )


def _logged_features(use_log: tuple[bool, ...], wanted: str) -> str:
    if wanted != "auto":
        return "all as logarithms, as configured" if any(use_log) else "none as a logarithm, as configured"
    if not any(use_log):
        return "none is so skewed that its logarithm is taken"
    return (f"{sum(use_log)} of {len(use_log)} as logarithms: those without negative values whose |skewness| exceeds "
            f"{SKEWNESS_LIMIT:g} and is lower for the logarithm")


def _unit_norm(inputs: Tensor) -> Tensor:
    values = inputs.to(torch.float64)
    norms = torch.linalg.vector_norm(values.flatten(1), dim=1).view(-1, *[1] * (inputs.dim() - 1))
    return (values / torch.where(norms > 0, norms, 1.0)).to(torch.float32)


def _pooled(statistics: Sequence[Statistics]) -> tuple[Moments, Moments]:
    return pool_all([edge.plain for edge in statistics]), pool_all([edge.logged for edge in statistics])


def class_skew(counts: Sequence[Sequence[int]]) -> float:
    """Return the share of samples whose class would have to change for every edge to have the classes of all.

    `counts`: samples of each class, by edge. 0 if the edges have the same shares, or no counts are known.
    Source: Zhao et al. 2018, "Federated learning with non-IID data", section 3: the distance between the class
    distributions bounds how far the edges' models drift apart.
    """
    classes = max(map(len, counts), default=0)
    rows = [[*row, *[0] * (classes - len(row))] for row in counts]
    total = sum(map(sum, rows))
    if not total:
        return 0.0
    pooled = [sum(column) / total for column in zip(*rows, strict=True)]
    moved: float = sum(abs(count - sum(row) * share) / 2 for row in rows
                       for count, share in zip(row, pooled, strict=True))
    return moved / total


def choose_weight_decay(samples: int, parameters: int) -> tuple[float, str]:
    """Return the L2 regularization and the reason; it grows with the parameters per sample.

    WEIGHT_DECAY_UNIT x parameters / samples, within [WEIGHT_DECAY_UNIT, WEIGHT_DECAY_LIMIT].
    """
    decay = min(max(WEIGHT_DECAY_UNIT * parameters / samples, WEIGHT_DECAY_UNIT), WEIGHT_DECAY_LIMIT)
    return decay, (
        f"{parameters} parameters over {samples} samples x {WEIGHT_DECAY_UNIT:g}, "
        f"within {WEIGHT_DECAY_UNIT:g}..{WEIGHT_DECAY_LIMIT:g}"
    )


def standardize(inputs: Tensor, standardization: Standardization) -> Tensor:
    """Return inputs (N, features, ...) as float32, standardized in double precision because a mean may be large.

    With "none" whole numbers stay whole, except those of images (uint8).
    """
    if standardization.method == "none":
        return inputs if inputs.dtype == torch.int64 else inputs.to(torch.float32)
    if standardization.method == "unit-norm":
        return torch.cat([_unit_norm(chunk) for chunk in _chunks(inputs)])
    shape = (1, -1, *[1] * (inputs.dim() - 2))
    logged = torch.tensor(standardization.logged).view(shape)
    mean = torch.tensor(standardization.mean, dtype=torch.float64).view(shape)
    deviation = torch.tensor(standardization.deviation, dtype=torch.float64).view(shape)
    standardized = torch.empty(inputs.shape)
    for source, target in zip(_chunks(inputs), _chunks(standardized), strict=True):
        values = source.to(torch.float64)
        if any(standardization.logged):
            values = torch.where(logged, signed_log(values), values)
        target.copy_(values.sub(mean).div_(deviation))
    return standardized
