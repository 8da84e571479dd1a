"""Periodic windows on real Open vSwitch: reserved inside, late class outside; best effort uses the rest."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import pytest

from tests.network.conftest import Network
from tests.network.datagram_stream import reserved_flow, stream, udp_flow
from tests.network.test_reservation import flood, received_bytes, receiving_transfers

PERIOD_S = 1.0
DEADLINE_MS = 500
WINDOW = {"deadline_ms": DEADLINE_MS, "period_ms": 1000 * PERIOD_S}
BOTTLENECK_BPS = 80_000_000


def test_a_flow_is_marked_reserved_inside_its_window_and_late_outside(pair: Network, tmp_path: Path) -> None:
    requirement = {"transfer_bytes": 600_000, **WINDOW}
    with (
        reserved_flow(pair, udp_flow("edge1", "cloud", requirement)) as reservation,
        stream(pair, "edge1", "cloud", 4, tmp_path) as result,
    ):
        pass
    assert 0 < reservation["flows"][0]["window"]["length_ms"] <= DEADLINE_MS
    result.check_complete({34, 46})
    middle = {True: (0.1, 0.4), False: (0.6, 0.9)}  # the gates are late by milliseconds, a noisy machine by more
    for inside, (begin, end) in middle.items():
        marks = [dscp for _, at_s, dscp in result.arrivals if begin < at_s % PERIOD_S < end]
        assert len(marks) > 500
        assert statistics.mean(dscp == (46 if inside else 34) for dscp in marks) > 0.9


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_periodic_transfers_meet_their_deadline_and_best_effort_uses_the_rest(
    pair: Network, kind: str, tmp_path: Path
) -> None:
    flow = pair.uplink("edge1", 0) | {"requirement": {"transfer_bytes": 2_000_000, **WINDOW}}
    with reserved_flow(pair, flow) as reservation:
        reserved_bps = reservation["flows"][0]["reserved_bps"]
        options = () if kind == "udp" else ("-P", "4")
        with flood(pair, "load1", "load2", 120_000_000, *options, tcp=kind == "tcp"):
            before, began_s = received_bytes(pair, "load2"), time.monotonic()
            took_ms = transfers(pair, reserved_bps, 6, tmp_path)
            seconds = time.monotonic() - began_s
            best_effort_bps = (received_bytes(pair, "load2") - before) * 8 / seconds
    assert statistics.median(took_ms) < DEADLINE_MS
    if kind == "udp":  # TCP's throughput on a busy machine does not measure the gates
        assert best_effort_bps > BOTTLENECK_BPS - 0.8 * reserved_bps


def transfers(network: Network, reserved_bps: int, count: int, directory: Path) -> list[float]:
    """Milliseconds of each transfer, the first at the start of a period; the rest of the 2 MB is headers and margin."""
    out, log = directory / "received.json", directory / "edge1.log"
    with receiving_transfers(network, 1, out) as receiver:
        start_s = (time.time() // PERIOD_S + 2) * PERIOD_S
        sender = network.transfers(
            "edge1", log, "send", network.topology.ip("cloud"), "--port", "7800", "--source-port", "7801",
            "--segment-bytes", "1850000", "--count", str(count), "--start-s", str(start_s),
            "--period-s", str(PERIOD_S), "--reserved-bps", str(reserved_bps),
        )  # fmt: skip
        assert sender.wait(60) == 0, log.read_text()
        assert receiver.wait(60) == 0, log.read_text()
    return [ms for _, ms, _ in json.loads(out.read_text())["7801"]]
