"""Waiting for a condition that cannot be awaited by an event."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], timeout_s: float = 120.0, poll_s: float = 0.01) -> None:
    """Poll a condition until it is true.

    Raises: TimeoutError after `timeout_s`.
    """
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"condition not met within {timeout_s:g} s: {condition}")
        time.sleep(poll_s)
