"""Packets through intended entries on simulated switches; the order of updates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest

from controller.admission.admission import Admitted, Request, decide
from controller.booking.calendar import Calendar
from controller.dataplane.entries import (
    BASE_COOKIE,
    COOKIE_TAG,
    FlowEntry,
    GroupEntry,
    MatchValue,
    MeterEntry,
    SwitchState,
    cookie_of,
)
from controller.dataplane.flow_label import flow_label
from controller.dataplane.pipeline import best_effort_meter, intended_states
from controller.domain.network import network_from_map
from controller.domain.ports import PortRange, Ports
from controller.domain.reservation import FIRST_METER_ID, Flow, Match, Requirement, Reservation, State
from tests import simulated_forwarding
from tests.simulated_forwarding import Packet, Trace
from tests.switch_updates import kinds, updates
from topologies.map_file.loader import load_map

METRO = network_from_map(load_map("metro"))


def reservation(number: int = 1, *flows: Flow, version: int = 1) -> Reservation:
    requested = flows or (flow(),)
    decision = decide(METRO, Calendar(), (), Request(f"r-{number:08x}", version, requested), 0.0)
    assert isinstance(decision, Admitted)
    return Reservation(f"r-{number:08x}", number, version, "test", State.ACTIVE, 60, 0, 60, decision.placements)


def flow(source: str = "edge1", port: int = 7801, rate_bps: int = 15_000_000) -> Flow:
    return Flow(f"{source}-up", source, "cloud", Match("tcp", port, 7800), Requirement(rate_bps, 40_000))


def packet(source: str = "edge1", destination: str = "cloud", **fields: MatchValue) -> Packet:
    nodes = METRO.nodes
    addresses = {"eth_src": nodes[source].mac, "eth_dst": nodes[destination].mac}
    ends = {**addresses, "ipv4_src": nodes[source].ip, "ipv4_dst": nodes[destination].ip}
    ip = {"eth_type": 0x0800, "ip_proto": 6, "ip_dscp": 0, "tcp_src": 7801, "tcp_dst": 7800}
    return {**ip, **{name: value or "" for name, value in ends.items()}, **fields}


def arp(source: str, destination: str, **fields: MatchValue) -> Packet:
    nodes = METRO.nodes
    mac, ip = nodes[source].mac or "", nodes[source].ip or ""
    sender: Packet = {"eth_type": 0x0806, "eth_src": mac, "arp_sha": mac, "arp_spa": ip, "arp_op": 1}
    request: Packet = {"eth_dst": "ff:ff:ff:ff:ff:ff", "arp_tpa": nodes[destination].ip or ""}
    return {**sender, **request, **fields}


def send(
    states: Mapping[str, SwitchState], source: str, sent: Packet, cut: frozenset[str] = frozenset()
) -> Trace:
    return simulated_forwarding.send(METRO, states, source, sent, cut)


def test_a_reserved_packet_follows_its_path_is_metered_once_and_marked_on_every_port() -> None:
    held = reservation()
    trace = send(intended_states(METRO, [held]), "edge1", packet())
    assert tuple(trace.nodes) == held.placements[0].path
    assert trace.meters == [("r6", held.placements[0].meter_id)]
    assert trace.marks == [46, 46, 46]
    assert trace.arrived["eth_dst"] == CLOUD_MAC


@pytest.mark.parametrize("spoof", [{}, {"ip_dscp": 46}, {"ip_dscp": 34}])
def test_an_unreserved_packet_is_unmarked_and_metered_at_every_egress_port(spoof: Packet) -> None:
    trace = send(intended_states(METRO, [reservation()]), "edge2", packet("edge2", "cloud", tcp_src=7802, **spoof))
    assert trace.nodes == ["edge2", "r6", "r1", "r2", "cloud"]
    assert trace.marks == [0, 0, 0]
    assert trace.meters == [("r6", 100_002), ("r1", 100_001), ("r2", 100_003)]


@pytest.mark.parametrize(("ports", "inside", "outside"), [
    (None, [1, 7801, 65535], []),
    (PortRange(40000, 40010), [40000, 40007, 40010], [39999, 40011]),
])  # fmt: skip
def test_a_flow_with_many_source_ports_is_admitted_through_one_meter(
    ports: Ports, inside: list[int], outside: list[int]
) -> None:
    wide = Flow("any", "edge1", "cloud", Match("tcp", ports, 7800), Requirement(15_000_000, 40_000))
    states = intended_states(METRO, [reservation(1, wide)])
    for port in inside:
        assert send(states, "edge1", packet(tcp_src=port)).meters == [("r6", FIRST_METER_ID)]
    for port in outside:
        assert ("r6", FIRST_METER_ID) not in send(states, "edge1", packet(tcp_src=port)).meters


def test_the_five_tuple_of_another_host_is_dropped() -> None:
    trace = send(intended_states(METRO, [reservation()]), "edge2", packet("edge1", ip_dscp=46))
    assert (trace.nodes, trace.meters) == (["edge2", "r6"], [])


def test_a_forged_flow_label_is_dropped() -> None:
    held = reservation()
    forged = packet("edge2", ip_dscp=46, eth_dst=flow_label(METRO, held.placements[0]))
    assert send(intended_states(METRO, [held]), "edge2", forged).nodes == ["edge2", "r6"]


CLOUD_MAC = METRO.nodes["cloud"].mac or ""
EDGE2_MAC = METRO.nodes["edge2"].mac or ""


@pytest.mark.parametrize(
    "forged",
    [
        packet("edge1", eth_src=EDGE2_MAC),
        packet("edge1", ipv4_src=METRO.nodes["edge2"].ip or "", tcp_src=7802),
        arp("edge1", "cloud", eth_src=EDGE2_MAC),
        arp("edge1", "cloud", arp_sha=EDGE2_MAC),
        arp("edge1", "cloud", arp_spa=METRO.nodes["edge2"].ip or ""),
    ],
    ids=["MAC", "IP", "MAC of ARP's frame", "MAC in ARP", "IP in ARP"],
)
def test_packets_with_addresses_of_other_hosts_are_dropped(forged: Packet) -> None:
    assert send(intended_states(METRO, []), "edge1", forged).nodes == ["edge1", "r6"]


def test_both_ends_on_one_switch_are_marked_there() -> None:
    local = Flow("local", "edge1", "edge2", Match("tcp", 7801, 7800), Requirement(1_000_000))
    trace = send(intended_states(METRO, [reservation(1, local)]), "edge1", packet("edge1", "edge2"))
    assert (trace.nodes, trace.marks) == (["edge1", "r6", "edge2"], [46])
    assert trace.meters == [("r6", 110_000)]


@pytest.mark.parametrize(
    "frame",
    [
        {"eth_type": 0x0800, "vlan_vid": 0x1064, "eth_dst": METRO.nodes["cloud"].mac},
        {"eth_type": 0x1234, "eth_dst": METRO.nodes["cloud"].mac},
        {"eth_type": 0x88CC, "eth_dst": "01:80:c2:00:00:0e"},
        {"eth_type": 0x0800, "eth_dst": "ff:ff:ff:ff:ff:ff"},
    ],
    ids=["vlan", "not IP", "LLDP", "broadcast"],
)
def test_frames_that_hosts_may_not_send_are_dropped(frame: Packet) -> None:
    assert send(intended_states(METRO, []), "edge1", frame).nodes == ["edge1", "r6"]


@pytest.mark.parametrize("source", [host.name for host in METRO.hosts])
@pytest.mark.parametrize("destination", [host.name for host in METRO.hosts])
def test_every_host_reaches_every_other_host(source: str, destination: str) -> None:
    if source != destination:
        assert send(intended_states(METRO, []), source, packet(source, destination)).nodes[-1] == destination


def test_the_first_switch_answers_arp_itself() -> None:
    trace = send(intended_states(METRO, []), "edge1", arp("edge1", "cloud"))
    edge1, cloud = METRO.nodes["edge1"], METRO.nodes["cloud"]
    assert (trace.nodes, trace.meters) == (["edge1", "r6", "edge1"], [("r6", 105_003)])
    reply = {name: trace.arrived[name] for name in ("arp_op", "arp_sha", "arp_spa", "arp_tha", "arp_tpa", "eth_src")}
    assert reply == {
        "arp_op": 2, "arp_sha": cloud.mac, "arp_spa": cloud.ip, "arp_tha": edge1.mac, "arp_tpa": edge1.ip,
        "eth_src": cloud.mac,
    }  # fmt: skip
    assert trace.arrived["eth_dst"] == edge1.mac


def test_arp_replies_and_requests_for_unknown_hosts_are_dropped() -> None:
    states = intended_states(METRO, [])
    reply = arp("edge1", "cloud", arp_op=2, eth_dst=CLOUD_MAC)
    for sent in (reply, arp("edge1", "cloud", arp_tpa="10.0.200.1"), arp("edge1", "edge1")):
        assert send(states, "edge1", sent).nodes == ["edge1", "r6"]


def test_best_effort_avoids_a_link_that_is_down() -> None:
    trace = send(intended_states(METRO, [], frozenset({"r6->r1", "r1->r6"})), "edge1", packet())
    assert trace.nodes == ["edge1", "r6", "r5", "r4", "r3", "r2", "cloud"]


def test_the_best_effort_meter_is_capacity_minus_reservations_and_margin() -> None:
    link = METRO.links["r6->r1"]
    assert best_effort_meter(link, 0) == MeterEntry(100_002, 79_200, 8000)
    assert best_effort_meter(link, 60_000_000) == MeterEntry(100_002, 19_200, 3840)
    assert best_effort_meter(link, link.reservable_bps) == MeterEntry(100_002, 3_200, 640)


def test_a_cookie_names_tag_reservation_and_version() -> None:
    assert cookie_of(0xDEADBEEF, 0x10002) == 0x9ACE_DEADBEEF_0002
    assert BASE_COOKIE >> 48 == COOKIE_TAG


def steps(before: Iterable[Reservation], after: Iterable[Reservation]) -> list[list[str]]:
    """Each step's changes as `kind switch what`, sorted."""
    return [
        sorted(f"{change.kind} {switch} {_named(change.entry)}" for switch, told in step.items() for change in told)
        for step in updates(METRO, before, after)
    ]


def _named(entry: FlowEntry | MeterEntry | GroupEntry) -> str:
    if isinstance(entry, MeterEntry):
        return str(entry.meter_id)
    return f"table {entry.table}" if isinstance(entry, FlowEntry) else "group"


def test_admission_shrinks_best_effort_first_and_opens_the_ingress_last() -> None:
    assert steps([], [reservation()]) == [
        [
            "add_flow r1 table 1", "add_flow r2 table 1", "add_flow r6 table 0", "add_flow r6 table 1",
            "add_meter r6 110000", "modify_meter r1 100001", "modify_meter r2 100003", "modify_meter r6 100002",
        ],
        ["add_flow r6 table 0"],
    ]  # fmt: skip
    first = kinds(updates(METRO, [], [reservation()]))[0]
    assert first["r1"] == first["r2"] == ["modify_meter", "add_flow"]
    assert first["r6"][2:] == ["add_flow", "add_flow"], "the second counts fragments"


def test_release_closes_the_ingress_first_and_lets_best_effort_grow_last() -> None:
    assert steps([reservation()], []) == [
        ["delete_flow r6 table 0", "delete_flow r6 table 0"],
        [
            "delete_flow r1 table 1", "delete_flow r2 table 1", "delete_flow r6 table 1",
            "delete_meter r6 110000", "modify_meter r1 100001", "modify_meter r2 100003", "modify_meter r6 100002",
        ],
    ]  # fmt: skip
    last = kinds(updates(METRO, [reservation()], []))[-1]
    assert last["r1"] == last["r2"] == ["delete_flow", "modify_meter"]
    assert last["r6"][:1] == ["delete_flow"]


def changed(rate_bps: int) -> Reservation:
    placement = replace(reservation().placements[0], reserved_bps=rate_bps)
    return replace(reservation(), placements=(placement,))


def test_flow_entries_follow_the_version_of_a_flow_and_not_its_rate() -> None:
    def entries(installed: Reservation) -> list[FlowEntry]:
        return [entry for state in intended_states(METRO, [installed]).values() for entry in state.flows.values()]

    assert entries(changed(20_000_000)) == entries(reservation()) != entries(reservation(version=2))


def test_a_reservations_meter_rises_after_best_effort_has_fallen() -> None:
    best_effort = ["modify_meter r1 100001", "modify_meter r2 100003", "modify_meter r6 100002"]
    assert steps([reservation()], [changed(20_000_000)]) == [
        best_effort, ["move_tokens r6 110000"], ["modify_meter r6 110000"],
    ]  # fmt: skip


def test_a_reservations_meter_falls_before_best_effort_rises() -> None:
    best_effort = ["modify_meter r1 100001", "modify_meter r2 100003", "modify_meter r6 100002"]
    assert steps([reservation()], [changed(10_000_000)]) == [
        ["move_tokens r6 110000"], ["modify_meter r6 110000"], best_effort,
    ]  # fmt: skip


def test_equal_states_need_no_change() -> None:
    assert steps([reservation()], [reservation()]) == []


def test_a_switch_of_unknown_state_gets_no_changes() -> None:
    assert {name for step in updates(METRO, [], [reservation()], unknown={"r6"}) for name in step} == {"r1", "r2"}
