"""Transactions on databases that cannot be used: read-only files, and servers that do not answer."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from controller.errors import LedgerUnavailable
from controller.security.audit import AuditLog
from controller.storage.access import DatabaseAccess, _ServerAccess, _turns_of
from controller.storage.database import engine_of
from controller.storage.ledger import Ledger
from machine.polling import wait_until
from tests.unit.controller.service.test_setup import spec
from tests.unit.controller.simulated_switches import running_service
from tests.unit.controller.storage.test_ledger import reservation


def test_a_read_only_ledger_is_read_and_changes_are_refused(tmp_path: Path) -> None:
    writable = Ledger(f"sqlite:///{tmp_path}/ledger.db", "pair")
    writable.write(reservation())
    read_only = Ledger(f"sqlite:///file:{tmp_path}/ledger.db?mode=ro&uri=true", "pair")
    assert read_only.live() == [reservation()]
    with running_service(read_only) as service:
        for _ in range(2):
            with pytest.raises(LedgerUnavailable):
                service.reserve(spec(1)).result(60)
        assert service.queries.ledger_status().failing_since_s is not None
    writable.close()


def test_a_caller_waits_a_bounded_time_for_a_server_and_later_transactions_take_effect_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(f"sqlite:///{tmp_path}/server.db")
    access, answered = _ServerAccess(engine), threading.Event()
    monkeypatch.setattr("controller.storage.access.ANSWER_TIMEOUT_S", 60)
    access.write(lambda connection: connection.execute(text("CREATE TABLE log (entry TEXT)")))
    monkeypatch.setattr("controller.storage.access.ANSWER_TIMEOUT_S", 0.05)

    def silent(connection: Connection) -> None:
        answered.wait(60)
        connection.execute(text("INSERT INTO log VALUES ('slow')"))

    def append(entry: str) -> None:
        access.write(lambda connection: connection.execute(text("INSERT INTO log VALUES (:entry)"), {"entry": entry}))

    with pytest.raises(TimeoutError, match="has not answered"):
        access.write(silent)
    with pytest.raises(TimeoutError, match="has not answered"):
        append("dropped")
    answered.set()
    monkeypatch.setattr("controller.storage.access.ANSWER_TIMEOUT_S", 60)
    append("later")
    query = text("SELECT entry FROM log")
    assert access.read(lambda connection: connection.execute(query).scalars().all(), 60) == ["slow", "later"]
    with pytest.raises(OperationalError):
        access.read(lambda connection: connection.execute(text("SELECT nothing FROM nowhere")), 60)
    access.close()
    engine.dispose()


def test_opening_a_database_again_keeps_the_locks_of_its_connections(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", "pair")
    Ledger(f"sqlite:///{tmp_path}/ledger.db", "pair").close()
    other = [sys.executable, "-c", "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM tokens')"]
    subprocess.run([*other, str(tmp_path / "ledger.db")], check=True)  # would delete the log if it were the last
    ledger.write(reservation())
    read = [sys.executable, "-c", "import sqlite3, sys; print(len(sqlite3.connect(sys.argv[1]).execute("
            "'SELECT * FROM reservations').fetchall()))"]  # fmt: skip
    done = subprocess.run([*read, str(tmp_path / "ledger.db")], check=True, capture_output=True, text=True)
    assert done.stdout == "1\n"
    ledger.close()


def test_components_of_a_process_write_to_a_file_in_turn_however_long_one_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a connection of its own, on which SQLite would find the file locked by another."""
    monkeypatch.setattr("controller.storage.database.LOCK_TIMEOUT_S", 0)
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger, audit = Ledger(url, "pair"), AuditLog(url, "pair")
    writing, slow_ends = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        connection.execute(text("DELETE FROM audit"))
        writing.set()
        assert slow_ends.wait(60)

    with ThreadPoolExecutor() as pool:
        holder = pool.submit(audit._database.write, slow)
        assert writing.wait(60)
        waiting = pool.submit(ledger.write, reservation())
        turns = _turns_of(ledger.engine)
        wait_until(lambda: turns.waiting == 1)
        assert ledger.live() == []
        slow_ends.set()
        holder.result(60)
        waiting.result(60)
    assert ledger.live() == [reservation()]
    ledger.close()
    audit.close()


def test_a_lock_of_another_process_is_waited_for_once_by_all_who_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.storage.database.LOCK_TIMEOUT_S", 0)
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger, access = Ledger(url, "pair"), DatabaseAccess(engine_of(url))
    turns, begun, all_wait = _turns_of(ledger.engine), threading.Event(), threading.Event()

    def hold(_: Connection) -> None:
        begun.set()
        assert all_wait.wait(60)

    connected = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    with closing(connected) as other, ThreadPoolExecutor(30) as pool:
        other.execute("BEGIN EXCLUSIVE")
        holder = pool.submit(access.write, hold)
        assert begun.wait(60)
        first = pool.submit(ledger.write, reservation())
        wait_until(lambda: turns.waiting == 1)
        others = [pool.submit(access.write, lambda _: None) for _ in range(20)]
        wait_until(lambda: turns.waiting == 21)
        all_wait.set()
        holder.result(60)
        with pytest.raises(OperationalError, match="locked"):
            first.result(60)
        for each in others:
            with pytest.raises(TimeoutError, match="another process has locked the database"):
                each.result(60)
    ledger.write(reservation())
    assert ledger.live() == [reservation()]
    access.close()
    ledger.close()
