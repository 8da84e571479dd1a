"""Journal of all changes to this machine, written *before* each change (write-ahead), so that they can be undone.

One JSON line per change in `/run/paceline/journal.jsonl`. Leaving the emulation undoes them in reverse order; after a
crash `start.py -c` does the same from the same journal.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

GRACE_S = 3.0
"""Time between SIGTERM and SIGKILL."""


class UndoJournal:
    """Records changes and undoes them; every undo is idempotent."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "journal.jsonl"
        directory.mkdir(parents=True, exist_ok=True)

    def record_process(self, pid: int, name: str) -> None:
        """Record a started process; undo ends it."""
        self._write({"kind": "process", "pid": pid, "started": start_time(pid), "name": name})

    def newest_process(self, name: str) -> int | None:
        """The pid recorded last under that name, whether the process still runs or not."""
        entries = [json.loads(line) for line in self.path.read_text().splitlines()] if self.exists() else []
        pids = [entry["pid"] for entry in entries if entry["kind"] == "process" and entry["name"] == name]
        return pids[-1] if pids else None

    def record_namespace(self, pid: int) -> None:
        """Record the network namespace of a process; undo ends all processes in it."""
        inode = Path(f"/proc/{pid}/ns/net").stat().st_ino
        self._write({"kind": "namespace", "inode": inode})

    def record_interface(self, name: str) -> None:
        """Record a network interface in the root namespace; undo deletes it."""
        self._write({"kind": "interface", "name": name})

    def record_cgroup(self, path: Path) -> None:
        """Record a control group directory; undo ends its processes and removes it."""
        self._write({"kind": "cgroup", "path": str(path)})

    def record_directory(self, path: Path) -> None:
        """Record a directory; undo deletes it with its content."""
        self._write({"kind": "directory", "path": str(path)})

    def record_sysctl(self, key: str, old: str) -> None:
        """Record a kernel setting and its previous value; undo restores it."""
        self._write({"kind": "sysctl", "key": key, "old": old})

    def record_scheduling(self, pid: int) -> None:
        """Record a thread's scheduling policy and priority; undo restores them."""
        policy, priority = os.sched_getscheduler(pid), os.sched_getparam(pid).sched_priority
        self._write({"kind": "scheduling", "pid": pid, "policy": policy, "priority": priority})

    def exists(self) -> bool:
        """Whether there is anything to undo."""
        return self.path.exists()

    def undo(self) -> list[str]:
        """Undo all changes, newest first; returns a sentence for each change that could not be undone."""
        if not self.exists():
            return []
        entries = [json.loads(line) for line in self.path.read_text().splitlines() if line.endswith("}")]
        failures = [failure for entry in reversed(entries) for failure in _undo(entry)]
        if not failures:
            self.path.unlink()
        return failures

    def _write(self, entry: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def start_time(pid: int) -> str | None:
    """Start time of a process in kernel ticks, which with its pid identifies it uniquely; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" and _threads(pid) <= 1 else fields[19]


def _threads(pid: int) -> int:
    """Number of threads: a process whose first thread has ended is a zombie, but the others still hold its files."""
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def end_process(pid: int, started: str | None) -> None:
    """Terminate a process, kill it after GRACE_S; does nothing if the pid has been reused by another process."""
    deadline = time.monotonic() + GRACE_S
    for number in (signal.SIGTERM, signal.SIGKILL):
        if started is None or start_time(pid) != started:
            return
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        while start_time(pid) == started and time.monotonic() < deadline:
            time.sleep(0.01)
        deadline += GRACE_S


def processes_in_namespace(inode: int) -> list[int]:
    """The pids of all processes in a network namespace."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "ns/net").stat().st_ino == inode:
                found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def _undo(entry: dict[str, Any]) -> list[str]:
    try:
        _UNDO[entry["kind"]](entry)
    except OSError as error:
        return [f"could not undo {entry}: {error}"]
    return []


def _undo_process(entry: dict[str, Any]) -> None:
    end_process(entry["pid"], entry["started"])


def _undo_namespace(entry: dict[str, Any]) -> None:
    if entry["inode"] == Path("/proc/self/ns/net").stat().st_ino:
        return
    for pid in processes_in_namespace(entry["inode"]):
        end_process(pid, start_time(pid))


def _undo_interface(entry: dict[str, Any]) -> None:
    if not Path("/sys/class/net", entry["name"]).exists():
        return
    done = subprocess.run(["ip", "link", "delete", entry["name"]], capture_output=True, text=True, check=False)
    if done.returncode and Path("/sys/class/net", entry["name"]).exists():
        raise OSError(done.stderr.strip())


def _undo_cgroup(entry: dict[str, Any]) -> None:
    path = Path(entry["path"])
    if not path.exists():
        return
    for pid in (path / "cgroup.procs").read_text().split():
        end_process(int(pid), start_time(int(pid)))
    deadline = time.monotonic() + GRACE_S
    while True:
        try:
            path.rmdir()
        except OSError:  # the kernel releases ended processes with a short delay
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _undo_directory(entry: dict[str, Any]) -> None:
    if Path(entry["path"]).exists():
        shutil.rmtree(entry["path"])


def _undo_sysctl(entry: dict[str, Any]) -> None:
    Path("/proc/sys", *entry["key"].split(".")).write_text(entry["old"])


def _undo_scheduling(entry: dict[str, Any]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.sched_setscheduler(entry["pid"], entry["policy"], os.sched_param(entry["priority"]))


_UNDO: dict[str, Callable[[dict[str, Any]], None]] = {
    "process": _undo_process,
    "namespace": _undo_namespace,
    "interface": _undo_interface,
    "cgroup": _undo_cgroup,
    "directory": _undo_directory,
    "sysctl": _undo_sysctl,
    "scheduling": _undo_scheduling,
}
