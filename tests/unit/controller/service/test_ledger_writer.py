"""A locked SQLite file: requests are refused within a bounded time, and what time changes is recorded afterwards."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from controller.api.app import create_app
from controller.domain.reservation import State
from controller.errors import LedgerUnavailable
from controller.security.audit import AuditLog
from controller.service.ledger_writer import LedgerWriter
from controller.storage.database import LOCK_TIMEOUT_S
from controller.storage.ledger import IdempotencyKey, Ledger
from machine.polling import wait_until
from tests.unit.controller.service.test_setup import body, spec
from tests.unit.controller.simulated_switches import running_service, serving
from tests.unit.controller.storage.test_ledger import reservation

PATIENCE_S = LOCK_TIMEOUT_S + 4.0
"""For a loud machine."""


@contextmanager
def locked(file: Path) -> Iterator[None]:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def test_what_time_changes_takes_effect_while_the_ledger_is_locked_and_is_recorded_later(file: Path) -> None:
    with running_service(Ledger(f"sqlite:///{file}", "pair")) as service:
        kept, _ = service.reserve(spec(1)).result(60)
        short = service.modify(service.reserve(spec(2)).result(60)[0].id, 1.5, None)
        kept = service.queries.reservation(kept.id)  # its bounds have grown and are told anew
        wait_until(lambda: not service.queries.ledger_status().unrecorded)
        with locked(file):
            wait_until(lambda: service.queries.stored(short.id).state is State.EXPIRED)
            wait_until(lambda: service.queries.ledger_status().failing_since_s is not None)
            assert service.queries.ledger_status().unrecorded == 1
            renewed = service.modify(kept.id, 500.0, None)
            assert service.ledger.find(short.id) == short
            began_s = time.monotonic()
            for refused in (lambda: service.release(kept.id), lambda: service.reserve(spec(3)).result(60)):
                with pytest.raises(LedgerUnavailable):
                    refused()
            assert time.monotonic() - began_s < 1.0, "the ledger is known to be locked"
        wait_until(lambda: service.queries.ledger_status().failing_since_s is None)
        wait_until(lambda: not service.queries.ledger_status().unrecorded)
        assert service.ledger.find(short.id) == service.queries.stored(short.id)
        assert service.ledger.live() == [renewed]
        assert service.release(kept.id).state is State.RELEASED


def test_what_was_queued_of_a_reservation_is_not_written_over_a_later_change_of_it(file: Path) -> None:
    """Bounds told anew wait longer than requests; the ledger must not forget a release because of them."""
    ledger, made = Ledger(f"sqlite:///{file}", "pair"), reservation()
    writer = LedgerWriter(ledger, lambda _: None)
    writer.write(made, are_new=True)
    writer.queue(replace(made, version=made.version + 1), makes_room=False)
    released = replace(made, version=made.version + 1).with_state(State.RELEASED)
    writer.write(released)
    assert writer.flush(everything=True)
    assert ledger.find(made.id) == released
    ledger.close()


def test_the_first_request_waits_for_the_lock_and_no_longer(file: Path) -> None:
    key = IdempotencyKey("public", "key", "digest")
    with running_service(Ledger(f"sqlite:///{file}", "pair")) as service:
        with locked(file):
            began_s = time.monotonic()
            with pytest.raises(LedgerUnavailable):
                service.reserve(spec(1), key).result(60)
            assert time.monotonic() - began_s < PATIENCE_S
        wait_until(lambda: service.queries.ledger_status().failing_since_s is None)
        assert service.queries.reservations() == service.ledger.live() == []
        made, is_repeated = service.reserve(spec(1), key).result(60)
        assert (made.state, is_repeated) == (State.ACTIVE, False)


def test_reads_are_answered_and_tell_of_it_while_the_ledger_is_locked(file: Path) -> None:
    url = f"sqlite:///{file}"
    audit = AuditLog(url, "pair")
    with running_service(Ledger(url, "pair")) as service, serving(create_app(service, audit=audit)) as client:
        made = client.post("/v1/reservations", json=body(1)).json()
        with locked(file):
            for _ in range(3):
                began_s = time.monotonic()
                answer = client.post("/v1/reservations", json=body(2))
                assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable")
                assert answer.headers["Retry-After"] == "1"
                assert time.monotonic() - began_s < PATIENCE_S
            began_s = time.monotonic()
            assert client.get(f"/v1/reservations/{made['id']}").json()["state"] == "active"
            assert client.delete(f"/v1/reservations/{made['id']}").status_code == 503
            health, metrics = client.get("/v1/healthz").json(), client.get("/metrics").text
            assert time.monotonic() - began_s < PATIENCE_S
        assert (health["status"], health["ledger"]) == ("degraded", "failing")
        assert "paceline_ledger_writable 0.0" in metrics
        wait_until(lambda: client.get("/v1/healthz").json()["status"] == "ok")
        assert client.delete(f"/v1/reservations/{made['id']}").json()["state"] == "released"
        entries = [(entry.method, entry.status) for _, entry in audit.read(0, 20)]
    assert sorted(entries) == sorted([("POST", 201), *[("POST", 503)] * 3, ("DELETE", 503), ("DELETE", 200)])
    audit.close()
