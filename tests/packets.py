"""Packets followed through the entries that switches should hold, on simulated switches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.dataplane.entries import CONTROLLER_PORT, IN_PORT, Action, FlowEntry, MatchValue, SwitchState
from controller.dataplane.pipeline import PROTOCOL_NUMBERS
from controller.domain.network import Network
from controller.domain.reservation import Flow

Packet = dict[str, MatchValue]


@dataclass
class Journey:
    """Where a packet went: the nodes, the meters as (switch, id), and DSCP and VLAN id out of each switch."""

    nodes: list[str] = field(default_factory=list)
    meters: list[tuple[str, int]] = field(default_factory=list)
    marks: list[MatchValue] = field(default_factory=list)
    tags: list[MatchValue | None] = field(default_factory=list)
    arrived: Packet = field(default_factory=dict)


def packet(network: Network, flow: Flow) -> Packet:
    """A packet of a flow, as its source sends it."""
    source, sink = network.nodes[flow.source], network.nodes[flow.destination]
    addresses = {"eth_src": source.mac, "eth_dst": sink.mac, "ipv4_src": source.ip, "ipv4_dst": sink.ip}
    protocol = flow.match.protocol
    ports = {f"{protocol}_src": flow.match.source_port, f"{protocol}_dst": flow.match.destination_port}
    ip = {"eth_type": 0x0800, "ip_proto": PROTOCOL_NUMBERS[protocol], "ip_dscp": 0}
    return {**ip, **ports, **{name: value or "" for name, value in addresses.items()}}


def send(
    network: Network, states: Mapping[str, SwitchState], source: str, sent: Packet, cut: frozenset[str] = frozenset()
) -> Journey:
    """Follow a packet from a host until it is delivered, dropped or has gone round in circles.

    `cut`: directed links that are down, which the switches at their ends see and nobody else knows.
    """
    journey = Journey([source])
    (link,) = network.links_from(source)
    moving = dict(sent)
    while network.nodes[link.destination].is_switch:
        switch = link.destination
        journey.nodes.append(switch)
        assert len(journey.nodes) < 40, f"a loop: {journey.nodes}"
        moving["in_port"] = link.destination_port
        dead = {link.source_port for link in network.links_from(switch) if link.name in cut}
        out = _through(states[switch], switch, moving, journey, dead)
        if out is None:
            return journey
        journey.marks.append(moving.get("ip_dscp", 0))
        journey.tags.append(moving.get("vlan_vid"))
        if out == CONTROLLER_PORT:
            journey.nodes.append("controller")
            return journey
        assert out != moving["in_port"], "a switch sends nothing back unless told to by name"
        out = link.destination_port if out == IN_PORT else out
        link = next(link for link in network.links_from(switch) if link.source_port == out)
        if link.name in cut:
            return journey
    journey.nodes.append(link.destination)
    journey.arrived = moving
    return journey


def _through(state: SwitchState, switch: str, moving: Packet, journey: Journey, dead: set[int]) -> int | None:
    table: int | None = 0
    out: int | None = None
    while table is not None:
        entry = _best(state, table, moving)
        if entry is None:
            return None
        if entry.meter_id is not None:
            assert entry.meter_id in state.meters
            journey.meters.append((switch, entry.meter_id))
        actions: tuple[Action, ...] = entry.actions
        if actions and actions[-1][0] == "group":
            group = state.groups[int(actions[-1][1])]
            alive = (bucket.actions for bucket in group.buckets if bucket.watch_port not in dead)
            actions = (*actions[:-1], *next(alive, ()))
        for name, value in actions:
            if name == "output":
                out = int(value)
            elif name == "push_vlan":
                assert "vlan_vid" not in moving, "one tag is enough"
            elif name == "pop_vlan":
                del moving["vlan_vid"]
            else:
                moving[name.removeprefix("set_")] = value
        table = entry.goto
    return out


def _best(state: SwitchState, table: int, moving: Packet) -> FlowEntry | None:
    hits = [e for e in state.flows.values() if e.table == table and all(_hit(moving, *pair) for pair in e.match)]
    hits.sort(key=lambda entry: entry.priority, reverse=True)
    assert len(hits) < 2 or hits[0].priority > hits[1].priority, f"ambiguous: {hits[:2]}"
    return hits[0] if hits else None


def _hit(moving: Packet, name: str, wanted: MatchValue) -> bool:
    value = moving.get(name)
    if isinstance(wanted, tuple):
        return isinstance(value, int) and value & wanted[1] == wanted[0]
    return value == wanted
