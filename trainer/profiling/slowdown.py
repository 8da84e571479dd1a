"""Slowdown of a node: wall time over CPU time, due to other load and to its CPU limit.

CPU time distinguishes layers independently of the node's share of a processor; the share then scales all cuts alike.
So one round at any cut yields the new share for every cut.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

JUMP_SHARE = 0.20
"""A round whose parts, or all but one of them, deviate in one direction by more than this share may indicate a jump.

All but one, because the change may have happened in the middle of a step.
"""
JUMP_DEVIATIONS = 3.0
"""... and does if the deviation exceeds this number of standard deviations of the prediction."""
MIN_NOISE = 0.03
"""Lower limit of the relative measurement noise of a round."""

DEVIATION = 0.25
"""Initial relative standard deviation."""
DRIFT = 0.02
"""Growth of the standard deviation per round (process noise)."""
QUOTA_GRANULARITY_S = 0.02
"""A CPU quota is consumed and refilled in slices: a measured time is uncertain by about one slice."""
PARTS = 4
"""Parts into which a round is divided. Under a CPU limit a short step takes either its own time or a whole period
more; several together show the limit."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Computing time of one step of an edge, or the sum of several: wall and CPU seconds."""

    forward_s: float
    forward_cpu_s: float
    backward_s: float
    backward_cpu_s: float

    @property
    def wall_s(self) -> float:
        """Wall time of the computation."""
        return self.forward_s + self.backward_s

    @property
    def cpu_s(self) -> float:
        """CPU time of the computation."""
        return self.forward_cpu_s + self.backward_cpu_s

    @property
    def slowdown(self) -> float:
        """Wall time over CPU time, at least that of the forward pass.

        A CPU limit lets a process that was blocked on a gradient consume its saved quota. So an edge that waits
        appears faster than it is, would be assigned more layers, and then be too slow. The forward pass does not wait.
        """
        forward = self.forward_s / self.forward_cpu_s if self.forward_cpu_s > 0 else 1.0
        return max(1.0, forward, self.wall_s / self.cpu_s if self.cpu_s > 0 else 1.0)

    @staticmethod
    def sum(steps: Sequence[StepTimes]) -> StepTimes:
        """Return the sum of the times of several steps."""
        rows = ((step.forward_s, step.forward_cpu_s, step.backward_s, step.backward_cpu_s) for step in steps)
        return StepTimes(*(sum(values) for values in zip(*rows, strict=True)))


@dataclass(frozen=True, slots=True)
class CpuLimit:
    """CPU bandwidth limit: `quota_s` of CPU time per `period_s`; unused quota expires, except some milliseconds.

    Raises: ValueError unless both are positive and finite.
    """

    quota_s: float
    period_s: float

    def __post_init__(self) -> None:
        if not (0 < self.quota_s < math.inf and 0 < self.period_s < math.inf):
            raise ValueError(f"a CPU limit of {self.quota_s:g} s per {self.period_s:g} s is not positive and finite")

    @property
    def cores(self) -> float:
        """The limit as a number of processors."""
        return self.quota_s / self.period_s


def looser_limit(first: CpuLimit | None, second: CpuLimit | None) -> CpuLimit | None:
    """Return the looser of the limits at the two ends of an interval; None if either is unlimited."""
    if first is None or second is None:
        return None
    return max(first, second, key=lambda limit: limit.cores)


class Slowdown:
    """Estimates wall time over CPU time from round to round: a scalar Kalman filter."""

    def __init__(self, prior: float) -> None:
        self.value = max(1.0, prior)
        self._deviation = DEVIATION * self.value

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values, for `from_json`."""
        return {"value": self.value, "deviation": self._deviation}

    @classmethod
    def from_json(cls, history: Mapping[str, Any]) -> Self:
        """Restore an instance from the state that `to_json` returned."""
        restored = cls(float(history["value"]))
        restored._deviation = float(history["deviation"])
        return restored

    def update(self, steps: Sequence[StepTimes]) -> None:
        """Update the estimate by the steps of one round.

        After a jump it is the median of the round's parts, because the first may have ended before the jump.
        """
        total = StepTimes.sum(steps)
        if total.cpu_s <= 0:
            return
        ratios = [StepTimes.sum(steps[part]).slowdown for part in _parts(len(steps))]
        min_noise = self.value * max(MIN_NOISE, QUOTA_GRANULARITY_S / total.wall_s)
        if has_jumped(self.value, self._deviation, ratios):
            self.value, self._deviation = statistics.median(ratios), min_noise
            return
        noise = max(min_noise, statistics.pstdev(ratios) / math.sqrt(max(1, len(ratios) - 1)))
        variance = self._deviation**2 + (DRIFT * self.value) ** 2
        gain = variance / (variance + noise**2)
        self.value += gain * (total.slowdown - self.value)
        self._deviation = math.sqrt((1 - gain) * variance)


def has_jumped(predicted: float, deviation: float, measured: Sequence[float]) -> bool:
    """Return whether the parts of a round indicate a change of the node, beyond the uncertainty of the prediction.

    `deviation`: the standard deviation of the prediction.
    """
    if predicted <= 0 or not measured:
        return False
    ratios = [value / predicted for value in measured]
    required = len(ratios) if len(ratios) < 3 else len(ratios) - 1
    agree = max(sum(r > 1 + JUMP_SHARE for r in ratios), sum(r < 1 - JUMP_SHARE for r in ratios)) >= required
    explained = math.hypot(deviation, MIN_NOISE * predicted)
    return agree and abs(statistics.median(measured) - predicted) > JUMP_DEVIATIONS * explained


def _parts(steps: int) -> list[slice]:
    """Divide consecutive steps into at most PARTS parts."""
    parts = min(PARTS, steps)
    return [slice(steps * number // parts, steps * (number + 1) // parts) for number in range(parts)]
