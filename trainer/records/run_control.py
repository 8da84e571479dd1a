"""Who trains in a run directory: one process at a time, which others find, stop and pause."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from trainer.errors import DirectoryInUseError

PROCESS, PAUSE = "process.json", "pause"
ENDING_S = 20.0
"""How long the processes of a run whose starter was killed may take to end: that of a release, and a margin."""
POLL_S = 0.1

_held: dict[Path, IO[str]] = {}
"""The locked files of this process by directory; those of its parent after a fork, which shares their locks."""


@dataclass(frozen=True, slots=True)
class RunProcess:
    """The process of a run. `started`: its start time in clock ticks since boot, which tells a reused pid apart."""

    pid: int
    started: int

    @classmethod
    def of(cls, directory: Path) -> RunProcess | None:
        """Return the live process that trains in a directory; None if there is none, or it has ended."""
        try:
            stated = json.loads((directory / PROCESS).read_text())
            process = cls(int(stated["pid"]), int(stated["started"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return process if _start_ticks(process.pid) == process.started else None

    def stop(self) -> None:
        """Have the run end as after Ctrl-C: reservations are released, the record is completed."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGINT)


@contextlib.contextmanager
def registered(directory: Path, what: str = "The run in") -> Iterator[None]:
    """Within the block this process, with those it forks, is the only one that trains in the directory.

    It holds a lock (flock) on `process.json`, which the kernel frees when the last of them has ended, however it ends.
    In a process forked within such a block nothing is done. `what`: how a refusal begins.

    Raises: DirectoryInUseError if another process holds the lock.
    """
    path = (directory / PROCESS).resolve()
    if path in _held:
        yield
        return
    with _locked(directory, path, what) as file:
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "started": _start_ticks(os.getpid())}) + "\n")
        file.flush()
        _held[path] = file
        try:
            yield
        finally:
            del _held[path]
            path.unlink(missing_ok=True)
            (directory / PAUSE).unlink(missing_ok=True)


def leave() -> None:
    """Give up the locks that this forked process shares with its parent."""
    while _held:
        _held.popitem()[1].close()


def _locked(directory: Path, path: Path, what: str) -> IO[str]:
    """Open and lock the file, which its last holder may remove meanwhile."""
    deadline = time.monotonic() + ENDING_S
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, file):
                return file
            file.close()
        except OSError as error:
            file.close()
            if not isinstance(error, BlockingIOError):
                raise
            holder = RunProcess.of(directory)
            if holder is not None or time.monotonic() > deadline:
                raise DirectoryInUseError(
                    f"{what} {directory} belongs to {_told(holder)}; wait for its end, or stop it.") from error
            time.sleep(POLL_S)


def _told(holder: RunProcess | None) -> str:
    return "a process that cannot be seen from here" if holder is None else f"process {holder.pid}, which still runs"


def _is_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _start_ticks(pid: int) -> int | None:
    """The 22nd field of /proc/PID/stat (proc(5)); None if there is no such process, or only its exit status is left."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def ask_to_pause(directory: Path, pause: bool) -> None:
    """Ask the run to pause after its present round, or to go on."""
    if pause:
        (directory / PAUSE).touch()
    else:
        (directory / PAUSE).unlink(missing_ok=True)


def is_pause_asked(directory: Path) -> bool:
    """Whether the run is to pause before its next round."""
    return (directory / PAUSE).exists()
