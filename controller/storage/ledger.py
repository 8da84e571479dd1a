"""What survives a restart: every reservation as it last stood, and the first answers to requests that may be repeated.

SQLite by default, any SQLAlchemy URL. Safe to use from several threads. A reservation waits for what is written here,
so connections and statements are made once.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import (
    Column,
    Connection,
    Float,
    Insert,
    MetaData,
    Select,
    String,
    Table,
    Text,
    bindparam,
    select,
)
from sqlalchemy.pool import StaticPool

from controller.domain.reservation import LIVE, Reservation
from controller.failpoints import FailPoint, failpoint
from controller.storage.database import open_database


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What makes a request the same as an earlier one: the key its tenant chose. The digest is that of its body."""

    tenant: str
    key: str
    body_digest: str


_METADATA = MetaData()
_RESERVATIONS = Table(
    "reservations",
    _METADATA,
    Column("id", String(16), primary_key=True),
    Column("map", String(64), nullable=False, index=True),
    Column("state", String(16), nullable=False, index=True),
    Column("record", Text, nullable=False),
)
_ANSWERS = Table(
    "answers",
    _METADATA,
    Column("map", String(64), primary_key=True),
    Column("tenant", String(255), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("body_digest", String(128), nullable=False),
    Column("answered_at_s", Float, nullable=False, index=True),
    Column("record", Text, nullable=False),
)
_CLOSED_SPANS = Table(
    "closed_spans",
    _METADATA,
    Column("map", String(64), primary_key=True),
    Column("span", String(64), primary_key=True),
)
_RECORD = TypeAdapter(Reservation)

_INSERT = _RESERVATIONS.insert()
_UPDATE = _RESERVATIONS.update().where(_RESERVATIONS.c.id == bindparam("known"))
_UPDATE = _UPDATE.values({name: bindparam(name) for name in ("map", "state", "record")})
_FIND = select(_RESERVATIONS.c.record).where(
    _RESERVATIONS.c.map == bindparam("map"), _RESERVATIONS.c.id == bindparam("id")
)
_WRITTEN = select(_RESERVATIONS.c.id).where(_RESERVATIONS.c.id.in_(bindparam("ids", expanding=True)))
_INSERT_ANSWER = _ANSWERS.insert()
_ANSWER = select(_ANSWERS.c.body_digest, _ANSWERS.c.record).where(
    *(_ANSWERS.c[name] == bindparam(name) for name in ("map", "tenant", "key"))
)

IN_MEMORY = "sqlite://"

Row = tuple[Insert, dict[str, object]]
"""A row of a table of the same database; the statement is made once."""


class Ledger:
    """The reservations of one map."""

    def __init__(self, url: str, map_name: str) -> None:
        """Open or create it, and bring its tables up to date.

        Raises: StartError if the URL is wrong or the database cannot be opened.
        """
        self._map_name = map_name
        self.engine = open_database(url)
        self._turn, self._writer = threading.RLock(), self.engine.connect()
        # A database in memory is one connection, which threads must not use at once.
        in_memory = self.engine.pool.__class__ is StaticPool
        self._reading = self._turn if in_memory else threading.RLock()
        self._reader = self._writer if in_memory else self.engine.connect()

    def write(
        self,
        *reservations: Reservation,
        are_new: bool = False,
        answers: Mapping[str, IdempotencyKey] | None = None,
        along: Iterable[Row] = (),
        now_s: float = 0.0,
    ) -> None:
        """Write down how these stand now, all or none.

        `are_new`: none of them has been written before. `answers`: by reservation, the request that may be repeated to
        which it is the answer. `along`: rows of other tables that go in the same transaction.
        """
        records = {each.id: _RECORD.dump_json(each).decode() for each in reservations}
        rows = [
            {"id": each.id, "map": self._map_name, "state": str(each.state), "record": records[each.id]}
            for each in reservations
        ]
        answered = [
            {"map": self._map_name, "tenant": to.tenant, "key": to.key, "body_digest": to.body_digest}
            | {"answered_at_s": now_s, "record": records[name]}
            for name, to in (answers or {}).items()
        ]
        with self._turn, self._writer.begin():
            if are_new:
                self._writer.execute(_INSERT, rows)
            else:
                self._put(rows)
            if answered:
                self._writer.execute(_INSERT_ANSWER, answered)
            for insert, further in _by_statement(along).items():
                self._writer.execute(insert, further)
            failpoint(FailPoint.RECORDING)
        failpoint(FailPoint.RECORDED)

    def _put(self, rows: Iterable[dict[str, str]]) -> None:
        for row in rows:
            if self._writer.execute(_UPDATE, {**row, "known": row["id"]}).rowcount == 0:
                self._writer.execute(_INSERT, row)

    def answer(self, repeat: IdempotencyKey) -> tuple[str, Reservation] | None:
        """The digest of the body that this key first came with, and what was answered."""
        mine = {"map": self._map_name, "tenant": repeat.tenant, "key": repeat.key}
        with self._connected() as connection:
            row = connection.execute(_ANSWER, mine).first()
        return None if row is None else (row.body_digest, _RECORD.validate_json(row.record))

    def forget_answers(self, before_s: float) -> None:
        """Drop the answers that were given before that time."""
        with self._turn, self._writer.begin():
            self._writer.execute(_ANSWERS.delete().where(_ANSWERS.c.answered_at_s < before_s))

    def closed_spans(self) -> frozenset[str]:
        """The spans that are out of service."""
        table = _CLOSED_SPANS.c
        with self._connected() as connection:
            return frozenset(connection.execute(select(table.span).where(table.map == self._map_name)).scalars())

    def write_closed_spans(self, spans: Iterable[str]) -> None:
        """From now on exactly these are out of service."""
        rows = [{"map": self._map_name, "span": span} for span in spans]
        with self._turn, self._writer.begin():
            self._writer.execute(_CLOSED_SPANS.delete().where(_CLOSED_SPANS.c.map == self._map_name))
            if rows:
                self._writer.execute(_CLOSED_SPANS.insert(), rows)

    def live(self) -> list[Reservation]:
        """The reservations that held bandwidth when the ledger was last written."""
        table = _RESERVATIONS.c
        wanted = select(table.record).where(table.map == self._map_name, table.state.in_([str(each) for each in LIVE]))
        return self._read(wanted, {})

    def find(self, reservation_id: str) -> Reservation | None:
        """The reservation of that id, live or not."""
        return next(iter(self._read(_FIND, {"map": self._map_name, "id": reservation_id})), None)

    def written(self, ids: Collection[str]) -> frozenset[str]:
        """Those of these ids that a reservation of any map has or had."""
        with self._connected() as connection:
            return frozenset(connection.execute(_WRITTEN, {"ids": list(ids)}).scalars())

    def _read(self, wanted: Select[Any], which: dict[str, str]) -> list[Reservation]:
        with self._connected() as connection:
            records = connection.execute(wanted, which).scalars().all()
        return [_RECORD.validate_json(record) for record in records]

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        with self._reading:
            try:
                yield self._reader
            finally:
                self._reader.rollback()  # lets go of what was read

    def close(self) -> None:
        """Let go of the database."""
        for connection in (self._reader, self._writer):
            connection.close()
        self.engine.dispose()


def _by_statement(rows: Iterable[Row]) -> dict[Insert, list[dict[str, object]]]:
    together: dict[Insert, list[dict[str, object]]] = {}
    for insert, row in rows:
        together.setdefault(insert, []).append(row)
    return together
