"""Changes -> bytes of OpenFlow 1.3. Only what our entries use, and as plain as that allows: no objects on the way.

Source: OpenFlow Switch Specification 1.3.5, §7.1-7.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from struct import Struct

from controller.dataplane.entries import (
    CONTROLLER_PORT,
    COOKIE_TAG_MASK,
    Action,
    Bucket,
    FlowEntry,
    FlowMatch,
    GroupEntry,
    MatchValue,
    MeterEntry,
)
from controller.dataplane.update_order import Change

VERSION = 4
HEADER = Struct("!BBHI")
"""Version, type, length with this header, transaction id."""

ERROR, FLOW_MOD, GROUP_MOD, BARRIER_REQUEST, BARRIER_REPLY, METER_MOD = 1, 14, 15, 20, 21, 29
REASON = Struct("!HH")
"""Type and code at the beginning of an error's body."""

WHOLE_PACKET = 0xFFFF
"""OFPCML_NO_BUFFER: a packet-in carries all of the packet."""
AS_MUCH_AS_ALLOWED = 0xFFE5
"""OFPCML_MAX; it matters only where packets go up to the controller."""

_ANY = 0xFFFF_FFFF
_NO_BUFFER = 0xFFFF_FFFF
_ADD, _DELETE_STRICT = 0, 4
_COMMANDS = {"add": 0, "modify": 1, "delete": 2}
_METER_FLAGS = 0b1101
"""kbit/s, with a burst, counting."""
_DROP, _FAST_FAILOVER = 1, 3

_FLOW = Struct("!QQBBHHHIIIH2x")
_METER = Struct("!HHIHHII4x")
_GROUP = Struct("!HBxI")
_BUCKET = Struct("!HHII4x")
_OUTPUT = Struct("!HHIH6x")
_TO_GROUP = Struct("!HHI")
_PUSH = Struct("!HHH2x")
_POP = Struct("!HH4x")
_TO_METER = Struct("!HHI")
_GO_TO = Struct("!HHB3x")
_LIST = Struct("!HH")
_APPLY = Struct("!HH4x")
_FIELD = Struct("!HBB")


def barrier_request(xid: int) -> bytes:
    """Ask for a word when everything before has been done."""
    return HEADER.pack(VERSION, BARRIER_REQUEST, HEADER.size, xid)


def packed(change: Change, xid: int) -> bytes:
    """The message that makes a change on a switch."""
    entry = change.entry
    if isinstance(entry, FlowEntry):
        kind, body = FLOW_MOD, _flow_mod(change.kind == "delete_flow", entry)
    elif isinstance(entry, MeterEntry):
        kind, body = METER_MOD, _meter_mod(_command(change), entry)
    else:
        kind, body = GROUP_MOD, _group_mod(_command(change), entry)
    return HEADER.pack(VERSION, kind, HEADER.size + len(body), xid) + body


def _command(change: Change) -> int:
    return _COMMANDS[change.kind.partition("_")[0]]


def _meter_mod(command: int, meter: MeterEntry) -> bytes:
    band = _DROP, 16, meter.rate_kbps, meter.burst_kbit
    return _METER.pack(command, _METER_FLAGS, meter.meter_id, *band)


def _group_mod(command: int, group: GroupEntry) -> bytes:
    head = _GROUP.pack(command, _FAST_FAILOVER, group.group_id)
    if command == _COMMANDS["delete"]:
        return head
    return head + b"".join(map(_bucket, group.buckets))


def _bucket(bucket: Bucket) -> bytes:
    actions = b"".join(map(_action, bucket.actions))
    return _BUCKET.pack(_BUCKET.size + len(actions), 0, bucket.watch_port, _ANY) + actions


def _flow_mod(delete: bool, entry: FlowEntry) -> bytes:
    command, cookie_mask = (_DELETE_STRICT, COOKIE_TAG_MASK) if delete else (_ADD, 0)
    rest = entry.priority, _NO_BUFFER, _ANY, _ANY, 0
    head = _FLOW.pack(entry.cookie, cookie_mask, entry.table, command, 0, 0, *rest) + _match(entry.match)
    return head if delete else head + _instructions(entry)


def _instructions(entry: FlowEntry) -> bytes:
    parts = []
    if entry.meter_id is not None:
        parts.append(_TO_METER.pack(6, _TO_METER.size, entry.meter_id))
    if entry.actions:
        actions = b"".join(map(_action, entry.actions))
        parts.append(_APPLY.pack(4, _APPLY.size + len(actions)) + actions)
    if entry.goto is not None:
        parts.append(_GO_TO.pack(1, _GO_TO.size, entry.goto))
    return b"".join(parts)


@lru_cache(maxsize=8192)
def _match(match: FlowMatch) -> bytes:
    """The same on many switches. The fields in the order of their numbers, so that each comes after what it needs."""
    fields = b"".join(field for _, field in sorted(_numbered(match)))
    length = _LIST.size + len(fields)
    return _padded(_LIST.pack(1, length) + fields)


def _numbered(match: FlowMatch) -> Iterable[tuple[int, bytes]]:
    return ((_FIELDS[name][0], _field(name, value)) for name, value in match)


@lru_cache(maxsize=8192)
def _action(action: Action) -> bytes:
    name, value = action
    if name.startswith("set_"):
        field = _field(name.removeprefix("set_"), value)
        length = -(-(_LIST.size + len(field)) // 8) * 8
        return _padded(_LIST.pack(25, length) + field)
    if name == "push_vlan":
        return _PUSH.pack(17, _PUSH.size, int(value))
    if name == "pop_vlan":
        return _POP.pack(18, _POP.size)
    if name == "group":
        return _TO_GROUP.pack(22, _TO_GROUP.size, int(value))
    most = WHOLE_PACKET if value == CONTROLLER_PORT else AS_MUCH_AS_ALLOWED
    return _OUTPUT.pack(0, _OUTPUT.size, int(value), most)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def _field(name: str, value: MatchValue) -> bytes:
    number, encode = _FIELDS[name]
    if isinstance(value, tuple):
        content, has_mask = b"".join(map(encode, value)), 1
    else:
        content, has_mask = encode(value), 0
    return _FIELD.pack(0x8000, number << 1 | has_mask, len(content)) + content


Encode = Callable[[int | str], bytes]


def _number(length: int) -> Encode:
    return lambda value: int(value).to_bytes(length, "big")


def _mac(value: int | str) -> bytes:
    return bytes.fromhex(str(value).replace(":", ""))


def _ipv4(value: int | str) -> bytes:
    return bytes(map(int, str(value).split(".")))


_FIELDS: dict[str, tuple[int, Encode]] = {
    "in_port": (0, _number(4)),
    "eth_dst": (3, _mac),
    "eth_src": (4, _mac),
    "eth_type": (5, _number(2)),
    "vlan_vid": (6, _number(2)),
    "ip_dscp": (8, _number(1)),
    "ip_proto": (10, _number(1)),
    "ipv4_src": (11, _ipv4),
    "ipv4_dst": (12, _ipv4),
    "tcp_src": (13, _number(2)),
    "tcp_dst": (14, _number(2)),
    "udp_src": (15, _number(2)),
    "udp_dst": (16, _number(2)),
    "arp_op": (21, _number(2)),
    "arp_spa": (22, _ipv4),
    "arp_tpa": (23, _ipv4),
    "arp_sha": (24, _mac),
    "arp_tha": (25, _mac),
}
"""OXM fields of the basic class: number, and how a value is written. Source: §7.2.3.7."""
