"""Persistent state of one map: reservations, responses to idempotent requests, spans out of service.

SQLite by default, or PostgreSQL. Thread-safe. Writing is on the path of every reservation request, so statements are
created once, and connections where that is possible.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Insert, Select, Table, select
from sqlalchemy.exc import SQLAlchemyError

from controller.domain.reservation import LIVE, Reservation
from controller.errors import LedgerUnavailable
from controller.failpoints import FailPoint, failpoint
from controller.storage.access import ANSWER_TIMEOUT_S, DatabaseAccess, Result, Work
from controller.storage.database import open_database
from controller.storage.live_rows import LOAD_TIMEOUT_S, RECORD, LiveRows
from controller.storage.tables import (
    CLOSED_SPANS,
    DELETE_RESERVATIONS,
    DELETE_RESPONSE,
    INSERT_RESERVATION,
    INSERT_RESPONSE,
    QOS_SESSIONS,
    RESERVATIONS,
    RESPONSES,
    SELECT_ENDED_IDS,
    SELECT_EXISTING_IDS,
    SELECT_RECORD,
    SELECT_RESPONSE,
    STREAMS,
    UPSERT_RESERVATION,
)

IN_MEMORY = "sqlite://"
RETRY_AFTER_S = 1
DELETE_BATCH = 500
"""Rows deleted in one transaction; bounds how long requests wait for it."""
SERVER_PROBE_INTERVAL_S = 2.0
PROBE_SPAN = ""

Row = tuple[Insert, dict[str, object]]
"""Insert statement (created once) and the values of one row, for another table of the same database."""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """Idempotency-Key of a request: tenant, key chosen by the client, digest of the request body."""

    tenant: str
    key: str
    body_digest: str


def _allow(_: Connection) -> None:
    """Allow every transaction: the writer's lock cannot be lost."""


class Ledger:
    """Reservations of one map in the database."""

    def __init__(
        self,
        url: str,
        map_name: str,
        require_writer: Callable[[Connection], None] = _allow,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open or create the database and migrate its tables.

        `require_writer`: called in every writing transaction; raises if another controller has become the writer.

        Raises: StartError if the URL is wrong or the database cannot be opened.
        """
        self._map_name = map_name
        self.engine = open_database(url)
        self._database = DatabaseAccess(self.engine)
        self.live_rows = LiveRows(self._database, self.engine.dialect.name, map_name)
        self._require_writer = require_writer
        self._clock = clock
        self.probe_interval_s = None if self.engine.dialect.name == "sqlite" else SERVER_PROBE_INTERVAL_S
        """How often to `probe` in order to learn that the database is away; None: the next write tells."""
        self.on_read_failure: Callable[[Exception], None] = lambda _: None
        """Called when the database cannot be read, before LedgerUnavailable is raised."""

    # Writing --------------------------------------------------------------------------------------------------------

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

        Raises: SQLAlchemyError, OSError.
        """
        rows, others = self._rows(reservations), _by_statement(extra_rows)
        records = {row["id"]: row["record"] for row in rows}
        responses = [
            {**self._key_of(key), "body_digest": key.body_digest}
            | {"answered_at_s": now_s, "record": records[reservation_id]}
            for reservation_id, key in (idempotency_keys or {}).items()
        ]

        def work(connection: Connection) -> None:
            if are_new:
                connection.execute(INSERT_RESERVATION, rows)
            else:
                _upsert(connection, rows)
            if responses:
                connection.execute(INSERT_RESPONSE, responses)
            for insert, values in others.items():
                connection.execute(insert, values)

        self._write(work)

    def write_backlog(
        self,
        reservations: Iterable[Reservation],
        withdrawn: Mapping[str, IdempotencyKey | None],
        closed_spans: Iterable[str] | None = None,
    ) -> None:
        """Write what could not be written before, in one transaction.

        `withdrawn`: ids of new reservations whose writing has failed, with the keys of their requests: if the database
        has them all the same, they are removed. `closed_spans`: the spans out of service, if they are to be written.

        Raises: SQLAlchemyError, OSError.
        """
        rows = self._rows(reservations)
        keys = [self._key_of(key) for key in withdrawn.values() if key is not None]

        def work(connection: Connection) -> None:
            _upsert(connection, rows)
            if withdrawn:
                connection.execute(DELETE_RESERVATIONS, {"map": self._map_name, "ids": list(withdrawn)})
            for key in keys:
                connection.execute(DELETE_RESPONSE, {f"of_{name}": fact for name, fact in key.items()})
            if closed_spans is not None:
                self._replace_closed_spans(connection, closed_spans)

        self._write(work)

    def write_closed_spans(self, spans: Iterable[str]) -> None:
        """Store these as the spans that are out of service.

        Raises: SQLAlchemyError, OSError.
        """
        self._checked(lambda connection: self._replace_closed_spans(connection, spans))

    def write_stream(self, stream: str, record: str) -> None:
        """Store the record of a stream, in place of one before.

        Raises: LedgerUnavailable.
        """
        self._write_record(STREAMS, "stream", stream, record)

    def delete_streams(self, streams: Collection[str]) -> None:
        """Delete the records of these streams.

        Raises: LedgerUnavailable.
        """
        self._delete_records(STREAMS, "stream", streams)

    def write_qos_session(self, session: str, record: str) -> None:
        """Store the record of a QoS session or booking, in place of one before.

        Raises: LedgerUnavailable.
        """
        self._write_record(QOS_SESSIONS, "session", session, record)

    def delete_qos_sessions(self, sessions: Collection[str]) -> None:
        """Delete the records of these QoS sessions and bookings.

        Raises: LedgerUnavailable.
        """
        self._delete_records(QOS_SESSIONS, "session", sessions)

    def _write_record(self, table: Table, column: str, name: str, record: str) -> None:
        row = {"map": self._map_name, column: name}

        def work(connection: Connection) -> None:
            connection.execute(table.delete().where(*(table.c[each] == row[each] for each in row)))
            connection.execute(table.insert(), {**row, "record": record})

        self._answered(work)

    def _delete_records(self, table: Table, column: str, names: Collection[str]) -> None:
        old = table.delete().where(table.c.map == self._map_name, table.c[column].in_(list(names)))
        self._answered(lambda connection: connection.execute(old))

    def _answered(self, work: Work[object]) -> None:
        try:
            self._checked(work)
        except (SQLAlchemyError, OSError) as error:
            raise unavailable() from error

    def probe(self) -> None:
        """Write and remove a row, to learn whether the database can be written again.

        Raises: SQLAlchemyError, OSError.
        """
        row = {"map": self._map_name, "span": PROBE_SPAN}

        def work(connection: Connection) -> None:
            connection.execute(CLOSED_SPANS.insert(), row)
            connection.execute(CLOSED_SPANS.delete().where(*(CLOSED_SPANS.c[name] == row[name] for name in row)))

        self._write(work)

    def delete_responses(self, before_s: float) -> None:
        """Delete the responses that are older than that time.

        Raises: SQLAlchemyError, OSError.
        """
        old = RESPONSES.delete().where(RESPONSES.c.answered_at_s < before_s)
        self._checked(lambda connection: connection.execute(old))

    def delete_ended(self, before_s: float) -> int:
        """Delete the reservations of this map that ended before that time, a batch at a time; return their number.

        Raises: SQLAlchemyError, OSError.
        """
        old, parameters = SELECT_ENDED_IDS.limit(DELETE_BATCH), {"map": self._map_name, "before_s": before_s}

        def work(connection: Connection) -> int:
            ids = list(connection.execute(old, parameters).scalars())
            connection.execute(DELETE_RESERVATIONS, {"map": self._map_name, "ids": ids})
            return len(ids)

        deleted = 0
        while True:
            batch = self._checked(work)
            deleted += batch
            if batch < DELETE_BATCH:
                return deleted

    def _write(self, work: Work[None]) -> None:
        def with_failpoint(connection: Connection) -> None:
            work(connection)
            failpoint(FailPoint.RECORDING)

        self._checked(with_failpoint)
        failpoint(FailPoint.RECORDED)

    def _checked(self, work: Work[Result]) -> Result:
        def checked(connection: Connection) -> Result:
            self._require_writer(connection)
            return work(connection)

        return self._database.write(checked)

    def _rows(self, reservations: Iterable[Reservation]) -> list[dict[str, object]]:
        now_s = self._clock()
        return [
            {"id": reservation.id, "map": self._map_name, "state": str(reservation.state)}
            | {"record": RECORD.dump_json(reservation).decode(), "ended_at_s": None if reservation.is_live else now_s}
            for reservation in reservations
        ]

    def _key_of(self, key: IdempotencyKey) -> dict[str, object]:
        return {"map": self._map_name, "tenant": key.tenant, "key": key.key}

    def _replace_closed_spans(self, connection: Connection, spans: Iterable[str]) -> None:
        rows = [{"map": self._map_name, "span": span} for span in spans]
        connection.execute(CLOSED_SPANS.delete().where(CLOSED_SPANS.c.map == self._map_name))
        if rows:
            connection.execute(CLOSED_SPANS.insert(), rows)

    # Reading --------------------------------------------------------------------------------------------------------

    def response(self, key: IdempotencyKey) -> tuple[str, Reservation] | None:
        """The body digest of the first request with this key, and the reservation it was answered with.

        Raises: LedgerUnavailable.
        """
        row = self._query(lambda connection: connection.execute(SELECT_RESPONSE, self._key_of(key)).first())
        return None if row is None else (row.body_digest, RECORD.validate_json(row.record))

    def closed_spans(self) -> frozenset[str]:
        """The spans that are out of service."""
        statement = select(CLOSED_SPANS.c.span).where(CLOSED_SPANS.c.map == self._map_name)
        return self._query(lambda connection: frozenset(connection.execute(statement).scalars()))

    def streams(self) -> list[str]:
        """The records of all streams.

        Raises: LedgerUnavailable.
        """
        statement = select(STREAMS.c.record).where(STREAMS.c.map == self._map_name).order_by(STREAMS.c.stream)
        return self._query(lambda connection: list(connection.execute(statement).scalars()))

    def qos_sessions(self) -> list[str]:
        """The records of all QoS sessions and bookings.

        Raises: LedgerUnavailable.
        """
        table = QOS_SESSIONS.c
        statement = select(table.record).where(table.map == self._map_name).order_by(table.session)
        return self._query(lambda connection: list(connection.execute(statement).scalars()))

    def live(self) -> list[Reservation]:
        """The reservations stored in a state that holds bandwidth."""
        table = RESERVATIONS.c
        is_live = table.state.in_([str(state) for state in LIVE])
        return self._read(select(table.record).where(table.map == self._map_name, is_live), {}, LOAD_TIMEOUT_S)

    def find(self, reservation_id: str) -> Reservation | None:
        """The reservation with that id, live or not.

        Raises: LedgerUnavailable.
        """
        return next(iter(self._read(SELECT_RECORD, {"map": self._map_name, "id": reservation_id})), None)

    def existing_ids(self, ids: Collection[str]) -> frozenset[str]:
        """Those of these ids that a reservation of any map has, or had within the retention.

        Raises: LedgerUnavailable.
        """
        parameters = {"ids": list(ids)}
        return self._query(lambda connection: frozenset(connection.execute(SELECT_EXISTING_IDS, parameters).scalars()))

    def _read(
        self, statement: Select[Any], parameters: dict[str, str], timeout_s: float = ANSWER_TIMEOUT_S
    ) -> list[Reservation]:
        records = self._query(lambda connection: connection.execute(statement, parameters).scalars().all(), timeout_s)
        return [RECORD.validate_json(record) for record in records]

    def _query(self, query: Work[Result], timeout_s: float = ANSWER_TIMEOUT_S) -> Result:
        try:
            return self._database.read(query, timeout_s)
        except (SQLAlchemyError, OSError) as error:
            self.on_read_failure(error)
            raise unavailable("read") from error

    def close(self) -> None:
        """Close the connections and the engine."""
        self._database.close()


def unavailable(action: str = "written") -> LedgerUnavailable:
    """The error for clients; `action`: what the ledger cannot be, read or written."""
    sentence = f"The ledger cannot be {action} now, so nothing was changed; try again later."
    return LedgerUnavailable(sentence, retry_after_s=RETRY_AFTER_S)


def _upsert(connection: Connection, rows: list[dict[str, object]]) -> None:
    if rows:
        connection.execute(UPSERT_RESERVATION[connection.dialect.name], rows)


def _by_statement(rows: Iterable[Row]) -> dict[Insert, list[dict[str, object]]]:
    grouped: dict[Insert, list[dict[str, object]]] = {}
    for insert, row in rows:
        grouped.setdefault(insert, []).append(row)
    return grouped
