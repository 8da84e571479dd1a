"""Flows, requirements and reservations, and the life a reservation can have.

Names follow RFC 9016 (DetNet flow and service information model), with the unit in the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Literal

Protocol = Literal["tcp", "udp"]

FIRST_METER_ID = 110_000
"""Reservations' meters from here up, on each switch; lower ids are the ports' own."""


class State(StrEnum):
    """Where a reservation stands; the arrows are in TRANSITIONS."""

    HELD = "held"
    SCHEDULED = "scheduled"
    ACTIVE = "active"
    DEGRADED = "degraded"
    ENDED = "ended"
    RELEASED = "released"
    EXPIRED = "expired"
    FAILED = "failed"


_ENDS = frozenset({State.RELEASED, State.EXPIRED, State.FAILED})

TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.HELD: _ENDS | {State.SCHEDULED, State.ACTIVE},
    State.SCHEDULED: _ENDS | {State.ACTIVE, State.DEGRADED},
    State.ACTIVE: _ENDS | {State.DEGRADED, State.ENDED},
    State.DEGRADED: _ENDS | {State.ACTIVE, State.ENDED},
    State.ENDED: frozenset(),
    State.RELEASED: frozenset(),
    State.EXPIRED: frozenset(),
    State.FAILED: frozenset(),
}
"""From each state, the states it may go to; a state with no way out is final."""

LIVE = frozenset(state for state, following in TRANSITIONS.items() if following)
"""The states in which a reservation holds bandwidth."""


@dataclass(frozen=True, slots=True)
class Match:
    """The rest of the 5-tuple; the addresses are those of the flow's ends."""

    protocol: Protocol
    source_port: int
    destination_port: int


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a flow needs; None: a default burst is chosen, no limit is promised. Source: RFC 9016 §5.9."""

    min_bandwidth_bps: int
    burst_bytes: int | None = None
    max_latency_us: float | None = None
    max_latency_variation_us: float | None = None


@dataclass(frozen=True, slots=True)
class Flow:
    """One direction of one transfer, as asked for."""

    name: str
    source: str
    destination: str
    match: Match
    requirement: Requirement

    @property
    def five_tuple(self) -> tuple[str, str, Protocol, int, int]:
        """What tells its packets from all others; hosts by name."""
        return (
            self.source,
            self.destination,
            self.match.protocol,
            self.match.source_port,
            self.match.destination_port,
        )


@dataclass(frozen=True, slots=True)
class Placement:
    """What a flow was given: path, rate, burst, the meter at its first switch, and the proven bounds.

    `version` is the reservation's version in which the switches last had to be told something new about this flow.
    """

    flow: Flow
    path: tuple[str, ...]
    reserved_bps: int
    burst_bytes: int
    meter_id: int
    version: int
    accumulated_latency_us: float
    latency_variation_us: float

    @property
    def link_names(self) -> tuple[str, ...]:
        """The directed links it crosses, in order."""
        return tuple(f"{a}->{b}" for a, b in pairwise(self.path))

    @property
    def switches(self) -> tuple[str, ...]:
        """The switches it crosses, in order; a path starts and ends at a host."""
        return self.path[1:-1]


@dataclass(frozen=True, slots=True)
class Reservation:
    """An atomic set of flows with a life; `number` names it in cookies. Times are seconds since the epoch."""

    id: str
    number: int
    version: int
    owner: str
    state: State
    lease_s: float
    created_at_s: float
    expires_at_s: float
    placements: tuple[Placement, ...]
    reason: str | None = None

    @property
    def is_live(self) -> bool:
        """Whether it holds bandwidth."""
        return self.state in LIVE

    def moved_to(self, state: State, reason: str | None = None) -> Reservation:
        """The same reservation in another state.

        Raises: ValueError if TRANSITIONS has no such arrow (a bug in the caller).
        """
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"reservation {self.id} cannot go from {self.state} to {state}")
        return replace(self, state=state, reason=reason)


def default_burst_bytes(rate_bps: int, frame_bytes: int) -> int:
    """The burst a flow gets that names none: 20 ms of its rate, and four of the largest frames at least.

    A sender that the kernel paces lets go of a few frames at a time, so this is ample without hurting the bound.
    """
    return max(4 * frame_bytes, round(rate_bps * 0.020 / 8))
