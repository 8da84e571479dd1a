"""Reads what another controller changes in the live reservations of a ledger."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter
from sqlalchemy import Connection

from controller.domain.reservation import Reservation
from controller.storage.access import DatabaseAccess
from controller.storage.tables import SELECT_LIVE_RECORDS, SELECT_LIVE_VERSIONS

READ_BATCH = 1000
"""Rows read in one query."""
LOAD_TIMEOUT_S = 60.0
"""How long reading all live reservations from a database server may take."""
RECORD = TypeAdapter(Reservation)


@dataclass(frozen=True, slots=True)
class LiveRow:
    """A live reservation, and the version of its row."""

    reservation: Reservation
    version: str


@dataclass(frozen=True, slots=True)
class LiveChanges:
    """The live reservations that are new or changed, and the ids of those that are live no more."""

    changed: list[LiveRow]
    ended: Collection[str]


class LiveRows:
    """The rows of the live reservations of one map."""

    def __init__(self, database: DatabaseAccess, dialect: str, map_name: str) -> None:
        self._database, self._map_name = database, map_name
        self._versions, self._records = SELECT_LIVE_VERSIONS[dialect], SELECT_LIVE_RECORDS[dialect]

    def changes(self, known: Mapping[str, str]) -> LiveChanges:
        """What differs from the rows that were read before. `known`: their versions by id.

        Raises: SQLAlchemyError, OSError.
        """
        read = self._database.read(self._read_versions, LOAD_TIMEOUT_S)
        changed = [name for name, version in read.items() if known.get(name) != version]
        rows: list[LiveRow] = []
        for first in range(0, len(changed), READ_BATCH):
            rows += self._read(changed[first : first + READ_BATCH])
        return LiveChanges(rows, known.keys() - read.keys())

    def _read_versions(self, connection: Connection) -> dict[str, str]:
        rows = connection.execute(self._versions, {"map": self._map_name})
        return {row[0]: row[1] for row in rows}

    def _read(self, ids: list[str]) -> list[LiveRow]:
        parameters = {"map": self._map_name, "ids": ids}
        read = self._database.read(
            lambda connection: connection.execute(self._records, parameters).all(), LOAD_TIMEOUT_S
        )
        return [LiveRow(RECORD.validate_json(record), version) for _, version, record in read]
