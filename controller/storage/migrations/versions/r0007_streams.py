"""Creates the table of streams requested in terms of IEEE 802.1Qcc."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_table(
        "streams",
        sa.Column("map", sa.String(64), primary_key=True),
        sa.Column("stream", sa.String(32), primary_key=True),
        sa.Column("record", sa.Text, nullable=False),
    )
