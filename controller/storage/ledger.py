"""Persistent state of one map: reservations, responses to idempotent requests, spans out of service.

SQLite by default, any SQLAlchemy URL. Thread-safe. Writing is on the path of every reservation request, so connections
and statements are created once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

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
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from controller.domain.reservation import LIVE, Reservation
from controller.errors import LedgerUnavailable
from controller.failpoints import FailPoint, failpoint
from controller.storage.database import limit_lock_waiting, open_database

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """Idempotency-Key of a request: tenant, key chosen by the client, digest of the request body."""

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
_RESPONSES = Table(
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

_INSERT_RESERVATION = _RESERVATIONS.insert()
_UPDATE_RESERVATION = _RESERVATIONS.update().where(_RESERVATIONS.c.id == bindparam("row_id"))
_UPDATE_RESERVATION = _UPDATE_RESERVATION.values({name: bindparam(name) for name in ("map", "state", "record")})
_SELECT_RECORD = select(_RESERVATIONS.c.record).where(
    _RESERVATIONS.c.map == bindparam("map"), _RESERVATIONS.c.id == bindparam("id")
)
_SELECT_EXISTING_IDS = select(_RESERVATIONS.c.id).where(_RESERVATIONS.c.id.in_(bindparam("ids", expanding=True)))
_INSERT_RESPONSE = _RESPONSES.insert()
_SELECT_RESPONSE = select(_RESPONSES.c.body_digest, _RESPONSES.c.record).where(
    *(_RESPONSES.c[name] == bindparam(name) for name in ("map", "tenant", "key"))
)

_DELETE_RESERVATIONS = _RESERVATIONS.delete().where(
    _RESERVATIONS.c.map == bindparam("map"), _RESERVATIONS.c.id.in_(bindparam("ids", expanding=True))
)
_DELETE_RESPONSE = _RESPONSES.delete().where(
    *(_RESPONSES.c[name] == bindparam(f"of_{name}") for name in ("map", "tenant", "key"))
)

IN_MEMORY = "sqlite://"
RETRY_AFTER_S = 1

Row = tuple[Insert, dict[str, object]]
"""Insert statement (created once) and the values of one row, for another table of the same database."""


class Ledger:
    """Reservations of one map in the database."""

    def __init__(self, url: str, map_name: str) -> None:
        """Open or create the database and migrate its tables.

        Raises: StartError if the URL is wrong or the database cannot be opened.
        """
        self._map_name = map_name
        self.engine = open_database(url)
        self._write_lock, self._write_connection = threading.RLock(), self.engine.connect()
        # An in-memory database has a single connection, which threads must not use concurrently.
        in_memory = self.engine.pool.__class__ is StaticPool
        self._read_lock = self._write_lock if in_memory else threading.RLock()
        self._read_connection = self._write_connection if in_memory else self.engine.connect()
        for connection in {self._write_connection, self._read_connection}:
            limit_lock_waiting(connection)

    def write(
        self,
        *reservations: Reservation,
        are_new: bool = False,
        idempotency_keys: Mapping[str, IdempotencyKey] | None = None,
        extra_rows: Iterable[Row] = (),
        now_s: float = 0.0,
    ) -> None:
        """Write reservations in one transaction.

        `are_new`: none of them has been written before. `idempotency_keys`: by reservation id, the key of the request
        whose response it is. `extra_rows`: rows of other tables for the same transaction.
        """
        rows = self._rows(reservations)
        records = {row["id"]: row["record"] for row in rows}
        responses = [
            {**self._key_of(key), "body_digest": key.body_digest}
            | {"answered_at_s": now_s, "record": records[reservation_id]}
            for reservation_id, key in (idempotency_keys or {}).items()
        ]
        with self._write_lock, self._write_connection.begin():
            if are_new:
                self._write_connection.execute(_INSERT_RESERVATION, rows)
            else:
                self._upsert(rows)
            if responses:
                self._write_connection.execute(_INSERT_RESPONSE, responses)
            for insert, values in _by_statement(extra_rows).items():
                self._write_connection.execute(insert, values)
            failpoint(FailPoint.RECORDING)
        failpoint(FailPoint.RECORDED)

    def write_backlog(
        self,
        reservations: Iterable[Reservation],
        withdrawn: Mapping[str, IdempotencyKey | None],
        closed_spans: Iterable[str] | None = None,
    ) -> None:
        """Write what could not be written before, in one transaction.

        `withdrawn`: ids of new reservations whose writing has failed, with the keys of their requests: if the database
        has them all the same, they are removed. `closed_spans`: the spans out of service, if they are to be written.
        """
        rows = self._rows(reservations)
        keys = [self._key_of(key) for key in withdrawn.values() if key is not None]
        with self._write_lock, self._write_connection.begin():
            self._upsert(rows)
            if withdrawn:
                self._write_connection.execute(
                    _DELETE_RESERVATIONS, {"map": self._map_name, "ids": list(withdrawn)}
                )  # fmt: skip
            for key in keys:
                self._write_connection.execute(_DELETE_RESPONSE, {f"of_{name}": fact for name, fact in key.items()})
            if closed_spans is not None:
                self._replace_closed_spans(closed_spans)
            failpoint(FailPoint.RECORDING)
        failpoint(FailPoint.RECORDED)

    def _rows(self, reservations: Iterable[Reservation]) -> list[dict[str, str]]:
        return [
            {"id": reservation.id, "map": self._map_name, "state": str(reservation.state)}
            | {"record": _RECORD.dump_json(reservation).decode()}
            for reservation in reservations
        ]

    def _key_of(self, key: IdempotencyKey) -> dict[str, object]:
        return {"map": self._map_name, "tenant": key.tenant, "key": key.key}

    def _upsert(self, rows: Iterable[dict[str, str]]) -> None:
        for row in rows:
            if self._write_connection.execute(_UPDATE_RESERVATION, {**row, "row_id": row["id"]}).rowcount == 0:
                self._write_connection.execute(_INSERT_RESERVATION, row)

    def response(self, key: IdempotencyKey) -> tuple[str, Reservation] | None:
        """The body digest of the first request with this key, and the reservation it was answered with."""
        row = self._query(lambda connection: connection.execute(_SELECT_RESPONSE, self._key_of(key)).first())
        return None if row is None else (row.body_digest, _RECORD.validate_json(row.record))

    def delete_responses(self, before_s: float) -> None:
        """Delete the responses that are older than that time."""
        with self._write_lock, self._write_connection.begin():
            self._write_connection.execute(_RESPONSES.delete().where(_RESPONSES.c.answered_at_s < before_s))

    def closed_spans(self) -> frozenset[str]:
        """The spans that are out of service."""
        statement = select(_CLOSED_SPANS.c.span).where(_CLOSED_SPANS.c.map == self._map_name)
        return self._query(lambda connection: frozenset(connection.execute(statement).scalars()))

    def write_closed_spans(self, spans: Iterable[str]) -> None:
        """Store these as the spans that are out of service."""
        with self._write_lock, self._write_connection.begin():
            self._replace_closed_spans(spans)

    def _replace_closed_spans(self, spans: Iterable[str]) -> None:
        rows = [{"map": self._map_name, "span": span} for span in spans]
        self._write_connection.execute(_CLOSED_SPANS.delete().where(_CLOSED_SPANS.c.map == self._map_name))
        if rows:
            self._write_connection.execute(_CLOSED_SPANS.insert(), rows)

    def live(self) -> list[Reservation]:
        """The reservations stored in a state that holds bandwidth."""
        table = _RESERVATIONS.c
        is_live = table.state.in_([str(state) for state in LIVE])
        return self._read(select(table.record).where(table.map == self._map_name, is_live), {})

    def find(self, reservation_id: str) -> Reservation | None:
        """The reservation with that id, live or not."""
        return next(iter(self._read(_SELECT_RECORD, {"map": self._map_name, "id": reservation_id})), None)

    def existing_ids(self, ids: Collection[str]) -> frozenset[str]:
        """Those of these ids that a reservation of any map has or had."""
        parameters = {"ids": list(ids)}
        return self._query(lambda connection: frozenset(connection.execute(_SELECT_EXISTING_IDS, parameters).scalars()))

    def _read(self, statement: Select[Any], parameters: dict[str, str]) -> list[Reservation]:
        records = self._query(lambda connection: connection.execute(statement, parameters).scalars().all())
        return [_RECORD.validate_json(record) for record in records]

    def _query(self, query: Callable[[Connection], Result]) -> Result:
        """The result of a query; repeated once if the connection was lost since the last one.

        Raises: LedgerUnavailable.
        """
        with self._read_lock:
            try:
                return self._query_once(query)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise unavailable("read") from error
            except SQLAlchemyError as error:
                raise unavailable("read") from error
            try:
                return self._query_once(query)
            except SQLAlchemyError as error:
                raise unavailable("read") from error

    def _query_once(self, query: Callable[[Connection], Result]) -> Result:
        try:
            return query(self._read_connection)
        finally:
            self._read_connection.rollback()  # ends the read transaction

    def close(self) -> None:
        """Close the connections and the engine."""
        for connection in (self._read_connection, self._write_connection):
            connection.close()
        self.engine.dispose()


def unavailable(action: str = "written") -> LedgerUnavailable:
    """The error for clients; `action`: what the ledger cannot be, read or written."""
    sentence = f"The ledger cannot be {action} now, so nothing was changed; try again later."
    return LedgerUnavailable(sentence, retry_after_s=RETRY_AFTER_S)


def _by_statement(rows: Iterable[Row]) -> dict[Insert, list[dict[str, object]]]:
    grouped: dict[Insert, list[dict[str, object]]] = {}
    for insert, row in rows:
        grouped.setdefault(insert, []).append(row)
    return grouped
