"""Periodic windows: which are open at a moment of Unix time, and when the next one opens or closes."""

from __future__ import annotations

from controller.reservation import Window


def is_open(window: Window, now_us: int) -> bool:
    """Whether a moment lies in the window of its period; a window may reach over the end of its period."""
    return (now_us - window.offset_us) % window.period_us < window.length_us
