"""A reserved stream loses no packet while its reservation is changed and while the controller is restarted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from emulation.fault_injection import FaultInjector
from machine.polling import wait_until
from tests.network.conftest import Network
from tests.network.datagram_stream import RATE_BPS, Stream, reserved_flow, stream, udp_flow

SECONDS = 2.5
RESTART_S = 5
"""Longer than a restart takes on an idle machine."""


@pytest.fixture
def reservation(metro: Network) -> Iterator[dict[str, Any]]:
    with reserved_flow(metro, requested_flow(RATE_BPS)) as made:
        yield made


def requested_flow(rate_bps: int) -> dict[str, Any]:
    return udp_flow("edge1", "cloud", {"min_bandwidth_bps": rate_bps})


def change(network: Network, identity: str, rate_bps: int) -> list[str]:
    response = network.api.patch(f"/v1/reservations/{identity}", json={"flows": [requested_flow(rate_bps)]})
    assert response.status_code == 200, response.text
    path: list[str] = response.json()["flows"][0]["path"]
    return path


def check_nothing_lost(result: Stream, seconds: float = SECONDS) -> None:
    assert result.sent == seconds * 1000
    result.check_complete()


def test_a_change_of_rate_loses_nothing(metro: Network, reservation: dict[str, Any], tmp_path: Path) -> None:
    with stream(metro, "edge1", "cloud", SECONDS, tmp_path) as running:
        for rate_bps in (2 * RATE_BPS, 3 * RATE_BPS, RATE_BPS):
            change(metro, reservation["id"], rate_bps)
    check_nothing_lost(running)


def test_a_change_of_path_loses_nothing(metro: Network, reservation: dict[str, Any], tmp_path: Path) -> None:
    before = reservation["flows"][0]["path"]
    with stream(metro, "edge1", "cloud", SECONDS, tmp_path) as running:
        blocker = metro.reserve(edge2=60_000_000)
        after = change(metro, reservation["id"], 2 * RATE_BPS)
        metro.api.delete(f"/v1/reservations/{blocker['id']}")
    assert (before[2], after[2]) == ("r1", "r5")
    check_nothing_lost(running)
    assert metro.api.get("/v1/consistency").json()["consistent"]


def test_a_controller_restart_loses_nothing(
    metro: Network, reservation: dict[str, Any], tmp_path: Path
) -> None:
    faults = FaultInjector(metro.topology, metro.note.ovs_directory)
    with stream(metro, "edge1", "cloud", RESTART_S, tmp_path) as running:
        faults.set_controller(up=False)
        faults.set_controller(up=True)
        wait_until(lambda: in_sync(metro))
    check_nothing_lost(running, RESTART_S)
    after = metro.api.get(f"/v1/reservations/{reservation['id']}").json()
    assert (after["state"], after["version"]) == ("active", reservation["version"])
    entries = {(entry["switch"], entry["table"]): entry["packets"] for entry in after["counters"]["entries"]}
    assert min(entries.values()) >= running.sent, "correct entries were replaced"
    assert metro.api.get("/v1/consistency").json()["consistent"]


def in_sync(network: Network) -> bool:
    try:
        health = network.api.get("/v1/healthz").json()
    except httpx.TransportError:
        return False
    return bool(health["switches_up"] == health["switches_expected"])
