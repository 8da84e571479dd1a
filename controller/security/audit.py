"""Who asked for what, when, and what they were answered: a table that only grows, but for its old end."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from sqlalchemy import Column, Engine, Float, Integer, MetaData, String, Table, Text, delete, select

from controller.storage.database import open_database

REQUEST_BYTES = 4096
"""As much of a request's body is kept."""

KEPT_DAYS = 90
"""So long an entry is kept unless somebody wants it otherwise."""

DAY_S = 86_400.0
CUT_AT_ONCE = 1000
"""So many entries go in one transaction: the ledger waits for no longer."""

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
_AS_IT_IS = ("at_s", "tenant", "token", "client", "method", "status", "code", "reservation")


@dataclass(frozen=True, slots=True)
class Entry:
    """One request and its answer. `tenant` and `token` are None for a caller who was not let in."""

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


class Audit:
    """The audit log of one map. Thread-safe."""

    def __init__(self, url: str, map_name: str) -> None:
        """Open it.

        Raises: StartError if the database cannot be opened.
        """
        self._engine = open_database(url)
        self._lock = threading.Lock()
        self._connection = self._engine.connect()
        self._map_name = map_name
        self.failing = False

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            self._connection.close()
            self._engine.dispose()

    def write(self, *entries: Entry) -> None:
        """Add entries, all or none; they are on disk when this returns. `failing`: whether the last were not.

        Raises: SQLAlchemyError.
        """
        rows = [self.row(entry) for entry in entries]
        try:
            with self._lock, self._connection.begin():
                self._connection.execute(INSERT, rows)
        except Exception:
            self.failing = True
            raise
        self.failing = False

    def is_in(self, engine: Engine) -> bool:
        """Whether it is kept in that engine's database, so that one transaction may write both."""
        in_memory = engine.url.get_backend_name() == "sqlite" and engine.url.database in (None, "", ":memory:")
        return engine.url == self._engine.url and not in_memory

    def row(self, entry: Entry) -> dict[str, object]:
        row: dict[str, object] = {name: getattr(entry, name) for name in _AS_IT_IS}
        return row | {"map": self._map_name, "path": entry.path[:256], "request": entry.request[:REQUEST_BYTES]}

    def read(self, after: int, limit: int) -> list[tuple[int, Entry]]:
        """Entries with their numbers, oldest first, those numbered higher than `after`."""
        columns = [column for column in _TABLE.c if column.name not in ("map", "seq")]
        wanted = select(_TABLE.c.seq, *columns).where(_TABLE.c.map == self._map_name, _TABLE.c.seq > after)
        with self._lock, self._connection.begin():
            rows = self._connection.execute(wanted.order_by(_TABLE.c.seq).limit(limit)).all()
        return [(seq, Entry(*rest)) for seq, *rest in rows]

    def forget(self, before_s: float) -> int:
        """Drop the entries that are older; how many. SQLite's trigger keeps what is younger than a day.

        Raises: SQLAlchemyError.
        """
        old = select(_TABLE.c.seq).where(_TABLE.c.map == self._map_name, _TABLE.c.at_s < before_s)
        some = old.order_by(_TABLE.c.seq).limit(CUT_AT_ONCE)
        forgotten = 0
        while True:
            with self._lock, self._connection.begin():
                numbers = self._connection.execute(some).scalars().all()
                self._connection.execute(delete(_TABLE).where(_TABLE.c.seq.in_(numbers)))
            forgotten += len(numbers)
            if len(numbers) < CUT_AT_ONCE:
                return forgotten
