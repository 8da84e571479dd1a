"""Pooled statistics of all edges, the choice of a standardization, and its application.

Edges send moments, never images. The moments pool exactly, whatever the order.
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


@dataclass(frozen=True, slots=True)
class Moments:
    """One channel: `m2`, `m3` are sums of squared and cubed deviations from `mean` over `count` values."""

    count: int
    mean: float
    m2: float
    m3: float
    minimum: float
    maximum: float

    @property
    def deviation(self) -> float:
        """The standard deviation (population)."""
        return math.sqrt(self.m2 / self.count)

    @property
    def skewness(self) -> float:
        """Fisher's moment coefficient; 0 if all values are equal."""
        return math.sqrt(self.count) * self.m3 / self.m2**1.5 if self.m2 > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Statistics:
    """What an edge tells about its images: moments per channel, of the values and of log(1 + value)."""

    plain: tuple[Moments, ...]
    logged: tuple[Moments, ...]
    class_counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Standardization:
    """What all edges do to a pixel value v: (g(v) - mean) / deviation, g = log(1 + v) or v itself."""

    method: Literal["normalize", "log-normalize"]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    reason: str


def summarize(images: Tensor, labels: Tensor, classes: int) -> Statistics:
    """The statistics of an edge's images (N, C, H, W)."""
    values = images.to(torch.float64)
    return Statistics(
        plain=_moments(values),
        logged=_moments(values.log1p()),
        class_counts=tuple(torch.bincount(labels, minlength=classes).tolist()),
    )


def _moments(values: Tensor) -> tuple[Moments, ...]:
    channels = values.transpose(0, 1).flatten(1)  # (C, N*H*W)
    result = []
    for channel in channels:
        mean = channel.mean()
        away = channel - mean
        result.append(
            Moments(channel.numel(), mean.item(), (away**2).sum().item(), (away**3).sum().item(),
                    channel.min().item(), channel.max().item())
        )
    return tuple(result)


def pool(first: Moments, second: Moments) -> Moments:
    """The moments of both sets of values together, exactly.

    Source: Pebay 2008 (SAND2008-6212), equations 2.1 and 2.2.
    """
    n1, n2 = first.count, second.count
    n = n1 + n2
    gap = second.mean - first.mean
    m2 = first.m2 + second.m2 + gap**2 * n1 * n2 / n
    m3 = (
        first.m3 + second.m3
        + gap**3 * n1 * n2 * (n1 - n2) / n**2
        + 3 * gap * (n1 * second.m2 - n2 * first.m2) / n
    )
    return Moments(n, first.mean + gap * n2 / n, m2, m3, min(first.minimum, second.minimum),
                   max(first.maximum, second.maximum))


def pool_channels(all_moments: Sequence[tuple[Moments, ...]]) -> tuple[Moments, ...]:
    """Pool channel by channel over the edges."""
    return tuple(reduce(pool, channel) for channel in zip(*all_moments, strict=True))


def choose(statistics: Sequence[Statistics]) -> Standardization:
    """Normalize each channel; take the logarithm first if the values are highly skewed and it helps.

    The rule: every value is at least 0, the mean |skewness| over the channels exceeds SKEWNESS_LIMIT, and the
    logarithm lowers it.
    """
    plain = pool_channels([one.plain for one in statistics])
    logged = pool_channels([one.logged for one in statistics])
    skew, skew_logged = _mean_skewness(plain), _mean_skewness(logged)
    positive = min(channel.minimum for channel in plain) >= 0
    use_log = positive and skew > SKEWNESS_LIMIT and skew_logged < skew
    chosen = logged if use_log else plain
    return Standardization(
        method="log-normalize" if use_log else "normalize",
        mean=tuple(channel.mean for channel in chosen),
        deviation=tuple(channel.deviation or 1.0 for channel in chosen),
        reason=f"mean |skewness| over the channels is {skew:.2f} (of the logarithm {skew_logged:.2f}); "
        f"the logarithm is taken where it exceeds {SKEWNESS_LIMIT:g} and the logarithm lowers it",
    )


def choose_weight_decay(samples: int, parameters: int) -> tuple[float, str]:
    """The L2 regularization, and why: the more parameters a sample must feed, the more.

    The rule: WEIGHT_DECAY_UNIT x parameters / samples, within [WEIGHT_DECAY_UNIT, WEIGHT_DECAY_LIMIT].
    """
    decay = min(max(WEIGHT_DECAY_UNIT * parameters / samples, WEIGHT_DECAY_UNIT), WEIGHT_DECAY_LIMIT)
    return decay, (
        f"{parameters} parameters over {samples} samples x {WEIGHT_DECAY_UNIT:g}, "
        f"within {WEIGHT_DECAY_UNIT:g}..{WEIGHT_DECAY_LIMIT:g}"
    )


def apply(images: Tensor, how: Standardization) -> Tensor:
    """Images (N, C, H, W) as float32, standardized."""
    values = images.to(torch.float32)
    if how.method == "log-normalize":
        values = values.log1p()
    mean = torch.tensor(how.mean).view(1, -1, 1, 1)
    deviation = torch.tensor(how.deviation).view(1, -1, 1, 1)
    return (values - mean) / deviation


def _mean_skewness(channels: Sequence[Moments]) -> float:
    return sum(abs(channel.skewness) for channel in channels) / len(channels)
