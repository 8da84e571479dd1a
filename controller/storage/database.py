"""Opens the database of a URL; shared by the ledger, the tokens and the audit log."""

from __future__ import annotations

import logging
import math
import os
import platform
import re
import sqlite3
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DisconnectionError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

from controller.errors import StartError
from controller.storage.schema import upgrade

EXIT_USAGE, EXIT_NETWORK = 2, 3
"""Of a StartError."""
LOCK_TIMEOUT_S = 0.3
"""How long a statement of the running controller waits for a lock that another connection holds."""
IDLE_S = 0.2
"""A connection to a database server that was not used for longer is tested before use."""

logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # tracebacks of connections that are closed as lost

_LIBPQ: Mapping[str, object] = {
    "connect_timeout": 3,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}
CONNECT_ARGUMENTS: Mapping[str, Mapping[str, object]] = {
    "psycopg": _LIBPQ,
    "psycopg2": _LIBPQ,
    "pg8000": {"timeout": 5},
}
"""By driver: gives up a server that does not answer, so that its connections are replaced."""


def open_database(url: str) -> Engine:
    """The engine for a URL, after migrating its tables to this version of the controller.

    Raises: StartError if the URL is wrong or the database cannot be opened.
    """
    try:
        engine = engine_of(url)
        try:
            with engine.begin() as connection:
                upgrade(connection)
        except BaseException:
            engine.dispose()
            raise
    except (SQLAlchemyError, CommandError, ImportError, ValueError, OSError) as error:
        reason = _missing_driver(error) or without_passwords(str(error).splitlines()[0])
        exit_code = exit_code_of(error)
        example = " An example is sqlite:////var/tmp/paceline.db." if exit_code == EXIT_USAGE else ""
        sentence = f"The ledger {without_passwords(url)} cannot be opened: {reason.rstrip('.')}.{example}"
        raise StartError(sentence, exit_code) from error
    return engine


def exit_code_of(error: Exception) -> int:
    """Exit code of a start that failed on a database: 3 if its server is away or busy, which may pass; else 2.

    A connection that a server refuses, for a wrong password or database, cannot be told apart from one that it refuses
    while it starts.
    """
    passes = isinstance(error, OperationalError | InterfaceError) and not isinstance(error.orig, sqlite3.Error)
    return EXIT_NETWORK if passes else EXIT_USAGE


def _missing_driver(error: Exception) -> str | None:
    """What to do about a driver that is not installed; None if that is not the reason."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    if (error.name or "").startswith("psycopg"):
        return "the driver of PostgreSQL is not installed; pip install 'paceline[postgresql]'"
    return f"the Python module {error.name} is not installed; a ledger is on SQLite or PostgreSQL"


def without_passwords(text: str) -> str:
    """The text with *** for every password in a URL, also in one that cannot be parsed."""
    text = re.sub(r"(//[^:/?#\s]*):\S*@", r"\1:***@", text)
    return re.sub(r"((?:password|passwd|sslpassword)=)[^&\s]*", r"\1***", text, flags=re.IGNORECASE)


def _create(path: str) -> None:
    """Create the file of an SQLite database for its owner only.

    One that exists is never opened here: closing it would drop the locks of all connections of this process, and the
    next program to close it would delete the log in use. Source: https://sqlite.org/howtocorrupt.html §2.2.
    """
    with suppress(OSError):  # it exists; or a directory that is missing, which shows when it is opened
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _protect(path: str, connection: Any) -> None:
    """Take the rights of others from the files of a database; of a file that SQLite does not read, nothing is changed.

    SQLite gives its log files the rights of the database.
    """
    connection.execute("PRAGMA schema_version")
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with suppress(OSError):  # a file of another user; one that is not there
            mode = os.stat(name).st_mode  # noqa: PTH116 - a name as SQLite gets it
            if stat.S_ISREG(mode) and mode & 0o077:
                os.chmod(name, mode & 0o700)  # noqa: PTH101


def engine_of(url: str) -> Engine:
    """An engine whose connections any thread may use; `sqlite://` is one in-memory database per engine.

    Raises: SQLAlchemyError or ImportError if the URL is wrong.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        arguments = CONNECT_ARGUMENTS.get(parsed.get_driver_name(), {})
        if parsed.get_backend_name() == "postgresql":
            arguments = {**arguments, "application_name": application_name(platform.node(), os.getpid())}
        engine = create_engine(parsed, connect_args=dict(arguments))
        test_idle_connections(engine)
        if parsed.get_backend_name() == "postgresql":
            event.listen(engine, "connect", _limit_waiting)
        return engine
    in_memory = parsed.database in (None, "", ":memory:")
    pool = {"poolclass": StaticPool} if in_memory else {}
    engine = create_engine(parsed, connect_args={"check_same_thread": False}, **pool)
    if not in_memory and (path := parsed.database or "") and not path.startswith("file:"):
        _create(path)
        event.listen(engine, "connect", lambda connection, _: _protect(path, connection))
    event.listen(engine, "connect", _set_pragmas)
    return engine


def application_name(host: str, pid: int) -> str:
    """The name of a process for PostgreSQL, of 63 bytes at most, by which a standby finds the sessions of a writer."""
    return f"paceline {pid} {host}".encode("ascii", "replace").decode()[:63]


def test_idle_connections(engine: Engine) -> None:
    """Replace a connection of the pool that is lost, tested if it was not used within the last IDLE_S.

    `pool_pre_ping` tests before every use, which takes one more round trip to the server in each transaction.
    """

    def note_use(_: object, entry: ConnectionPoolEntry) -> None:
        entry.info["used_s"] = time.monotonic()

    def test(connection: Any, entry: ConnectionPoolEntry, _: object) -> None:
        if time.monotonic() - entry.info.get("used_s", -math.inf) < IDLE_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError(str(error)) from error

    event.listen(engine, "connect", note_use)
    event.listen(engine, "checkin", note_use)
    event.listen(engine, "checkout", test)


def limit_lock_waiting(connection: Connection) -> None:
    """Have statements on this connection fail after LOCK_TIMEOUT_S instead of waiting longer for a lock."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(LOCK_TIMEOUT_S * 1e3)}")
        connection.rollback()


def _limit_waiting(connection: object, _record: object) -> None:
    """Have PostgreSQL fail after LOCK_TIMEOUT_S instead of waiting longer for a lock."""
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute(f"SET lock_timeout = {round(LOCK_TIMEOUT_S * 1e3)}")
    cursor.close()
    connection.commit()  # type: ignore[attr-defined]


def _set_pragmas(connection: object, _record: object) -> None:
    """Set write-ahead logging: a commit is one append; it survives a crash of the process, not a power failure."""
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
