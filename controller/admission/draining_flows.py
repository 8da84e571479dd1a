"""Packets of flows that a change has ended or reduced, which may still be in the network."""

from __future__ import annotations

from controller.calculus.failure_bounds import CarriedFlow, FlowKey
from controller.domain.reservation import Placement, Reservation


def flows_beyond(before: Reservation, after: Reservation, draining_id: str) -> dict[FlowKey, CarriedFlow]:
    """What the flows of a reservation could send before a change beyond what they can after it, as flows of that id.

    The packets sent before the change may delay others for as long as they are in the network. A flow that is replaced
    by another on the same path sends as one with it: the meter of the other starts empty (MeterBuckets).
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
        if new is not None and _is_on_same_path(old, new):
            rate_bps, burst_bytes = max(0, rate_bps - new.reserved_bps), max(0, burst_bytes - new.burst_bytes)
        if rate_bps or burst_bytes:
            beyond[draining_id, old.flow.name] = CarriedFlow(old.route, rate_bps, burst_bytes)
    return beyond


def _is_same_flow(old: Placement, new: Placement) -> bool:
    return old.flow.five_tuple == new.flow.five_tuple


def _is_on_same_path(old: Placement, new: Placement) -> bool:
    return (old.path, old.backup_path) == (new.path, new.backup_path)
