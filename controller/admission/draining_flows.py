"""Packets of flows that a change has ended or reduced, which may still be in the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil

from controller.calculus.failure_bounds import CarriedFlow, FlowKey
from controller.domain.reservation import METER_TICKS_PER_S, Placement, Reservation
from controller.domain.route import Route


def flows_beyond(
    before: Reservation,
    after: Reservation,
    draining_id: str,
    old_meters: Mapping[str, int],
    new_meters: Mapping[str, int],
) -> dict[FlowKey, CarriedFlow]:
    """What the flows of a reservation could send before a change beyond what they can after it, as flows of that id.

    The packets sent before the change may delay others for as long as they are in the network. A flow that is replaced
    by another on the same path sends as one with it: the meter of the other starts empty (MeterBuckets).

    `old_meters`, `new_meters`: the bursts of the meters before and after, by flow. What a meter holds beyond the flow's
    burst is so much time of its rate.
    """
    left = list(after.carried_placements)
    successors: dict[str, Placement] = {}
    for is_successor in (_is_same_flow, _is_on_same_path):
        for old in before.carried_placements:
            new = None if old.flow.name in successors else next((new for new in left if is_successor(old, new)), None)
            if new is not None:
                successors[old.flow.name] = new
                left.remove(new)
    beyond = {}
    for old in before.carried_placements:
        new = successors.get(old.flow.name)
        rate_bps, burst_bytes = old.reserved_bps, old.burst_bytes
        allowance_s, kept_bytes = _allowance_s(old, old_meters), 0.0
        if new is not None and _is_on_same_path(old, new):
            kept_bps = min(rate_bps, new.reserved_bps)
            kept_bytes = new.burst_bytes + kept_bps * _allowance_s(new, new_meters) / 8
            rate_bps, burst_bytes = max(0, rate_bps - new.reserved_bps), max(0, burst_bytes - new.burst_bytes)
        if rate_bps or burst_bytes:
            meter_bytes = max(0, round(old.burst_bytes + old.reserved_bps * allowance_s / 8 - kept_bytes))
            flow = CarriedFlow(old.route, rate_bps, burst_bytes, meter_burst_bytes=meter_bytes)
            beyond[draining_id, old.flow.name] = flow
    return beyond


def flows_in_flight(
    before: Reservation, after: Reservation, draining_id: str, meters: Mapping[str, int]
) -> dict[FlowKey, CarriedFlow]:
    """What flows that leave their path may have between their first switch and their destination, as flows of that id.

    That is at most what their meter passes within the bound of their latency. Nothing follows it: a flow without rate.
    `meters`: the bursts of the meters, by flow.
    """
    paths = {placement.flow.name: placement.path for placement in after.carried_placements}
    flows = {}
    for old in before.carried_placements:
        if paths.get(old.flow.name) != old.path:
            held_s = old.accumulated_latency_us / 1e6 + 1 / METER_TICKS_PER_S
            burst_bytes = ceil(meters.get(old.flow.name, old.burst_bytes) + old.reserved_bps * held_s / 8)
            for number, path in enumerate(filter(None, (old.path, old.backup_path))):
                key = draining_id, f"{old.flow.name}~{number}"
                flows[key] = CarriedFlow(Route(path[1:]), 0, burst_bytes, meter_burst_bytes=burst_bytes)
    return flows


def bursts_only(flows: Mapping[FlowKey, CarriedFlow]) -> dict[FlowKey, CarriedFlow]:
    """These flows without their rates, which other flows of the reservation have taken over."""
    return {
        key: replace(flow, rate_bps=0, meter_burst_bytes=min(flow.burst_bytes, flow.meter_burst_bytes or 0))
        for key, flow in flows.items()
    }


def _allowance_s(placement: Placement, meters: Mapping[str, int]) -> float:
    """How much of its rate its meter holds beyond its burst."""
    burst_bytes = placement.burst_bytes
    return (meters.get(placement.flow.name, burst_bytes) - burst_bytes) * 8 / max(1, placement.reserved_bps)


def _is_same_flow(old: Placement, new: Placement) -> bool:
    return old.flow.five_tuple == new.flow.five_tuple


def _is_on_same_path(old: Placement, new: Placement) -> bool:
    return (old.path, old.backup_path) == (new.path, new.backup_path)
