"""Runs a program without access to performance counters: `without_perf_counters.py PROGRAM [ARGUMENT ...]`.

Open vSwitch's database server opens one (lib/perf-counter.c: instructions of its own code). Whenever it wakes, the
kernel starts the counter by writing a processor register, which in a virtual machine traps to the host. That took 90 to
250 ms here, during which no core of the machine ran; the server wakes every 2.5 s even when idle. Without the counter
the server works as well.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

WITHOUT_PERF_COUNTERS = (sys.executable, str(Path(__file__)))
"""Command prefix."""


def main(command: list[str]) -> None:
    """Replace this process by that program; perf_event_open fails with ENOSYS in it and its children."""
    import seccomp  # not needed by importers of WITHOUT_PERF_COUNTERS

    no_counters = seccomp.SyscallFilter(seccomp.ALLOW)
    no_counters.add_rule(seccomp.ERRNO(errno.ENOSYS), "perf_event_open")
    no_counters.load()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
