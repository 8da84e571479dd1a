"""How often Python looks for garbage in circles."""

from __future__ import annotations

import gc

COLLECT_AFTER_OBJECTS = 50_000


def collect_seldom() -> None:
    """What is here by now stays, and little of what comes is in circles: to look for them often is a waste."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_OBJECTS, 20, 100)
