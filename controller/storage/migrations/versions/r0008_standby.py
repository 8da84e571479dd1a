"""Adds to the writers what a standby needs: the address of the REST API, and a beat."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Upgrade to this revision; an integer of SQLite has 64 bits anyway."""
    if op.get_bind().dialect.name != "sqlite":
        op.alter_column("writers", "fence", type_=sa.BigInteger)
    op.add_column("writers", sa.Column("address", sa.String(255), nullable=False, server_default=""))
    op.add_column("writers", sa.Column("beat", sa.BigInteger, nullable=False, server_default="0"))
