"""What wakes a watcher late is told apart: the machine itself, or work that went before it; what stopped it is gone."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

from machine.stall_watch import StallWatch
from machine.without_perf_counters import WITHOUT_PERF_COUNTERS
from tests.network.conftest import Network
from topologies import running_emulation

ASK_FOR_A_COUNTER = """
import ctypes, seccomp
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall(seccomp.resolve_syscall(seccomp.Arch(), "perf_event_open"), None, 0, -1, -1, 0)
print(ctypes.get_errno())
"""

HOGS = 10
HOG = f"""
import os, time
os.sched_setaffinity(0, {{0}})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
for _ in range({HOGS}):
    end = time.monotonic() + 0.04
    while time.monotonic() < end:
        pass
    time.sleep(0.05)
"""


def test_work_as_urgent_as_the_watcher_delays_it_and_is_not_taken_for_a_standstill_of_the_machine() -> None:
    with StallWatch() as watch:
        subprocess.run([sys.executable, "-c", HOG], check=True)
    late = [stall for stall in watch.stalls if stall.core == 0]
    # The machine may stand still as well, but not each time, and never so long that the work explains none of it.
    assert len(late) >= HOGS // 2
    assert any(not stall.is_proven for stall in late)


def test_a_program_without_counters_is_told_that_there_are_none() -> None:
    ask = [sys.executable, "-c", ASK_FOR_A_COUNTER]
    plain, uncounted = (
        int(subprocess.run([*before, *ask], check=True, capture_output=True).stdout)
        for before in ((), WITHOUT_PERF_COUNTERS)
    )
    assert plain in (errno.EFAULT, errno.EACCES, errno.EPERM)
    assert uncounted == errno.ENOSYS


def test_no_switch_has_a_counter_that_would_stop_the_machine(metro: Network) -> None:  # noqa: ARG001
    """In a virtual machine setting one going can stop all cores for 100 ms (see without_perf_counters.py)."""
    ours = f"--unixctl={running_emulation.DIRECTORY / 'ovs'}/".encode()
    daemons = [each for each in Path("/proc").glob("[0-9]*") if ours in _command_line(each)]
    assert len(daemons) == 2
    held = [str(fd.readlink()) for each in daemons for fd in (each / "fd").iterdir()]
    assert held
    assert not [what for what in held if "perf_event" in what]


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""
