"""A revision of the schema only adds, so a controller of the version before goes on while a standby has migrated."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from alembic.operations import ops

from tests.schema_changes import KNOWN, RELEASED, REVISIONS, beyond_adding, changes_beyond_adding, write_as


def test_every_revision_only_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        assert changes_beyond_adding(connection, monkeypatch) - KNOWN == set()
    engine.dispose()


@pytest.mark.parametrize("revision", REVISIONS)
def test_an_older_version_writes_and_reads_every_table_of_the_newest_schema(revision: str) -> None:
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        assert "reservations" in write_as(connection, revision)
    engine.dispose()


def test_the_schema_of_the_last_release_is_one_of_the_revisions() -> None:
    assert RELEASED in REVISIONS
    assert {revision for revision, _ in KNOWN} < set(REVISIONS)


@pytest.mark.parametrize(
    "operation",
    [
        ops.AddColumnOp("tokens", sa.Column("added", sa.Integer, nullable=False)),
        ops.AddColumnOp("tokens", sa.Column("added", sa.Integer, unique=True)),
        ops.AlterColumnOp("tokens", "tenant", modify_nullable=False),
        ops.AlterColumnOp("tokens", "tenant", modify_name="owner"),
        ops.RenameTableOp("tokens", "keys"),
        ops.DropColumnOp("tokens", "tenant"),
        ops.DropTableOp("tokens"),
        ops.CreateIndexOp("by_tenant", "tokens", ["tenant"], unique=True),
        ops.CreateUniqueConstraintOp("by_tenant", "tokens", ["tenant"]),
        ops.ExecuteSQLOp("ALTER TABLE tokens DROP COLUMN tenant"),
    ],
    ids=lambda operation: type(operation).__name__,
)
def test_what_an_older_version_may_not_bear_is_found(operation: ops.MigrateOperation) -> None:
    assert beyond_adding(operation) is not None


@pytest.mark.parametrize(
    "operation",
    [
        ops.CreateTableOp("added", [sa.Column("name", sa.String(64), primary_key=True)]),
        ops.AddColumnOp("tokens", sa.Column("note", sa.String(64))),
        ops.AddColumnOp("tokens", sa.Column("uses", sa.BigInteger, nullable=False, server_default="0")),
        ops.CreateIndexOp("by_tenant", "tokens", ["tenant"]),
    ],
    ids=lambda operation: type(operation).__name__,
)
def test_additions_are_allowed(operation: ops.MigrateOperation) -> None:
    assert beyond_adding(operation) is None
