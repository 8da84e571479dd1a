"""Audit log: caller, request and outcome of every change, append-only except that old records are deleted."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from sqlalchemy import Column, Engine, Float, Integer, MetaData, String, Table, Text, delete, select

from controller.storage.database import limit_lock_waiting, open_database

BODY_CHARACTERS = 4096
"""Only the beginning of a request's body is stored."""

RETENTION_DAYS = 90
"""Default retention."""

DAY_S = 86_400.0
DELETE_BATCH = 1000
"""Records deleted in one transaction; bounds how long the ledger is locked."""

_TABLE = Table(
    "audit",
    MetaData(),
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("map", String(64), nullable=False),
    Column("at_s", Float, nullable=False),
    Column("tenant", String(64)),
    Column("token", String(64)),
    Column("client", String(64), nullable=False),
    Column("method", String(8), nullable=False),
    Column("path", String(256), nullable=False),
    Column("status", Integer, nullable=False),
    Column("code", String(64)),
    Column("reservation", String(16)),
    Column("request", Text, nullable=False),
    sqlite_autoincrement=True,
)
INSERT = _TABLE.insert()
_SAME_NAME = ("at_s", "tenant", "token", "client", "method", "status", "code", "reservation")


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One request and its outcome. `tenant` and `token` are None if authentication failed."""

    at_s: float
    tenant: str | None
    token: str | None
    client: str
    method: str
    path: str
    status: int
    code: str | None
    reservation: str | None
    request: str


class AuditLog:
    """Audit log of one map. Thread-safe. `is_failing`: the last write failed."""

    def __init__(self, url: str, map_name: str) -> None:
        """Open the log.

        Raises: StartError if the database cannot be opened.
        """
        self._engine = open_database(url)
        self._lock = threading.Lock()
        self._connection = self._engine.connect()
        limit_lock_waiting(self._connection)
        self._map_name = map_name
        self.is_failing = False

    def close(self) -> None:
        """Close the database connection."""
        with self._lock:
            self._connection.close()
            self._engine.dispose()

    def write(self, *records: AuditRecord) -> None:
        """Append records in one transaction; they are durable when this returns.

        Raises: SQLAlchemyError.
        """
        rows = [self.row(record) for record in records]
        try:
            with self._lock, self._connection.begin():
                self._connection.execute(INSERT, rows)
        except Exception:
            self.is_failing = True
            raise
        self.is_failing = False

    def shares_database(self, engine: Engine) -> bool:
        """Whether that engine writes the same database, so that one transaction can cover both."""
        in_memory = engine.url.get_backend_name() == "sqlite" and engine.url.database in (None, "", ":memory:")
        return engine.url == self._engine.url and not in_memory

    def row(self, record: AuditRecord) -> dict[str, object]:
        """The record as a row for `INSERT`."""
        row: dict[str, object] = {name: getattr(record, name) for name in _SAME_NAME}
        return row | {"map": self._map_name, "path": record.path[:256], "request": record.request[:BODY_CHARACTERS]}

    def read(self, after: int, limit: int) -> list[tuple[int, AuditRecord]]:
        """Records with their sequence numbers, oldest first, from the number after `after`."""
        columns = [column for column in _TABLE.c if column.name not in ("map", "seq")]
        query = select(_TABLE.c.seq, *columns).where(_TABLE.c.map == self._map_name, _TABLE.c.seq > after)
        with self._lock, self._connection.begin():
            rows = self._connection.execute(query.order_by(_TABLE.c.seq).limit(limit)).all()
        return [(seq, AuditRecord(*rest)) for seq, *rest in rows]

    def delete_before(self, before_s: float) -> int:
        """Delete older records; return their number. A trigger of SQLite protects records of the last day.

        Raises: SQLAlchemyError.
        """
        old = select(_TABLE.c.seq).where(_TABLE.c.map == self._map_name, _TABLE.c.at_s < before_s)
        batch = old.order_by(_TABLE.c.seq).limit(DELETE_BATCH)
        deleted = 0
        while True:
            with self._lock, self._connection.begin():
                numbers = self._connection.execute(batch).scalars().all()
                self._connection.execute(delete(_TABLE).where(_TABLE.c.seq.in_(numbers)))
            deleted += len(numbers)
            if len(numbers) < DELETE_BATCH:
                return deleted
