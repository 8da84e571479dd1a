"""Parses flow statistics and meter configurations without Ryu's intermediate objects, many thousands a reading.

An entry with anything that this controller never installs is left to Ryu's parser. Source: OpenFlow Switch
Specification 1.3.5, §7.2.3, §7.2.4, §7.2.5, §7.3.5.2 and §7.3.5.14.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from struct import Struct
from typing import Any, NamedTuple

from controller.caches import MIB, bounded_cache
from controller.dataplane.entries import Action, FlowEntry, FlowMatch, MatchValue
from controller.dataplane.southbound import FlowCounter
from controller.openflow.eventlet_quiet import ofproto_v1_3_parser

_HEAD = Struct("!HBx8xH10xQQQ2xH")
"""Length, table, priority, cookie, packets, bytes and the length of the match; durations, timeouts and flags are
skipped."""
_MATCH_OFFSET = 48
_TYPE_LENGTH = Struct("!HH")
_VALUE = Struct("!I")
_OXM_MATCH = 1
_GOTO, _APPLY, _METER = 1, 4, 6
_OUTPUT, _PUSH_VLAN, _POP_VLAN, _GROUP, _SET_FIELD = 0, 17, 18, 22, 25
_MIN_BYTES = 56


def _integer(data: bytes) -> int:
    return int.from_bytes(data)


def _mac(data: bytes) -> str:
    return data.hex(":")


def _ipv4(data: bytes) -> str:
    return ".".join(map(str, data))


_BASIC, _NICIRA = 0x8000, 0x0001
_FIELDS: dict[tuple[int, int], tuple[str, int, Callable[[bytes], int | str]]] = {
    (_BASIC, 0): ("in_port", 4, _integer),
    (_BASIC, 3): ("eth_dst", 6, _mac),
    (_BASIC, 4): ("eth_src", 6, _mac),
    (_BASIC, 5): ("eth_type", 2, _integer),
    (_BASIC, 6): ("vlan_vid", 2, _integer),
    (_BASIC, 8): ("ip_dscp", 1, _integer),
    (_BASIC, 10): ("ip_proto", 1, _integer),
    (_BASIC, 11): ("ipv4_src", 4, _ipv4),
    (_BASIC, 12): ("ipv4_dst", 4, _ipv4),
    (_BASIC, 13): ("tcp_src", 2, _integer),
    (_BASIC, 14): ("tcp_dst", 2, _integer),
    (_BASIC, 15): ("udp_src", 2, _integer),
    (_BASIC, 16): ("udp_dst", 2, _integer),
    (_BASIC, 21): ("arp_op", 2, _integer),
    (_BASIC, 22): ("arp_spa", 4, _ipv4),
    (_BASIC, 23): ("arp_tpa", 4, _ipv4),
    (_BASIC, 24): ("arp_sha", 6, _mac),
    (_BASIC, 25): ("arp_tha", 6, _mac),
}
"""By class and number: name, bytes and decoder of a value. Source: §7.2.3.7."""


class FlowStats(NamedTuple):
    """A flow statistics part; `length`: its bytes in the message."""

    length: int
    counter: FlowCounter


class FlowStatsParser:
    """Stands in for Ryu's class of a flow statistics part."""

    @staticmethod
    def parser(buf: bytes, offset: int) -> Any:
        """Parse the part at an offset of a message."""
        length, table, priority, cookie, packets, octets, match_bytes = _HEAD.unpack_from(buf, offset)
        if not _MIN_BYTES <= length <= len(buf) - offset:
            raise ValueError(f"a flow statistics part of {length} bytes where {len(buf) - offset} are left")
        begin = offset + _MATCH_OFFSET
        end = begin + (match_bytes + 7 & ~7)
        try:
            match = _match(buf[begin:end])
            meter_id, actions, goto = _instructions(buf[end : offset + length])
        except (_NotOurs, struct.error, IndexError):
            return ofproto_v1_3_parser.OFPFlowStats.parser(buf, offset)
        entry = FlowEntry(table, priority, match, cookie, meter_id, actions, goto)
        return FlowStats(length, FlowCounter(entry, packets, octets))


class _NotOurs(Exception):  # noqa: N818
    """Something that this controller never installs."""


@bounded_cache(2 * MIB, entry_bytes=1024)
def _match(data: bytes) -> FlowMatch:
    kind, length = _TYPE_LENGTH.unpack_from(data)
    if kind != _OXM_MATCH:
        raise _NotOurs
    fields: list[tuple[str, MatchValue]] = []
    at = _TYPE_LENGTH.size
    while at < length:
        end = at + 4 + data[at + 3]
        fields.append(_field(data[at:end]))
        at = end
    return tuple(sorted(fields, key=_name))


def _name(field: tuple[str, MatchValue]) -> str:
    return field[0]


@bounded_cache(MIB, entry_bytes=256)
def _field(data: bytes) -> tuple[str, MatchValue]:
    """An OXM field: class, number and whether it has a mask, length, value."""
    known, has_mask = _FIELDS.get((data[0] << 8 | data[1], data[2] >> 1)), data[2] & 1
    if known is None or len(data) != 4 + known[1] * (1 + has_mask):
        raise _NotOurs
    name, size, decode = known
    value = decode(data[4 : 4 + size])
    return name, (value, decode(data[4 + size :])) if has_mask else value  # type: ignore[return-value]


@bounded_cache(2 * MIB, entry_bytes=1024)
def _instructions(data: bytes) -> tuple[int | None, tuple[Action, ...], int | None]:
    meter_id: int | None = None
    goto: int | None = None
    actions: list[Action] = []
    at = 0
    while at < len(data):
        kind, length = _TYPE_LENGTH.unpack_from(data, at)
        if kind == _METER:
            meter_id = _VALUE.unpack_from(data, at + 4)[0]
        elif kind == _GOTO:
            goto = data[at + 4]
        elif kind == _APPLY:
            actions += _actions(data[at + 8 : at + length])
        else:
            raise _NotOurs
        at += max(length, 8)
    return meter_id, tuple(actions), goto


def _actions(data: bytes) -> list[Action]:
    actions, at = [], 0
    while at < len(data):
        length = max(8, _TYPE_LENGTH.unpack_from(data, at)[1])
        actions.append(_action(data[at : at + length]))
        at += length
    return actions


@bounded_cache(2 * MIB, entry_bytes=512)
def _action(data: bytes) -> Action:
    kind, _ = _TYPE_LENGTH.unpack_from(data)
    if kind == _SET_FIELD:
        name, value = _field(data[4 : 8 + data[7]])
        if isinstance(value, tuple):
            raise _NotOurs
        return f"set_{name}", value
    if kind == _PUSH_VLAN:
        return "push_vlan", _TYPE_LENGTH.unpack_from(data, 4)[0]
    if kind == _POP_VLAN:
        return "pop_vlan", 0
    if kind in (_GROUP, _OUTPUT):
        return "group" if kind == _GROUP else "output", _VALUE.unpack_from(data, 4)[0]
    raise _NotOurs


def use_fast_parser() -> None:
    """Have Ryu parse flow statistics with this module; other applications of the process would not understand them."""
    ofproto_v1_3_parser.OFPFlowStatsReply.cls_stats_body_cls = FlowStatsParser
