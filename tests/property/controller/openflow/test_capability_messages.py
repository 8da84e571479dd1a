"""Answers of a switch about what it can do: Ryu writes them; malformed ones raise what the reader expects."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from controller.dataplane.switch_capabilities import (
    GroupCapabilities,
    MeterCapabilities,
    PortDescription,
    SwitchDescription,
    TableCapabilities,
)
from controller.openflow.capability_messages import (
    MALFORMED,
    QUESTIONS,
    decode_capabilities,
    encode_question,
    is_last,
)
from controller.openflow.encoder import FIELD_NUMBERS
from controller.openflow.eventlet_quiet import ofproto_v1_3, ofproto_v1_3_parser

PARSER: Any = ofproto_v1_3_parser
BASIC = sorted(name for name, (oxm_class, _) in FIELD_NUMBERS.items() if oxm_class == 0x8000)
NAMES = st.frozensets(st.sampled_from(BASIC))
INSTRUCTIONS = {"goto_table": 1, "apply_actions": 4, "meter": 6}
ACTIONS = {"output": 0, "push_vlan": 17, "pop_vlan": 18, "group": 22, "set_field": 25}


class Datapath:
    """What Ryu needs to write a message."""

    ofproto, ofproto_parser = ofproto_v1_3, ofproto_v1_3_parser


def reply(content: bytes, more: bool = False) -> bytes:
    return struct.pack("!HHI", 0, more, 0) + content


def ids(names: Iterable[str], masked: frozenset[str] = frozenset()) -> Any:
    return [PARSER.OFPOxmId(type_=name, hasmask=name in masked) for name in sorted(names)]


@given(
    table=st.integers(0, 2), entries=st.integers(0, 2**32 - 1), matches=NAMES, masks=NAMES, sets=NAMES,
    actions=st.frozensets(st.sampled_from(sorted(ACTIONS))),
    instructions=st.frozensets(st.sampled_from(sorted(INSTRUCTIONS))), tables=st.frozensets(st.integers(0, 253)),
)  # fmt: skip
def test_features_of_a_table_are_read_as_ryu_writes_them(
    table: int, entries: int, matches: frozenset[str], masks: frozenset[str], sets: frozenset[str],
    actions: frozenset[str], instructions: frozenset[str], tables: frozenset[int],
) -> None:  # fmt: skip
    kinds = ofproto_v1_3
    properties = [
        PARSER.OFPTableFeaturePropInstructions(
            kinds.OFPTFPT_INSTRUCTIONS,
            instruction_ids=[PARSER.OFPInstructionId(INSTRUCTIONS[name]) for name in instructions],
        ),
        PARSER.OFPTableFeaturePropNextTables(kinds.OFPTFPT_NEXT_TABLES, table_ids=sorted(tables)),
        PARSER.OFPTableFeaturePropActions(
            kinds.OFPTFPT_APPLY_ACTIONS, action_ids=[PARSER.OFPActionId(ACTIONS[name]) for name in actions]
        ),
        PARSER.OFPTableFeaturePropOxm(kinds.OFPTFPT_MATCH, oxm_ids=ids(matches, masks)),
        PARSER.OFPTableFeaturePropOxm(kinds.OFPTFPT_APPLY_SETFIELD, oxm_ids=ids(sets)),
    ]  # fmt: skip
    written = PARSER.OFPTableFeaturesStats(table, b"table", 0, 0, 0, entries, properties).serialize()
    other = PARSER.OFPTableFeaturesStats(9, b"other", 0, 0, 0, entries, properties).serialize()
    said = decode_capabilities(1, {"table features": [reply(bytes(other), more=True), reply(bytes(written))]}, {})
    assert said.tables == {
        table: TableCapabilities(table, entries, matches, matches & masks, sets, actions, instructions, tables)
    }


def test_meters_groups_ports_and_description_are_read() -> None:
    text = [word.ljust(size, b"\0") for word, size in ((b"Maker", 256), (b"S1", 256), (b"9.1", 256), (b"7", 32),
                                                       (b"rack 3", 256))]  # fmt: skip
    port = struct.pack("!I4x6s2x16sIIIIIIII", 3, b"\2" * 6, b"te-3".ljust(16, b"\0"), 0, 1, 0, 0, 0, 0, 10**6, 0)
    local = struct.pack("!I4x6s2x16sIIIIIIII", 2**32 - 2, b"\2" * 6, b"local".ljust(16, b"\0"), *(0,) * 8)
    said = decode_capabilities(
        7,
        {
            "description": [reply(b"".join(text))],
            "tables": [reply(bytes(24 * 5), more=True), reply(bytes(24))],
            "meter features": [reply(struct.pack("!IIIBB2x", 500, 0b10, 0b0101, 2, 0))],
            "group features": [reply(struct.pack("!II4I4I", 0b1001, 0, 1, 2, 3, 4, 0, 0, 0, 1 | 1 << 22))],
            "ports": [reply(port + local)],
            "table features": [reply(b"")],
        },
        {},
    )  # fmt: skip
    assert said.description == SwitchDescription("Maker", "S1", "9.1", "7", "rack 3")
    assert said.table_count == 6
    assert said.meters == MeterCapabilities(500, 2, True, True, True, False)
    assert said.groups == GroupCapabilities(True, 4, frozenset({"output", "group"}))
    assert said.ports == {3: PortDescription(3, "te-3", False, 10**9)}
    assert said.tables is None  # a reply without content is no answer


@given(st.dictionaries(st.sampled_from(sorted(QUESTIONS)), st.lists(st.binary(max_size=200), max_size=2)))
def test_whatever_a_switch_sends_raises_what_ends_its_connection_or_nothing(replies: dict[str, list[bytes]]) -> None:
    with contextlib.suppress(*MALFORMED):
        decode_capabilities(1, replies, {})


def test_questions_are_those_of_ryu() -> None:
    classes = {
        "description": PARSER.OFPDescStatsRequest, "tables": PARSER.OFPTableStatsRequest,
        "group features": PARSER.OFPGroupFeaturesStatsRequest, "meter features": PARSER.OFPMeterFeaturesStatsRequest,
        "table features": PARSER.OFPTableFeaturesStatsRequest, "ports": PARSER.OFPPortDescStatsRequest,
    }  # fmt: skip
    for question in QUESTIONS:
        request = classes[question](Datapath(), 0)
        request.set_xid(9)
        request.serialize()
        assert encode_question(question, 9) == bytes(request.buf)
    assert is_last(reply(b""))
    assert not is_last(reply(b"", more=True))
