"""Fragments between hosts with a reservation are counted at the first switch, and travel as before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.admission.admission import Admitted, Request, decide
from controller.booking.calendar import Calendar
from controller.dataplane.entries import Entries, Key, MatchValue, SwitchState, entries_of
from controller.dataplane.fragment_entries import FRAGMENT_COOKIE, counts_fragments, max_datagram_bytes
from controller.dataplane.intended_state import IntendedState
from controller.dataplane.pipeline import contribution_of, intended_states
from controller.domain.network import network_from_map
from controller.domain.ports import PortRange
from controller.domain.reservation import Flow, Match, Protocol, Requirement, Reservation, State
from tests import simulated_forwarding
from tests.simulated_forwarding import Packet
from topologies.map_file.loader import load_map

METRO = network_from_map(load_map("metro"))


def flow(port: int = 7801, source: str = "edge1", protocol: Protocol = "udp") -> Flow:
    return Flow(f"{source}-{port}", source, "cloud", Match(protocol, port, 7800), Requirement(1_000_000, 40_000))


def reservation(number: int, *flows: Flow) -> Reservation:
    decision = decide(METRO, Calendar(), (), Request(f"r-{number:08x}", 1, flows), 0.0)
    assert isinstance(decision, Admitted)
    placements = tuple(replace(placed, meter_id=placed.meter_id + 10 * number) for placed in decision.placements)
    return Reservation(f"r-{number:08x}", number, 1, "test", State.ACTIVE, 60, 0, 60, placements)


def fragment(of: Flow, **fields: MatchValue) -> Packet:
    """A fragment as a switch sees it: without ports."""
    whole = simulated_forwarding.packet(METRO, of)
    bare = {name: value for name, value in whole.items() if not name.endswith(("tp_src", "udp_dst", "udp_src"))}
    return {**bare, "ip_frag": 1, **fields}


def counted(state: SwitchState) -> list[Key]:
    return [key for key in entries_of(state) if counts_fragments(key)]


def matched(state: SwitchState, packet: Packet) -> bool:
    """Whether an entry that counts fragments is the first to match this packet at edge1's port."""
    packet = {**packet, "in_port": METRO.links["edge1->r6"].destination_port}
    entries = [entry for entry in state.flows.values() if entry.table == 0]
    best = max(
        (entry for entry in entries if all(simulated_forwarding._matches(packet, *field) for field in entry.match)),
        key=lambda entry: entry.priority,
        default=None,
    )
    return best is not None and best.cookie == FRAGMENT_COOKIE


def test_a_fragment_of_a_reserved_flow_is_counted_and_forwarded_as_without_a_reservation() -> None:
    reserved = intended_states(METRO, [reservation(1, flow())])
    before, after = (
        simulated_forwarding.send(METRO, states, "edge1", fragment(flow(), ip_dscp=46))
        for states in (intended_states(METRO, []), reserved)
    )
    assert matched(reserved["r6"], fragment(flow()))
    assert (after.nodes, after.meters, after.marks) == (before.nodes, before.meters, before.marks)
    assert set(after.marks) == {0}
    assert 110_010 not in {meter for _, meter in after.meters}


def test_a_flow_of_all_ports_takes_its_fragments_along() -> None:
    everything = replace(flow(), match=Match("udp", None, None))
    states = intended_states(METRO, [reservation(1, everything)])
    trace = simulated_forwarding.send(METRO, states, "edge1", fragment(flow()))
    assert (trace.meters, set(trace.marks)) == ([("r6", 110_010)], {46})
    assert not matched(states["r6"], fragment(flow()))


def test_a_range_of_ports_does_not_match_fragments() -> None:
    ranges = replace(flow(), match=Match("udp", PortRange(1, 65535), PortRange(1, 65535)))
    assert matched(intended_states(METRO, [reservation(1, ranges)])["r6"], fragment(flow(), udp_src=0, udp_dst=0))


def test_whole_packets_and_fragments_of_others_are_not_counted() -> None:
    state = intended_states(METRO, [reservation(1, flow())])["r6"]
    assert not matched(state, simulated_forwarding.packet(METRO, flow()))
    assert not matched(state, fragment(flow(protocol="tcp"), ip_proto=6))
    edge2 = METRO.nodes["edge2"]
    assert not matched(state, fragment(flow(), ipv4_dst=edge2.ip or ""))


def test_a_fragment_with_a_forged_mac_address_is_dropped() -> None:
    states = intended_states(METRO, [reservation(1, flow())])
    forged = fragment(flow(), eth_src=METRO.nodes["edge2"].mac or "")
    assert simulated_forwarding.send(METRO, states, "edge1", forged).nodes == ["edge1", "r6"]


def test_reservations_of_the_same_hosts_share_the_entry_until_the_last_one_ends() -> None:
    first, second = reservation(1, flow(7801), flow(7802)), reservation(2, flow(7803))
    intended = IntendedState(METRO)
    keys: list[list[Key]] = []
    for held, is_live in ((first, True), (second, True), (first, False), (second, False)):
        changed = intended.set_contribution(held.id, contribution_of(METRO, held) if is_live else None)
        keys.append([key for key in intended.entries["r6"] if counts_fragments(key)])
        if is_live:  # also if it is intended already: the update that first intended it may fail before it is sent
            assert any(counts_fragments(key) for key in changed["r6"])
    assert [len(found) for found in keys] == [1, 1, 1, 0]


def test_protocols_and_hosts_are_counted_apart() -> None:
    flows = flow(), flow(protocol="tcp"), flow(source="edge2")
    assert len(counted(intended_states(METRO, [reservation(1, *flows)])["r6"])) == 3


def test_the_incremental_state_equals_the_computed_one() -> None:
    intended = IntendedState(METRO)
    live: dict[str, Reservation] = {}
    first, second = reservation(1, flow(7801)), reservation(2, flow(7803), flow(source="edge2"))
    for held, after in ((first, first), (second, second), (first, None), (first, first), (second, None)):
        intended.set_contribution(held.id, None if after is None else contribution_of(METRO, after))
        live.pop(held.id, None)
        live |= {} if after is None else {held.id: after}
        expected: dict[str, Entries] = {
            name: entries_of(state) for name, state in intended_states(METRO, live.values()).items()
        }
        assert intended.entries == expected


@pytest.mark.parametrize(("protocol", "mtu_bytes", "payload_bytes"), [("udp", 1500, 1472), ("tcp", 9000, 8960)])
def test_the_largest_payload_fills_one_packet(protocol: Protocol, mtu_bytes: int, payload_bytes: int) -> None:
    assert max_datagram_bytes(mtu_bytes, flow(protocol=protocol)) == payload_bytes


def test_the_largest_payload_keeps_to_the_largest_frame_of_the_flow() -> None:
    small = replace(flow(), requirement=Requirement(1_000_000, max_frame_bytes=242))
    assert max_datagram_bytes(1500, small) == 200
