"""Tables of the ledger, and the statements that are on the path of a request: created once."""

from __future__ import annotations

from types import ModuleType

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Insert,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    cast,
    literal_column,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from controller.domain.reservation import LIVE

METADATA = MetaData()
RESERVATIONS = Table(
    "reservations",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("map", String(64), nullable=False, index=True),
    Column("state", String(16), nullable=False, index=True),
    Column("record", Text, nullable=False),
    Column("ended_at_s", Float, index=True),
)
RESPONSES = Table(
    "answers",
    METADATA,
    Column("map", String(64), primary_key=True),
    Column("tenant", String(255), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("body_digest", String(128), nullable=False),
    Column("answered_at_s", Float, nullable=False, index=True),
    Column("record", Text, nullable=False),
)
CLOSED_SPANS = Table(
    "closed_spans",
    METADATA,
    Column("map", String(64), primary_key=True),
    Column("span", String(64), primary_key=True),
)
STREAMS = Table(
    "streams",
    METADATA,
    Column("map", String(64), primary_key=True),
    Column("stream", String(32), primary_key=True),
    Column("record", Text, nullable=False),
)
QOS_SESSIONS = Table(
    "qos_sessions",
    METADATA,
    Column("map", String(64), primary_key=True),
    Column("session", String(36), primary_key=True),
    Column("record", Text, nullable=False),
)
WRITERS = Table(
    "writers",
    METADATA,
    Column("map", String(64), primary_key=True),
    Column("fence", BigInteger, nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("since_s", Float, nullable=False),
    Column("address", String(255), nullable=False, server_default=""),
    Column("beat", BigInteger, nullable=False, server_default="0"),
)
"""The controller that writes the reservations of a map; `fence` grows with every new one, `beat` while it is alive."""

INSERT_RESERVATION = RESERVATIONS.insert()


def _upsert(dialect: ModuleType) -> Insert:
    statement = dialect.insert(RESERVATIONS)
    changed = {name: statement.excluded[name] for name in ("map", "state", "record", "ended_at_s")}
    upsert: Insert = statement.on_conflict_do_update(index_elements=["id"], set_=changed)
    return upsert


UPSERT_RESERVATION = {dialect.dialect.name: _upsert(dialect) for dialect in (sqlite, postgresql)}
"""By dialect."""

DELETE_RESERVATIONS = RESERVATIONS.delete().where(
    RESERVATIONS.c.map == bindparam("map"), RESERVATIONS.c.id.in_(bindparam("ids", expanding=True))
)
SELECT_RECORD = select(RESERVATIONS.c.record).where(
    RESERVATIONS.c.map == bindparam("map"), RESERVATIONS.c.id == bindparam("id")
)
LIVE_ROWS = RESERVATIONS.c.map == bindparam("map"), RESERVATIONS.c.state.in_([str(state) for state in LIVE])
ROW_VERSION = {
    "postgresql": cast(literal_column("xmin"), Text),
    "sqlite": RESERVATIONS.c.record,
}
"""By dialect: what differs after every change of a row. PostgreSQL: the transaction that has written it."""
SELECT_LIVE_VERSIONS = {
    dialect: select(RESERVATIONS.c.id, version).where(*LIVE_ROWS) for dialect, version in ROW_VERSION.items()
}
SELECT_LIVE_RECORDS = {
    dialect: select(RESERVATIONS.c.id, version, RESERVATIONS.c.record).where(
        *LIVE_ROWS, RESERVATIONS.c.id.in_(bindparam("ids", expanding=True))
    )
    for dialect, version in ROW_VERSION.items()
}

SELECT_EXISTING_IDS = select(RESERVATIONS.c.id).where(RESERVATIONS.c.id.in_(bindparam("ids", expanding=True)))
SELECT_ENDED_IDS = select(RESERVATIONS.c.id).where(
    RESERVATIONS.c.map == bindparam("map"), RESERVATIONS.c.ended_at_s < bindparam("before_s")
)

INSERT_RESPONSE = RESPONSES.insert()
_KEY = ("map", "tenant", "key")
SELECT_RESPONSE = select(RESPONSES.c.body_digest, RESPONSES.c.record).where(
    *(RESPONSES.c[name] == bindparam(name) for name in _KEY)
)
DELETE_RESPONSE = RESPONSES.delete().where(*(RESPONSES.c[name] == bindparam(f"of_{name}") for name in _KEY))

SELECT_FENCE = select(WRITERS.c.fence).where(WRITERS.c.map == bindparam("map"))
