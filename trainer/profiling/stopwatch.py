"""Adds up what some blocks of one thread took: by the wall clock, and of a processor."""

from __future__ import annotations

import time


class Stopwatch:
    """`with stopwatch:` around every block; a block that fails does not count.

    Asking for the processor's time is a system call, and a CPU limit stops a process at such calls. So the wall clock
    is read before the first and after the last: else most of the waiting would fall between two blocks.
    """

    def __init__(self) -> None:
        self.wall_s = 0.0
        self.cpu_s = 0.0
        self._began = (0.0, 0.0)

    def __enter__(self) -> None:
        wall_s = time.perf_counter()
        self._began = wall_s, time.thread_time()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        cpu_s = time.thread_time()
        wall_s = time.perf_counter()
        if error is None:
            self.wall_s += wall_s - self._began[0]
            self.cpu_s += cpu_s - self._began[1]
