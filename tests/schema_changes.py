"""What the revisions of the ledger's schema do: whether they only add, and whether an older version goes on writing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from alembic.operations import ops
from alembic.operations.base import AbstractOperations
from sqlalchemy import Connection, Float, MetaData, Numeric, String, Table, insert, select
from sqlalchemy import Integer as AnyInteger

import controller
from controller.storage.schema import upgrade

VERSIONS = Path(controller.__file__).parent / "storage/migrations/versions"
REVISIONS = sorted(path.name[1:5] for path in VERSIONS.glob("r*.py"))
RELEASED = "0005"
"""The schema of the last version that was released, 0.1.0; later revisions are seen by others first as an upgrade."""

KNOWN = {
    ("0003", "executes CREATE TRIGGER audit_no_update BEFORE UPDATE ON"),
    ("0003", "executes CREATE TRIGGER audit_no_delete BEFORE DELETE ON"),
    ("0005", "executes DROP TRIGGER IF EXISTS audit_no_delete"),
    ("0005", "executes CREATE TRIGGER audit_no_delete BEFORE DELETE ON"),
    ("0006", "executes UPDATE reservations SET ended_at_s :ended_at_s WHERE"),
    ("0008", "alters writers.fence"),
}
"""What revisions before this rule do beyond adding, and why it does no harm: the audit log was never updated and rarely
deleted from, rows that had ended got a date, and 32 bits became 64. Nothing is added here: a new revision only adds."""
WORDS = 6
"""By which a statement is known."""


def beyond_adding(operation: ops.MigrateOperation) -> str | None:
    """What an operation does that a version before it may not bear; None: it only adds."""
    if isinstance(operation, ops.CreateTableOp):
        return None
    if isinstance(operation, ops.AddColumnOp):
        column = operation.column
        is_optional = column.nullable or column.server_default is not None
        is_free = not (column.unique or column.foreign_keys or column.primary_key)
        return None if is_optional and is_free else f"adds {operation.table_name}.{column.name}, which must be given"
    if isinstance(operation, ops.CreateIndexOp):
        return f"makes {operation.table_name} unique by {operation.index_name}" if operation.unique else None
    if isinstance(operation, ops.DropIndexOp):
        return None
    if isinstance(operation, ops.ExecuteSQLOp):
        return "executes " + " ".join(str(operation.sqltext).replace("=", " ").split()[:WORDS])
    if isinstance(operation, ops.AlterColumnOp):
        return f"alters {operation.table_name}.{operation.column_name}"
    return type(operation).__name__


def changes_beyond_adding(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """Run every revision on an empty database; what each does beyond adding."""
    found: set[tuple[str, str]] = set()
    revision = REVISIONS[0]
    invoke = AbstractOperations.invoke

    def recording(self: AbstractOperations, operation: ops.MigrateOperation) -> Any:
        if (what := beyond_adding(operation)) is not None:
            found.add((revision, what))
        return invoke(self, operation)

    monkeypatch.setattr(AbstractOperations, "invoke", recording)
    for revision in REVISIONS:
        upgrade(connection, revision)
    return found


def write_as(connection: Connection, revision: str) -> list[str]:
    """Upgrade an empty database to a revision, and on to the newest one; then write and read every table as before.

    Return the tables.
    """
    upgrade(connection, revision)
    before = MetaData()
    before.reflect(connection)
    upgrade(connection)
    names = sorted(before.tables.keys() - {"alembic_version"})
    for table in (before.tables[name] for name in names):
        row = _row(table)
        connection.execute(insert(table).values(row))
        (read,) = connection.execute(select(table)).mappings()
        assert dict(read) == row
    return names


def _row(table: Table) -> dict[str, object]:
    return {column.name: _value(column.type) for column in table.columns}


def _value(kind: object) -> object:
    if isinstance(kind, AnyInteger):
        return 7
    if isinstance(kind, Float | Numeric):
        return 1.5
    assert isinstance(kind, String)
    return "a"
