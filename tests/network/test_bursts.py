"""Bursts on real Open vSwitch: a meter passes its full rate however short a burst is asked; no queue loses any."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack
from math import ceil, inf
from pathlib import Path
from typing import Any

import pytest

from machine.stall_watch import StallWatch, describe_stalls, stalled_s
from tests.network.conftest import Network
from tests.network.datagram_stream import ENDPOINTS, reserved_flow, stream, udp_flow

MBPS = 1_000_000
HEADERS_BYTES = 42
FULL_PAYLOAD_BYTES = 9000 + 14 - HEADERS_BYTES
PACE_SHARE = 0.9
STRAY_SHARE = 0.005
"""Losses where a loaded machine wakes the switch late again before its bucket is full: frames then come together."""
LATE_SWITCH_SHARE = 0.05
"""Losses where a loaded machine wakes the switch so late that frames are gone before they reach a meter or a queue."""

MAX_BURSTS = 3
"""One that arrives whole shows that the queues hold it; a machine that is too busy loses some of others elsewhere."""

SEND = textwrap.dedent("""
    import socket, struct, sys, time
    address, (port, payload_bytes, count), frame_s = sys.argv[1], map(int, sys.argv[2:5]), float(sys.argv[5])
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xb8)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 20)
    sender.bind(("0.0.0.0", int(sys.argv[6])))
    sender.connect((address, port))
    padding, due_s = bytes(payload_bytes - 8), 0.0
    for number in range(count):
        while time.monotonic() < due_s:
            pass
        due_s = time.monotonic() + frame_s
        sender.send(struct.pack("!Q", number) + padding)
    time.sleep(1.0)
    for _ in range(5):
        time.sleep(0.05)
        sender.send(struct.pack("!Q", 2**64 - 1))
""")
"""Sends `count` frames, never two closer than `frame_s`: what a line of that rate would send, late or not."""


def lost_of(
    network: Network,
    source: str,
    port: int,
    count: int,
    frame_s: float,
    directory: Path,
    payload_bytes: int = FULL_PAYLOAD_BYTES,
    source_port: int = 7801,
) -> tuple[int, float, str]:
    """Send frames to the cloud; return how many were lost, for how long the machine stalled, and when."""
    out = directory / f"received-{port}.json"
    receive = [sys.executable, ENDPOINTS, "receive", str(port), str(out)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE}
    with StallWatch() as watch, network.running_in("cloud", receive, **pipes) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == b"listening\n"
        numbers = str(port), str(payload_bytes), str(count), str(frame_s), str(source_port)
        network.run_in(source, [sys.executable, "-c", SEND, network.topology.ip("cloud"), *numbers])
        receiver.wait(60)
        receiver.stdout.close()
    arrived = {number for number, _, dscp in json.loads(out.read_text())["arrivals"] if dscp == 46}
    return count - len(arrived), stalled_s(watch.stalls, 0.0, inf), describe_stalls(watch.stalls)


def dropped_by_queues(network: Network) -> int:
    """Drops of the reserved queues of all ports, hosts' included."""
    drops = 0
    for port in network.topology.ports:
        show = ["tc", "-s", "-j", "qdisc", "show", "dev", port.interface]
        if network.topology.node(port.node).kind == "switch":
            text = subprocess.run(show, capture_output=True, text=True, check=True).stdout
        else:
            text = network.run_in(port.node, show)
        drops += sum(qdisc["drops"] for qdisc in json.loads(text) if qdisc.get("parent") == "1:10")
    return drops


def dropped_by_meters(network: Network, reservation: dict[str, Any]) -> int:
    counters = network.api.get(f"/v1/reservations/{reservation['id']}").json()["counters"]
    return sum(meter["dropped_packets"] for meter in counters["meters"])


@pytest.mark.parametrize("rate_bps", [50 * MBPS, 75 * MBPS])
def test_a_rate_with_a_burst_of_one_frame_is_carried_whole(pair: Network, tmp_path: Path, rate_bps: int) -> None:
    flow = udp_flow("edge1", "cloud", {"min_bandwidth_bps": rate_bps, "burst_bytes": 9014})
    with reserved_flow(pair, flow) as reservation:
        (granted,) = reservation["flows"]
        assert granted["burst_bytes"] == 18_750
        with stream(pair, "edge1", "cloud", 2, tmp_path) as slow:
            pass
        slow.check_complete()
        frame_s = 9014 * 8 / (PACE_SHARE * rate_bps)
        count = ceil(2 / frame_s)
        lost, stalled, stalls = lost_of(pair, "edge1", 7800, count, frame_s, tmp_path)
    assert lost <= stalled / frame_s + STRAY_SHARE * count, f"{lost} of {count} lost; {stalls}"


def test_a_flow_of_small_frames_passes_with_a_burst_of_its_own_frame_and_larger_frames_do_not(
    pair: Network, tmp_path: Path
) -> None:
    frame_bytes, rate_bps = 142, 80_000
    needs = {"min_bandwidth_bps": rate_bps, "burst_bytes": 1, "max_frame_bytes": frame_bytes}
    with reserved_flow(pair, udp_flow("edge1", "cloud", needs)) as reservation:
        (granted,) = reservation["flows"]
        assert frame_bytes <= granted["burst_bytes"] < frame_bytes + 2 * rate_bps / 8000 + 1
        frame_s = frame_bytes * 8 / (PACE_SHARE * rate_bps)
        lost, stalled, stalls = lost_of(pair, "edge1", 7800, 100, frame_s, tmp_path, frame_bytes - HEADERS_BYTES)
        assert lost <= stalled / frame_s, f"{lost} of 100 lost; {stalls}"
        large, _, _ = lost_of(pair, "edge1", 7800, 20, 4 * frame_s, tmp_path, 4 * frame_bytes - HEADERS_BYTES)
        assert large == 20
        assert dropped_by_meters(pair, reservation) >= 20


def test_a_burst_that_overflows_a_queue_is_refused_and_the_offered_one_arrives_whole(
    pair: Network, tmp_path: Path
) -> None:
    """A neighbour, and a flow of the same host whose frames wait behind the burst, lose nothing either."""
    asked = udp_flow("load1", "cloud", {"min_bandwidth_bps": 5 * MBPS, "burst_bytes": 8_000_000})
    asked["match"] |= {"source_port": 7901, "destination_port": 7900}
    neighbour = udp_flow("edge2", "cloud", {"min_bandwidth_bps": 20 * MBPS})
    of_same_host = udp_flow("load1", "load2", {"min_bandwidth_bps": 20 * MBPS})
    with ExitStack() as reserved:
        for flow in (neighbour, of_same_host):
            reserved.enter_context(reserved_flow(pair, flow))
        refused = pair.api.post("/v1/reservations", json={"owner": "test", "flows": [asked]})
        assert (refused.status_code, refused.json()["code"]) == (409, "no_buffer"), refused.text
        problem = refused.json()
        assert problem["queue_bytes"] == 3_000_000 < problem["backlog_bytes"]
        (offered,) = problem["offer"]["flows"]
        reservation = reserved.enter_context(reserved_flow(pair, offered))
        burst_bytes = reservation["flows"][0]["burst_bytes"]
        assert burst_bytes == offered["requirement"]["burst_bytes"] > 2_500_000
        count = burst_bytes // 9014
        losses: list[int] = []
        while not losses or losses[-1] > LATE_SWITCH_SHARE * count:
            with (
                stream(pair, "edge2", "cloud", 4, tmp_path) as beside,
                stream(pair, "load1", "load2", 4, tmp_path) as behind,
            ):
                before = dropped_by_queues(pair)
                lost, _, stalls = lost_of(pair, "load1", 7900, count, 0.0, tmp_path, source_port=7901)
                losses.append(lost)
            dropped = dropped_by_meters(pair, reservation), dropped_by_queues(pair) - before
            assert dropped == (0, 0), f"at meters, in queues; {stalls}"
            beside.check_complete()
            behind.check_complete()
            assert len(losses) < MAX_BURSTS or lost <= LATE_SWITCH_SHARE * count, f"{losses} of {count} lost; {stalls}"
            time.sleep(burst_bytes * 8 / (5 * MBPS))  # until the bucket is full again
