"""What switches say of their entries, as Ryu has read it -> entries. The other way: controller.openflow.encoder.

Source: OpenFlow Switch Specification 1.3.5, §7.3.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from controller.dataplane.entries import (
    OUR_GROUPS,
    OUR_METERS,
    Action,
    Bucket,
    FlowEntry,
    GroupEntry,
    MatchValue,
    MeterEntry,
)
from controller.dataplane.southbound import FlowCounter, MeterCounter


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
    buckets = tuple(map(_bucket, stats.buckets))
    alien = stats.type != failover or None in buckets
    return GroupEntry(stats.group_id, () if alien else tuple(each for each in buckets if each is not None))


def _bucket(stats: Any) -> Bucket | None:
    """A bucket of a group; None if it is of another make than ours."""
    actions = _read_actions(stats.actions)
    done = dict(actions)
    vlan_vid = done.get("set_vlan_vid")
    bucket = Bucket(stats.watch_port, int(done.get("output", 0)), None if vlan_vid is None else int(vlan_vid))
    return bucket if bucket.actions == tuple(actions) else None


def meter_counter(meter: MeterEntry, stats: Any) -> MeterCounter:
    """A meter's statistics as the switch reports them."""
    band = stats.band_stats[0]
    dropped = band.packet_band_count, band.byte_band_count
    return MeterCounter(meter, stats.packet_in_count, stats.byte_in_count, *dropped)
