"""Entries <-> OpenFlow 1.3 messages. Works on a datapath's own parser, so it needs no ryu import.

Source: OpenFlow Switch Specification 1.3.5, §7.3.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from controller.entries import (
    CONTROLLER_PORT,
    COOKIE_TAG_MASK,
    OUR_GROUPS,
    OUR_METERS,
    Action,
    Bucket,
    FlowEntry,
    FlowMatch,
    GroupEntry,
    MatchValue,
    MeterEntry,
)
from controller.reconcile import Change
from controller.switches import FlowCounter, MeterCounter

WHOLE_PACKET = 0xFFFF
"""OFPCML_NO_BUFFER: a packet-in carries all of the packet."""


def message_of(datapath: Any, change: Change) -> Any:
    """The message that makes a change on a switch."""
    if isinstance(change.entry, MeterEntry):
        return _meter_mod(datapath, change.kind, change.entry)
    if isinstance(change.entry, GroupEntry):
        return _group_mod(datapath, change.kind, change.entry)
    return _flow_mod(datapath, change.kind, change.entry)


def _meter_mod(datapath: Any, kind: str, meter: MeterEntry) -> Any:
    ofproto, parser = datapath.ofproto, datapath.ofproto_parser
    command = {"add_meter": ofproto.OFPMC_ADD, "modify_meter": ofproto.OFPMC_MODIFY}.get(kind, ofproto.OFPMC_DELETE)
    flags = ofproto.OFPMF_KBPS | ofproto.OFPMF_BURST | ofproto.OFPMF_STATS
    bands = [parser.OFPMeterBandDrop(rate=meter.rate_kbps, burst_size=meter.burst_kbit)]
    return parser.OFPMeterMod(datapath, command, flags, meter.meter_id, bands)


def _group_mod(datapath: Any, kind: str, group: GroupEntry) -> Any:
    ofproto, parser = datapath.ofproto, datapath.ofproto_parser
    command = {"add_group": ofproto.OFPGC_ADD, "modify_group": ofproto.OFPGC_MODIFY}.get(kind, ofproto.OFPGC_DELETE)
    wanted = () if kind == "delete_group" else group.buckets
    buckets = [
        parser.OFPBucket(0, bucket.watch_port, ofproto.OFPG_ANY, [parser.OFPActionOutput(bucket.out_port)])
        for bucket in wanted
    ]
    return parser.OFPGroupMod(datapath, command, ofproto.OFPGT_FF, group.group_id, buckets)


def _flow_mod(datapath: Any, kind: str, entry: FlowEntry) -> Any:
    ofproto, parser = datapath.ofproto, datapath.ofproto_parser
    common = {
        "datapath": datapath,
        "table_id": entry.table,
        "priority": entry.priority,
        "match": _match(parser, entry.match),
        "out_port": ofproto.OFPP_ANY,
        "out_group": ofproto.OFPG_ANY,
    }
    if kind == "delete_flow":
        tag = {"cookie": entry.cookie, "cookie_mask": COOKIE_TAG_MASK}
        return parser.OFPFlowMod(command=ofproto.OFPFC_DELETE_STRICT, **tag, **common)
    instructions = _instructions(datapath, entry)
    return parser.OFPFlowMod(
        command=ofproto.OFPFC_ADD, cookie=entry.cookie, instructions=instructions, **common
    )


def _instructions(datapath: Any, entry: FlowEntry) -> list[Any]:
    ofproto, parser = datapath.ofproto, datapath.ofproto_parser
    instructions = []
    if entry.meter_id is not None:
        instructions.append(parser.OFPInstructionMeter(entry.meter_id))
    if entry.actions:
        actions = [_action(parser, action) for action in entry.actions]
        instructions.append(parser.OFPInstructionActions(ofproto.OFPIT_APPLY_ACTIONS, actions))
    if entry.goto is not None:
        instructions.append(parser.OFPInstructionGotoTable(entry.goto))
    return instructions


@lru_cache(maxsize=8192)
def _match(parser: Any, match: FlowMatch) -> Any:
    """Costly to make, and the same on many switches; never changed once made."""
    return parser.OFPMatch(**dict(match))


@lru_cache(maxsize=8192)
def _action(parser: Any, action: Action) -> Any:
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
        return parser.OFPActionOutput(value, WHOLE_PACKET)
    return parser.OFPActionOutput(value)


def flow_counter(stats: Any) -> FlowCounter:
    """A flow statistics entry as the switch reports it."""
    meter_id: int | None = None
    goto: int | None = None
    actions: list[Action] = []
    for instruction in stats.instructions:
        if hasattr(instruction, "meter_id"):
            meter_id = instruction.meter_id
        elif hasattr(instruction, "table_id"):
            goto = instruction.table_id
        else:
            actions += _read_actions(getattr(instruction, "actions", ()))
    match: dict[str, MatchValue] = dict(stats.match.items())
    ordered = tuple(sorted(match.items(), key=lambda pair: pair[0]))
    entry = FlowEntry(stats.table_id, stats.priority, ordered, stats.cookie, meter_id, tuple(actions), goto)
    return FlowCounter(entry, stats.packet_count, stats.byte_count)


def _read_actions(actions: Iterable[Any]) -> list[Action]:
    """Actions we never write come out under their own name, so that they compare unequal to what we want."""
    read: list[Action] = []
    for action in actions:
        if hasattr(action, "key") and hasattr(action, "value"):
            read.append((f"set_{action.key}", action.value))
        elif hasattr(action, "group_id"):
            read.append(("group", action.group_id))
        elif hasattr(action, "port"):
            read.append(("output", action.port))
        elif hasattr(action, "ethertype") and "PushVlan" in type(action).__name__:
            read.append(("push_vlan", action.ethertype))
        elif "PopVlan" in type(action).__name__:
            read.append(("pop_vlan", 0))
        else:
            read.append((type(action).__name__, 0))
    return read


def meter_entry(config: Any) -> MeterEntry | None:
    """A meter as the switch reports it; None if its id is not ours. A meter of another make reads as rate 0."""
    if config.meter_id not in OUR_METERS:
        return None
    if len(config.bands) != 1:
        return MeterEntry(config.meter_id, 0, 0)
    return MeterEntry(config.meter_id, config.bands[0].rate, config.bands[0].burst_size)


def group_entry(stats: Any, failover: int) -> GroupEntry | None:
    """A group as the switch reports it; None if its id is not ours. A group of another make reads as without buckets.

    `failover`: the number of the fast-failover type.
    """
    if stats.group_id not in OUR_GROUPS:
        return None
    actions = [_read_actions(bucket.actions) for bucket in stats.buckets]
    if stats.type != failover or any(len(done) != 1 or done[0][0] != "output" for done in actions):
        return GroupEntry(stats.group_id, ())
    outputs = [int(done[0][1]) for done in actions]
    buckets = (Bucket(bucket.watch_port, port) for bucket, port in zip(stats.buckets, outputs, strict=True))
    return GroupEntry(stats.group_id, tuple(buckets))


def meter_counter(meter: MeterEntry, stats: Any) -> MeterCounter:
    """A meter's statistics as the switch reports them."""
    band = stats.band_stats[0]
    dropped = band.packet_band_count, band.byte_band_count
    return MeterCounter(meter, stats.packet_in_count, stats.byte_in_count, *dropped)
