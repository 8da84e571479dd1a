"""LLDP frames of the wiring check. Source: IEEE 802.1AB-2016 §8 (TLV formats)."""

from __future__ import annotations

import struct

LLDP_MULTICAST = bytes.fromhex("0180c200000e")
CHASSIS_PREFIX = b"paceline:"
LOCALLY_ASSIGNED = b"\x07"
LIFETIME_S = 120

PortKey = tuple[int, int]
"""(datapath id, port number)."""


def lldp_frame(datapath_id: int, port: int) -> bytes:
    """The frame that identifies its source port."""
    source = b"\x02" + datapath_id.to_bytes(8, "big")[-5:]
    chassis = LOCALLY_ASSIGNED + CHASSIS_PREFIX + f"{datapath_id:016x}".encode()
    tlvs = (
        _tlv(1, chassis) + _tlv(2, LOCALLY_ASSIGNED + str(port).encode()) + _tlv(3, struct.pack("!H", LIFETIME_S))
    )
    return LLDP_MULTICAST + source + struct.pack("!H", 0x88CC) + tlvs + _tlv(0, b"")


def read_lldp_frame(frame: bytes) -> PortKey | None:
    """The source port of a wiring-check frame; None for any other or malformed frame."""
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
