"""Copies the database of a ledger to an empty one of either kind: to move to PostgreSQL, as a backup, to restore one.

The copy gets the tables of the source's version, then the rows, then the revisions that the source lacks: the source
may be of an older version.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from alembic.util import CommandError
from sqlalchemy import Connection, MetaData, Table, func, inspect, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from controller.errors import StartError
from controller.storage.database import engine_of, without_passwords
from controller.storage.schema import FIRST_REVISION, revision_of, upgrade
from controller.storage.writer_lock import LedgerInUseError, acquire_writer_lock

BATCH = 1000
"""Rows read and written at a time."""
NOT_COPIED = frozenset({"writers", "alembic_version"})
"""A copy has no writer yet, and gets its version by migration."""
EXIT_CODE = 2


def copy_ledger(source_url: str, target_url: str, is_in_use: bool = False) -> Mapping[str, int]:
    """Copy reservations, responses, spans out of service, tokens and audit log; return the number of rows by table.

    `is_in_use`: copy what the source holds at one instant although a controller may be writing it.

    Raises: StartError if a URL is wrong, a controller uses the source, the source is no ledger, or the target has rows.
    """
    if _normal_form(source_url) == _normal_form(target_url):
        raise StartError("The two ledgers are the same; the target must be another, empty one.", EXIT_CODE)
    _require_file(source_url)
    with contextlib.ExitStack() as opened:
        if not is_in_use:
            for name in _maps(source_url):
                opened.callback(_lock(source_url, name))
        source = opened.enter_context(_transaction(source_url))
        tables = _tables(source, source_url)
        revision = revision_of(source)
        target = opened.enter_context(_transaction(target_url))
        _require_empty(target, target_url)
        upgrade(target, revision or FIRST_REVISION)
        counts = {table.name: _copy_rows(source, target, table) for table in tables}
        upgrade(target)
        if target.dialect.name == "postgresql" and counts.get("audit"):
            sequence = "pg_get_serial_sequence('audit', 'seq')"
            target.execute(text(f"SELECT setval({sequence}, (SELECT max(seq) FROM audit))"))
    return counts


def _lock(url: str, map_name: str) -> Callable[[], None]:
    """Keep controllers of a map away from the ledger; returns what ends that.

    Raises: StartError if one uses it.
    """
    try:
        return acquire_writer_lock(url, map_name).release
    except LedgerInUseError as error:
        sentence = f"A controller of {map_name} uses the ledger{error.by}. Stop it first, or copy with --in-use."
        raise StartError(sentence, error.exit_code) from error


def _normal_form(url: str) -> str:
    """The normal form of a URL.

    Raises: StartError if it is none, or of a database in memory.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except SQLAlchemyError as error:
        sentence = (
            f"{without_passwords(url)!r} is not the URL of a ledger; an example is sqlite:////var/tmp/paceline.db."
        )
        raise StartError(sentence, EXIT_CODE) from error
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise StartError(f"The ledger {url} is in the memory of a process, so it cannot be copied.", EXIT_CODE)
    return parsed.render_as_string(hide_password=False)


def _require_file(url: str) -> None:
    """Refuse an SQLite file that does not exist: opening would create it."""
    parsed = make_url(url)
    name = parsed.database or ""
    if parsed.get_backend_name() == "sqlite" and not name.startswith("file:") and not Path(name).is_file():
        raise StartError(f"There is no ledger in {url}: no such file.", EXIT_CODE)


@contextlib.contextmanager
def _transaction(url: str) -> Iterator[Connection]:
    """A transaction on a database; committed at the end, and everything read in it is of one instant.

    Raises: StartError.
    """
    try:
        engine = engine_of(url)
        is_sqlite = engine.dialect.name == "sqlite"
        try:
            with engine.connect() as connection:
                if is_sqlite:
                    connection.exec_driver_sql("BEGIN")  # sqlite3 itself begins before changes only
                else:
                    connection.execution_options(isolation_level="REPEATABLE READ")
                yield connection
                connection.commit()
        finally:
            engine.dispose()
    except (SQLAlchemyError, CommandError, ImportError, OSError) as error:
        reason = without_passwords(str(error).splitlines()[0])
        raise StartError(f"The ledger {without_passwords(url)} cannot be copied: {reason}", EXIT_CODE) from error


def _maps(url: str) -> Sequence[str]:
    """The names of the maps that have rows."""
    names: set[str] = set()
    with _transaction(url) as connection:
        for table in _tables(connection, url):
            if "map" in table.c:
                names.update(connection.execute(select(table.c.map).distinct()).scalars())
    return sorted(names)


def _tables(source: Connection, url: str) -> list[Table]:
    """The tables that a ledger of the source's version has.

    Raises: StartError if it has none.
    """
    present = set(inspect(source).get_table_names())
    if "reservations" not in present:
        raise StartError(f"There is no ledger in {without_passwords(url)}: it has no reservations table.", EXIT_CODE)
    metadata = MetaData()
    return [Table(name, metadata, autoload_with=source) for name in sorted(present - NOT_COPIED) if _is_own(name)]


def _require_empty(target: Connection, url: str) -> None:
    present = set(inspect(target).get_table_names())
    own = {name for name in present - NOT_COPIED if _is_own(name)}
    for name in sorted(own, key=lambda name: name != "reservations"):
        rows = target.execute(text(f"SELECT count(*) FROM {name}")).scalar_one()
        if rows:
            sentence = f"The ledger {without_passwords(url)} is not empty: {name} has {rows} rows."
            raise StartError(f"{sentence} Give an empty database.", EXIT_CODE)
    for name in own | (present & NOT_COPIED):  # of a controller that has reserved nothing
        target.execute(text(f"DROP TABLE {name}"))


def _is_own(name: str) -> bool:
    """Whether this is a table of a ledger, not one of SQLite itself."""
    return not name.startswith("sqlite_")


def _copy_rows(source: Connection, target: Connection, table: Table) -> int:
    rows = source.execution_options(yield_per=BATCH).execute(select(table).order_by(*table.primary_key)).mappings()
    count = 0
    for batch in rows.partitions(BATCH):
        target.execute(table.insert(), [dict(row) for row in batch])
        count += len(batch)
    assert count == target.execute(select(func.count()).select_from(table)).scalar_one()
    return count
