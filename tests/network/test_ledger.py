"""A cut while the ledger is locked: the flow is rerouted at once, requests are refused, and it is recorded later."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from emulation.fault_injection import FaultInjector
from machine.polling import wait_until
from tests.network.conftest import Network
from tests.network.datagram_stream import PER_S, RATE_BPS, reserved_flow, stream, udp_flow
from topologies.running_emulation import LEDGER

REROUTED_WITHIN_S = 1.0
ANSWERED_WITHIN_S = 5.0
"""The first request may wait for the lock; the machine may be slow."""


@contextmanager
def locked_ledger() -> Iterator[None]:
    """Hold the write lock of the running controller's ledger."""
    with closing(sqlite3.connect(LEDGER, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


def recorded(reservation_id: str) -> dict[str, Any]:
    with closing(sqlite3.connect(LEDGER)) as connection:
        ((text,),) = connection.execute("SELECT record FROM reservations WHERE id = ?", (reservation_id,))
    record: dict[str, Any] = json.loads(text)
    return record


def path_of(network: Network, reservation_id: str) -> list[str]:
    path: list[str] = network.api.get(f"/v1/reservations/{reservation_id}").json()["flows"][0]["path"]
    return path


def test_a_flow_leaves_a_cut_link_at_once_although_the_ledger_is_locked(metro: Network, tmp_path: Path) -> None:
    faults = FaultInjector(metro.topology, metro.note.ovs_directory)
    with reserved_flow(metro, udp_flow("edge1", "cloud", {"min_bandwidth_bps": RATE_BPS})) as before:
        identity, path = before["id"], before["flows"][0]["path"]
        span = list(pairwise(path))[1]
        try:
            with locked_ledger():
                with stream(metro, "edge1", "cloud", 2.5, tmp_path) as result:
                    faults.set_link(*span, up=False)
                wait_until(lambda: span not in list(pairwise(path_of(metro, identity))))
                wait_until(lambda: metro.api.get("/v1/healthz").json()["ledger"] == "failing")
                check_requests(metro, identity)
            moved = path_of(metro, identity)
            wait_until(lambda: metro.api.get("/v1/healthz").json()["ledger"] == "ok")
            assert recorded(identity)["placements"][0]["path"] == moved != path
            assert metro.api.get("/v1/consistency").json()["consistent"]
            assert "ledger_unrecorded" not in metro.api.get("/v1/healthz").json()
        finally:
            faults.set_link(*span, up=True)
    assert result.lost_in_a_row <= REROUTED_WITHIN_S * PER_S + result.excused, result.gaps
    assert metro.api.get(f"/v1/reservations/{identity}").json()["state"] == "released"


def check_requests(metro: Network, identity: str) -> None:
    """While the ledger is locked: reads and renewals work, other changes are refused, and none takes long."""
    health = metro.api.get("/v1/healthz").json()
    assert (health["status"], health["ledger_unrecorded"]) == ("degraded", 1)
    other = udp_flow("edge2", "cloud", {"min_bandwidth_bps": RATE_BPS})
    wider = udp_flow("edge1", "cloud", {"min_bandwidth_bps": 2 * RATE_BPS})
    requests: list[tuple[str, str, Any]] = [
        ("POST", "/v1/reservations", {"flows": [other]}),
        ("PATCH", f"/v1/reservations/{identity}", {"flows": [wider]}),
        ("DELETE", f"/v1/reservations/{identity}", None),
        ("POST", "/v1/links/r3-r4/down", None),
    ]
    for method, path, body in requests:
        began_s = time.monotonic()
        answer = metro.api.request(method, path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable"), answer.text
        assert time.monotonic() - began_s < ANSWERED_WITHIN_S
    renewed = metro.api.patch(f"/v1/reservations/{identity}", json={"lease_s": 200})
    assert (renewed.status_code, renewed.json()["state"]) == (200, "active")
    assert metro.api.get("/v1/network").json()["links"]
