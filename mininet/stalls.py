"""Moments in which this machine itself stood still: a virtual machine is stopped now and then for others.

One watcher a core, at the highest real-time priority, sleeps two milliseconds at a time. What wakes it late is not our
load, because nothing on this machine goes before it; a promise broken in such a moment says nothing about the network.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

SLEEP_S = 0.002
NOTEWORTHY_S = 0.01
TOP_PRIORITY = 99


@dataclass(frozen=True, slots=True)
class Stall:
    """From `begin_s` to `end_s` (seconds since the epoch) a core of this machine did nothing."""

    begin_s: float
    end_s: float

    @property
    def duration_ms(self) -> float:
        """How long it stood still."""
        return (self.end_s - self.begin_s) * 1e3

    def overlaps(self, begin_s: float, end_s: float) -> bool:
        """Whether it touches a span of time."""
        return self.begin_s < end_s and begin_s < self.end_s


class StallWatch:
    """Watches every core as long as the `with` block lasts; then `stalls` holds what it saw."""

    def __init__(self) -> None:
        self.stalls: list[Stall] = []
        self._watchers: list[subprocess.Popen[str]] = []

    def __enter__(self) -> StallWatch:
        for core in sorted(os.sched_getaffinity(0)):
            command = [sys.executable, __file__, str(core), str(os.getpid())]
            self._watchers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return self

    def __exit__(self, *reason: object) -> None:
        for watcher in self._watchers:
            watcher.terminate()
            text, _ = watcher.communicate()
            for line in text.splitlines():
                begin_s, end_s = map(float, line.split())
                self.stalls.append(Stall(begin_s, end_s))
        self.stalls.sort(key=lambda stall: stall.begin_s)


def describe(stalls: Sequence[Stall]) -> str:
    """A sentence about what was seen."""
    if not stalls:
        return "no core of this machine ever stood still for 10 ms or more"
    worst = max(stall.duration_ms for stall in stalls)
    return f"cores of this machine stood still {len(stalls)} times for 10 ms or more, for {worst:.0f} ms at the worst"


def _watch(core: int, parent: int) -> None:
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(TOP_PRIORITY))
    while os.getppid() == parent:
        begin_s = time.time()
        time.sleep(SLEEP_S)
        end_s = time.time()
        if end_s - begin_s > SLEEP_S + NOTEWORTHY_S:
            print(f"{begin_s + SLEEP_S:.6f} {end_s:.6f}", flush=True)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), int(sys.argv[2]))
