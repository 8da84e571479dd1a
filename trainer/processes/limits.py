"""How many edges this machine can run: open files, processes and memory."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

from trainer.errors import UsageError

OTHER_FILES = 256
"""Of the cloud and of this process, beside those for each edge: modules, run record, controller."""
FILES_PER_EDGE = 2
"""At most, in the cloud or in this process: a connection and one that takes its place, or a process and its log."""
TASKS_PER_EDGE = 8
"""Threads of an edge, and the cloud's threads for it."""
OTHER_TASKS = 64
MIB_PER_EDGE = 150
OTHER_MIB = 700
"""An edge of signal-cnn had up to 142 MB of its own; the cloud had 123, and the imported modules take the rest."""

CGROUP = Path("/sys/fs/cgroup")


def check(edges: int) -> None:
    """Check that this machine can run that many edges and the cloud; raises the limit of open files.

    Raises: UsageError that names the resource and how many edges it allows.
    """
    for resource_name, allowed, advice in (
        ("open files", _allowed_by(_open_files(), OTHER_FILES, FILES_PER_EDGE), "raise it with ulimit -n"),
        ("processes and threads", _allowed_by(_tasks(), OTHER_TASKS, TASKS_PER_EDGE), "raise it with ulimit -u"),
        ("free memory", _allowed_by(_free_mib(), OTHER_MIB, MIB_PER_EDGE), "free some"),
    ):
        if allowed is not None and edges > allowed:
            raise UsageError(f"{edges} edges are too many: the limit of {resource_name} of this machine allows "
                             f"{allowed}; {advice}, or run edges on other machines with paceline edge.")


def _allowed_by(limit: int | None, others: int, for_each: int) -> int | None:
    return None if limit is None else max(0, (limit - others) // for_each)


def _open_files() -> int | None:
    """Raise this process's limit of open files as far as it may; return it, None without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return None if hard == resource.RLIM_INFINITY else hard


def _tasks() -> int | None:
    """Return the smaller limit of tasks: of this user, or of the control group; None without one."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    limits = [] if soft == resource.RLIM_INFINITY or os.geteuid() == 0 else [soft]  # root's tasks are not limited
    with contextlib.suppress(OSError, ValueError):  # no control group, or "max"
        limits.append(int((CGROUP / "pids.max").read_text()))
    return min(limits, default=None)


def _free_mib() -> int | None:
    """Return the memory that processes can still take: of this machine, or of the control group if less."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
    free = [int(lines["MemAvailable"].split()[0]) // 1024]
    with contextlib.suppress(OSError, ValueError):
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        free.append((limit - used) // 2**20)
    return min(free)
