"""One writer per map and ledger: the lock of the controller that may change its reservations.

Beside an SQLite file a lock file, which the kernel unlocks when its holder ends, however it ends. On PostgreSQL an
advisory lock of a session, which a server that restarts forgets, and therefore a fencing number as well: each new
writer increments it, and every transaction of a writer requires its own. Source: Kleppmann, "Designing Data-Intensive
Applications", chapter 8 (fencing tokens).
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlsplit
from zlib import crc32

from sqlalchemy import URL, Connection, Engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from controller.errors import StartError
from controller.storage.database import open_database
from controller.storage.tables import SELECT_FENCE, WRITERS

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 1.0
EXIT_CODE = 3
_ADVISORY_CLASS = crc32(b"paceline") - 2**31


class WriterReplacedError(OSError):
    """Another controller has become the writer of this map."""


class WriterLock(Protocol):
    """Held by the one controller that writes the reservations of a map."""

    @property
    def is_lost(self) -> bool:
        """Whether another controller has become the writer; this one ends then."""

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


def acquire_writer_lock(url: str, map_name: str) -> WriterLock:
    """Become the writer of a map in the ledger with that URL.

    Raises: StartError that names the present writer, or says why the lock cannot be taken.
    """
    backend = url.partition("://")[0].partition("+")[0] if "://" in url else None
    if backend == "postgresql":
        return AdvisoryLock(url, map_name)
    if backend != "sqlite":
        open_database(url).dispose()
        known = "sqlite:////var/tmp/paceline.db or postgresql+pg8000://user@host/database"
        raise StartError(f"A ledger in {backend} cannot be kept to one writer; an example is {known}.", exit_code=2)
    file = _file_of(make_url(url))
    return NoLock() if file is None else FileLock(file, map_name)


def _file_of(url: URL) -> Path | None:
    """The file of an SQLite database; None: it is in memory."""
    name = url.database or ":memory:"
    if name.startswith("file:"):
        name = ":memory:" if url.query.get("mode") == "memory" else urlsplit(name).path
    return None if name == ":memory:" else Path(name).resolve()


def _held(ledger: object, map_name: str, holder: Holder | None) -> StartError:
    by = "" if holder is None else f": {holder}"
    sentence = f"Another controller of {map_name} uses the ledger {ledger}{by}."
    return StartError(f"{sentence} Stop it first, or give this one a ledger of its own (--ledger).", EXIT_CODE)


class NoLock:
    """Of a ledger in memory, which no other process can open."""

    is_lost = False

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
            raise _held(database, map_name, _read_holder(self._path)) from error
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


class AdvisoryLock:
    """A lock of a PostgreSQL session, and a fencing number; a thread takes it again when the session is lost."""

    def __init__(self, url: str, map_name: str) -> None:
        """Take it.

        Raises: StartError.
        """
        self.is_lost = False
        self._map_name = map_name
        self._engine: Engine = open_database(url)
        self._own_fence: int | None = None
        self._stopping = threading.Event()
        try:
            self._session = self._locked_session()
            if self._session is None:
                raise _held(self._engine.url, map_name, self._holder())
            self._own_fence = self._next_fence()
        except SQLAlchemyError as error:
            reason = str(error).splitlines()[0]
            raise StartError(f"The ledger {self._engine.url} cannot be locked: {reason}", exit_code=2) from error
        finally:
            if self._own_fence is None:
                self._engine.dispose()
        threading.Thread(target=self._keep, name="paceline-ledger-lock", daemon=True).start()

    def require_writer(self, connection: Connection) -> None:
        """Check that the fencing number is still this controller's; it then is until the transaction ends.

        Raises: WriterReplacedError.
        """
        statement = SELECT_FENCE.with_for_update(read=True)
        if connection.execute(statement, {"map": self._map_name}).scalar() != self._own_fence:
            raise WriterReplacedError(f"another controller has become the writer of {self._map_name}")

    def release(self) -> None:
        """Release the lock."""
        self._stopping.set()
        self._engine.dispose()
        if self._session is not None:
            _end(self._session)

    def _locked_session(self) -> Connection | None:
        """A session with the lock; None: another session has it."""
        session = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        numbers = {"of": _ADVISORY_CLASS, "number": crc32(self._map_name.encode()) - 2**31}
        if session.execute(text("SELECT pg_try_advisory_lock(:of, :number)"), numbers).scalar():
            return session
        session.close()
        return None

    def _holder(self) -> Holder | None:
        query = WRITERS.select().where(WRITERS.c.map == self._map_name)
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        return None if row is None else Holder(row.pid, row.host, row.since_s)

    def _next_fence(self) -> int:
        """Increment the fencing number; transactions of the writer before have ended then, or will fail."""
        holder, name = Holder.this_process(), {"map": self._map_name}
        values = {"host": holder.host[:255], "pid": holder.pid, "since_s": holder.since_s}
        with self._engine.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = 5000"))
            before: int | None = connection.execute(SELECT_FENCE.with_for_update(), name).scalar()
            fence = 1 if before is None else before + 1
            if before is None:
                connection.execute(WRITERS.insert(), {**name, **values, "fence": fence})
            else:
                connection.execute(WRITERS.update().where(WRITERS.c.map == self._map_name), {**values, "fence": fence})
        return fence

    def _keep(self) -> None:
        """Test the session, and take the lock again if the server has forgotten it and nobody else has it."""
        while not self._stopping.wait(CHECK_INTERVAL_S):
            if self._session is not None and not _works(self._session):
                self._session = None
            if self._session is None and not self._stopping.is_set():
                with suppress(SQLAlchemyError, OSError):  # the server is away; the next attempt follows
                    self._take_again()

    def _take_again(self) -> None:
        with self._engine.connect() as connection:
            fence = connection.execute(SELECT_FENCE, {"map": self._map_name}).scalar()
        if fence == self._own_fence:
            self._session = self._locked_session()
        if self._session is None:
            self.is_lost = True
            self._stopping.set()
            holder = self._holder()
            log.error("the ledger is written by another controller now: %s; this one ends", holder)
            os.kill(os.getpid(), signal.SIGTERM)


def _works(session: Connection) -> bool:
    """Whether the session still exists; if not, it is closed."""
    try:
        session.execute(text("SELECT 1"))
    except (SQLAlchemyError, OSError):
        _end(session)
        return False
    return True


def _end(session: Connection) -> None:
    with suppress(SQLAlchemyError, OSError):
        session.invalidate()
        session.close()
