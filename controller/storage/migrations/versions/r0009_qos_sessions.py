"""Creates the table of QoS sessions and bookings requested over the APIs of CAMARA."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_table(
        "qos_sessions",
        sa.Column("map", sa.String(64), primary_key=True),
        sa.Column("session", sa.String(36), primary_key=True),
        sa.Column("record", sa.Text, nullable=False),
    )
