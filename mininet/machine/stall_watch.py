"""Detects stalls of this machine: a virtual machine is suspended at times by its host.

One watcher process per core, at the highest real-time priority, sleeps for two milliseconds at a time. No process on
this machine preempts it, so a late wake-up is rarely caused by our load; but it is no proof, because kernel work also
precedes it. The proof is the kernel's count of the core's timer interrupts: a running core takes one per tick whatever
runs on it; where ticks are missing, nothing ran on that core, not even the kernel.
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
LATE_WAKE_S = 0.01
TOP_PRIORITY = 99
SLEEPS_PER_READING = 2
TIMERS = "LOC:", "arch_timer"
"""Names of the core's timer in /proc/interrupts, on x86 and on Arm."""
CLOCK_MONOTONIC_COARSE = 6
"""Linux clock that advances once per tick: its resolution is the tick. Python defines no constant for it."""


@dataclass(frozen=True, slots=True)
class Stall:
    """A late wake-up: a watcher was due at `begin_s` and woke at `end_s` (seconds since the epoch).

    `stalled_s`: minimum time for which its core did not run (`least_stall_s`), proven by `interrupts`, the number of
    timer interrupts of the core within the `watched_s` before `end_s`. For comparison: `steal_s`, the time that the
    hypervisor reports as stolen (/proc/stat), and `clock_step_s`, the step of the wall clock in that time.
    """

    begin_s: float
    end_s: float
    stalled_s: float
    core: int = 0
    interrupts: int = 0
    watched_s: float = 0.0
    steal_s: float = 0.0
    clock_step_s: float = 0.0

    @property
    def duration_ms(self) -> float:
        """The delay of the wake-up."""
        return (self.end_s - self.begin_s) * 1e3

    @property
    def is_proven(self) -> bool:
        """Whether missing timer interrupts prove that the core did not run."""
        return self.stalled_s > 0


@dataclass(frozen=True, slots=True)
class CoreReading:
    """Clocks (seconds) and timer interrupts so far of one core at one instant."""

    wall_s: float
    monotonic_s: float
    interrupts: int
    steal_s: float


def least_stall_s(watched_s: float, interrupts: int, tick_s: float) -> float:
    """Minimum time within `watched_s` for which a core did not run, from its number of timer interrupts.

    On a running core, two interrupts are at most one tick apart: a busy core takes the tick, and an idle core has the
    watcher's own timer, which expires sooner.
    """
    return max(0.0, watched_s - (interrupts + 1) * max(tick_s, SLEEP_S))


def stalled_s(stalls: Sequence[Stall], begin_s: float, end_s: float) -> float:
    """Total time within [begin_s, end_s] for which at least one core is proven to have stalled."""
    spans = sorted(
        (max(begin_s, stall.end_s - stall.stalled_s), min(end_s, stall.end_s)) for stall in stalls if stall.is_proven
    )
    total_s, until_s = 0.0, begin_s
    for first_s, last_s in spans:
        total_s += max(0.0, last_s - max(first_s, until_s))
        until_s = max(until_s, last_s)
    return total_s


class StallWatch:
    """Watches every core within the `with` block; afterwards `stalls` holds the late wake-ups."""

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


def describe_stalls(stalls: Sequence[Stall]) -> str:
    """A sentence for the terminal about the stalls found."""
    proven_ms = [stall.stalled_s * 1e3 for stall in stalls if stall.is_proven]
    if not stalls:
        return "this machine did not stall for 10 ms or more"
    worst = f", the longest for at least {max(proven_ms):.0f} ms" if proven_ms else ""
    return (
        f"the watchers of this machine's cores woke 10 ms or more late {len(stalls)} times; missing timer interrupts "
        f"prove {len(proven_ms)} stalls of the machine itself{worst}"
    )


def read_core(core: int) -> CoreReading:
    """Read clocks and counters of a core; takes about 0.1 ms."""
    cores, *rows = _text("/proc/interrupts").splitlines()
    timer = next(row for row in rows if any(name in row for name in TIMERS)).split()
    columns = _text("/proc/stat").split(f"cpu{core} ", 1)[1].split("\n", 1)[0].split()
    steal_s = int(columns[7]) / os.sysconf("SC_CLK_TCK")
    return CoreReading(time.time(), time.monotonic(), int(timer[1 + cores.split().index(f"CPU{core}")]), steal_s)


def _text(path: str) -> str:
    return Path(path).read_text()


def _watch(core: int, parent: int) -> None:
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(TOP_PRIORITY))
    tick_s = time.clock_getres(CLOCK_MONOTONIC_COARSE)
    print("watching", flush=True)
    while os.getppid() == parent:
        before = read_core(core)
        for _ in range(SLEEPS_PER_READING):
            begin_s, slept_s = time.time(), time.monotonic()
            time.sleep(SLEEP_S)
            late_s = time.monotonic() - slept_s - SLEEP_S
            if late_s > LATE_WAKE_S:
                after = read_core(core)
                print(json.dumps(asdict(_stall(core, begin_s + SLEEP_S, late_s, before, after, tick_s))), flush=True)
                break


def _stall(core: int, begin_s: float, late_s: float, before: CoreReading, after: CoreReading, tick_s: float) -> Stall:
    watched_s = after.monotonic_s - before.monotonic_s
    interrupts = after.interrupts - before.interrupts
    still_s = min(late_s, least_stall_s(watched_s, interrupts, tick_s))
    step_s = after.wall_s - before.wall_s - watched_s
    end_s = begin_s + late_s
    return Stall(begin_s, end_s, still_s, core, interrupts, watched_s, after.steal_s - before.steal_s, step_s)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), int(sys.argv[2]))
