"""What survives a restart: every reservation, as it last stood. SQLite by default, any SQLAlchemy URL."""

from __future__ import annotations

from pydantic import TypeAdapter
from sqlalchemy import Column, Engine, MetaData, String, Table, Text, create_engine, event, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from controller.errors import StartError
from controller.reservation import LIVE, Reservation

_METADATA = MetaData()
_TABLE = Table(
    "reservations",
    _METADATA,
    Column("id", String(16), primary_key=True),
    Column("map", String(64), nullable=False, index=True),
    Column("state", String(16), nullable=False, index=True),
    Column("record", Text, nullable=False),
)
_RECORD = TypeAdapter(Reservation)

IN_MEMORY = "sqlite://"


class Ledger:
    """The reservations of one map. Calls come from the one writer, so there is no locking here."""

    def __init__(self, url: str, map_name: str) -> None:
        """Open or create it.

        Raises: StartError if the URL is wrong or the database cannot be opened.
        """
        self._map_name = map_name
        try:
            self._engine = _engine(url)
            _METADATA.create_all(self._engine)
        except (SQLAlchemyError, ImportError, ValueError, OSError) as error:
            reason = str(error).splitlines()[0]
            sentence = f"The ledger {url} cannot be opened: {reason}. An example is sqlite:////var/tmp/paceline.db."
            raise StartError(sentence, exit_code=2) from error

    def save(self, reservation: Reservation) -> None:
        """Write down how a reservation stands now."""
        record = _RECORD.dump_json(reservation).decode()
        row = {"id": reservation.id, "map": self._map_name, "state": str(reservation.state), "record": record}
        with self._engine.begin() as connection:
            connection.execute(_TABLE.delete().where(_TABLE.c.id == reservation.id))
            connection.execute(_TABLE.insert().values(row))

    def live(self) -> list[Reservation]:
        """The reservations that held bandwidth when the ledger was last written."""
        states = [str(state) for state in LIVE]
        wanted = select(_TABLE.c.record).where(_TABLE.c.map == self._map_name, _TABLE.c.state.in_(states))
        with self._engine.connect() as connection:
            return [_RECORD.validate_json(record) for (record,) in connection.execute(wanted)]

    def find(self, reservation_id: str) -> Reservation | None:
        """The reservation of that id, live or not."""
        wanted = select(_TABLE.c.record).where(_TABLE.c.map == self._map_name, _TABLE.c.id == reservation_id)
        with self._engine.connect() as connection:
            record = connection.execute(wanted).scalar()
        return None if record is None else _RECORD.validate_json(record)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed)
    in_memory = parsed.database in (None, "", ":memory:")
    pool = {"poolclass": StaticPool} if in_memory else {}
    engine = create_engine(parsed, connect_args={"check_same_thread": False}, **pool)
    event.listen(engine, "connect", _tune)
    return engine


def _tune(connection: object, _record: object) -> None:
    """Write-ahead: a commit is one append, safe when the process dies (not when the power does)."""
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
