"""How another process stops or pauses a run: by its process and by a file in its record."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROCESS, PAUSE = "process.json", "pause"


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
def registered(directory: Path) -> Iterator[None]:
    """Within the block this process is the one that trains in the directory."""
    path = directory / PROCESS
    path.write_text(json.dumps({"pid": os.getpid(), "started": _start_ticks(os.getpid())}) + "\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        (directory / PAUSE).unlink(missing_ok=True)


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
