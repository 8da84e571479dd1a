"""The writer's lock on PostgreSQL: an advisory lock, a fencing number, and a beat by which a standby sees a frozen one.

The advisory lock belongs to a session, which ends with its process, however that ends. A server that restarts forgets
it, and a process that is frozen keeps it: therefore each new writer increments a fencing number, and every transaction
of a writer requires its own. Source: Kleppmann, "Designing Data-Intensive Applications", chapter 8 (fencing tokens).

The writer increments `beat` every BEAT_S. A standby that sees no new beat for its lease, by its own clock, ends the
sessions of the writer and takes the lock. The writer ends as soon as it sees a fencing number that is not its own.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from zlib import crc32

from sqlalchemy import Connection, Engine, bindparam, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from controller.errors import StartError
from controller.storage.access import sqlstate
from controller.storage.database import application_name, exit_code_of, open_database
from controller.storage.tables import SELECT_FENCE, WRITERS
from controller.storage.writer_lock import Holder, LedgerInUseError, WriterReplacedError

log = logging.getLogger(__name__)

BEAT_S = 0.1
POLL_S = 0.05
ENDING_S = 0.01
"""How long to wait for the end of the sessions of a writer that is replaced before the lock is tried again."""
LEASE_S = 0.7
"""Default time without a beat after which a standby takes over."""
LOCK_NOT_AVAILABLE = "55P03"
"""SQLSTATE of a lock that was not free within `lock_timeout`. Source: PostgreSQL, appendix A."""
FENCE_TIMEOUT_MS = 5000
"""How long a new writer waits for transactions of the one before."""
_ADVISORY_CLASS = crc32(b"paceline") - 2**31
_BEAT = (
    WRITERS.update()
    .where(WRITERS.c.map == bindparam("of_map"), WRITERS.c.fence == bindparam("own"))
    .values(beat=WRITERS.c.beat + 1)
)
_WITHOUT_WAITING_FOR_THE_DISK = text("SET synchronous_commit = off")
"""A beat need not survive a crash of the server, and must not be late because its disk is."""
_END_SESSIONS = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE application_name = :name AND usename = current_user AND pid <> pg_backend_pid()"
)


@dataclass(frozen=True, slots=True)
class Writer:
    """The present writer of a map: `address` is the URL of its REST API, empty if unknown."""

    holder: Holder
    address: str
    fence: int
    beat: int


class AdvisoryLock:
    """The lock of one map; `acquire` or `take_over` before use, `release` after. `is_lost`: another one has it."""

    def __init__(self, url: str, map_name: str, address: str = "") -> None:
        """Open the database. `address`: URL of this controller's REST API.

        Raises: StartError.
        """
        self.is_lost = False
        self._map_name = map_name
        self._address = address[:255]
        self._engine: Engine = open_database(url)
        self._session: Connection | None = None
        self._own_fence: int | None = None
        self._stopping = threading.Event()

    @property
    def generation(self) -> int | None:
        """The fencing number."""
        return self._own_fence

    def acquire(self) -> None:
        """Become the writer.

        Raises: StartError if there is another one, or the database cannot be used; the lock is then released.
        """
        try:
            if not self.acquire_at_start():
                writer = self.writer()
                raise LedgerInUseError(self._engine.url, self._map_name, None if writer is None else writer.holder)
        finally:
            if self._own_fence is None:
                self._engine.dispose()

    def acquire_at_start(self) -> bool:
        """Become the writer if there is none.

        Raises: StartError if the database cannot be used.
        """
        try:
            return self.try_acquire()
        except SQLAlchemyError as error:
            reason = str(error).splitlines()[0]
            sentence = f"The ledger {self._engine.url} cannot be locked: {reason}"
            raise StartError(sentence, exit_code_of(error)) from error

    def writer(self) -> Writer | None:
        """The present or last writer.

        Raises: SQLAlchemyError, OSError.
        """
        query = WRITERS.select().where(WRITERS.c.map == self._map_name)
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        return Writer(Holder(row.pid, row.host, row.since_s), row.address, row.fence, row.beat)

    def try_acquire(self) -> bool:
        """Become the writer if there is none.

        Raises: SQLAlchemyError, OSError.
        """
        session = self._locked_session()
        if session is None:
            return False
        try:
            self._own_fence = self._next_fence()
        except BaseException:
            _end(session)
            raise
        self._session = session
        log.info("writer of map=%s fence=%d", self._map_name, self._own_fence)
        threading.Thread(target=self._keep, name="paceline-ledger-lock", daemon=True).start()
        return True

    def take_over(self, writer: Writer) -> bool:
        """End the sessions of a writer that does not answer, and become the writer.

        Raises: SQLAlchemyError, OSError.
        """
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(_END_SESSIONS, {"name": application_name(writer.holder.host, writer.holder.pid)})
        return self.try_acquire()

    def require_writer(self, connection: Connection) -> None:
        """Check that the fencing number is still this controller's; it then is until the transaction ends.

        Raises: WriterReplacedError.
        """
        statement = SELECT_FENCE.with_for_update(read=True)
        fence = connection.execute(statement, {"map": self._map_name}).scalar()
        if fence is None or fence != self._own_fence:
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
            session.execute(_WITHOUT_WAITING_FOR_THE_DISK)
            return session
        session.close()
        return None

    def _next_fence(self) -> int:
        """Increment the fencing number; transactions of the writer before have ended then, or will fail.

        It is the Unix time at least: switches remember the number of another database, or of one that a backup has
        replaced, and refuse smaller ones.
        """
        holder, name = Holder.this_process(), {"map": self._map_name}
        values = {"host": holder.host[:255], "pid": holder.pid, "since_s": holder.since_s}
        values |= {"address": self._address, "beat": 0}
        with self._engine.begin() as connection:
            connection.execute(text(f"SET LOCAL lock_timeout = {FENCE_TIMEOUT_MS}"))
            before: int | None = connection.execute(SELECT_FENCE.with_for_update(), name).scalar()
            fence = max(int(time.time()), 0 if before is None else before + 1)
            if before is None:
                connection.execute(WRITERS.insert(), {**name, **values, "fence": fence})
            else:
                connection.execute(WRITERS.update().where(WRITERS.c.map == self._map_name), {**values, "fence": fence})
        return fence

    def _keep(self) -> None:
        """Beat, and take the lock again if the server has forgotten it and no other controller has it."""
        while not self._stopping.wait(BEAT_S):
            if self._session is not None:
                self._beat(self._session)
            if self._session is None and not self._stopping.is_set():
                with suppress(SQLAlchemyError, OSError):  # the server is away; the next attempt follows
                    self._take_again()

    def _beat(self, session: Connection) -> None:
        """Beat; a beat that waits too long for a transaction of this writer is left out, and costs no lock."""
        try:
            beaten = session.execute(_BEAT, {"of_map": self._map_name, "own": self._own_fence}).rowcount
        except DBAPIError as error:
            beaten = sqlstate(error) == LOCK_NOT_AVAILABLE
        except (SQLAlchemyError, OSError):
            beaten = 0
        if not beaten:
            self._session = None
            _end(session)

    def _take_again(self) -> None:
        with self._engine.connect() as connection:
            fence = connection.execute(SELECT_FENCE, {"map": self._map_name}).scalar()
        if fence == self._own_fence:
            self._session = self._locked_session()
        if self._session is None:
            self.is_lost = True
            self._stopping.set()
            writer = self.writer()
            log.error("the ledger is written by another controller now: %s; this one ends", writer and writer.holder)
            os.kill(os.getpid(), signal.SIGTERM)


class Succession:
    """Watches the writer of a map from a standby."""

    def __init__(self, lock: AdvisoryLock, lease_s: float = LEASE_S) -> None:
        self._lock = lock
        self._lease_s = lease_s
        self._stopping = threading.Event()
        self.writer: Writer | None = None
        """As last read; None also while the database is away."""

    def stop(self) -> None:
        """End `wait`."""
        self._stopping.set()

    def wait(self, on_new_writer: Callable[[Writer | None], None]) -> bool:
        """Wait until this controller has become the writer; False: `stop` was called.

        `on_new_writer`: called when another one has.

        Time during which the database cannot be read does not count: the writer cannot beat then either.
        """
        beaten_s, pause_s = math.inf, POLL_S
        while not self._stopping.wait(pause_s):
            pause_s = POLL_S
            try:
                if self._lock.try_acquire():
                    return True
                writer = self._lock.writer()
                if self.writer is None or writer is None or (writer.fence, writer.beat) != self._seen():
                    beaten_s = time.monotonic()
                elif time.monotonic() - beaten_s > self._lease_s:
                    log.warning("%s has not been alive for %g s: taking over", writer.holder, self._lease_s)
                    if self._lock.take_over(writer):
                        return True
                    pause_s = ENDING_S
                is_new = writer is not None and (self.writer is None or writer.fence != self.writer.fence)
                self.writer = writer
                if is_new:
                    on_new_writer(writer)
            except (SQLAlchemyError, OSError) as error:
                if self.writer is not None:
                    log.warning("standby: the ledger cannot be read: %s", str(error).splitlines()[0])
                self.writer = None
        return False

    def _seen(self) -> tuple[int, int] | None:
        return None if self.writer is None else (self.writer.fence, self.writer.beat)


def _end(session: Connection) -> None:
    with suppress(SQLAlchemyError, OSError):
        session.invalidate()
        session.close()
