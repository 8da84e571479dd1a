"""A flow that floods its meter while its reservation is changed delays its neighbours by no more than their bounds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import pytest

from machine.stall_watch import StallWatch, stalled_s
from tests.network.conftest import Network
from tests.network.datagram_stream import ENDPOINTS

PAYLOAD_BYTES = 8000
FRAME_BITS = 8 * (PAYLOAD_BYTES + 42)
BURST_BYTES = 1_000_000
RATE_BPS = 5_000_000
FLOOD_BPS = 100_000_000
NEIGHBOUR_BPS = 58_000_000
NEIGHBOUR_LIMIT_US = 160_000
"""Above the bound beside the flood's reservation, below that beside two of them."""
SECONDS = 4.0

Change = Callable[[Network, str, int], str]
"""Changes the reservation of an id for the n-th time; returns the id of the reservation after it."""


@dataclass
class Paced:
    """A paced stream of large datagrams; its arrivals are complete when its block has ended."""

    per_s: float
    sent: int = 0
    arrivals: tuple[tuple[int, float, int], ...] = ()

    @property
    def reserved(self) -> list[tuple[int, float]]:
        """Number and time of the arrivals that are marked as reserved."""
        return [(number, at_s) for number, at_s, dscp in self.arrivals if dscp == 46]

    def lateness_s(self, share: float) -> float:
        """The lateness against the pace that so large a share of the datagrams does not exceed."""
        offsets = sorted(at_s - number / self.per_s for number, at_s in self.reserved)
        return offsets[int(share * (len(offsets) - 1))] - offsets[0]


@contextmanager
def paced(network: Network, source: str, port: int, rate_bps: int, directory: Path) -> Iterator[Paced]:
    """Send from port + 1 of a host to a port of the cloud within the block, and for at least SECONDS."""
    out, stream = directory / f"{source}.json", Paced(rate_bps / FRAME_BITS)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE}
    with network.running_in("cloud", [sys.executable, ENDPOINTS, "receive", str(port), str(out)], **pipes) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == b"listening\n"
        numbers = map(str, (port, port + 1, stream.per_s, PAYLOAD_BYTES, SECONDS))
        send = [sys.executable, ENDPOINTS, "send", network.topology.ip("cloud"), *numbers]
        with network.running_in(source, send, **pipes) as sender:
            assert receiver.stdout.readline() == b"receiving\n"
            yield stream
            stream.sent = int(sender.communicate(timeout=60)[0])
        receiver.wait(60)
        receiver.stdout.close()
    stream.arrivals = tuple((number, at_s, dscp) for number, at_s, dscp in json.loads(out.read_text())["arrivals"])


def body(source: str, port: int, requirement: dict[str, Any]) -> dict[str, Any]:
    match = {"protocol": "udp", "source_port": port + 1, "destination_port": port}
    flow = {"name": "stream", "source": source, "destination": "cloud", "match": match, "requirement": requirement}
    return {"owner": "test", "lease_s": 120, "flows": [flow]}


def reserve(network: Network, request: dict[str, Any]) -> str:
    response = network.api.post("/v1/reservations", json=request)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def flooding(rate_bps: int) -> dict[str, Any]:
    return body("load1", 7810, {"min_bandwidth_bps": rate_bps, "burst_bytes": BURST_BYTES})


def change_rate(network: Network, identity: str, number: int) -> str:
    flows = flooding(RATE_BPS + 1000 * (1 + number % 2))["flows"]
    response = network.api.patch(f"/v1/reservations/{identity}", json={"flows": flows})
    assert response.status_code == 200, response.text
    return identity


def rename_flow(network: Network, identity: str, number: int) -> str:
    flows = [flooding(RATE_BPS)["flows"][0] | {"name": f"stream{number}"}]
    response = network.api.patch(f"/v1/reservations/{identity}", json={"flows": flows})
    assert response.status_code == 200, response.text
    return identity


def release_and_reserve(network: Network, identity: str, number: int) -> str:  # noqa: ARG001 - one of several changes
    assert network.api.delete(f"/v1/reservations/{identity}").status_code == 200
    return reserve(network, flooding(RATE_BPS))


@pytest.mark.parametrize("change", [change_rate, rename_flow, release_and_reserve])
def test_a_flow_that_is_changed_again_and_again_keeps_to_its_curve(
    metro: Network, change: Change, tmp_path: Path
) -> None:
    limits = {"min_bandwidth_bps": 65_000_000, "burst_bytes": 200_000, "max_latency_us": NEIGHBOUR_LIMIT_US}
    neighbour_id = reserve(metro, body("edge2", 7820, limits))
    identity, starts = reserve(metro, flooding(RATE_BPS)), 1
    with (
        StallWatch() as watch,
        paced(metro, "edge2", 7820, NEIGHBOUR_BPS, tmp_path) as neighbour,
        paced(metro, "load1", 7810, FLOOD_BPS, tmp_path) as flood,
    ):
        end_s = time.monotonic() + SECONDS - 0.5
        for number in range(20):
            after = change(metro, identity, number)
            starts += after != identity
            identity = after
            if time.monotonic() > end_s:
                break
            time.sleep(max(0.0, (end_s - time.monotonic()) / (20 - number)))
    for reservation_id in (neighbour_id, identity):
        assert metro.api.delete(f"/v1/reservations/{reservation_id}").status_code == 200
    stalls_s = stalled_s(watch.stalls, 0.0, inf)
    assert len(neighbour.reserved) >= neighbour.sent * (1 - stalls_s / SECONDS), "the neighbour's packets are lost"
    assert neighbour.lateness_s(0.99) < NEIGHBOUR_LIMIT_US / 1e6 + stalls_s
    (_, first_s), *_, (_, last_s) = flood.reserved
    passed_bits = len(flood.reserved) * FRAME_BITS
    lasted_s = last_s - first_s + NEIGHBOUR_LIMIT_US / 1e6
    assert passed_bits <= starts * 8 * BURST_BYTES + (RATE_BPS + 2000) * lasted_s + FRAME_BITS
    assert passed_bits > 0.8 * RATE_BPS * SECONDS, "the flow gets its rate all the same"
