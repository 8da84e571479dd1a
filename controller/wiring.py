"""Are the switches wired as the map says? LLDP frames of our own, and sentences about what is not as planned.

Source: IEEE 802.1AB-2016 §8 (TLV formats).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from controller.network import DirectedLink, Network

LLDP_MULTICAST = bytes.fromhex("0180c200000e")
CHASSIS_PREFIX = b"paceline:"
LOCALLY_ASSIGNED = b"\x07"
LIFETIME_S = 120

PortKey = tuple[int, int]
"""(datapath id, port number)."""


def lldp_frame(datapath_id: int, port: int) -> bytes:
    """The frame a switch sends out of a port to say where it comes from."""
    source = b"\x02" + datapath_id.to_bytes(8, "big")[-5:]
    chassis = LOCALLY_ASSIGNED + CHASSIS_PREFIX + f"{datapath_id:016x}".encode()
    tlvs = (
        _tlv(1, chassis) + _tlv(2, LOCALLY_ASSIGNED + str(port).encode()) + _tlv(3, struct.pack("!H", LIFETIME_S))
    )
    return LLDP_MULTICAST + source + struct.pack("!H", 0x88CC) + tlvs + _tlv(0, b"")


def read_lldp_frame(frame: bytes) -> PortKey | None:
    """Where one of our frames comes from; None for anybody else's or for noise."""
    if frame[12:14] != b"\x88\xcc":
        return None
    found: dict[int, bytes] = {}
    rest = frame[14:]
    while len(rest) >= 2:
        (head,) = struct.unpack("!H", rest[:2])
        kind, length = head >> 9, head & 0x1FF
        if kind == 0:
            break
        found[kind] = rest[2 : 2 + length]
        rest = rest[2 + length :]
    chassis, port = found.get(1, b""), found.get(2, b"")
    if not chassis.startswith(LOCALLY_ASSIGNED + CHASSIS_PREFIX):
        return None
    try:
        return int(chassis[1 + len(CHASSIS_PREFIX) :], 16), int(port[1:])
    except ValueError:
        return None


def _tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!H", kind << 9 | len(value)) + value


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
