"""Brings a ledger's tables to what this version of the controller reads and writes.

The steps are alembic revisions in controller/migrations/versions; they run at start, in one transaction where the
database allows it. A new table or column is a new file there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

FIRST = "0001"
"""What ledgers had before revisions were counted."""


def upgrade(connection: Connection) -> None:
    """Run the revisions that this database has not seen.

    Raises: SQLAlchemyError; alembic.util.CommandError if the database is newer than this controller.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    script = ScriptDirectory.from_config(config)
    tables = set(inspect(connection).get_table_names())
    if "reservations" in tables and "alembic_version" not in tables:
        MigrationContext.configure(connection).stamp(script, FIRST)

    def missing(revision: Any, _: Any) -> Any:
        return script._upgrade_revs("head", revision)  # what alembic's own `upgrade` command calls

    with EnvironmentContext(config, script, fn=missing, destination_rev="head") as environment:
        environment.configure(connection=connection)
        environment.run_migrations()
