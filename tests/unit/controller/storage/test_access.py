"""Transactions on databases that cannot be used: read-only files, and servers that do not answer."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from controller.errors import LedgerUnavailable
from controller.storage.access import _ServerAccess
from controller.storage.database import engine_of
from controller.storage.ledger import Ledger
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
