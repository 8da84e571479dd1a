"""Creates the table of spans that are out of service."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_table(
        "closed_spans",
        sa.Column("map", sa.String(64), primary_key=True),
        sa.Column("span", sa.String(64), primary_key=True),
    )
