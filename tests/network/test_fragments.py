"""Fragments of a reserved flow on real Open vSwitch: counted, told, and forwarded as best effort."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from machine.polling import wait_until
from tests.network.conftest import Network
from tests.network.datagram_stream import RATE_BPS, reserved_flow, udp_flow

COUNT = 10
TOLD_WITHIN_S = 30.0

SEND = """
    import errno, socket, sys, time
    address, size, count, discovery = sys.argv[1], *map(int, sys.argv[2:])
    IP_MTU_DISCOVER = 10
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, discovery)
        sender.bind(("0.0.0.0", 7801))
        for _ in range(count):
            try:
                sender.sendto(bytes(size), (address, 7800))
            except OSError as error:
                print(errno.errorcode[error.errno])
            time.sleep(0.02)
"""
MAY_FRAGMENT, NEVER_FRAGMENT = 0, 2
"""IP_PMTUDISC_DONT and IP_PMTUDISC_DO."""

RECEIVE = """
    import socket, sys
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        receiver.settimeout(20)
        receiver.bind(("0.0.0.0", 7800))
        print("listening", flush=True)
        for _ in range(int(sys.argv[1])):
            data, ancillary, _, _ = receiver.recvmsg(65536, 128)
            print(len(data), ancillary[0][2][0] >> 2, flush=True)
"""


def send(network: Network, size_bytes: int, discovery: int = MAY_FRAGMENT) -> str:
    """Send COUNT datagrams of this payload on the reserved ports; the errors of the socket."""
    arguments = [network.topology.ip("cloud"), str(size_bytes), str(COUNT), str(discovery)]
    return network.run_in("edge1", [sys.executable, "-c", textwrap.dedent(SEND), *arguments])


def violations(network: Network, reservation: dict[str, Any], cause: str) -> list[dict[str, Any]]:
    """The violations of a reservation with this cause, of all events since the controller started."""
    found: list[dict[str, Any]] = []
    timeout = httpx.Timeout(20, read=0.5)
    headers = {"Last-Event-ID": "0-0"}
    with network.api.stream("GET", "/v1/events", headers=headers, timeout=timeout) as events:
        try:
            for line in events.iter_lines():
                if line.startswith("data: "):
                    found += [json.loads(line.removeprefix("data: "))]
        except httpx.ReadTimeout:
            pass
    return [event for event in found if event.get("id") == reservation["id"] and event.get("cause") == cause]


def metric(network: Network, name: str) -> float:
    lines = [line for line in network.api.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
    return float(lines[0].split()[1]) if lines else 0.0


def fragments(network: Network, reservation: dict[str, Any]) -> int:
    counters = network.api.get(f"/v1/reservations/{reservation['id']}").json()["counters"]["fragments"]
    assert [(row["switch"], row["flows"]) for row in counters] == [("s1", ["stream"])]
    packets: int = counters[0]["packets"]
    return packets


@pytest.fixture
def reservation(pair: Network) -> Iterator[dict[str, Any]]:
    with reserved_flow(pair, udp_flow("edge1", "cloud", {"min_bandwidth_bps": RATE_BPS})) as made:
        yield made


def test_fragments_of_a_reserved_flow_are_counted_and_told(pair: Network, reservation: dict[str, Any]) -> None:
    metric_name, largest = 'paceline_fragments_total{switch="s1"}', reservation["flows"][0]["max_datagram_bytes"]
    counted, already = metric(pair, metric_name), fragments(pair, reservation)
    receive = [sys.executable, "-c", textwrap.dedent(RECEIVE), str(2 * COUNT)]
    with pair.running_in("cloud", receive, stdout=-1) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == b"listening\n"
        send(pair, largest)
        send(pair, largest + 1)
        text, _ = receiver.communicate(timeout=60)
        arrived = [tuple(map(int, line.split())) for line in text.splitlines()]
    assert arrived == [(largest, 46)] * COUNT + [(largest + 1, 0)] * COUNT, "fragments arrive, unmarked"
    wait_until(lambda: fragments(pair, reservation) - already == 2 * COUNT)
    meter = pair.api.get(f"/v1/reservations/{reservation['id']}").json()["counters"]["meters"][0]
    assert meter["packets"] == COUNT, "fragments pass the meter by"
    wait_until(lambda: bool(violations(pair, reservation, "fragmented")), TOLD_WITHIN_S)
    wait_until(
        lambda: sum(told["packets"] for told in violations(pair, reservation, "fragmented")) == 2 * COUNT,
        TOLD_WITHIN_S,
    )
    assert f"may have {largest} bytes" in violations(pair, reservation, "fragmented")[0]["reason"]
    assert metric(pair, metric_name) - counted == 2 * COUNT
    assert pair.api.get("/v1/consistency").json()["consistent"]


def test_a_sender_that_forbids_fragments_is_told_by_its_own_system(
    pair: Network, reservation: dict[str, Any]
) -> None:
    largest = reservation["flows"][0]["max_datagram_bytes"]
    assert send(pair, largest, NEVER_FRAGMENT) == ""
    assert send(pair, largest + 1, NEVER_FRAGMENT).split() == ["EMSGSIZE"] * COUNT


def test_the_entry_for_fragments_is_shared_repaired_and_removed_with_the_last_reservation(
    pair: Network, reservation: dict[str, Any]
) -> None:
    def entries() -> list[str]:
        return [line for line in pair.switch("dump-flows", "s1").splitlines() if "nw_frag=yes" in line]

    second = udp_flow("edge1", "cloud", {"min_bandwidth_bps": 1_000_000})
    second["match"] = {"protocol": "udp", "source_port": 7803, "destination_port": 7800}
    with reserved_flow(pair, second):
        assert len(entries()) == 1
    assert len(entries()) == 1
    pair.switch("del-flows", "s1", "udp,nw_frag=yes")
    found = pair.api.post("/v1/consistency/repair").json()["switches"]
    assert [line for switch in found for line in switch["missing"] if "ip_frag" in line]
    assert len(entries()) == 1
    pair.api.delete(f"/v1/reservations/{reservation['id']}")
    wait_until(lambda: not entries())
