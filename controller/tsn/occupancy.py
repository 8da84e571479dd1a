"""When a port or a queue is taken by periodic windows: bitmaps as long integers, one for each period.

A window of period q meets one of period p if they meet modulo gcd(p, q). So the bitmap for period p has every window
at its place modulo gcd(p, q), repeated; a window fits if its bits there are free, whatever the hyperperiod.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd

Frame = tuple[str, int]
"""A stream and the number of the frame in its interval."""


@dataclass(frozen=True, slots=True)
class Window:
    """Taken from `start` for `length` ticks in every period; may reach over the end of the period."""

    start: int
    length: int
    period: int

    def meets(self, other: Window) -> bool:
        """Whether the two are ever taken at the same time."""
        common = gcd(self.period, other.period)
        ahead = (other.start - self.start) % common
        return ahead < self.length or common - ahead < other.length


@dataclass(slots=True)
class Occupancy:
    """The windows of one resource."""

    windows: dict[Frame, Window] = field(default_factory=dict)
    _bitmaps: dict[int, int] = field(default_factory=dict)
    _blocked: dict[tuple[int, int, bool], int] = field(default_factory=dict)

    def add(self, key: Frame, window: Window) -> None:
        """Take a window that is free."""
        self.windows[key] = window
        self._blocked.clear()
        for period in self._bitmaps:
            self._bitmaps[period] |= _bits(window, period)

    def remove(self, key: Frame) -> None:
        """Free a window."""
        window = self.windows.pop(key)
        self._blocked.clear()
        for period in list(self._bitmaps):
            if period % window.period == 0:  # then no other window has the same bits
                self._bitmaps[period] ^= _bits(window, period)
            else:
                del self._bitmaps[period]

    def met(self, window: Window) -> list[Frame]:
        """Return the keys of the windows that this one would meet."""
        return [key for key, other in self.windows.items() if window.meets(other)]

    def blocked(self, length: int, period: int, wraps: bool) -> int:
        """Return as bits where a window of this length cannot start; not `wraps`: nor where it would cross the end."""
        key = length, period, wraps
        if key not in self._blocked:
            self._blocked[key] = self._find_blocked(length, period, wraps)
        return self._blocked[key]

    def _find_blocked(self, length: int, period: int, wraps: bool) -> int:
        taken, everything = self._bitmap(period), (1 << period) - 1
        if wraps:
            taken |= (taken & ((1 << length) - 1)) << period
        covered = 1
        while covered < length:
            step = min(covered, length - covered)
            taken |= taken >> step
            covered += step
        if not wraps:
            taken |= everything ^ ((1 << max(0, period - length + 1)) - 1)
        return taken & everything

    def _bitmap(self, period: int) -> int:
        if period not in self._bitmaps:
            bitmap = 0
            for window in self.windows.values():
                bitmap |= _bits(window, period)
            self._bitmaps[period] = bitmap
        return self._bitmaps[period]


def _bits(window: Window, period: int) -> int:
    """Return the bits of a window in the bitmap of a period."""
    common = gcd(window.period, period)
    block = (1 << min(window.length, common)) - 1
    start = window.start % common
    bits = block << start
    bits = (bits | bits >> common) & ((1 << common) - 1)
    repeated = 1
    while repeated < period // common:
        step = min(repeated, period // common - repeated)
        bits |= bits << (step * common)
        repeated += step
    return bits


def rotated(bits: int, by: int, period: int) -> int:
    """Return the bits of a period, each `by` places earlier, round the period."""
    by %= period
    return (bits >> by) | (bits & ((1 << by) - 1)) << (period - by)
