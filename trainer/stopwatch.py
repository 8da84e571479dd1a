"""Adds up what some blocks of one thread took: by the wall clock, and of a processor."""

from __future__ import annotations

import time


class Stopwatch:
    """`with stopwatch:` around every block; a block that fails does not count."""

    def __init__(self) -> None:
        self.wall_s = 0.0
        self.cpu_s = 0.0
        self._began = (0.0, 0.0)

    def __enter__(self) -> None:
        self._began = (time.perf_counter(), time.thread_time())

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self.wall_s += time.perf_counter() - self._began[0]
            self.cpu_s += time.thread_time() - self._began[1]
