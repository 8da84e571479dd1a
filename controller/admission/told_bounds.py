"""The bounds that clients have been told, against those that hold now.

A bound told is valid as long as the current one does not exceed it. When it does, the reservation is told anew, with
some room so that further small growth needs no telling; when it has fallen far below what was told, likewise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from controller.admission.latency_limits import NOISE, latency_room_us
from controller.admission.live_reservations import with_bound
from controller.calculus.network_bounds import Bound
from controller.domain.events import BoundChange
from controller.domain.reservation import Placement, Reservation

ROOM_SHARE = 0.05
"""A bound that is told anew is larger than the current one by this share, as far as the limits of the flow allow."""

FALL_SHARE = 0.2
"""A bound is told anew when the current one is lower by more than this share."""


def retold(reservation: Reservation, bounds: Mapping[str, Bound], with_falls: bool = True) -> Reservation:
    """Return the reservation with valid bounds, of the same version; itself if those told are valid.

    `bounds`: the current ones by flow name. `with_falls`: bounds that have fallen far are told anew, too.
    """
    placements = tuple(
        placement
        if (bound := bounds.get(placement.flow.name)) is None or not _is_outdated(placement, bound, with_falls)
        else _with_room(placement, bound)
        for placement in reservation.placements
    )
    if all(after is before for after, before in zip(placements, reservation.placements, strict=True)):
        return reservation
    return replace(reservation, placements=placements)


def bound_changes(before: Reservation, after: Reservation) -> tuple[BoundChange, ...]:
    """Return the flows of both versions whose bounds differ."""
    if before.placements is after.placements:
        return ()
    old = {placement.flow.name: placement for placement in before.placements}
    return tuple(
        BoundChange(earlier, placement)
        for placement in after.placements
        if (earlier := old.get(placement.flow.name)) is not None and _differ(earlier, placement)
    )


def _is_outdated(placement: Placement, bound: Bound, with_falls: bool) -> bool:
    pairs = (
        (placement.accumulated_latency_us, bound.accumulated_latency_us),
        (placement.latency_variation_us, bound.latency_variation_us),
    )
    if any(current_us > told_us * (1 + NOISE) for told_us, current_us in pairs):
        return True
    return with_falls and any(current_us < told_us * (1 - FALL_SHARE) for told_us, current_us in pairs)


def _with_room(placement: Placement, bound: Bound) -> Placement:
    room_us = max(0.0, min(bound.accumulated_latency_us * ROOM_SHARE, latency_room_us(placement, bound)))
    return with_bound(
        placement, Bound(bound.accumulated_latency_us + room_us, bound.latency_variation_us + room_us)
    )


def _differ(before: Placement, after: Placement) -> bool:
    pairs = (
        (before.accumulated_latency_us, after.accumulated_latency_us),
        (before.latency_variation_us, after.latency_variation_us),
        (before.completion_us or 0.0, after.completion_us or 0.0),
    )
    return any(abs(new_us - old_us) > NOISE * old_us for old_us, new_us in pairs)
