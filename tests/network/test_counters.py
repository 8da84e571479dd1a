"""Counters of a reservation on real Open vSwitch tell all drops, whatever changes and restarts in between."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from machine.polling import wait_until
from tests.network.conftest import Network
from tests.network.datagram_stream import reserved_flow, udp_flow
from tests.network.test_fragments import TOLD_WITHIN_S, metric, violations

RATE_BPS = 1_000_000
BURST_BYTES = 20_000
PAYLOAD_BYTES = 1000
METRIC = 'paceline_meter_dropped_packets_total{switch="s1"}'

BURST = """
    import socket, sys, time
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("0.0.0.0", 7801))
        for _ in range(int(sys.argv[2])):
            sender.sendto(bytes(1000), (sys.argv[1], 7800))
            time.sleep(0.0005)  # the buffer between host and switch overflows otherwise
"""
COUNT = """
    import socket, sys
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_000_000)
        receiver.bind(("0.0.0.0", 7800))
        print("listening", flush=True)
        received = 0
        while len(receiver.recv(65536)) > 1:
            received += 1
        print(received)
"""
END = """
    import socket, sys
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("0.0.0.0", 9))
        sender.sendto(b"", (sys.argv[1], 7800))
"""


class Lost:
    """Datagrams sent and not received, when its block has ended."""

    sent = 0
    received = 0

    @property
    def packets(self) -> int:
        return self.sent - self.received


@contextmanager
def counting(network: Network) -> Iterator[Lost]:
    """Count what arrives in the cloud within the block."""
    lost = Lost()
    receive = [sys.executable, "-c", textwrap.dedent(COUNT)]
    with network.running_in("cloud", receive, stdout=subprocess.PIPE) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == b"listening\n"
        yield lost
        network.run_in("edge2", [sys.executable, "-c", textwrap.dedent(END), network.topology.ip("cloud")])
        lost.received = int(receiver.communicate(timeout=60)[0])


def burst(network: Network, lost: Lost, datagrams: int) -> None:
    """Send ten times as fast as the meter lets pass."""
    network.run_in("edge1", sender(network, lost, datagrams))


def sender(network: Network, lost: Lost, datagrams: int) -> list[str]:
    lost.sent += datagrams
    return [sys.executable, "-c", textwrap.dedent(BURST), network.topology.ip("cloud"), str(datagrams)]


def flow(rate_bps: int = RATE_BPS) -> dict[str, Any]:
    return udp_flow("edge1", "cloud", {"min_bandwidth_bps": rate_bps, "burst_bytes": BURST_BYTES})


def meter(network: Network, reservation: dict[str, Any]) -> dict[str, int]:
    detail = network.api.get(f"/v1/reservations/{reservation['id']}").json()
    found: dict[str, int] = detail["counters"]["meters"][0]
    return found


def change(network: Network, reservation: dict[str, Any], rate_bps: int) -> None:
    answer = network.api.patch(f"/v1/reservations/{reservation['id']}", json={"flows": [flow(rate_bps)]})
    assert answer.status_code == 200, answer.text


def told(network: Network, reservation: dict[str, Any]) -> int:
    return sum(event["packets"] for event in violations(network, reservation, "sent_too_much"))


def test_drops_before_and_after_changes_are_told_together(pair: Network) -> None:
    counted = metric(pair, METRIC)
    with reserved_flow(pair, flow()) as reservation, counting(pair) as lost:
        shown = []
        for number, datagrams in enumerate((200, 400, 50, 400)):
            burst(pair, lost, datagrams)
            shown.append(meter(pair, reservation))
            change(pair, reservation, RATE_BPS + 100_000 * (number + 1))
            after = meter(pair, reservation)
            for name in ("packets", "bytes", "dropped_packets", "dropped_bytes"):
                assert after[name] == shown[-1][name], f"{name} after a change"
        last = meter(pair, reservation)
        wait_until(lambda: told(pair, reservation) == last["dropped_packets"], TOLD_WITHIN_S)
        assert metric(pair, METRIC) - counted >= last["dropped_packets"], "drops of earlier flows may be told meanwhile"
    assert last["packets"] == lost.sent
    assert last["dropped_packets"] == lost.packets > 500
    assert last["dropped_bytes"] == lost.packets * (PAYLOAD_BYTES + 42)


def test_no_packet_is_missed_while_the_rate_changes_under_traffic(pair: Network) -> None:
    with reserved_flow(pair, flow()) as reservation, counting(pair) as lost:
        changes = 0
        with pair.running_in("edge1", sender(pair, lost, 4000)) as sending:
            while sending.poll() is None:
                changes += 1
                change(pair, reservation, RATE_BPS + 10_000 * (changes % 7))
        last = meter(pair, reservation)
    assert changes > 20
    assert (last["packets"], last["dropped_packets"]) == (lost.sent, lost.packets)


def test_drops_of_a_reservation_that_ends_before_its_meter_is_polled_are_told(pair: Network) -> None:
    counted = metric(pair, METRIC)
    with counting(pair) as lost, reserved_flow(pair, flow()) as reservation:
        burst(pair, lost, 300)
    assert lost.packets > 200
    wait_until(lambda: told(pair, reservation) >= lost.packets, TOLD_WITHIN_S)
    assert told(pair, reservation) == lost.packets
    assert metric(pair, METRIC) - counted >= lost.packets, "drops of earlier flows may be told meanwhile"


def test_a_meter_that_another_program_resets_is_counted_on(pair: Network) -> None:
    with reserved_flow(pair, flow()) as reservation, counting(pair) as lost:
        burst(pair, lost, 300)
        before = meter(pair, reservation)
        entry = f"meter={before['meter_id']},kbps,burst,stats,band=type=drop,rate={RATE_BPS // 1000},burst_size=160"
        pair.switch("mod-meter", "s1", entry)
        burst(pair, lost, 100)
        assert meter(pair, reservation)["dropped_packets"] > before["dropped_packets"]
        pair.switch("del-meter", "s1", f"meter={before['meter_id']}")
        pair.api.post("/v1/consistency/repair").raise_for_status()
        burst(pair, lost, 100)
        after = meter(pair, reservation)
    assert after["packets"] == lost.sent
    assert after["dropped_packets"] == lost.packets
