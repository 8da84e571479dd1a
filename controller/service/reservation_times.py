"""The times of a reservation: when it is due next, after a restart, and after a step of the clock."""

from __future__ import annotations

from dataclasses import replace

from controller.domain.reservation import Reservation, State

_INSTALLED = frozenset({State.ACTIVE, State.DEGRADED})


def next_due_s(reservation: Reservation) -> float:
    """The next time at which the reservation changes state."""
    times_s = [reservation.expires_at_s, reservation.installed_until_s]
    if reservation.state is State.SCHEDULED:
        times_s.append(reservation.start_at_s)
    return min(times_s)


def as_of(now_s: float, reservation: Reservation) -> Reservation:
    """The reservation with times that are possible now: the clock may have been set back since it was recorded."""
    start_at_s = reservation.start_at_s
    return replace(
        reservation,
        created_at_s=min(reservation.created_at_s, now_s),
        start_at_s=min(start_at_s, now_s) if reservation.state in _INSTALLED else start_at_s,
        expires_at_s=min(reservation.expires_at_s, now_s + reservation.lease_s),
    )


def after_step(reservation: Reservation, by_s: float, now_s: float) -> Reservation:
    """The reservation after a step of the clock, which showed `now_s` before."""
    expires_at_s = reservation.expires_at_s + by_s
    if by_s > 0:
        return replace(reservation, expires_at_s=expires_at_s)
    start_at_s = reservation.start_at_s + (by_s if reservation.start_at_s <= now_s else 0.0)
    created_at_s = reservation.created_at_s + by_s
    return replace(reservation, created_at_s=created_at_s, start_at_s=start_at_s, expires_at_s=expires_at_s)
