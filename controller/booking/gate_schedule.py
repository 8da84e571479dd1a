"""Periodic windows: whether one is open at a moment, and when the next one opens or closes.

A gate opens GUARD_US before its window begins and closes GRACE_US after it has ended, so that a sender who keeps his
window finds it open although controller, switch, clocks and he himself are a little late; the bounds reckon with these
(`Calibration.clock_us`). Outside, a flow goes behind everything reserved and before best effort, at its metered rate.
"""

from __future__ import annotations

from collections.abc import Iterable

from controller.domain.reservation import Placement, Window

GUARD_US = 20_000
"""Between the message that opens a gate and the first packet that must find it open."""

GRACE_US = 10_000
"""Between the end of a window and the message that closes its gate."""

MIN_PERIOD_US = 200_000
"""Shorter periods would keep switches and controller busy with gates; see docs/decisions.md for what was measured."""


def is_open(window: Window, now_us: int) -> bool:
    """Whether a window's gate is open; a window may reach over the end of its period."""
    return _since_opening_us(window, now_us) < _open_us(window)


def next_moment_us(windows: Iterable[Window], now_us: int) -> int | None:
    """The next moment after now at which a gate opens or closes; None if none ever does."""
    waits_us = [wait_us for window in windows for wait_us in _waits_us(window, now_us)]
    return now_us + min(waits_us) if waits_us else None


def windows_of(placements: Iterable[Placement]) -> tuple[Window, ...]:
    """The windows among these."""
    return tuple(placement.window for placement in placements if placement.window is not None)


def _waits_us(window: Window, now_us: int) -> tuple[int, ...]:
    open_us = _open_us(window)
    if open_us >= window.period_us:
        return ()
    since_us = _since_opening_us(window, now_us)
    until_closing_us = open_us - since_us if since_us < open_us else open_us - since_us + window.period_us
    return until_closing_us, window.period_us - since_us


def _open_us(window: Window) -> int:
    return GUARD_US + window.length_us + GRACE_US


def _since_opening_us(window: Window, now_us: int) -> int:
    return (now_us - window.offset_us + GUARD_US) % window.period_us
