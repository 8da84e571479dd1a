"""Asks a switch what it can do, and decodes the answers, without Ryu.

The tables of Open vSwitch (254 of them) are described in 1.2 MB, which Ryu's parser takes up to 1.7 s of the hub's
thread for; here only those that Paceline uses are decoded. Source: OpenFlow Switch Specification 1.3.5, §7.3.5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from struct import Struct
from typing import TypeVar

from controller.dataplane.switch_capabilities import (
    GroupCapabilities,
    MeterCapabilities,
    PortDescription,
    SwitchCapabilities,
    SwitchDescription,
    TableCapabilities,
)
from controller.openflow.encoder import FIELD_NUMBERS, HEADER, MULTIPART_REQUEST, VERSION

Answer = TypeVar("Answer")

QUESTIONS = {
    "description": 0, "tables": 3, "group features": 8, "meter features": 11, "table features": 12, "ports": 13,
}  # fmt: skip
"""Types of multipart requests."""
TABLES_USED = 3

_MULTIPART = Struct("!HHI")
_MORE = 1
"""OFPMPF_REPLY_MORE."""
_DESCRIPTION = Struct("!256s256s256s32s256s")
_TABLE_STATS_BYTES = 24
_GROUP_FEATURES = Struct("!II4I4I")
_METER_FEATURES = Struct("!IIIBB2x")
_TABLE_FEATURES = Struct("!HB5x32sQQII")
_PORT = Struct("!I4x6s2x16sIIIIIIII")
_TYPE_LENGTH = Struct("!HH")
_OXM = Struct("!HBB")
_EXPERIMENTER_CLASS = 0xFFFF

_FAST_FAILOVER = 3
_DROP = 1
_KBPS, _BURST, _STATS = 1, 4, 8
_PORT_DOWN, _LINK_DOWN = 1, 1
_MAX_PORT = 0xFFFF_FF00
_ACTIONS = {0: "output", 17: "push_vlan", 18: "pop_vlan", 22: "group", 25: "set_field"}
_INSTRUCTIONS = {1: "goto_table", 4: "apply_actions", 6: "meter"}
_INSTRUCTION_PROPERTY, _NEXT_TABLES, _APPLY_ACTIONS, _MATCH, _APPLY_SET_FIELD = 0, 2, 6, 8, 14
_FIELD_NAMES = {number: name for name, number in FIELD_NUMBERS.items()}


def encode_question(question: str, xid: int) -> bytes:
    """The multipart request of a question."""
    body = _MULTIPART.pack(QUESTIONS[question], 0, 0)
    return HEADER.pack(VERSION, MULTIPART_REQUEST, HEADER.size + len(body), xid) + body


def is_last(body: bytes) -> bool:
    """Whether no further part follows this body of a multipart reply."""
    return not _TYPE_LENGTH.unpack_from(body)[1] & _MORE


def decode_capabilities(
    datapath_id: int, replies: Mapping[str, Sequence[bytes]], refused: Mapping[str, str]
) -> SwitchCapabilities:
    """The capabilities in the bodies of the replies, by question; a reply without content is no answer.

    `refused`: the error of a question that got one.

    Raises: struct.error, ValueError if a reply is malformed.
    """
    contents = {question: [body[_MULTIPART.size :] for body in bodies] for question, bodies in replies.items()}
    answered = {question: parts for question, parts in contents.items() if any(parts)}

    def each(question: str) -> bytes | None:
        return answered[question][0] if question in answered else None

    tables, ports = answered.get("tables"), answered.get("ports")
    return SwitchCapabilities(
        datapath_id,
        _optional(_description, each("description")),
        None if tables is None else sum(len(part) // _TABLE_STATS_BYTES for part in tables),
        _tables(answered["table features"]) if "table features" in answered else None,
        _optional(_meters, each("meter features")),
        _optional(_groups, each("group features")),
        None if ports is None else {port.number: port for part in ports for port in _ports(part)},
        refused,
    )


def _optional(decode: Callable[[bytes], Answer], data: bytes | None) -> Answer | None:
    return None if data is None else decode(data)


def _description(data: bytes) -> SwitchDescription:
    return SwitchDescription(*(_text(part) for part in _DESCRIPTION.unpack_from(data)))


def _text(data: bytes) -> str:
    return data.split(b"\0")[0].decode("utf-8", "replace")


def _meters(data: bytes) -> MeterCapabilities:
    max_meters, bands, flags, max_bands, _ = _METER_FEATURES.unpack_from(data)
    has_drop = bool(bands & 1 << _DROP)
    return MeterCapabilities(
        max_meters, max_bands, has_drop, bool(flags & _KBPS), bool(flags & _BURST), bool(flags & _STATS)
    )


def _groups(data: bytes) -> GroupCapabilities:
    types, _, *limits = _GROUP_FEATURES.unpack_from(data)
    actions = limits[4 + _FAST_FAILOVER]
    return GroupCapabilities(
        bool(types & 1 << _FAST_FAILOVER),
        limits[_FAST_FAILOVER],
        frozenset(name for number, name in _ACTIONS.items() if actions & 1 << number),
    )


def _ports(data: bytes) -> Iterator[PortDescription]:
    for number, _, name, config, state, *_, speed_kbps, _ in _PORT.iter_unpack(data):
        if number <= _MAX_PORT:
            is_up = not (config & _PORT_DOWN or state & _LINK_DOWN)
            yield PortDescription(number, _text(name), is_up, speed_kbps * 1000 or None)


def _tables(parts: Sequence[bytes]) -> dict[int, TableCapabilities]:
    found = {}
    for part in parts:
        at = 0
        while at < len(part):
            length, table, _, _, _, _, max_entries = _TABLE_FEATURES.unpack_from(part, at)
            if not _TABLE_FEATURES.size <= length <= len(part) - at:
                raise ValueError(f"table features of {length} bytes where {len(part) - at} are left")
            if table < TABLES_USED:
                found[table] = _table(table, max_entries, part[at + _TABLE_FEATURES.size : at + length])
            at += length
    return found


def _table(table: int, max_entries: int, data: bytes) -> TableCapabilities:
    properties = dict(_properties(data))
    matched = _fields(properties.get(_MATCH, b""))
    return TableCapabilities(
        table,
        max_entries,
        frozenset(matched),
        frozenset(name for name, has_mask in matched.items() if has_mask),
        frozenset(_fields(properties.get(_APPLY_SET_FIELD, b""))),
        _known(_ACTIONS, properties.get(_APPLY_ACTIONS, b"")),
        _known(_INSTRUCTIONS, properties.get(_INSTRUCTION_PROPERTY, b"")),
        frozenset(properties.get(_NEXT_TABLES, b"")),
    )


def _properties(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each property; they are padded to 8 bytes."""
    at = 0
    while at + _TYPE_LENGTH.size <= len(data):
        kind, length = _TYPE_LENGTH.unpack_from(data, at)
        if not _TYPE_LENGTH.size <= length <= len(data) - at:
            raise ValueError(f"a property of {length} bytes where {len(data) - at} are left")
        yield kind, data[at + _TYPE_LENGTH.size : at + length]
        at += -(-length // 8) * 8


def _known(names: Mapping[int, str], data: bytes) -> frozenset[str]:
    """The known instructions or actions of a list of identifiers."""
    found, at = set(), 0
    while at < len(data):
        kind, length = _TYPE_LENGTH.unpack_from(data, at)
        if kind in names:
            found.add(names[kind])
        at += max(length, _TYPE_LENGTH.size)
    return frozenset(found)


def _fields(data: bytes) -> dict[str, bool]:
    """The known fields of a list of OXM identifiers, and whether they take a mask."""
    found: dict[str, bool] = {}
    at = 0
    while at < len(data):
        oxm_class, field, _ = _OXM.unpack_from(data, at)
        name = _FIELD_NAMES.get((oxm_class, field >> 1))
        if name is not None:
            found[name] = found.get(name, False) or bool(field & 1)
        at += _OXM.size + (4 if oxm_class == _EXPERIMENTER_CLASS else 0)
    return found


MALFORMED = struct.error, ValueError
"""What decoding a malformed reply raises."""
