"""What the emulation has changed on this machine, written down *before* each change, so that it can be undone.

One JSON line per change in `/run/paceline/journal.jsonl`. Leaving the emulation undoes them in reverse order; after a
crash `start.py -c` finds the same journal and does the same.
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
"""How long a process may take to end by itself before it is killed."""


class UndoJournal:
    """Remembers changes to undo; every `undo` is safe to repeat."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "journal.jsonl"
        directory.mkdir(parents=True, exist_ok=True)

    def process(self, pid: int, what: str) -> None:
        """A process we started."""
        self._write({"kind": "process", "pid": pid, "started": start_time(pid), "what": what})

    def newest_process(self, what: str) -> int | None:
        """The pid of the process that was last written down under that name, whether it still runs or not."""
        entries = [json.loads(line) for line in self.path.read_text().splitlines()] if self.exists() else []
        pids = [entry["pid"] for entry in entries if entry["kind"] == "process" and entry["what"] == what]
        return pids[-1] if pids else None

    def namespace(self, pid: int) -> None:
        """The network namespace of a host: whoever lives in it ends with it."""
        inode = Path(f"/proc/{pid}/ns/net").stat().st_ino
        self._write({"kind": "namespace", "inode": inode})

    def interface(self, name: str) -> None:
        """A network interface in the root namespace."""
        self._write({"kind": "interface", "name": name})

    def cgroup(self, path: Path) -> None:
        """A control group directory."""
        self._write({"kind": "cgroup", "path": str(path)})

    def directory(self, path: Path) -> None:
        """A directory with everything in it."""
        self._write({"kind": "directory", "path": str(path)})

    def sysctl(self, key: str, old: str) -> None:
        """A kernel setting and the value it had."""
        self._write({"kind": "sysctl", "key": key, "old": old})

    def scheduling(self, pid: int) -> None:
        """How a thread of the kernel was scheduled."""
        policy, priority = os.sched_getscheduler(pid), os.sched_getparam(pid).sched_priority
        self._write({"kind": "scheduling", "pid": pid, "policy": policy, "priority": priority})

    def exists(self) -> bool:
        """Whether there is anything to undo."""
        return self.path.exists()

    def undo(self) -> list[str]:
        """Undo everything, newest first; returns what could not be undone, as sentences."""
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
    """When a process started, in the kernel's ticks: with its pid this names it for good. None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" and _threads(pid) <= 1 else fields[19]


def _threads(pid: int) -> int:
    """A process whose first thread has ended is a zombie, but holds its files until the others have ended too."""
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def end_process(pid: int, started: str | None) -> None:
    """Ask a process to end, kill it if it does not; nothing happens if the pid is another's by now."""
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
    """The processes that live in a network namespace."""
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
        except OSError:  # the kernel lets go of ended processes a moment later
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
