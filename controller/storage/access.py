"""Transactions on a database that may be away, locked or full: each ends within a bounded time for its caller.

SQLite: persistent connections. The components of this process write to a file in turn, so that none of them finds it
locked by another; a statement waits LOCK_TIMEOUT_S for a lock of another process. A database server: for each
transaction a connection of the pool, in a thread of its own, so that a caller waits no longer than ANSWER_TIMEOUT_S for
a server that does not answer. A transaction that the server has undone because of another one is run again.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar
from weakref import WeakValueDictionary

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import StaticPool

from controller.storage.database import limit_lock_waiting
from controller.storage.turns import STUCK_S, Turns

ANSWER_TIMEOUT_S = 0.4
"""How long a caller waits for a database server. A transaction that takes longer may take effect all the same."""

ATTEMPTS = 5
"""How often a transaction is run that the server undoes because of another one."""
CONFLICT_PAUSE_S = 0.01
CONFLICTS = frozenset({"40001", "40P01"})
"""SQLSTATE of a serialization failure and of a deadlock: nothing has taken effect. Source: PostgreSQL, appendix A."""

Result = TypeVar("Result")
Work = Callable[[Connection], Result]


class DatabaseAccess:
    """Reading and writing transactions of one component. Thread-safe; writing ones take effect in order."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._access = _SqliteAccess(engine) if engine.dialect.name == "sqlite" else _ServerAccess(engine)

    def write(self, work: Work[Result]) -> Result:
        """Run `work` in a transaction and commit it.

        Raises: SQLAlchemyError; TimeoutError, after which the transaction may still take effect, but before any later.
        """
        return self._access.write(work)

    def read(self, work: Work[Result], timeout_s: float = ANSWER_TIMEOUT_S) -> Result:
        """Run a query. `timeout_s`: how long to wait for a database server.

        Raises: SQLAlchemyError, TimeoutError.
        """
        return self._access.read(work, timeout_s)

    def close(self) -> None:
        """Close the connections and the engine."""
        self._access.close()
        self._engine.dispose()


_file_turns: WeakValueDictionary[Path, Turns] = WeakValueDictionary()
"""By file: the turns of all connections of this process at writing to it."""


class _SqliteAccess:
    def __init__(self, engine: Engine) -> None:
        self._writer = engine.connect()
        # An in-memory database has a single connection, which threads must not use concurrently.
        in_memory = engine.pool.__class__ is StaticPool
        self._reader = self._writer if in_memory else engine.connect()
        self._writing = Turns() if in_memory else _turns_of(engine)
        self._reading = self._writing if in_memory else Turns()
        self._stuck_s = -1 if in_memory else STUCK_S
        for connection in {self._writer, self._reader}:
            limit_lock_waiting(connection)

    def write(self, work: Work[Result]) -> Result:
        with self._writing.take(self._stuck_s):
            try:
                with self._writer.begin():
                    return work(self._writer)
            except OperationalError as error:
                if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                    # Those who wait have waited for the same lock: they need not wait for it one after another.
                    self._writing.fail_waiting(lambda: TimeoutError("another process has locked the database"))
                raise

    def read(self, work: Work[Result], _timeout_s: float) -> Result:
        with self._reading.take():
            try:
                return work(self._reader)
            finally:
                self._reader.rollback()  # ends the read transaction

    def close(self) -> None:
        for connection in (self._reader, self._writer):
            connection.close()


def _turns_of(engine: Engine) -> Turns:
    """The turns at the file of an engine; `file:` URLs are told apart by their text."""
    return _file_turns.setdefault(Path(engine.url.database or "").resolve(), Turns())


class _ServerAccess:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing, self._reading = _CallThread("paceline-db-write"), _CallThread("paceline-db-read")

    def write(self, work: Work[Result]) -> Result:
        return self._writing.call(lambda: self._run(work), ANSWER_TIMEOUT_S)

    def read(self, work: Work[Result], timeout_s: float) -> Result:
        return self._reading.call(lambda: self._run(work), timeout_s)

    def _run(self, work: Work[Result]) -> Result:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._engine.begin() as connection:
                    return work(connection)
            except DBAPIError as error:
                if attempt == ATTEMPTS or sqlstate(error) not in CONFLICTS:
                    raise
            time.sleep(random.uniform(0, attempt * CONFLICT_PAUSE_S))
        raise AssertionError("unreachable")

    def close(self) -> None:
        self._writing.stop()
        self._reading.stop()


def sqlstate(error: DBAPIError) -> str | None:
    """The server's code of an error, from whichever driver; None: the server has sent none.

    Source: PEP 249 leaves it to drivers: `sqlstate` (psycopg), `pgcode` (psycopg2), field C of a dictionary (pg8000).
    """
    origin = error.orig
    code = getattr(origin, "sqlstate", None) or getattr(origin, "pgcode", None)
    if code is None and origin is not None and origin.args and isinstance(origin.args[0], dict):
        code = origin.args[0].get("C")
    return None if code is None else str(code)


class _CallThread:
    """Runs one call after another in a thread."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def call(self, work: Callable[[], Result], timeout_s: float) -> Result:
        """The result of a call.

        Raises: TimeoutError after `timeout_s`; the call is then dropped if it has not begun.
        """
        future: Future[Result] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001 - it is passed on by the future
                    future.set_exception(error)

        self._calls.put(run)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            raise TimeoutError(f"the database has not answered for {timeout_s:g} s") from None

    def stop(self) -> None:
        """End the thread after the calls that are queued."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
