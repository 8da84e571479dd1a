"""The ledger of a running controller: one writer, and a database that is locked or full while requests come."""

from __future__ import annotations

import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller.security.access import Quota, Scope
from controller.security.tokens import TokenStore
from machine.polling import wait_until
from tests.processes.rig import Controller, flow, free_port

PATIENCE_S = 5.0
"""For a loud machine; the goal is 1 s."""


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    """A controller without switches, with a token: held reservations are on no switch."""
    tokens = TokenStore(f"sqlite:///{tmp_path}/ledger.db")
    secret = tokens.add("lab", "lab", frozenset({Scope.OPERATE}), Quota(None, None))
    tokens.close()
    running = Controller(tmp_path)
    running.client.headers["Authorization"] = f"Bearer {secret}"
    try:
        yield running
    finally:
        running.client.close()
        running.stop(signal.SIGKILL)


def ledger_file(controller: Controller) -> Path:
    return Path(controller.ledger.removeprefix("sqlite:///"))


@contextmanager
def locked(controller: Controller) -> Iterator[None]:
    """Hold the write lock, as another process."""
    with closing(sqlite3.connect(ledger_file(controller), isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


@contextmanager
def full(controller: Controller) -> Iterator[None]:
    """Let no file of the controller grow, as under a quota."""
    size = ledger_file(controller).with_name("ledger.db-wal").stat().st_size
    before = resource.prlimit(controller.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(controller.process.pid, resource.RLIMIT_FSIZE, before)


def held(controller: Controller, port: int, **headers: str) -> httpx.Response:
    body: dict[str, Any] = {"flows": [flow(1_000_000, source_port=port)], "hold": True, "lease_s": 600}
    return controller.client.post("/v1/reservations", json=body, headers=headers)


@pytest.mark.parametrize("away", [locked, full])
def test_while_the_ledger_is_away_changes_are_refused_at_once_and_reads_and_renewals_go_on(
    controller: Controller, away: Any
) -> None:
    client, first = controller.client, held(controller, 7801).json()["id"]
    with away(controller):
        for attempt in range(4):
            began_s = time.monotonic()
            answer = held(controller, 7802) if attempt % 2 == 0 else held(controller, 7802, **{"Idempotency-Key": "a"})
            assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable"), answer.text
            assert answer.headers["Retry-After"] == "1"
            assert time.monotonic() - began_s < PATIENCE_S
        began_s = time.monotonic()
        for path in ("/v1/reservations", f"/v1/reservations/{first}", "/v1/network", "/metrics"):
            assert client.get(path).status_code == 200, path
        assert client.delete(f"/v1/reservations/{first}").json()["code"] == "ledger_unavailable"
        assert client.patch(f"/v1/reservations/{first}", json={"lease_s": 700}).json()["lease_s"] == 700
        health = client.get("/v1/healthz").json()
        assert (health["status"], health["ledger"], health["ledger_unrecorded"]) == ("degraded", "failing", 1)
        assert time.monotonic() - began_s < PATIENCE_S
    wait_until(lambda: client.get("/v1/healthz").json()["ledger"] == "ok")
    assert held(controller, 7802).status_code == 201
    wait_until(lambda: "ledger_unrecorded" not in client.get("/v1/healthz").json())
    with closing(sqlite3.connect(ledger_file(controller))) as connection:
        records = connection.execute("SELECT state, record FROM reservations").fetchall()
        assert len([record for _, record in records if '"lease_s":700.0' in record]) == 1, records
    assert "Traceback" not in controller.log.read_text()


def second(controller: Controller) -> subprocess.CompletedProcess[str]:
    """Start another controller on the same ledger; it must end by itself."""
    ports = ["--listen", f"127.0.0.1:{free_port()}", "--openflow", f"127.0.0.1:{free_port()}"]
    command = [sys.executable, "-m", "controller.runtime.main", "pair", "--ledger", controller.ledger, *ports]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_a_second_controller_is_told_which_process_writes_the_ledger_until_that_is_killed(
    controller: Controller,
) -> None:
    refused = second(controller)
    assert refused.returncode == 3
    sentence = f"Error: Another controller of pair uses the ledger {ledger_file(controller)}: process "
    assert refused.stderr.startswith(f"{sentence}{controller.process.pid} on ")
    assert "Traceback" not in refused.stderr
    assert held(controller, 7801).status_code == 201
    controller.stop(signal.SIGKILL)
    controller.start()  # the lock of a killed holder is free at once
    assert len(controller.client.get("/v1/reservations").json()["reservations"]) == 1
    controller.stop()
    assert not list(ledger_file(controller).parent.glob("*.lock"))
    controller.start()
