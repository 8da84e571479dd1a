"""Logging of the process: to standard error, from a level up, with a limit on repeated lines."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
BURST = 100
PER_S = 1.0
MAX_KINDS = 1000


class RepeatLimit(logging.Filter):
    """Lets BURST lines of each kind pass, and PER_S lines in a second after that; the next one says how many it lost.

    A kind is what one statement logs: peers can cause some of them as often as they like.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, str], tuple[float, float, int]] = {}
        """Tokens left, when that was, and lines lost since the last one that passed."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line passes."""
        if getattr(record, "is_counted", False):
            return True
        record.is_counted = True
        kind, now_s = (record.name, str(record.msg)[:200]), self._clock()
        with self._lock:
            if kind not in self._kinds and len(self._kinds) >= MAX_KINDS:
                kind = ("", "")
            tokens, at_s, lost = self._kinds.get(kind, (float(BURST), now_s, 0))
            tokens = min(BURST, tokens + (now_s - at_s) * PER_S)
            passes = tokens >= 1
            self._kinds[kind] = (tokens - 1, now_s, 0) if passes else (tokens, now_s, lost + 1)
        if passes and lost:
            record.msg, record.args = f"{record.getMessage()} ({lost} such lines left out)", ()
        return passes


def configure_logging(level: str) -> None:
    """Log to standard error from this level up, whatever imported packages have configured."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RepeatLimit())
    logging.basicConfig(level=level.upper(), format=FORMAT, handlers=[handler], force=True)
