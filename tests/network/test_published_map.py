"""A published network as it comes: six edges on nobel-us, with a duct whose spans are all cut at once."""

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
"""Both ways east from Houston, where edge2 is."""
FRAME_BYTES = 1042
NOT_MORE_LOST = 100
"""In all, of 1000 a second: two spans go dark one after the other. Mostly 1 to 35 are."""


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
    """The sentences of all alarms so far."""
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


def test_a_reserved_transfer_across_the_country_is_there_within_its_bound(nobel: Network, tmp_path: Path) -> None:
    """More is reserved than is sent, by half: a machine that stands still for a second is not the network's fault."""
    needed = {"transfer_bytes": 2 * SECONDS * PER_S * FRAME_BYTES, "deadline_ms": 1700 * SECONDS}
    with reserved_flow(nobel, udp_flow("edge4", "cloud", needed)) as made:
        (flow,) = made["flows"]
        with stream(nobel, "edge4", "cloud", SECONDS, tmp_path) as carried:
            pass
    carried.check_complete()
    took_ms = 1000 * (carried.arrivals[-1][1] - carried.arrivals[0][1])
    assert took_ms < flow["completion_ms"] <= needed["deadline_ms"]


def test_a_duct_is_cut_whole_and_who_keeps_out_of_it_survives(
    nobel: Network, reservation: dict[str, Any], tmp_path: Path
) -> None:
    outages = FaultInjector(nobel.topology, nobel.note.ovs_directory)
    try:
        with stream(nobel, "edge2", "cloud", SECONDS, tmp_path) as cut:
            outages.set_duct("gulf", up=False)
            wait_until(lambda: spans_down(nobel) == {frozenset(("houston", end)) for end in ("atlanta", "washingto")})
    finally:
        outages.set_duct("gulf", up=True)
    assert cut.lost <= NOT_MORE_LOST + cut.excused, f"its two spans go dark one after the other: {cut.gaps}"
    assert (cut.duplicates, cut.marks()) == (0, {46})
    print(f"lost {cut.lost_in_a_row} datagrams in a row: a gap of {cut.lost_in_a_row * 1000 / PER_S:g} ms")
    wait_until(lambda: not spans_down(nobel))
    told = alarms(nobel)
    assert any("Span atlanta-houston of 1500 km in duct gulf is dark" in text for text in told), told
    assert any(text.endswith("; all spans of duct gulf are.") for text in told), told
    identity = reservation["id"]
    wait_until(lambda: nobel.api.get(f"/v1/reservations/{identity}").json()["reason"] is None)


def test_before_somebody_works_on_a_duct_its_traffic_leaves_and_nothing_is_lost(
    nobel: Network, reservation: dict[str, Any], tmp_path: Path
) -> None:
    outages = FaultInjector(nobel.topology, nobel.note.ovs_directory)
    try:
        with stream(nobel, "edge2", "cloud", SECONDS, tmp_path) as moved:
            answer = nobel.api.post("/v1/ducts/gulf/down")
            assert answer.json() == {
                "spans": ["atlanta-houston", "houston-washingto"], "in_service": False, "degraded": [],
            }  # fmt: skip
            outages.set_duct("gulf", up=False)  # now it is dark, and nobody notices
            outages.set_duct("gulf", up=True)
            assert nobel.api.post("/v1/ducts/gulf/up").json()["in_service"] is True
    finally:
        outages.set_duct("gulf", up=True)
        nobel.api.post("/v1/ducts/gulf/up")
    moved.check_complete()
    assert nobel.api.get(f"/v1/reservations/{reservation['id']}").json()["state"] == "active"


def test_more_than_the_machine_can_forward_is_refused_with_what_it_can() -> None:
    start = [*START, "sndlib/nobel-us", "--scale", "1", "--no-prompt"]
    done = subprocess.run(start, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "error: map nobelus at 1 Mb/s per Gb/s: its hosts can send" in done.stderr
    assert "use --scale " in done.stderr
