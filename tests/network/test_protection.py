"""Protection: when a link of a protected flow's path fails, the switches reroute the flow themselves."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from controller.tsn.sequence_recovery import SEQUENCE_SPACE, SequenceRecovery
from emulation.fault_injection import FaultInjector
from machine.polling import wait_until
from tests.network.conftest import Network
from tests.network.datagram_stream import RATE_BPS, reserved_flow, stream, udp_flow

SECONDS = 2.5


@pytest.fixture
def faults(metro: Network) -> FaultInjector:
    return FaultInjector(metro.topology, metro.note.ovs_directory)


@pytest.fixture
def protected(metro: Network) -> Iterator[dict[str, Any]]:
    requirement = {"min_bandwidth_bps": RATE_BPS, "protection": "link_disjoint"}
    with reserved_flow(metro, udp_flow("edge1", "cloud", requirement)) as reservation:
        yield reservation


def controller_pid(network: Network) -> int:
    journal = Path(network.note.ovs_directory).parent / "journal.jsonl"
    line = next(line for line in journal.read_text().splitlines() if '"name": "controller"' in line)
    return int(line.split('"pid": ')[1].split(",")[0])


def spans_of(path: list[str]) -> list[tuple[str, str]]:
    return list(pairwise(path))[1:-1]


@pytest.mark.parametrize("which", ["adjacent", "far"])
def test_a_cut_interrupts_a_protected_flow_for_less_than_50_ms_and_the_return_loses_nothing(
    metro: Network, faults: FaultInjector, protected: dict[str, Any], which: str, tmp_path: Path
) -> None:
    (flow,) = protected["flows"]
    assert not {*spans_of(flow["path"])} & {*spans_of(flow["backup_path"])}
    span = spans_of(flow["path"])[0 if which == "adjacent" else -1]
    try:
        with stream(metro, "edge1", "cloud", SECONDS, tmp_path) as cut:
            faults.set_link(*span, up=False)
            wait_until(lambda: links_down(metro) >= {f"{span[0]}->{span[1]}", f"{span[1]}->{span[0]}"})
    finally:
        faults.set_link(*span, up=True)
    cut.check_gap()
    wait_until(lambda: not links_down(metro))
    identity = protected["id"]
    wait_until(lambda: metro.api.get(f"/v1/reservations/{identity}").json()["state"] == "active")


def test_a_cut_costs_a_seamless_flow_no_packet_and_the_receiver_drops_the_copies(
    metro: Network, faults: FaultInjector, tmp_path: Path
) -> None:
    """Beside it the same cut costs a protected flow the packets of its gap (the test above)."""
    requirement = {"min_bandwidth_bps": RATE_BPS, "protection": "link_disjoint", "backup": "seamless"}
    with reserved_flow(metro, udp_flow("edge1", "cloud", requirement)) as reservation:
        (flow,) = reservation["flows"]
        span = spans_of(flow["path"])[-1]
        try:
            with stream(metro, "edge1", "cloud", SECONDS, tmp_path) as cut:
                faults.set_link(*span, up=False)
                wait_until(lambda: links_down(metro) >= {f"{span[0]}->{span[1]}", f"{span[1]}->{span[0]}"})
        finally:
            faults.set_link(*span, up=True)
        wait_until(lambda: not links_down(metro))
    assert cut.lost <= cut.excused, f"lost {cut.lost} in runs of {cut.gaps}"
    assert cut.marks() == {46}
    assert cut.duplicates > 0
    recovery = SequenceRecovery()
    passed = [number for number, at_s, _ in cut.arrivals if recovery.accept(number % SEQUENCE_SPACE, at_s)]
    assert len(passed) == len(set(passed)) == cut.sent - cut.lost
    assert recovery.discarded == cut.duplicates


def test_on_its_backup_a_flow_is_changed_and_loses_nothing(
    metro: Network, faults: FaultInjector, protected: dict[str, Any], tmp_path: Path
) -> None:
    """With a span of the ring down there is no other pair of disjoint paths: the flow keeps its own."""
    (before,) = protected["flows"]
    span = spans_of(before["path"])[0]
    requested = udp_flow("edge1", "cloud", {"min_bandwidth_bps": 2 * RATE_BPS, "protection": "link_disjoint"})
    try:
        faults.set_link(*span, up=False)
        wait_until(lambda: links_down(metro) >= {f"{span[0]}->{span[1]}", f"{span[1]}->{span[0]}"})
        with stream(metro, "edge1", "cloud", SECONDS, tmp_path) as changed:
            answer = metro.api.patch(f"/v1/reservations/{protected['id']}", json={"flows": [requested]})
    finally:
        faults.set_link(*span, up=True)
    assert answer.status_code == 200, answer.text
    (after,) = answer.json()["flows"]
    assert (after["path"], after["backup_path"]) == (before["path"], before["backup_path"])
    assert (after["reserved_bps"], answer.json()["state"]) == (2 * RATE_BPS, "active")
    changed.check_complete()
    wait_until(lambda: not links_down(metro))


def test_without_a_controller_the_gap_is_as_short(
    metro: Network, faults: FaultInjector, protected: dict[str, Any], tmp_path: Path
) -> None:
    span = spans_of(protected["flows"][0]["path"])[-1]
    pid = controller_pid(metro)
    os.kill(pid, signal.SIGSTOP)
    try:
        with stream(metro, "edge1", "cloud", SECONDS, tmp_path) as cut:
            faults.set_link(*span, up=False)
        with stream(metro, "edge1", "cloud", 1, tmp_path) as afterwards:
            pass
        with stream(metro, "edge1", "cloud", SECONDS, tmp_path) as mended:
            faults.set_link(*span, up=True)
    finally:
        faults.set_link(*span, up=True)
        os.kill(pid, signal.SIGCONT)
    cut.check_gap()
    afterwards.check_complete()
    mended.check_gap()
    wait_until(lambda: metro.api.get("/v1/healthz").json()["switches_up"] == len(metro.topology.switches))


def test_a_switch_failure_costs_no_more_and_its_entries_are_reinstalled(
    metro: Network, faults: FaultInjector, protected: dict[str, Any], tmp_path: Path
) -> None:
    middle = protected["flows"][0]["path"][3 - 1]
    before = without_counters(metro.switch("dump-groups", middle))
    try:
        with stream(metro, "edge1", "cloud", SECONDS, tmp_path) as cut:
            faults.set_switch(middle, up=False)
        assert "group_id" not in metro.switch("dump-groups", middle)
    finally:
        faults.set_switch(middle, up=True)
    cut.check_gap()
    wait_until(lambda: metro.api.get("/v1/healthz").json()["switches_up"] == len(metro.topology.switches))
    assert without_counters(metro.switch("dump-groups", middle)) == before
    wait_until(lambda: not links_down(metro))


def without_counters(text: str) -> list[str]:
    return sorted(text.splitlines()[1:])


def links_down(network: Network) -> set[str]:
    return {link["link"] for link in network.api.get("/v1/network").json()["links"] if not link["up"]}


def test_a_change_of_path_loses_no_packet(metro: Network, tmp_path: Path) -> None:
    """The new rate does not fit beside the other flow, so the flow must move to the other side of the ring."""
    filler = udp_flow("edge2", "load2", {"min_bandwidth_bps": 60_000_000})
    flow = udp_flow("edge1", "cloud", {"min_bandwidth_bps": RATE_BPS})
    with reserved_flow(metro, filler), reserved_flow(metro, flow) as before:
        with stream(metro, "edge1", "cloud", SECONDS, tmp_path) as moved:
            wider = flow | {"requirement": {"min_bandwidth_bps": 3 * RATE_BPS}}
            answer = metro.api.patch(f"/v1/reservations/{before['id']}", json={"flows": [wider]})
        assert answer.status_code == 200, answer.text
        assert answer.json()["flows"][0]["path"] != before["flows"][0]["path"]
    moved.check_complete()
