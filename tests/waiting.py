"""Waiting for what cannot be waited for otherwise; as long as a loud machine may need."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(true: Callable[[], object], timeout_s: float = 120.0, every_s: float = 0.02) -> None:
    """Until it is true; fails when it is not after all that time."""
    deadline_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {true}"
        time.sleep(every_s)
