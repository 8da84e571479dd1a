"""Creates the table of writers, and dates the end of reservations, so that old ones can be deleted."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

ENDED = ("ended", "released", "expired", "failed")


def upgrade() -> None:
    """Upgrade to this revision; reservations that ended before are dated now."""
    op.create_table(
        "writers",
        sa.Column("map", sa.String(64), primary_key=True),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("since_s", sa.Float, nullable=False),
    )
    op.add_column("reservations", sa.Column("ended_at_s", sa.Float))
    table = sa.table("reservations", sa.column("state", sa.String), sa.column("ended_at_s", sa.Float))
    op.execute(table.update().where(table.c.state.in_(ENDED)).values(ended_at_s=time.time()))
    op.create_index("ix_reservations_ended_at_s", "reservations", ["ended_at_s"])
