"""Simulated forwarding: follows packets through the flow, group and meter entries of all switches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.dataplane.entries import CONTROLLER_PORT, IN_PORT, Action, FlowEntry, MatchValue, SwitchState
from controller.dataplane.flow_label import PROTOCOL_NUMBERS
from controller.domain.network import Network
from controller.domain.ports import PortRange
from controller.domain.reservation import Flow

Packet = dict[str, MatchValue]


@dataclass
class Trace:
    """The trace of a packet: nodes, meters as (switch, id), DSCP and VLAN id when leaving each switch."""

    nodes: list[str] = field(default_factory=list)
    meters: list[tuple[str, int]] = field(default_factory=list)
    marks: list[MatchValue] = field(default_factory=list)
    tags: list[MatchValue | None] = field(default_factory=list)
    arrived: Packet = field(default_factory=dict)


def packet(network: Network, flow: Flow) -> Packet:
    """A packet of a flow as sent by its source, from and to the lowest port that the flow allows."""
    source, sink = network.nodes[flow.source], network.nodes[flow.destination]
    addresses = {"eth_src": source.mac, "eth_dst": sink.mac, "ipv4_src": source.ip, "ipv4_dst": sink.ip}
    protocol = flow.match.protocol
    ends = flow.match.source_port, flow.match.destination_port
    first = [ports.lower if isinstance(ports, PortRange) else ports or 49152 for ports in ends]
    ports = {f"{protocol}_src": first[0], f"{protocol}_dst": first[1]}
    ip = {"eth_type": 0x0800, "ip_proto": PROTOCOL_NUMBERS[protocol], "ip_dscp": 0}
    return {**ip, **ports, **{name: value or "" for name, value in addresses.items()}}


def send(
    network: Network, states: Mapping[str, SwitchState], source: str, sent: Packet, cut: frozenset[str] = frozenset()
) -> Trace:
    """Follow a packet from a host until it is delivered or dropped; a loop fails.

    `cut`: directed links that are down, detected only by the switches at their ends.
    """
    trace = Trace([source])
    (link,) = network.links_from(source)
    packet_ = dict(sent)
    while network.nodes[link.destination].is_switch:
        switch = link.destination
        trace.nodes.append(switch)
        assert len(trace.nodes) < 40, f"a loop: {trace.nodes}"
        packet_["in_port"] = link.destination_port
        dead = {link.source_port for link in network.links_from(switch) if link.name in cut}
        out = _through(states[switch], switch, packet_, trace, dead)
        if out is None:
            return trace
        trace.marks.append(packet_.get("ip_dscp", 0))
        trace.tags.append(packet_.get("vlan_vid"))
        if out == CONTROLLER_PORT:
            trace.nodes.append("controller")
            return trace
        assert out != packet_["in_port"], "a switch returns no packet through its input port except by IN_PORT"
        out = link.destination_port if out == IN_PORT else out
        link = next(link for link in network.links_from(switch) if link.source_port == out)
        if link.name in cut:
            return trace
    trace.nodes.append(link.destination)
    trace.arrived = packet_
    return trace


def _through(state: SwitchState, switch: str, packet_: Packet, trace: Trace, dead: set[int]) -> int | None:
    table: int | None = 0
    out: int | None = None
    while table is not None:
        entry = _best(state, table, packet_)
        if entry is None:
            return None
        if entry.meter_id is not None:
            assert entry.meter_id in state.meters
            trace.meters.append((switch, entry.meter_id))
        actions: tuple[Action, ...] = entry.actions
        if actions and actions[-1][0] == "group":
            group = state.groups[int(actions[-1][1])]
            alive = (bucket.actions for bucket in group.buckets if bucket.watch_port not in dead)
            actions = (*actions[:-1], *next(alive, ()))
        for name, value in actions:
            if name == "output":
                out = int(value)
            elif name == "push_vlan":
                assert "vlan_vid" not in packet_, "second VLAN tag"
            elif name == "pop_vlan":
                del packet_["vlan_vid"]
            else:
                packet_[name.removeprefix("set_")] = value
        table = entry.goto
    return out


def _best(state: SwitchState, table: int, packet_: Packet) -> FlowEntry | None:
    matching = [
        e for e in state.flows.values() if e.table == table and all(_matches(packet_, *pair) for pair in e.match)
    ]
    matching.sort(key=lambda entry: entry.priority, reverse=True)
    assert len(matching) < 2 or matching[0].priority > matching[1].priority, f"ambiguous: {matching[:2]}"
    return matching[0] if matching else None


def _matches(packet_: Packet, name: str, expected: MatchValue) -> bool:
    value = packet_.get(name)
    if isinstance(expected, tuple):
        return isinstance(value, int) and value & expected[1] == expected[0]
    return value == expected
