"""The wall clock and the monotonic clock as one pair: wall time that does not step by itself.

Between two observations time advances with the monotonic clock. A step of the wall clock (an operator's or an NTP
client's correction) takes effect when `take_step` is called, so that what depends on it can be adapted in the same
moment. Slow corrections (slewing) are followed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

STEP_S = 0.1
"""A wall clock that has moved by less against the monotonic clock is followed without further notice."""

READ_WITHIN_S = 0.0005
"""Readings of both clocks that took longer are repeated: the process may have been interrupted between them."""
READINGS = 5


@dataclass(frozen=True, slots=True)
class ClockStep:
    """The wall clock moved by `by_s` against the monotonic clock; it then showed `at_s`."""

    by_s: float
    at_s: float


class Clock:
    """Unix time, by call. Thread-safe; steps are taken by one thread."""

    def __init__(
        self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.last_step: ClockStep | None = None
        self._wall = wall
        self._monotonic = monotonic
        self._offset_s = self._base_offset_s = self._measure_s()
        """Wall clock minus monotonic clock: as followed, and as of the last step."""

    def __call__(self) -> float:
        """Return the time in seconds since the epoch."""
        return self._monotonic() + self._offset_s

    def step_s(self) -> float:
        """Return by how much the wall clock has stepped since the last step was taken; 0 if it has not."""
        offset_s = self._measure_s()
        step_s = offset_s - self._base_offset_s
        if abs(step_s) >= STEP_S:
            return step_s
        self._offset_s = offset_s
        return 0.0

    def take_step(self, step_s: float) -> ClockStep:
        """Let a step that `step_s` has returned take effect."""
        self._base_offset_s += step_s
        self._offset_s = self._base_offset_s
        self.last_step = ClockStep(step_s, self())
        return self.last_step

    def follow_alone(self) -> None:
        """Take a step of the wall clock, if there was one, where nothing depends on the time yet."""
        if step_s := self.step_s():
            self.take_step(step_s)

    def _measure_s(self) -> float:
        """Wall clock minus monotonic clock, from the closest of a few readings."""
        closest_s, offset_s = float("inf"), 0.0
        for _ in range(READINGS):
            before_s, wall_s, after_s = self._monotonic(), self._wall(), self._monotonic()
            if after_s - before_s < closest_s:
                closest_s, offset_s = after_s - before_s, wall_s - (before_s + after_s) / 2
            if closest_s <= READ_WITHIN_S:
                break
        return offset_s
