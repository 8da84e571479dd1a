"""Our encoder against Ryu's own, byte by byte."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from controller.dataplane.entries import (
    CONTROLLER_PORT,
    COOKIE_TAG_MASK,
    IN_PORT,
    VLAN,
    Action,
    Bucket,
    Entry,
    FlowEntry,
    GroupEntry,
    MeterEntry,
    match_of,
)
from controller.dataplane.meter_tokens import MeterCounts, TokenMove, token_entry, token_frame
from controller.dataplane.pipeline import base_states
from controller.dataplane.update_order import Change
from controller.domain.network import network_from_map
from controller.openflow import eventlet_quiet
from controller.openflow.encoder import (
    HEADER,
    MULTIPART_REPLY,
    VERSION,
    decode_meter_counts,
    encode_barrier_request,
    encode_change,
)
from topologies.map_file.loader import load_map


def unsigned(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, (1 << bits) - 1)


def ipv4_address() -> st.SearchStrategy[str]:
    return st.binary(min_size=4, max_size=4).map(lambda raw: ".".join(map(str, raw)))


def mac_address() -> st.SearchStrategy[str]:
    return st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))


PORTS = st.one_of(st.integers(1, 1 << 16), st.sampled_from([CONTROLLER_PORT, IN_PORT]))
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "in_port": unsigned(32),
    "eth_dst": mac_address(),
    "eth_src": mac_address(),
    "eth_type": unsigned(16),
    "vlan_vid": st.one_of(unsigned(13), st.just((0x1000, 0x1000))),
    "ip_dscp": unsigned(6),
    "ip_proto": unsigned(8),
    "ipv4_src": ipv4_address(),
    "ipv4_dst": ipv4_address(),
    "tcp_src": st.one_of(unsigned(16), st.just((0xC000, 0xC000))),
    "tcp_dst": unsigned(16),
    "udp_src": unsigned(16),
    "udp_dst": unsigned(16),
    "arp_op": unsigned(16),
    "arp_spa": ipv4_address(),
    "arp_tpa": ipv4_address(),
    "arp_sha": mac_address(),
    "arp_tha": mac_address(),
}
SETTABLE = ("ip_dscp", "vlan_vid", "eth_dst", "eth_src", "arp_op", "arp_sha", "arp_tha", "arp_spa", "arp_tpa")
UNMASKED = FIELDS | {"vlan_vid": unsigned(13)}
ACTIONS: st.SearchStrategy[Action] = st.one_of(
    st.tuples(st.just("output"), PORTS),
    st.tuples(st.just("group"), unsigned(32)),
    st.tuples(st.just("push_vlan"), st.just(VLAN)),
    st.just(("pop_vlan", 0)),
    st.sampled_from(SETTABLE).flatmap(lambda name: st.tuples(st.just(f"set_{name}"), UNMASKED[name])),
)
ENTRIES = st.builds(
    FlowEntry,
    table=unsigned(7),
    priority=unsigned(16),
    match=st.fixed_dictionaries({}, optional=FIELDS).map(match_of),
    cookie=unsigned(64),
    meter_id=st.one_of(st.none(), st.integers(1, 262_143)),
    actions=st.lists(ACTIONS, max_size=8).map(tuple),
    goto=st.one_of(st.none(), unsigned(7)),
)
METERS = st.builds(MeterEntry, st.integers(1, 262_143), unsigned(32), unsigned(32))
BUCKETS = st.builds(Bucket, PORTS, PORTS, st.none() | UNMASKED["vlan_vid"])
GROUPS = st.builds(GroupEntry, unsigned(32), st.lists(BUCKETS, max_size=4).map(tuple))
SIZES = st.lists(st.integers(60, 3000), max_size=3)
CHANGES = st.one_of(
    st.builds(Change, st.sampled_from(["add_flow", "delete_flow"]), ENTRIES),
    st.builds(Change, st.sampled_from(["add_meter", "modify_meter", "delete_meter"]), METERS),
    st.builds(Change, st.sampled_from(["add_group", "modify_group", "delete_group"]), GROUPS),
)


class Datapath:
    """The attributes of a datapath that Ryu's messages read."""

    ofproto = eventlet_quiet.ofproto_v1_3
    ofproto_parser = eventlet_quiet.ofproto_v1_3_parser


@given(CHANGES, unsigned(32))
def test_a_change_is_encoded_as_by_ryu(change: Change, xid: int) -> None:
    assert encode_change(change, xid) == _by_ryu(change, xid)


@given(st.fixed_dictionaries({"eth_type": st.just(0x0800), "ip_proto": unsigned(8)}), unsigned(2), unsigned(2))
def test_a_match_on_fragments_is_decoded_by_ryu_and_follows_what_it_requires(
    fields: dict[str, Any], value: int, mask: int
) -> None:
    # Ryu encodes the extension first, which Open vSwitch refuses: OFPBMC_BAD_PREREQ.
    entry = FlowEntry(0, 250, match_of({**fields, "ip_frag": (value & mask, mask)}), 7)
    message = encode_change(Change("delete_flow", entry), 7)
    decoded = Datapath.ofproto_parser.OFPMatch.parser(message, 48).items()
    assert decoded == [*sorted(fields.items()), ("ip_frag", (value & mask, mask))]


@given(unsigned(32))
def test_a_barrier_request_is_encoded_as_by_ryu(xid: int) -> None:
    assert encode_barrier_request(xid) == _serialized(Datapath.ofproto_parser.OFPBarrierRequest(Datapath()), xid)


@given(st.sampled_from(["add_meter", "modify_meter", "delete_meter", "move_tokens"]), METERS, SIZES, unsigned(32))
def test_a_change_that_moves_tokens_is_encoded_as_by_ryu(kind: Any, meter: MeterEntry, sizes: Any, xid: int) -> None:
    encoded = encode_change(Change(kind, meter, TokenMove(tuple(sizes))), xid)
    assert encoded == b"".join(_serialized(message, xid) for message in _token_messages(kind, meter, sizes))


def _token_messages(kind: str, meter: MeterEntry, sizes: list[int]) -> list[Any]:
    """A reading before, the change, the frames between an entry's addition and removal, and a reading after."""
    ofproto, parser = Datapath.ofproto, Datapath.ofproto_parser
    messages = [] if kind == "add_meter" else [parser.OFPMeterStatsRequest(Datapath(), 0, meter.meter_id)]
    if kind != "move_tokens":
        messages.append(_meter_mod(kind, meter))
    entry, table = token_entry(meter.meter_id), [parser.OFPActionOutput(ofproto.OFPP_TABLE)]
    frames = [
        parser.OFPPacketOut(
            Datapath(), ofproto.OFP_NO_BUFFER, ofproto.OFPP_CONTROLLER, table, token_frame(meter.meter_id, size)
        )
        for size in sizes
    ]
    if frames:
        messages += [_flow_mod("add_flow", entry), *frames, _flow_mod("delete_flow", entry)]
    if kind != "delete_meter":
        messages.append(parser.OFPMeterStatsRequest(Datapath(), 0, meter.meter_id))
    return messages


@given(st.builds(MeterCounts, *[unsigned(64)] * 4), unsigned(32))
def test_the_counters_of_a_meter_are_decoded_as_by_ryu(counts: MeterCounts, xid: int) -> None:
    parser = Datapath.ofproto_parser
    head = struct.pack("!HH4x", Datapath.ofproto.OFPMP_METER, 0)
    meter = struct.pack("!IH6xIQQII", 110_000, 56, 1, counts.packets, counts.bytes, 5, 6)
    body = head + meter + struct.pack("!QQ", counts.dropped_packets, counts.dropped_bytes)
    length = HEADER.size + len(body)
    message = HEADER.pack(VERSION, MULTIPART_REPLY, length, xid) + body
    (stats,) = parser.OFPMeterStatsReply.parser(Datapath(), VERSION, MULTIPART_REPLY, length, xid, message).body
    band = stats.band_stats[0]
    by_ryu = stats.packet_in_count, stats.byte_in_count, band.packet_band_count, band.byte_band_count
    assert decode_meter_counts(body) == by_ryu == counts


def test_all_base_entries_of_a_map_are_encoded_as_by_ryu() -> None:
    for state in base_states(network_from_map(load_map("metro"))).values():
        entries: list[Entry] = [*state.meters.values(), *state.groups.values(), *state.flows.values()]
        assert len(entries) > 10
        for entry in entries:
            kind: Any = {MeterEntry: "add_meter", GroupEntry: "add_group"}.get(type(entry), "add_flow")
            assert encode_change(Change(kind, entry), 7) == _by_ryu(Change(kind, entry), 7)


def _by_ryu(change: Change, xid: int) -> bytes:
    if isinstance(change.entry, MeterEntry):
        return _serialized(_meter_mod(change.kind, change.entry), xid)
    if isinstance(change.entry, GroupEntry):
        return _serialized(_group_mod(change.kind, change.entry), xid)
    return _serialized(_flow_mod(change.kind, change.entry), xid)


def _serialized(message: Any, xid: int) -> bytes:
    message.set_xid(xid)
    message.serialize()
    return bytes(message.buf)


def _meter_mod(kind: str, meter: MeterEntry) -> Any:
    ofproto, parser = Datapath.ofproto, Datapath.ofproto_parser
    command = {"add_meter": ofproto.OFPMC_ADD, "modify_meter": ofproto.OFPMC_MODIFY}.get(kind, ofproto.OFPMC_DELETE)
    flags = ofproto.OFPMF_KBPS | ofproto.OFPMF_BURST | ofproto.OFPMF_STATS
    bands = [parser.OFPMeterBandDrop(rate=meter.rate_kbps, burst_size=meter.burst_kbit)]
    return parser.OFPMeterMod(Datapath(), command, flags, meter.meter_id, bands)


def _group_mod(kind: str, group: GroupEntry) -> Any:
    ofproto, parser = Datapath.ofproto, Datapath.ofproto_parser
    command = {"add_group": ofproto.OFPGC_ADD, "modify_group": ofproto.OFPGC_MODIFY}.get(kind, ofproto.OFPGC_DELETE)
    encoded = () if kind == "delete_group" else group.buckets
    buckets = [
        parser.OFPBucket(0, bucket.watch_port, ofproto.OFPG_ANY, [_action(action) for action in bucket.actions])
        for bucket in encoded
    ]
    return parser.OFPGroupMod(Datapath(), command, ofproto.OFPGT_FF, group.group_id, buckets)


def _flow_mod(kind: str, entry: FlowEntry) -> Any:
    ofproto, parser = Datapath.ofproto, Datapath.ofproto_parser
    common = {
        "datapath": Datapath(),
        "table_id": entry.table,
        "priority": entry.priority,
        "match": parser.OFPMatch(**dict(entry.match)),
        "out_port": ofproto.OFPP_ANY,
        "out_group": ofproto.OFPG_ANY,
    }
    if kind == "delete_flow":
        tag = {"cookie": entry.cookie, "cookie_mask": COOKIE_TAG_MASK}
        return parser.OFPFlowMod(command=ofproto.OFPFC_DELETE_STRICT, **tag, **common)
    instructions = []
    if entry.meter_id is not None:
        instructions.append(parser.OFPInstructionMeter(entry.meter_id))
    if entry.actions:
        actions = [_action(action) for action in entry.actions]
        instructions.append(parser.OFPInstructionActions(ofproto.OFPIT_APPLY_ACTIONS, actions))
    if entry.goto is not None:
        instructions.append(parser.OFPInstructionGotoTable(entry.goto))
    return parser.OFPFlowMod(
        command=ofproto.OFPFC_ADD, cookie=entry.cookie, instructions=instructions, **common
    )


def _action(action: Action) -> Any:
    parser = Datapath.ofproto_parser
    name, value = action
    if name.startswith("set_"):
        return parser.OFPActionSetField(**{name.removeprefix("set_"): value})
    if name == "push_vlan":
        return parser.OFPActionPushVlan(value)
    if name == "pop_vlan":
        return parser.OFPActionPopVlan()
    if name == "group":
        return parser.OFPActionGroup(value)
    if value == CONTROLLER_PORT:
        return parser.OFPActionOutput(value, Datapath.ofproto.OFPCML_NO_BUFFER)
    return parser.OFPActionOutput(value)
