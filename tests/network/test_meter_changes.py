"""A flow that floods its meter while its reservation is changed delays its neighbours by no more than their bounds."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any

import pytest

from machine.polling import wait_until
from machine.stall_watch import StallWatch, stalled_s
from tests.network.conftest import Network

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


SEND = """
    import socket, struct, sys, time
    address, port, per_s, payload_bytes, seconds = sys.argv[1], int(sys.argv[2]), *map(float, sys.argv[3:])
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xb8)
    out.bind(("0.0.0.0", port + 1))
    out.connect((address, port))
    padding, due_s, end_s = bytes(int(payload_bytes) - 8), time.monotonic(), time.monotonic() + seconds
    sent = 0
    while time.monotonic() < end_s:
        time.sleep(max(0.0, due_s - time.monotonic()))
        out.send(struct.pack("!d", time.time()) + padding)
        due_s, sent = max(due_s + 1 / per_s, time.monotonic() - 0.005), sent + 1
    print(sent)
"""
RECEIVE = """
    import json, socket, struct, sys
    heard, arrivals = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), []
    heard.setsockopt(socket.SOL_SOCKET, 35, 1)
    heard.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    heard.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_000_000)
    heard.bind(("0.0.0.0", int(sys.argv[1])))
    print("listening", flush=True)
    heard.settimeout(60)
    try:
        while True:
            data, ancillary, _, _ = heard.recvmsg(65536, 128)
            heard.settimeout(1)
            control = {(level, kind): value for level, kind, value in ancillary}
            s, ns = struct.unpack("qq", control[socket.SOL_SOCKET, 35])
            dscp = control[socket.IPPROTO_IP, socket.IP_TOS][0] >> 2
            arrivals.append((struct.unpack("!d", data[:8])[0], s + ns / 1e9, dscp))
    except TimeoutError:
        print(json.dumps(arrivals))
"""


@dataclass
class Stream:
    """[time sent, time of arrival] in s of the datagrams that arrived marked as reserved, when its block has ended."""

    arrivals: list[tuple[float, float]]

    def latency_s(self, share: float) -> float:
        """The latency that so large a share of the datagrams does not exceed."""
        latencies_s = sorted(at_s - sent_s for sent_s, at_s in self.arrivals)
        return latencies_s[int(share * (len(latencies_s) - 1))]


@contextmanager
def paced(network: Network, source: str, port: int, rate_bps: int) -> Iterator[Stream]:
    """Send from port + 1 of a host to a port of the cloud, for SECONDS from the start of the block."""
    stream = Stream([])
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE}
    receive = [sys.executable, "-c", textwrap.dedent(RECEIVE), str(port)]
    with network.running_in("cloud", receive, **pipes) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == b"listening\n"
        numbers = map(str, (port, rate_bps / FRAME_BITS, PAYLOAD_BYTES, SECONDS))
        send = [sys.executable, "-c", textwrap.dedent(SEND), network.topology.ip("cloud"), *numbers]
        with network.running_in(source, send) as sender:
            yield stream
            assert sender.wait(60) == 0
        arrivals = json.loads(receiver.communicate(timeout=60)[0])
    stream.arrivals = [(sent_s, at_s) for sent_s, at_s, dscp in arrivals if dscp == 46]


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


def replace_flow(network: Network, identity: str, number: int) -> str:
    """By one of other ports, and that by the first again."""
    flow = flooding(RATE_BPS)["flows"][0]
    other = flow | {"match": flow["match"] | {"source_port": 7830 + number}}
    for flows in ([other], [flow]):
        response = network.api.patch(f"/v1/reservations/{identity}", json={"flows": flows})
        assert response.status_code == 200, response.text
    return identity


def release_and_reserve(network: Network, identity: str, number: int) -> str:  # noqa: ARG001 - one of several changes
    """Again when the packets of the released flow have left the network: a request waits for that up to 2 s."""
    assert network.api.delete(f"/v1/reservations/{identity}").status_code == 200
    made: list[str] = []

    def is_made() -> bool:
        response = network.api.post("/v1/reservations", json=flooding(RATE_BPS))
        made.extend([response.json()["id"]] if response.status_code == 201 else [])
        return bool(made) or response.json()["code"] != "latency_not_met"

    wait_until(is_made)
    return made[0]


@pytest.mark.parametrize("change", [change_rate, replace_flow, release_and_reserve])
def test_a_flow_that_is_changed_again_and_again_keeps_to_its_curve(metro: Network, change: Change) -> None:
    limits = {"min_bandwidth_bps": 65_000_000, "burst_bytes": 200_000, "max_latency_us": NEIGHBOUR_LIMIT_US}
    neighbour_id = reserve(metro, body("edge2", 7820, limits))
    identity, starts = reserve(metro, flooding(RATE_BPS)), 1
    with (
        StallWatch() as watch,
        paced(metro, "edge2", 7820, NEIGHBOUR_BPS) as neighbour,
        paced(metro, "load1", 7810, FLOOD_BPS) as flood,
    ):
        end_s = time.monotonic() + SECONDS
        for number in range(20):
            after = change(metro, identity, number)
            starts += after != identity
            identity = after
            if time.monotonic() > end_s:
                break
            time.sleep(max(0.0, (end_s - time.monotonic()) / (20 - number)))
    dropped = metro.api.get(f"/v1/reservations/{neighbour_id}").json()["counters"]["meters"][0]["dropped_packets"]
    for reservation_id in (neighbour_id, identity):
        assert metro.api.delete(f"/v1/reservations/{reservation_id}").status_code == 200
    stalls_s = stalled_s(watch.stalls, 0.0, inf)
    assert dropped == 0 or stalls_s > 0
    assert neighbour.latency_s(0.99) < NEIGHBOUR_LIMIT_US / 1e6 + stalls_s
    lasted_s = flood.arrivals[-1][1] - flood.arrivals[0][1] + NEIGHBOUR_LIMIT_US / 1e6
    passed_bits = len(flood.arrivals) * FRAME_BITS
    assert passed_bits <= starts * 8 * BURST_BYTES + (RATE_BPS + 2000) * lasted_s + FRAME_BITS
    if change is change_rate:
        assert passed_bits > 0.8 * RATE_BPS * SECONDS, "the flow gets its rate all the same"
