"""How much longer work takes by the clock than of a processor: what else runs on the node, and its CPU limit.

Processor time tells layers apart, whatever the node's share is; the share then scales all cuts at once. So one round
at any cut teaches a new share for every cut.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

JUMP_SHARE = 0.20
"""A round whose parts deviate by more than this in one direction, all or all but one, may show a changed node.

All but one: the change may have come in the middle of a step.
"""
JUMP_DEVIATIONS = 3.0
"""... and does, if what was not known before does not explain it: so many standard deviations."""
LEAST_NOISE = 0.03
"""Of a round, relative: no round is believed more than this."""

DEVIATION = 0.25
"""What is unknown at first, relative."""
DRIFT = 0.02
"""How much that grows from one round to the next."""
GRAIN_S = 0.02
"""A CPU limit's quota is spent and refilled in turns: how long work took is uncertain by about a turn."""
PARTS = 4
"""A round is looked at in so many parts. Under a CPU limit a short step takes either nothing but itself or a period
more; several together show what the limit is."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """What a step took on an edge, or some steps together: seconds by the clock, and of a processor."""

    forward_s: float
    forward_cpu_s: float
    backward_s: float
    backward_cpu_s: float

    @property
    def wall_s(self) -> float:
        """What the computing took by the clock."""
        return self.forward_s + self.backward_s

    @property
    def cpu_s(self) -> float:
        """What it took of a processor."""
        return self.forward_cpu_s + self.backward_cpu_s

    @property
    def stretch(self) -> float:
        """Seconds by the clock for a second of a processor, at least those of forward.

        A CPU limit lets a process that has waited for a gradient run ahead. So an edge that waits looks faster than
        it is, would get more layers, would wait no more and be too slow. Forward is one piece of work.
        """
        forward = self.forward_s / self.forward_cpu_s if self.forward_cpu_s > 0 else 1.0
        return max(1.0, forward, self.wall_s / self.cpu_s if self.cpu_s > 0 else 1.0)

    @staticmethod
    def sum(steps: Sequence[StepTimes]) -> StepTimes:
        """All of them together."""
        return StepTimes(*(sum(values) for values in zip(
            *((one.forward_s, one.forward_cpu_s, one.backward_s, one.backward_cpu_s) for one in steps), strict=True)))


@dataclass(frozen=True, slots=True)
class CpuLimit:
    """`quota_s` of processors in every `period_s`; what is left of it at the end is lost, but for some milliseconds.

    Raises: ValueError if that is no limit.
    """

    quota_s: float
    period_s: float

    def __post_init__(self) -> None:
        if not (0 < self.quota_s < math.inf and 0 < self.period_s < math.inf):
            raise ValueError(f"a limit of {self.quota_s:g} s in every {self.period_s:g} s is none")

    @property
    def cores(self) -> float:
        """The same as a share."""
        return self.quota_s / self.period_s


def widest(first: CpuLimit | None, second: CpuLimit | None) -> CpuLimit | None:
    """What held at least at some time of a while, when these held at its two ends."""
    if first is None or second is None:
        return None
    return max(first, second, key=lambda limit: limit.cores)


class Slowdown:
    """Seconds of the wall clock for a second of a processor, from round to round: a Kalman filter of one number."""

    def __init__(self, prior: float) -> None:
        self.value = max(1.0, prior)
        self._deviation = DEVIATION * self.value

    def history(self) -> dict[str, Any]:
        """All that was learnt, as JSON; `recalled` takes it back."""
        return {"value": self.value, "deviation": self._deviation}

    @classmethod
    def recalled(cls, history: Mapping[str, Any]) -> Self:
        """One that knows what `history` told."""
        known = cls(float(history["value"]))
        known._deviation = float(history["deviation"])
        return known

    def learn(self, steps: Sequence[StepTimes]) -> None:
        """Take in the steps of one round.

        After a jump the median of the round's parts counts: the first may still have been an old one.
        """
        whole = StepTimes.sum(steps)
        if whole.cpu_s <= 0:
            return
        ratios = [StepTimes.sum(steps[part]).stretch for part in _parts(len(steps))]
        least = self.value * max(LEAST_NOISE, GRAIN_S / whole.wall_s)
        if has_jumped(self.value, self._deviation, ratios):
            self.value, self._deviation = statistics.median(ratios), least
            return
        noise = max(least, statistics.pstdev(ratios) / math.sqrt(max(1, len(ratios) - 1)))
        variance = self._deviation**2 + (DRIFT * self.value) ** 2
        gain = variance / (variance + noise**2)
        self.value += gain * (whole.stretch - self.value)
        self._deviation = math.sqrt((1 - gain) * variance)


def has_jumped(predicted: float, deviation: float, measured: Sequence[float]) -> bool:
    """Whether the parts of a round show that something has changed, and not just that it was not known yet.

    `deviation`: the standard deviation of the prediction.
    """
    if predicted <= 0 or not measured:
        return False
    ratios = [one / predicted for one in measured]
    enough = len(ratios) if len(ratios) < 3 else len(ratios) - 1
    agree = max(sum(r > 1 + JUMP_SHARE for r in ratios), sum(r < 1 - JUMP_SHARE for r in ratios)) >= enough
    explained = math.hypot(deviation, LEAST_NOISE * predicted)
    return agree and abs(statistics.median(measured) - predicted) > JUMP_DEVIATIONS * explained


def _parts(steps: int) -> list[slice]:
    """Consecutive steps, in at most PARTS parts."""
    parts = min(PARTS, steps)
    return [slice(steps * number // parts, steps * (number + 1) // parts) for number in range(parts)]
