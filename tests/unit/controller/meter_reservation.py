"""A reservation of one flow with a given meter."""

from __future__ import annotations

from controller.domain.reservation import Flow, Match, Placement, Requirement, Reservation, State


def reservation_with_meter(switch: str, meter_id: int) -> Reservation:
    """A live reservation whose only flow has that meter on that switch."""
    flow = Flow("up", "edge1", "cloud", Match("udp", 7801, 7800), Requirement(min_bandwidth_bps=1_000_000))
    placement = Placement(flow, ("edge1", switch, "cloud"), 1_000_000, 6056, meter_id, 1, 0.0, 0.0)
    return Reservation(f"r-{meter_id}", 1, 1, "test", State.ACTIVE, 60.0, 0.0, 60.0, (placement,))
