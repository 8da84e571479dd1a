"""A published network: six edges on nobel-us, with a duct whose spans are all cut at once."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emulation.fault_injection import FaultInjector
from machine.polling import wait_until
from tests.network.conftest import START, Network
from tests.network.datagram_stream import PER_S, RATE_BPS, reserved_flow, stream, udp_flow

SECONDS = 4
DUCT = "gulf=houston-atlanta,houston-washingto"
"""Both spans eastwards from Houston, the site of edge2."""
FRAME_BYTES = 1042
MAX_LOST = 100
"""Of 1000 datagrams per second: the two spans fail one after the other. Usually 1 to 35 are lost."""


@pytest.fixture(scope="module")
def nobel(network_of: Callable[..., Network]) -> Network:
    return network_of("sndlib/nobel-us", "--edges", "6", "--cloud", "Pittsburgh", "--duct", DUCT, "--timeout", "200")


@pytest.fixture
def reservation(nobel: Network) -> Iterator[dict[str, Any]]:
    requirement = {"min_bandwidth_bps": RATE_BPS, "protection": "duct_disjoint"}
    with reserved_flow(nobel, udp_flow("edge2", "cloud", requirement)) as made:
        (flow,) = made["flows"]
        assert [path[2] for path in (flow["path"], flow["backup_path"])] == ["atlanta", "boulder"]
        yield made


def spans_down(network: Network) -> set[frozenset[str]]:
    links = network.api.get("/v1/network").json()["links"]
    return {frozenset((link["source"], link["destination"])) for link in links if not link["up"]}


def alarms(network: Network) -> list[str]:
    """Return the texts of all alarms so far."""
    found = []
    with network.api.stream("GET", "/v1/events", headers={"Last-Event-ID": "0-0"}) as lines:
        kind = ""
        for line in lines.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: ") and kind == "alarm":
                found.append(json.loads(line.removeprefix("data: "))["text"])
            if found and found[-1].endswith("is up."):
                return found
    return found


def test_a_reserved_transfer_across_the_network_arrives_within_its_bound(nobel: Network, tmp_path: Path) -> None:
    """More is reserved than is sent, as a margin for stalls of this machine of about a second."""
    requirement = {"transfer_bytes": 2 * SECONDS * PER_S * FRAME_BYTES, "deadline_ms": 1700 * SECONDS}
    with reserved_flow(nobel, udp_flow("edge4", "cloud", requirement)) as made:
        (flow,) = made["flows"]
        with stream(nobel, "edge4", "cloud", SECONDS, tmp_path) as carried:
            pass
    carried.check_complete()
    took_ms = 1000 * (carried.arrivals[-1][1] - carried.arrivals[0][1])
    assert took_ms < flow["completion_ms"] <= requirement["deadline_ms"]


def test_a_flow_protected_against_a_duct_survives_the_cut_of_all_its_spans(
    nobel: Network, reservation: dict[str, Any], tmp_path: Path
) -> None:
    faults = FaultInjector(nobel.topology, nobel.note.ovs_directory)
    try:
        with stream(nobel, "edge2", "cloud", SECONDS, tmp_path) as cut:
            faults.set_duct("gulf", up=False)
            wait_until(lambda: spans_down(nobel) == {frozenset(("houston", end)) for end in ("atlanta", "washingto")})
    finally:
        faults.set_duct("gulf", up=True)
    assert cut.lost <= MAX_LOST + cut.excused, f"runs of lost datagrams: {cut.gaps}"
    assert (cut.duplicates, cut.marks()) == (0, {46})
    print(f"lost {cut.lost_in_a_row} datagrams in a row: a gap of {cut.lost_in_a_row * 1000 / PER_S:g} ms")
    wait_until(lambda: not spans_down(nobel))
    texts = alarms(nobel)
    assert any("Span atlanta-houston of 1500 km in duct gulf is dark" in text for text in texts), texts
    assert any(text.endswith("; all spans of duct gulf are.") for text in texts), texts
    identity = reservation["id"]
    wait_until(lambda: nobel.api.get(f"/v1/reservations/{identity}").json()["reason"] is None)


def test_taking_a_duct_out_of_service_reroutes_its_traffic_without_loss(
    nobel: Network, reservation: dict[str, Any], tmp_path: Path
) -> None:
    faults = FaultInjector(nobel.topology, nobel.note.ovs_directory)
    try:
        with stream(nobel, "edge2", "cloud", SECONDS, tmp_path) as moved:
            answer = nobel.api.post("/v1/ducts/gulf/down")
            assert answer.json() == {
                "spans": ["atlanta-houston", "houston-washingto"], "in_service": False, "degraded": [],
            }  # fmt: skip
            faults.set_duct("gulf", up=False)  # the duct carries no traffic any more
            faults.set_duct("gulf", up=True)
            assert nobel.api.post("/v1/ducts/gulf/up").json()["in_service"] is True
    finally:
        faults.set_duct("gulf", up=True)
        nobel.api.post("/v1/ducts/gulf/up")
    moved.check_complete()
    assert nobel.api.get(f"/v1/reservations/{reservation['id']}").json()["state"] == "active"


def test_a_scale_beyond_the_machines_capacity_is_refused_with_a_possible_one() -> None:
    start = [*START, "sndlib/nobel-us", "--scale", "1", "--no-prompt"]
    done = subprocess.run(start, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Error: map nobelus at 1 Mb/s per Gb/s: its hosts can send" in done.stderr
    assert "use --scale " in done.stderr
