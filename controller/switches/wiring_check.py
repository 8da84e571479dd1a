"""Are the switches wired as the map says? LLDP frames of our own, and sentences about what is not as planned.

Source: IEEE 802.1AB-2016 §8 (TLV formats).
"""

from __future__ import annotations

from collections.abc import Mapping

from controller.dataplane.lldp import PortKey
from controller.domain.network import DirectedLink, Network


def complaints(
    network: Network,
    connected: frozenset[int],
    ports: Mapping[int, Mapping[int, bool]],
    heard: Mapping[PortKey, PortKey],
    settled: frozenset[int],
) -> list[str]:
    """What is not as the map says, one sentence each.

    `ports`: of each connected switch, its ports and whether they are up. `heard`: at which port frames from which port
    arrived. `settled`: switches connected long enough that silence means something.
    """
    sentences = []
    for switch in network.switches:
        number = switch.datapath_id or 0
        if number not in connected:
            sentences.append(f"Switch {switch.name} (datapath id {number:016x}) is not connected.")
            continue
        for link in network.links_from(switch.name):
            sentence = _complaint(network, link, ports.get(number, {}), number, heard, settled)
            if sentence:
                sentences.append(sentence)
    unknown = connected - set(network.switch_by_datapath_id)
    sentences += [f"Datapath id {n:016x} is connected but not on map {network.name}." for n in sorted(unknown)]
    return sentences


def _complaint(
    network: Network,
    link: DirectedLink,
    ports: Mapping[int, bool],
    number: int,
    heard: Mapping[PortKey, PortKey],
    settled: frozenset[int],
) -> str | None:
    place = f"Switch {link.source}: port {link.source_port}"
    plan = f"the map puts {link.destination} port {link.destination_port} there"
    if link.source_port not in ports:
        return f"{place} is missing; {plan}."
    if not ports[link.source_port]:
        return f"{place} is down; {plan}."
    peer = network.nodes[link.destination].datapath_id
    source = heard.get((number, link.source_port))
    if peer is None or source == (peer, link.destination_port):
        return None
    if source is None:
        both_settled = number in settled and peer in settled
        return f"{place} hears nothing from its neighbour; {plan}." if both_settled else None
    other = network.switch_by_datapath_id.get(source[0])
    name = other.name if other else f"datapath id {source[0]:016x}"
    return f"{place} is wired to {name} port {source[1]}; {plan}."
