"""Our parser of flow statistics against Ryu's own."""

from __future__ import annotations

import struct
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.dataplane.entries import FlowEntry
from controller.dataplane.update_order import Change
from controller.openflow.decoder import decode_flow_stats
from controller.openflow.encoder import HEADER, encode_change
from controller.openflow.eventlet_quiet import ofproto_v1_3_parser
from controller.openflow.flow_stats import FlowStats, FlowStatsParser
from tests.property.controller.openflow.test_encoder import ENTRIES, unsigned

FLOW_MOD_HEAD_BYTES = 40
DATA = st.binary(max_size=120)


def part(entry: FlowEntry, packets: int = 3, octets: int = 4) -> bytes:
    """The flow statistics part of an entry, as a switch sends it."""
    rest = encode_change(Change("add_flow", entry), 1)[HEADER.size + FLOW_MOD_HEAD_BYTES :]
    times = 1, 2, entry.priority, 0, 0, 0
    return struct.pack("!HBxIIHHHH4xQQQ", 48 + len(rest), entry.table, *times, entry.cookie, packets, octets) + rest


@given(st.lists(ENTRIES, min_size=1, max_size=3), unsigned(64), unsigned(64))
def test_entries_are_parsed_as_by_ryu(entries: list[FlowEntry], packets: int, octets: int) -> None:
    message, at = b"".join(part(entry, packets, octets) for entry in entries), 0
    for entry in entries:
        parsed = FlowStatsParser.parser(message, at)
        by_ryu: Any = ofproto_v1_3_parser.OFPFlowStats.parser(message, at)
        assert decode_flow_stats(parsed) == decode_flow_stats(by_ryu)
        is_known = all(name != "ip_frag" for name, _ in entry.match)
        assert isinstance(parsed, FlowStats) == is_known, "Ryu parses what is not known here"
        assert parsed.length == by_ryu.length
        at += parsed.length


@given(ENTRIES, DATA, st.integers(48, 200))
def test_garbage_is_left_to_ryu_or_parsed_within_its_length(entry: FlowEntry, garbage: bytes, at: int) -> None:
    whole = part(entry)
    message = whole[: min(at, len(whole))] + garbage + bytes(len(whole))
    with patch.object(ofproto_v1_3_parser.OFPFlowStats, "parser", return_value=None):
        parsed = FlowStatsParser.parser(message[: max(len(whole), 56)], 0)
    assert parsed is None or parsed.length == len(whole)


@pytest.mark.parametrize("length", [0, 1, 48, 55, 65535])
def test_a_part_of_an_impossible_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"part of {length} bytes"):
        FlowStatsParser.parser(struct.pack("!H", length) + bytes(70), 0)
