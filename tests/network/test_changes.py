"""A reserved stream runs on while its reservation is changed and while the controller is killed: nothing is lost."""

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
    with reserved_flow(metro, asked(RATE_BPS)) as made:
        yield made


def asked(rate_bps: int) -> dict[str, Any]:
    return udp_flow("edge1", "cloud", {"min_bandwidth_bps": rate_bps})


def change(network: Network, identity: str, rate_bps: int) -> list[str]:
    answer = network.api.patch(f"/v1/reservations/{identity}", json={"flows": [asked(rate_bps)]})
    assert answer.status_code == 200, answer.text
    path: list[str] = answer.json()["flows"][0]["path"]
    return path


def nothing_lost(result: Stream, seconds: float = SECONDS) -> None:
    assert result.sent == seconds * 1000
    result.check_complete()


def test_a_change_of_rate_loses_nothing(metro: Network, reservation: dict[str, Any], tmp_path: Path) -> None:
    with stream(metro, "edge1", "cloud", SECONDS, tmp_path) as running:
        for rate_bps in (2 * RATE_BPS, 3 * RATE_BPS, RATE_BPS):
            change(metro, reservation["id"], rate_bps)
    nothing_lost(running)


def test_a_change_of_path_loses_nothing(metro: Network, reservation: dict[str, Any], tmp_path: Path) -> None:
    before = reservation["flows"][0]["path"]
    with stream(metro, "edge1", "cloud", SECONDS, tmp_path) as running:
        blocker = metro.reserve(edge2=60_000_000)
        after = change(metro, reservation["id"], 2 * RATE_BPS)
        metro.api.delete(f"/v1/reservations/{blocker['id']}")
    assert (before[2], after[2]) == ("r1", "r5")
    nothing_lost(running)
    assert metro.api.get("/v1/consistency").json()["consistent"]


def test_a_controller_that_is_killed_and_started_again_loses_nothing(
    metro: Network, reservation: dict[str, Any], tmp_path: Path
) -> None:
    outages = FaultInjector(metro.topology, metro.note.ovs_directory)
    with stream(metro, "edge1", "cloud", RESTART_S, tmp_path) as running:
        outages.set_controller(up=False)
        outages.set_controller(up=True)
        wait_until(lambda: in_sync(metro))
    nothing_lost(running, RESTART_S)
    found = metro.api.get(f"/v1/reservations/{reservation['id']}").json()
    assert (found["state"], found["version"]) == ("active", reservation["version"])
    entries = {(entry["switch"], entry["table"]): entry["packets"] for entry in found["counters"]["entries"]}
    assert min(entries.values()) >= running.sent, "entries that were right have been replaced"
    assert metro.api.get("/v1/consistency").json()["consistent"]


def in_sync(network: Network) -> bool:
    try:
        health = network.api.get("/v1/healthz").json()
    except httpx.TransportError:
        return False
    return bool(health["switches_up"] == health["switches_expected"])
