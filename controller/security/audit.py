"""Audit log: caller, request and outcome of every change, append-only except that old records are deleted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Column, Connection, Engine, Float, Integer, MetaData, String, Table, Text, delete, select
from sqlalchemy.exc import SQLAlchemyError

from controller.errors import LedgerUnavailable
from controller.storage.access import DatabaseAccess
from controller.storage.database import open_database

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


def printable(text: str, most: int) -> str:
    """At most this many characters of a text, with a question mark for each one that is not printable ASCII."""
    text = text[:most]
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if " " <= character <= "~" else "?" for character in text)


class RefusalLimit:
    """Lets BURST records of refusals of a tenant pass, and PER_S in a second after that; counts the others.

    All requests without a valid token count as one tenant. Changes that were made are always recorded.
    """

    BURST = 60
    PER_S = 1.0
    UNAUTHENTICATED_BURST = 5

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tenants: dict[str | None, tuple[float, float, int]] = {}
        """Records that may pass, as of when, and the refusals not recorded since the last one that was."""

    def passes(self, tenant: str | None) -> int | None:
        """The number of refusals left out before this one; None: this one is left out, too."""
        burst, now_s = self.UNAUTHENTICATED_BURST if tenant is None else self.BURST, self._clock()
        left, at_s, lost = self._tenants.get(tenant, (float(burst), now_s, 0))
        left = min(burst, left + (now_s - at_s) * self.PER_S)
        if left < 1:
            self._tenants[tenant] = left, now_s, lost + 1
            return None
        self._tenants[tenant] = left - 1, now_s, 0
        return lost


class AuditLog:
    """Audit log of one map. Thread-safe. `is_failing`: the last write failed."""

    def __init__(self, url: str, map_name: str) -> None:
        """Open the log.

        Raises: StartError if the database cannot be opened.
        """
        self._engine = open_database(url)
        self._database = DatabaseAccess(self._engine)
        self._map_name = map_name
        self.is_failing = False

    def close(self) -> None:
        """Close the database connections."""
        self._database.close()

    def write(self, *records: AuditRecord) -> None:
        """Append records in one transaction; they are durable when this returns.

        Raises: SQLAlchemyError, TimeoutError.
        """
        rows = [self.row(record) for record in records]
        try:
            self._database.write(lambda connection: connection.execute(INSERT, rows))
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
        row |= {"map": self._map_name, "method": printable(record.method, 8), "path": printable(record.path, 256)}
        return row | {"request": record.request[:BODY_CHARACTERS]}

    def read(self, after: int, limit: int) -> list[tuple[int, AuditRecord]]:
        """Records with their sequence numbers, oldest first, from the number after `after`.

        Raises: LedgerUnavailable.
        """
        columns = [column for column in _TABLE.c if column.name not in ("map", "seq")]
        query = select(_TABLE.c.seq, *columns).where(_TABLE.c.map == self._map_name, _TABLE.c.seq > after)
        query = query.order_by(_TABLE.c.seq).limit(limit)
        try:
            rows = self._database.read(lambda connection: connection.execute(query).all())
        except (SQLAlchemyError, OSError) as error:
            raise LedgerUnavailable("The audit log cannot be read now; try again later.", retry_after_s=1) from error
        return [(seq, AuditRecord(*rest)) for seq, *rest in rows]

    def delete_before(self, before_s: float) -> int:
        """Delete older records; return their number. A trigger of SQLite protects records of the last day.

        Raises: SQLAlchemyError.
        """
        old = select(_TABLE.c.seq).where(_TABLE.c.map == self._map_name, _TABLE.c.at_s < before_s)
        batch = old.order_by(_TABLE.c.seq).limit(DELETE_BATCH)

        def work(connection: Connection) -> int:
            numbers = connection.execute(batch).scalars().all()
            connection.execute(delete(_TABLE).where(_TABLE.c.seq.in_(numbers)))
            return len(numbers)

        deleted = 0
        while True:
            count = self._database.write(work)
            deleted += count
            if count < DELETE_BATCH:
                return deleted
