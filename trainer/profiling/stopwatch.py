"""Accumulates the wall time and CPU time of code blocks of one thread."""

from __future__ import annotations

import time


class Stopwatch:
    """`with stopwatch:` around every block; a block that raises does not count.

    Reading the CPU time is a system call, and a CPU limit suspends a process at system calls. So the wall clock is
    read before the first and after the last: otherwise most of the suspended time would fall between two blocks.
    """

    def __init__(self) -> None:
        self.wall_s = 0.0
        self.cpu_s = 0.0
        self._start = (0.0, 0.0)

    def __enter__(self) -> None:
        wall_s = time.perf_counter()
        self._start = wall_s, time.thread_time()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        cpu_s = time.thread_time()
        wall_s = time.perf_counter()
        if error is None:
            self.wall_s += wall_s - self._start[0]
            self.cpu_s += cpu_s - self._start[1]
