"""One writer per map and ledger: the lock of the controller that may change its reservations.

Beside an SQLite file a lock file, which the kernel unlocks when its holder ends, however it ends. On PostgreSQL see
controller.storage.advisory_lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlsplit

from sqlalchemy import URL, Connection
from sqlalchemy.engine import make_url

from controller.errors import StartError
from controller.storage.database import open_database

EXIT_CODE = 3


class WriterReplacedError(OSError):
    """Another controller has become the writer of this map."""


class WriterLock(Protocol):
    """Held by the one controller that writes the reservations of a map."""

    @property
    def is_lost(self) -> bool:
        """Whether another controller has become the writer; this one ends then."""

    @property
    def generation(self) -> int | None:
        """A number that grows with every new writer; None: there cannot be another one while this one runs."""

    def require_writer(self, connection: Connection) -> None:
        """Check, in a writing transaction, that no other controller has become the writer.

        Raises: WriterReplacedError.
        """

    def release(self) -> None:
        """Release the lock."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a lock, since when (Unix time)."""

    pid: int
    host: str
    since_s: float

    @staticmethod
    def this_process() -> Holder:
        """The present process, from now on."""
        return Holder(os.getpid(), platform.node(), time.time())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {datetime.fromtimestamp(self.since_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


def acquire_writer_lock(url: str, map_name: str, address: str = "") -> WriterLock:
    """Become the writer of a map in the ledger with that URL.

    `address`: URL of the REST API, to which a standby sends clients.

    Raises: StartError that names the present writer, or says why the lock cannot be taken.
    """
    backend = backend_of(url)
    if backend == "postgresql":
        from controller.storage.advisory_lock import AdvisoryLock

        lock = AdvisoryLock(url, map_name, address)
        lock.acquire()
        return lock
    if backend != "sqlite":
        open_database(url).dispose()
        known = "sqlite:////var/tmp/paceline.db or postgresql+pg8000://user@host/database"
        raise StartError(f"A ledger in {backend} cannot be kept to one writer; an example is {known}.", exit_code=2)
    file = _file_of(make_url(url))
    return NoLock() if file is None else FileLock(file, map_name)


def backend_of(url: str) -> str | None:
    """The kind of database of a URL, such as postgresql; None: it is no URL."""
    return url.partition("://")[0].partition("+")[0] if "://" in url else None


def _file_of(url: URL) -> Path | None:
    """The file of an SQLite database; None: it is in memory."""
    name = url.database or ":memory:"
    if name.startswith("file:"):
        name = ":memory:" if url.query.get("mode") == "memory" else urlsplit(name).path
    return None if name == ":memory:" else Path(name).resolve()


class LedgerInUseError(StartError):
    """Another controller of the map uses the ledger; `by`: which one, as the end of a sentence."""

    def __init__(self, ledger: object, map_name: str, holder: Holder | None) -> None:
        self.by = "" if holder is None else f": {holder}"
        sentence = f"Another controller of {map_name} uses the ledger {ledger}{self.by}."
        super().__init__(f"{sentence} Stop it first, or give this one a ledger of its own (--ledger).", EXIT_CODE)


class NoLock:
    """Of a ledger in memory, which no other process can open."""

    is_lost = False
    generation: int | None = None

    def require_writer(self, connection: Connection) -> None:
        """Allow every transaction."""

    def release(self) -> None:
        """Release nothing."""


class FileLock(NoLock):
    """A locked file beside an SQLite database, with the holder in it."""

    def __init__(self, database: Path, map_name: str) -> None:
        """Lock it.

        Raises: StartError.
        """
        self._path = database.with_name(f"{database.name}.{quote(map_name, safe='')}.lock")
        try:
            self._fd = self._open()
        except BlockingIOError as error:
            raise LedgerInUseError(database, map_name, _read_holder(self._path)) from error
        except OSError as error:
            raise StartError(f"The ledger cannot be locked: {self._path}: {error.strerror}.", exit_code=2) from error
        holder = Holder.this_process()
        os.truncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps({"pid": holder.pid, "host": holder.host, "since_s": holder.since_s}).encode(), 0)

    def _open(self) -> int:
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with suppress(FileNotFoundError):
                    if os.fstat(fd).st_ino == self._path.stat().st_ino:
                        return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # the holder before has removed it meanwhile

    def release(self) -> None:
        """Remove the file and unlock it; further calls have no effect."""
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


def _read_holder(path: Path) -> Holder | None:
    try:
        facts: Mapping[str, float | str] = json.loads(path.read_text())
        return Holder(int(facts["pid"]), str(facts["host"]), float(facts["since_s"]))
    except (OSError, ValueError, KeyError, TypeError):  # its holder is about to write it
        return None
