"""Run a program to which the kernel gives no performance counters: `uncounted.py PROGRAM [ARGUMENT ...]`.

Open vSwitch's database server opens one (its lib/perf-counter.c: instructions of its own code). Whenever it wakes, the
kernel sets the counter going by writing a register of the processor, and in a virtual machine the host does that.
Where the counter had rested, it took 90 to 250 ms here, during which no core of the machine ran; the server wakes every
2.5 s even when nothing happens. It does without when there is none.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

UNCOUNTED = (sys.executable, str(Path(__file__)))
"""What to put before a command."""


def main(command: list[str]) -> None:
    """Become that program; for it and all that it starts the kernel has no perf_event_open."""
    import seccomp  # whoever wants UNCOUNTED alone needs no seccomp

    no_counters = seccomp.SyscallFilter(seccomp.ALLOW)
    no_counters.add_rule(seccomp.ERRNO(errno.ENOSYS), "perf_event_open")
    no_counters.load()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
