"""Moments in which this machine itself stood still: a virtual machine is stopped now and then by its host.

One watcher a core, at the highest real-time priority, sleeps two milliseconds at a time. What wakes it late is seldom
our load, because no process on this machine goes before it. But a late wake-up alone proves nothing: the kernel's own
work goes before it too. The proof is in the kernel's count of the core's timer interrupts. A core that works takes one
every tick, whatever works on it; where ticks are missing, nothing ran there, not even the kernel.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SLEEP_S = 0.002
NOTEWORTHY_S = 0.01
TOP_PRIORITY = 99
SLEEPS_A_READING = 2
TIMERS = "LOC:", "arch_timer"
"""What the core's timer is called in /proc/interrupts, on x86 and on Arm."""
CLOCK_MONOTONIC_COARSE = 6
"""Linux's clock that moves once a tick: its resolution is the tick. Python has no name for it."""


@dataclass(frozen=True, slots=True)
class Stall:
    """A watcher was due at `begin_s` and woke at `end_s` (seconds since the epoch).

    `still_s`: for how long at least its core did nothing at all meanwhile (`least_still_s`). What it is proven by:
    `interrupts`, those of the core's timer within the `watched_s` up to the end. Beside it, `steal_s`: as much the host
    admits to have taken (/proc/stat), and `clock_step_s`: as far the wall clock was put forward meanwhile.
    """

    begin_s: float
    end_s: float
    still_s: float
    core: int = 0
    interrupts: int = 0
    watched_s: float = 0.0
    steal_s: float = 0.0
    clock_step_s: float = 0.0

    @property
    def duration_ms(self) -> float:
        """How late the watcher woke."""
        return (self.end_s - self.begin_s) * 1e3

    @property
    def proven(self) -> bool:
        """Whether the machine itself stood still, by the kernel's own count."""
        return self.still_s > 0


@dataclass(frozen=True, slots=True)
class Reading:
    """What clocks and kernel say of one core at one moment: seconds, and the timer interrupts it has taken so far."""

    wall_s: float
    monotonic_s: float
    interrupts: int
    steal_s: float


def least_still_s(watched_s: float, interrupts: int, tick_s: float) -> float:
    """For how long at least a core was still within a span of time, from the timer interrupts that it took.

    While it runs, no more than a tick goes by from one to the next: a core that works takes the tick itself, and one
    that sleeps has the watcher's own timer, which is sooner.
    """
    return max(0.0, watched_s - (interrupts + 1) * max(tick_s, SLEEP_S))


def held_up_s(stalls: Sequence[Stall], begin_s: float, end_s: float) -> float:
    """For how long, within a span of time, some core of the machine is proven to have stood still."""
    spans = sorted((max(begin_s, one.end_s - one.still_s), min(end_s, one.end_s)) for one in stalls if one.proven)
    total_s, until_s = 0.0, begin_s
    for first_s, last_s in spans:
        total_s += max(0.0, last_s - max(first_s, until_s))
        until_s = max(until_s, last_s)
    return total_s


class StallWatch:
    """Watches every core as long as the `with` block lasts; then `stalls` holds what it saw."""

    def __init__(self) -> None:
        self.stalls: list[Stall] = []
        self._watchers: list[subprocess.Popen[str]] = []

    def __enter__(self) -> StallWatch:
        for core in sorted(os.sched_getaffinity(0)):
            command = [sys.executable, __file__, str(core), str(os.getpid())]
            watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            self._watchers.append(watcher)
        for watcher in self._watchers:
            assert watcher.stdout is not None
            if not watcher.stdout.readline():
                raise RuntimeError(f"{watcher.args!r} did not start")
        return self

    def __exit__(self, *reason: object) -> None:
        for watcher in self._watchers:
            watcher.terminate()
            text, _ = watcher.communicate()
            self.stalls += [Stall(**json.loads(line)) for line in text.splitlines()]
        self.stalls.sort(key=lambda stall: stall.begin_s)


def describe(stalls: Sequence[Stall]) -> str:
    """A sentence about what was seen."""
    proven_ms = [stall.still_s * 1e3 for stall in stalls if stall.proven]
    if not stalls:
        return "no core of this machine ever stood still for 10 ms or more"
    worst = f", for {max(proven_ms):.0f} ms or more at the worst" if proven_ms else ""
    return (
        f"watchers of this machine's cores woke 10 ms late or more {len(stalls)} times; proven by missing timer "
        f"interrupts, a core stood still {len(proven_ms)} times{worst}"
    )


def read(core: int) -> Reading:
    """Everything at this moment; some 0.1 ms of work."""
    cores, *rows = _text("/proc/interrupts").splitlines()
    timer = next(row for row in rows if any(name in row for name in TIMERS)).split()
    columns = _text("/proc/stat").split(f"cpu{core} ", 1)[1].split("\n", 1)[0].split()
    steal_s = int(columns[7]) / os.sysconf("SC_CLK_TCK")
    return Reading(time.time(), time.monotonic(), int(timer[1 + cores.split().index(f"CPU{core}")]), steal_s)


def _text(path: str) -> str:
    return Path(path).read_text()


def _watch(core: int, parent: int) -> None:
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(TOP_PRIORITY))
    tick_s = time.clock_getres(CLOCK_MONOTONIC_COARSE)
    print("watching", flush=True)
    while os.getppid() == parent:
        before = read(core)
        for _ in range(SLEEPS_A_READING):
            begin_s, slept_s = time.time(), time.monotonic()
            time.sleep(SLEEP_S)
            late_s = time.monotonic() - slept_s - SLEEP_S
            if late_s > NOTEWORTHY_S:
                after = read(core)
                print(json.dumps(asdict(_stall(core, begin_s + SLEEP_S, late_s, before, after, tick_s))), flush=True)
                break


def _stall(core: int, begin_s: float, late_s: float, before: Reading, after: Reading, tick_s: float) -> Stall:
    watched_s = after.monotonic_s - before.monotonic_s
    interrupts = after.interrupts - before.interrupts
    still_s = min(late_s, least_still_s(watched_s, interrupts, tick_s))
    step_s = after.wall_s - before.wall_s - watched_s
    end_s = begin_s + late_s
    return Stall(begin_s, end_s, still_s, core, interrupts, watched_s, after.steal_s - before.steal_s, step_s)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), int(sys.argv[2]))
