"""Decodes statistics replies, as parsed by Ryu, into entries and counters. The inverse: controller.openflow.encoder.

Source: OpenFlow Switch Specification 1.3.5, §7.3.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from controller.dataplane.entries import (
    MANAGED_GROUPS,
    MANAGED_METERS,
    Action,
    Bucket,
    FlowEntry,
    GroupEntry,
    MatchValue,
    MeterEntry,
)
from controller.dataplane.southbound import FlowCounter, MeterCounter, PortCounter
from controller.openflow.flow_stats import FlowStats


def decode_flow_stats(stats: Any) -> FlowCounter:
    """The flow entry and counters of a flow statistics part, of Ryu's parser or ours."""
    if isinstance(stats, FlowStats):
        return stats.counter
    meter_id: int | None = None
    goto: int | None = None
    actions: list[Action] = []
    for instruction in stats.instructions:
        if hasattr(instruction, "meter_id"):
            meter_id = instruction.meter_id
        elif hasattr(instruction, "table_id"):
            goto = instruction.table_id
        else:
            actions += _decode_actions(getattr(instruction, "actions", ()))
    match: dict[str, MatchValue] = dict(stats.match.items())
    ordered = tuple(sorted(match.items(), key=lambda pair: pair[0]))
    entry = FlowEntry(stats.table_id, stats.priority, ordered, stats.cookie, meter_id, tuple(actions), goto)
    return FlowCounter(entry, stats.packet_count, stats.byte_count)


def _decode_actions(actions: Iterable[Any]) -> list[Action]:
    """Actions that we never install keep Ryu's class name, so that they compare unequal to intended ones."""
    decoded: list[Action] = []
    for action in actions:
        if hasattr(action, "key") and hasattr(action, "value"):
            decoded.append((f"set_{action.key}", action.value))
        elif hasattr(action, "group_id"):
            decoded.append(("group", action.group_id))
        elif hasattr(action, "port"):
            decoded.append(("output", action.port))
        elif hasattr(action, "ethertype") and "PushVlan" in type(action).__name__:
            decoded.append(("push_vlan", action.ethertype))
        elif "PopVlan" in type(action).__name__:
            decoded.append(("pop_vlan", 0))
        else:
            decoded.append((type(action).__name__, 0))
    return decoded


def decode_meter_config(config: Any) -> MeterEntry | None:
    """The meter of a meter configuration; None if its id is not ours. A meter unlike ours is returned with rate 0."""
    if config.meter_id not in MANAGED_METERS:
        return None
    if len(config.bands) != 1:
        return MeterEntry(config.meter_id, 0, 0)
    return MeterEntry(config.meter_id, config.bands[0].rate, config.bands[0].burst_size)


def decode_group_desc(stats: Any, failover: int) -> GroupEntry | None:
    """The group of a description; None if its id is not ours. A group unlike ours is returned without buckets.

    `failover`: number of the fast-failover group type.
    """
    if stats.group_id not in MANAGED_GROUPS:
        return None
    buckets = tuple(map(_bucket, stats.buckets))
    is_foreign = stats.type != failover or None in buckets
    known = () if is_foreign else tuple(bucket for bucket in buckets if bucket is not None)
    return GroupEntry(stats.group_id, known)


def _bucket(stats: Any) -> Bucket | None:
    """A bucket of a group; None if it has other actions than ours."""
    actions = _decode_actions(stats.actions)
    by_name = dict(actions)
    vlan_vid = by_name.get("set_vlan_vid")
    bucket = Bucket(stats.watch_port, int(by_name.get("output", 0)), None if vlan_vid is None else int(vlan_vid))
    return bucket if bucket.actions == tuple(actions) else None


def decode_meter_stats(meter: MeterEntry, stats: Any) -> MeterCounter:
    """The counters of a meter statistics part."""
    band = stats.band_stats[0]
    dropped = band.packet_band_count, band.byte_band_count
    return MeterCounter(meter, stats.packet_in_count, stats.byte_in_count, *dropped)


def decode_port_stats(stats: Any) -> PortCounter:
    """The counters of a port statistics part."""
    return PortCounter(stats.port_no, stats.tx_bytes, stats.rx_bytes)
