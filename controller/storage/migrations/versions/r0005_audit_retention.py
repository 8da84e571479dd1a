"""Allows deleting audit entries older than a day; entries can still not be changed."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_index("audit_map_at", "audit", ["map", "at_s"])
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER IF EXISTS audit_no_delete")
        op.execute(
            "CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit "
            "WHEN OLD.at_s > CAST(strftime('%s', 'now') AS REAL) - 86400 "
            "BEGIN SELECT RAISE(ABORT, 'the audit log of the last day only grows'); END"
        )
