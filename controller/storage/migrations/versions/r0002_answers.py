"""Creates the table of responses to requests with an Idempotency-Key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_table(
        "answers",
        sa.Column("map", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(255), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("body_digest", sa.String(128), nullable=False),
        sa.Column("answered_at_s", sa.Float, nullable=False, index=True),
        sa.Column("record", sa.Text, nullable=False),
    )
