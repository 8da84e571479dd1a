"""Encodes changes as OpenFlow 1.3 messages: only the fields our entries use, without intermediate objects.

Source: OpenFlow Switch Specification 1.3.5, §7.1-7.3.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from controller.caches import MIB, bounded_cache
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
from controller.dataplane.meter_tokens import MeterCounts, TokenMove, token_entry, token_frame
from controller.dataplane.update_order import Change

VERSION = 4
HEADER = Struct("!BBHI")
"""Version, type, length including this header, transaction id (xid)."""

ERROR, PORT_STATUS, PACKET_OUT, FLOW_MOD, GROUP_MOD, METER_MOD = 1, 12, 13, 14, 15, 29
MULTIPART_REQUEST, MULTIPART_REPLY, BARRIER_REQUEST, BARRIER_REPLY = 18, 19, 20, 21
ERROR_CODES = Struct("!HH")
"""Type and code at the beginning of an error message's body."""

WHOLE_PACKET = 0xFFFF
"""OFPCML_NO_BUFFER: a packet-in carries the whole packet."""
MAX_PACKET_IN_BYTES = 0xFFE5
"""OFPCML_MAX; only used where packets are sent to the controller."""

_METER_STATS = 9
_TABLE_PORT = 0xFFFF_FFF9
"""OFPP_TABLE: a packet-out is looked up in the flow tables."""
_ANY = 0xFFFF_FFFF
_NO_BUFFER = 0xFFFF_FFFF
_ADD, _DELETE_STRICT = 0, 4
_DELETE = 2
_COMMANDS = {
    "add_meter": 0, "modify_meter": 1, "delete_meter": _DELETE,
    "add_group": 0, "modify_group": 1, "delete_group": _DELETE,
}  # fmt: skip
_METER_FLAGS = 0b1101
"""OFPMF_KBPS | OFPMF_BURST | OFPMF_STATS."""
_DROP, _FAST_FAILOVER = 1, 3

_FLOW = Struct("!QQBBHHHIIIH2x")
_METER = Struct("!HHIHHII4x")
_GROUP = Struct("!HBxI")
_BUCKET = Struct("!HHII4x")
_OUTPUT = Struct("!HHIH6x")
_METER_REQUEST = Struct("!HH4xI4x")
_METER_COUNTS = Struct("!HH4xIH6xIQQII")
"""Header of a multipart message, then one meter's statistics as far as its bands."""
_BAND_COUNTS = Struct("!QQ")
_PACKET_OUT = Struct("!IIH6x")
_GROUP_ACTION = Struct("!HHI")
_PUSH_VLAN = Struct("!HHH2x")
_POP_VLAN = Struct("!HH4x")
_METER_INSTRUCTION = Struct("!HHI")
_GOTO_TABLE = Struct("!HHB3x")
_TYPE_LENGTH = Struct("!HH")
_APPLY_ACTIONS = Struct("!HH4x")
_OXM_HEADER = Struct("!HBB")
_BASIC_CLASS, _NICIRA_CLASS, _NICIRA = 0x8000, 1, 128


def encode_barrier_request(xid: int) -> bytes:
    """A barrier request: the switch replies when it has processed all messages before it."""
    return HEADER.pack(VERSION, BARRIER_REQUEST, HEADER.size, xid)


def encode_change(change: Change, xid: int) -> bytes:
    """The message that applies a change on a switch, and with it those that move tokens of a meter."""
    entry = change.entry
    if change.tokens is not None and isinstance(entry, MeterEntry):
        return _encode_with_tokens(change, entry, change.tokens, xid)
    if isinstance(entry, FlowEntry):
        kind, body = FLOW_MOD, _flow_mod(change.kind == "delete_flow", entry)
    elif isinstance(entry, MeterEntry):
        kind, body = METER_MOD, _meter_mod(_COMMANDS[change.kind], entry)
    else:
        kind, body = GROUP_MOD, _group_mod(_COMMANDS[change.kind], entry)
    return HEADER.pack(VERSION, kind, HEADER.size + len(body), xid) + body


def reading_times(change: Change) -> tuple[bool, bool]:
    """Whether the meter is read directly before and after a change that moves tokens."""
    return change.kind != "add_meter", change.kind != "delete_meter"


def decode_meter_counts(body: bytes) -> MeterCounts:
    """The counters in the body of a multipart reply with one meter's statistics."""
    _, _, _, length, _, packets, octets, _, _ = _METER_COUNTS.unpack_from(body)
    dropped = _BAND_COUNTS.unpack_from(body, _METER_COUNTS.size) if length > 40 else (0, 0)
    return MeterCounts(packets, octets, *dropped)


def is_refused_reading(error_body: bytes) -> bool:
    """Whether an error answers a multipart request, by the failed message that it repeats."""
    return len(error_body) > ERROR_CODES.size + 1 and error_body[ERROR_CODES.size + 1] == MULTIPART_REQUEST


def _encode_with_tokens(change: Change, meter: MeterEntry, move: TokenMove, xid: int) -> bytes:
    before, after = reading_times(change)
    request = _message(MULTIPART_REQUEST, _METER_REQUEST.pack(_METER_STATS, 0, meter.meter_id), xid)
    messages = [request] if before else []
    if change.kind != "move_tokens":
        messages.append(_message(METER_MOD, _meter_mod(_COMMANDS[change.kind], meter), xid))
    if move.frames:
        entry = token_entry(meter.meter_id)
        messages.append(_message(FLOW_MOD, _flow_mod(False, entry), xid))
        messages += [_message(PACKET_OUT, _packet_out(token_frame(meter.meter_id, size)), xid) for size in move.frames]
        messages.append(_message(FLOW_MOD, _flow_mod(True, entry), xid))
    if after:
        messages.append(request)
    return b"".join(messages)


def _message(kind: int, body: bytes, xid: int) -> bytes:
    return HEADER.pack(VERSION, kind, HEADER.size + len(body), xid) + body


def _packet_out(frame: bytes) -> bytes:
    """From the controller through the flow tables."""
    action = _OUTPUT.pack(0, _OUTPUT.size, _TABLE_PORT, MAX_PACKET_IN_BYTES)
    return _PACKET_OUT.pack(_NO_BUFFER, CONTROLLER_PORT, len(action)) + action + frame


def _meter_mod(command: int, meter: MeterEntry) -> bytes:
    band = _DROP, 16, meter.rate_kbps, meter.burst_kbit
    return _METER.pack(command, _METER_FLAGS, meter.meter_id, *band)


def _group_mod(command: int, group: GroupEntry) -> bytes:
    head = _GROUP.pack(command, _FAST_FAILOVER, group.group_id)
    if command == _DELETE:
        return head
    return head + b"".join(map(_bucket, group.buckets))


def _bucket(bucket: Bucket) -> bytes:
    actions = b"".join(map(_action, bucket.actions))
    return _BUCKET.pack(_BUCKET.size + len(actions), 0, bucket.watch_port, _ANY) + actions


def _flow_mod(delete: bool, entry: FlowEntry) -> bytes:
    command, cookie_mask = (_DELETE_STRICT, COOKIE_TAG_MASK) if delete else (_ADD, 0)
    timeouts = 0, 0
    fixed = entry.priority, _NO_BUFFER, _ANY, _ANY, 0
    head = _FLOW.pack(entry.cookie, cookie_mask, entry.table, command, *timeouts, *fixed) + _match(entry.match)
    return head if delete else head + _instructions(entry)


def _instructions(entry: FlowEntry) -> bytes:
    instructions = []
    if entry.meter_id is not None:
        instructions.append(_METER_INSTRUCTION.pack(6, _METER_INSTRUCTION.size, entry.meter_id))
    if entry.actions:
        actions = b"".join(map(_action, entry.actions))
        instructions.append(_APPLY_ACTIONS.pack(4, _APPLY_ACTIONS.size + len(actions)) + actions)
    if entry.goto is not None:
        instructions.append(_GOTO_TABLE.pack(1, _GOTO_TABLE.size, entry.goto))
    return b"".join(instructions)


@bounded_cache(2 * MIB, entry_bytes=1024)
def _match(match: FlowMatch) -> bytes:
    """OXM match, cached as many switches get the same. Sorted by field number, so prerequisites come first."""
    fields = b"".join([field for _, field in sorted([_field(name, value) for name, value in match])])
    length = _TYPE_LENGTH.size + len(fields)
    return _padded(_TYPE_LENGTH.pack(1, length) + fields)


@bounded_cache(2 * MIB, entry_bytes=512)
def _action(action: Action) -> bytes:
    name, value = action
    if name.startswith("set_"):
        _, field = _field(name.removeprefix("set_"), value)
        length = -(-(_TYPE_LENGTH.size + len(field)) // 8) * 8
        return _padded(_TYPE_LENGTH.pack(25, length) + field)
    if name == "push_vlan":
        return _PUSH_VLAN.pack(17, _PUSH_VLAN.size, int(value))
    if name == "pop_vlan":
        return _POP_VLAN.pack(18, _POP_VLAN.size)
    if name == "group":
        return _GROUP_ACTION.pack(22, _GROUP_ACTION.size, int(value))
    max_bytes = WHOLE_PACKET if value == CONTROLLER_PORT else MAX_PACKET_IN_BYTES
    return _OUTPUT.pack(0, _OUTPUT.size, int(value), max_bytes)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


@bounded_cache(MIB, entry_bytes=512)
def _field(name: str, value: MatchValue) -> tuple[int, bytes]:
    """Number and OXM of a field, cached as most values are the same in the matches of many flows."""
    number, encode = _FIELDS[name]
    if isinstance(value, tuple):
        content, has_mask = b"".join(map(encode, value)), 1
    else:
        content, has_mask = encode(value), 0
    oxm_class = _BASIC_CLASS if number < _NICIRA else _NICIRA_CLASS
    return number, _OXM_HEADER.pack(oxm_class, number % _NICIRA << 1 | has_mask, len(content)) + content


Encode = Callable[[int | str], bytes]


def _integer(length: int) -> Encode:
    return lambda value: int(value).to_bytes(length, "big")


def _mac(value: int | str) -> bytes:
    return bytes.fromhex(str(value).replace(":", ""))


def _ipv4(value: int | str) -> bytes:
    return bytes(map(int, str(value).split(".")))


_FIELDS: dict[str, tuple[int, Encode]] = {
    "in_port": (0, _integer(4)),
    "eth_dst": (3, _mac),
    "eth_src": (4, _mac),
    "eth_type": (5, _integer(2)),
    "vlan_vid": (6, _integer(2)),
    "ip_dscp": (8, _integer(1)),
    "ip_proto": (10, _integer(1)),
    "ipv4_src": (11, _ipv4),
    "ipv4_dst": (12, _ipv4),
    "tcp_src": (13, _integer(2)),
    "tcp_dst": (14, _integer(2)),
    "udp_src": (15, _integer(2)),
    "udp_dst": (16, _integer(2)),
    "arp_op": (21, _integer(2)),
    "arp_spa": (22, _ipv4),
    "arp_tpa": (23, _ipv4),
    "arp_sha": (24, _mac),
    "arp_tha": (25, _mac),
    "ip_frag": (_NICIRA + 26, _integer(1)),
}
"""OXM fields of the basic class, and from _NICIRA on of Open vSwitch's class 1: number and encoder of a value.

Source: §7.2.3.7; ovs-fields(7).
"""

FIELD_NUMBERS = {
    name: (_BASIC_CLASS, number) if number < _NICIRA else (_NICIRA_CLASS, number % _NICIRA)
    for name, (number, _) in _FIELDS.items()
}
"""Class and number of every field that entries use."""
