"""Compares the observed cabling of the switches with the map."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from controller.dataplane.lldp import PortKey
from controller.domain.network import DirectedLink, Network


def wiring_problems(
    network: Network,
    connected: Collection[int],
    ports: Mapping[int, Mapping[int, bool]],
    received: Mapping[PortKey, PortKey],
    settled: frozenset[int],
) -> list[str]:
    """The differences from the map, one sentence each.

    `ports`: for each connected switch, its ports and whether they are up. `received`: for each port, the port whose
    frames it receives. `settled`: switches connected long enough for missing frames to be significant.
    """
    sentences = []
    for switch in network.switches:
        number = switch.datapath_id or 0
        if number not in connected:
            sentences.append(f"Switch {switch.name} (datapath id {number:016x}) is not connected.")
            continue
        for link in network.links_from(switch.name):
            sentence = _problem(network, link, ports.get(number, {}), number, received, settled)
            if sentence:
                sentences.append(sentence)
    unknown = set(connected) - set(network.switch_by_datapath_id)
    sentences += [f"Datapath id {n:016x} is connected but not on map {network.name}." for n in sorted(unknown)]
    return sentences


def _problem(
    network: Network,
    link: DirectedLink,
    ports: Mapping[int, bool],
    number: int,
    received: Mapping[PortKey, PortKey],
    settled: frozenset[int],
) -> str | None:
    place = f"Switch {link.source}: port {link.source_port}"
    plan = f"the map puts {link.destination} port {link.destination_port} there"
    if link.source_port not in ports:
        return f"{place} is missing; {plan}."
    if not ports[link.source_port]:
        return f"{place} is down; {plan}."
    peer = network.nodes[link.destination].datapath_id
    source = received.get((number, link.source_port))
    if peer is None or source == (peer, link.destination_port):
        return None
    if source is None:
        both_settled = number in settled and peer in settled
        return f"{place} receives no LLDP frame from its neighbour; {plan}." if both_settled else None
    other = network.switch_by_datapath_id.get(source[0])
    name = other.name if other else f"datapath id {source[0]:016x}"
    return f"{place} is wired to {name} port {source[1]}; {plan}."
