"""Migrates the database to the schema of this version of the controller.

The migrations are the alembic revisions in controller/storage/migrations/versions. They run at start, in one
transaction where the database supports transactional DDL. A new table or column needs a new revision there, which only
adds: tables, or columns that may be null or have a default of the server. A standby is upgraded first and migrates the
tables that the active controller, of the version before, goes on writing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, inspect

FIRST_REVISION = "0001"
"""The schema of databases that were created before alembic was used."""


def revision_of(connection: Connection) -> str | None:
    """The revision of the schema of a ledger; None: it has no tables."""
    tables = set(inspect(connection).get_table_names())
    if "reservations" in tables and "alembic_version" not in tables:
        return FIRST_REVISION
    return MigrationContext.configure(connection).get_current_revision()


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Run the revisions that this database lacks, up to `revision`.

    Raises: SQLAlchemyError; alembic.util.CommandError if the database is newer than this controller.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    script, destination = ScriptDirectory.from_config(config), revision
    present, known = revision_of(connection), [each.revision for each in script.walk_revisions()]
    if present is not None and present not in known:
        raise CommandError(f"its schema {present} is of a newer version of Paceline; this one knows up to {known[0]}")
    tables = set(inspect(connection).get_table_names())
    if "reservations" in tables and "alembic_version" not in tables:
        MigrationContext.configure(connection).stamp(script, FIRST_REVISION)

    def missing_revisions(present: Any, _: Any) -> Any:
        return script._upgrade_revs(destination, present)  # as alembic's own `upgrade` command does

    with EnvironmentContext(config, script, fn=missing_revisions, destination_rev=destination) as environment:
        environment.configure(connection=connection)
        environment.run_migrations()
