"""The stall watch distinguishes stalls of the machine from scheduling delays; no switch uses performance counters."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

from machine.stall_watch import StallWatch
from machine.without_perf_counters import WITHOUT_PERF_COUNTERS
from tests.network.conftest import Network
from topologies import running_emulation

OPEN_A_COUNTER = """
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


def test_a_delay_by_work_of_the_same_priority_is_not_a_proven_stall() -> None:
    with StallWatch() as watch:
        subprocess.run([sys.executable, "-c", HOG], check=True)
    late = [stall for stall in watch.stalls if stall.core == 0]
    # The machine may stall as well, but not every time, and never so long that the work explains no part of it.
    assert len(late) >= HOGS // 2
    assert any(not stall.is_proven for stall in late)


def test_opening_a_counter_fails_with_enosys_without_perf_counters() -> None:
    open_counter = [sys.executable, "-c", OPEN_A_COUNTER]
    plain, uncounted = (
        int(subprocess.run([*before, *open_counter], check=True, capture_output=True).stdout)
        for before in ((), WITHOUT_PERF_COUNTERS)
    )
    assert plain in (errno.EFAULT, errno.EACCES, errno.EPERM)
    assert uncounted == errno.ENOSYS


def test_no_switch_has_a_performance_counter_open(metro: Network) -> None:  # noqa: ARG001
    """In a virtual machine starting a counter can stall all cores for 100 ms (see without_perf_counters.py)."""
    unixctl = f"--unixctl={running_emulation.DIRECTORY / 'ovs'}/".encode()
    daemons = [process for process in Path("/proc").glob("[0-9]*") if unixctl in _command_line(process)]
    assert len(daemons) == 2
    open_files = [str(fd.readlink()) for process in daemons for fd in (process / "fd").iterdir()]
    assert open_files
    assert not [target for target in open_files if "perf_event" in target]


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""
