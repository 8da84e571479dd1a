"""What survives a restart: every reservation as it last stood, and the first answers to requests that may be repeated.

SQLite by default, any SQLAlchemy URL. Safe to use from several threads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

from pydantic import TypeAdapter
from sqlalchemy import (
    Column,
    Connection,
    Float,
    MetaData,
    String,
    Table,
    Text,
    select,
)
from sqlalchemy.pool import StaticPool

from controller.asked import RepeatKey
from controller.database import open_database
from controller.reservation import LIVE, Reservation
from controller.steps import Step, reached

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

IN_MEMORY = "sqlite://"


class Ledger:
    """The reservations of one map."""

    def __init__(self, url: str, map_name: str) -> None:
        """Open or create it, and bring its tables up to date.

        Raises: StartError if the URL is wrong or the database cannot be opened.
        """
        self._map_name = map_name
        self._turn = threading.RLock()
        self.engine = open_database(url)
        # A database in memory is one connection, which threads must not use at once.
        self._reading = self._turn if self.engine.pool.__class__ is StaticPool else nullcontext()

    def write(self, *reservations: Reservation, answer_to: RepeatKey | None = None, now_s: float = 0.0) -> None:
        """Write down how these stand now, all or none; the first is the answer to a request that may be repeated."""
        with self._turn, self.engine.begin() as connection:
            records = [(each, _RECORD.dump_json(each).decode()) for each in reservations]
            for reservation, record in records:
                self._put(connection, reservation, record)
            if answer_to is not None:
                row = {"map": self._map_name, "tenant": answer_to.tenant, "key": answer_to.key}
                facts = {"body_digest": answer_to.body_digest, "answered_at_s": now_s, "record": records[0][1]}
                connection.execute(_ANSWERS.insert().values(row | facts))
            reached(Step.RECORDING)
        reached(Step.RECORDED)

    def _put(self, connection: Connection, reservation: Reservation, record: str) -> None:
        row = {"map": self._map_name, "state": str(reservation.state), "record": record}
        known = _RESERVATIONS.c.id == reservation.id
        if connection.execute(_RESERVATIONS.update().where(known).values(row)).rowcount == 0:
            connection.execute(_RESERVATIONS.insert().values(row | {"id": reservation.id}))

    def answer(self, repeat: RepeatKey) -> tuple[str, Reservation] | None:
        """The digest of the body that this key first came with, and what was answered."""
        table = _ANSWERS.c
        mine = (table.map == self._map_name, table.tenant == repeat.tenant, table.key == repeat.key)
        with self._connected() as connection:
            row = connection.execute(select(table.body_digest, table.record).where(*mine)).first()
        return None if row is None else (row.body_digest, _RECORD.validate_json(row.record))

    def forget_answers(self, before_s: float) -> None:
        """Drop the answers that were given before that time."""
        with self._turn, self.engine.begin() as connection:
            connection.execute(_ANSWERS.delete().where(_ANSWERS.c.answered_at_s < before_s))

    def closed_spans(self) -> frozenset[str]:
        """The spans that are out of service."""
        table = _CLOSED_SPANS.c
        with self._connected() as connection:
            return frozenset(connection.execute(select(table.span).where(table.map == self._map_name)).scalars())

    def write_closed_spans(self, spans: Iterable[str]) -> None:
        """From now on exactly these are out of service."""
        rows = [{"map": self._map_name, "span": span} for span in spans]
        with self._turn, self.engine.begin() as connection:
            connection.execute(_CLOSED_SPANS.delete().where(_CLOSED_SPANS.c.map == self._map_name))
            if rows:
                connection.execute(_CLOSED_SPANS.insert(), rows)

    def live(self) -> list[Reservation]:
        """The reservations that held bandwidth when the ledger was last written."""
        table = _RESERVATIONS.c
        wanted = select(table.record).where(table.map == self._map_name, table.state.in_([str(each) for each in LIVE]))
        return list(self._read(wanted))

    def find(self, reservation_id: str) -> Reservation | None:
        """The reservation of that id, live or not."""
        table = _RESERVATIONS.c
        wanted = select(table.record).where(table.map == self._map_name, table.id == reservation_id)
        return next(iter(self._read(wanted)), None)

    def _read(self, wanted: object) -> Iterable[Reservation]:
        with self._connected() as connection:
            records = connection.execute(wanted).scalars().all()  # type: ignore[call-overload]
        return [_RECORD.validate_json(record) for record in records]

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        with self._reading, self.engine.connect() as connection:
            yield connection

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()
