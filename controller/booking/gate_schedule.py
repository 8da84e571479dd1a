"""The gate schedule of periodic windows: whether a gate is open, and when the next one opens or closes.

A gate opens GUARD_US before its window and closes GRACE_US after it, so that a sender that keeps its window finds the
gate open in spite of latencies in controller, switch and sender and of clock offsets; the bounds account for both
(`Calibration.clock_us`). While its gate is closed, a flow has lower priority than all reserved traffic and higher than
best effort, at its metered rate.
"""

from __future__ import annotations

from collections.abc import Iterable

from controller.domain.reservation import Placement, Window

GUARD_US = 20_000
"""From the message that opens a gate to the first packet of the window."""

GRACE_US = 10_000
"""From the end of a window to the message that closes its gate."""

TOLERATED_LATE_US = 10_000
"""From the moment at which a gate should change to the confirmation by its switch: up to so much the bounds hold. An
opening gate may be as late within GUARD_US; from a gate that closes as late after GRACE_US to one that opens GUARD_US
early the gap is 40 ms shorter than that between their windows, the default of `Calibration.clock_us`.
"""

MIN_PERIOD_US = 200_000
"""Shorter periods would load switches and controller with gate changes; see docs/decisions.md for the measurement."""


def is_open(window: Window, now_us: int) -> bool:
    """Return whether a window's gate is open; a window may extend beyond the end of its period."""
    return _since_opening_us(window, now_us) < _open_time_us(window)


def next_change_us(windows: Iterable[Window], now_us: int) -> int | None:
    """Return the next time after `now_us` at which a gate opens or closes; None if all stay as they are."""
    times_us = [time_us for window in windows for time_us in _times_to_changes_us(window, now_us)]
    return now_us + min(times_us) if times_us else None


def windows_of(placements: Iterable[Placement]) -> tuple[Window, ...]:
    """Return the windows of the placements that have one."""
    return tuple(placement.window for placement in placements if placement.window is not None)


def _times_to_changes_us(window: Window, now_us: int) -> tuple[int, ...]:
    """Return the times until the gate's next closing and opening; none if it is always open."""
    open_us = _open_time_us(window)
    if open_us >= window.period_us:
        return ()
    since_opening_us = _since_opening_us(window, now_us)
    until_closing_us = (
        open_us - since_opening_us if since_opening_us < open_us else open_us - since_opening_us + window.period_us
    )
    return until_closing_us, window.period_us - since_opening_us


def _open_time_us(window: Window) -> int:
    return GUARD_US + window.length_us + GRACE_US


def _since_opening_us(window: Window, now_us: int) -> int:
    return (now_us - window.offset_us + GUARD_US) % window.period_us
