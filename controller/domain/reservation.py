"""Flows, requirements and reservations, and the life a reservation can have.

Names follow RFC 9016 (DetNet flow and service information model), with the unit in the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Literal

from controller.domain.frozen import frozen
from controller.domain.lightpath import Lightpath
from controller.domain.path import link_names
from controller.domain.route import Ducts, Route, fatal_ducts

Protocol = Literal["tcp", "udp"]
Protection = Literal["none", "link_disjoint", "duct_disjoint"]
PROTECTIONS: tuple[Protection, ...] = ("duct_disjoint", "link_disjoint", "none")
"""The most first."""
Backup = Literal["shared", "dedicated"]

LOWEST_RANK = 255
DEFAULT_RANK = 128
"""A rank is 0…255 and 0 the most important: those go first when not all can stay. Source: RFC 9016 §5.7."""

END_GUARD_S = 0.25
"""A reservation with an end is let in until so long before it: what is on its way then is there at the end, and another
reservation may begin at that moment on the same links."""

FIRST_METER_ID = 110_000
"""Reservations' meters from here up, on each switch; lower ids are the ports' own."""


class State(StrEnum):
    """Where a reservation stands; the arrows are in TRANSITIONS."""

    __hash__ = str.__hash__  # that of an enum is worked out anew each time

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


@frozen
class Match:
    """The rest of the 5-tuple; the addresses are those of the flow's ends."""

    protocol: Protocol
    source_port: int
    destination_port: int


@frozen
class Requirement:
    """What a flow needs, in one of two forms; None: a default burst is chosen, no limit is promised.

    A rate: `min_bandwidth_bps`. A transfer: `transfer_bytes` (L2) handed over at once and there within `deadline_ms`;
    with `period_ms` again in every period, from `offset_ms` after its start. Periods are counted from the Unix epoch.
    `rank`: 0 is the most important. `backup`: whether those that no single failure needs together with it may share its
    backup's capacity (RFC 4427: shared mesh or 1:1). Source: RFC 9016 §5.7, §5.9.
    """

    min_bandwidth_bps: int | None = None
    burst_bytes: int | None = None
    max_latency_us: float | None = None
    max_latency_variation_us: float | None = None
    transfer_bytes: int | None = None
    deadline_ms: float | None = None
    period_ms: float | None = None
    offset_ms: float = 0.0
    rank: int = DEFAULT_RANK
    protection: Protection = "none"
    backup: Backup = "shared"


@dataclass(frozen=True, slots=True)
class Window:
    """The part of every period in which a periodic transfer travels: [k period + offset, + length) of Unix time."""

    period_us: int
    offset_us: int
    length_us: int


@frozen
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


@frozen
class Placement:
    """What a flow was given: path, rate, burst, the meter at its first switch, and the proven bounds.

    `version` is the reservation's version in which the switches last had to be told something new about this flow.
    `window`: the flow is let in only then (None: always). `backup_path`: where it goes when a link of `path` is down.
    `completion_us`: of a transfer, the proven time from its start until its last byte is there. `suspended`: there is
    no way for it at present: nothing is booked or installed for it, and `path` is where it went last.
    `lightpaths`, `backup_lightpaths`: what it travels in on an optical network.
    """

    flow: Flow
    path: tuple[str, ...]
    reserved_bps: int
    burst_bytes: int
    meter_id: int
    version: int
    accumulated_latency_us: float
    latency_variation_us: float
    completion_us: float | None = None
    window: Window | None = None
    backup_path: tuple[str, ...] | None = None
    suspended: bool = False
    lightpaths: tuple[Lightpath, ...] = ()
    backup_lightpaths: tuple[Lightpath, ...] = ()

    def __hash__(self) -> int:  # of all fields, those that tell most of them apart
        match = self.flow.match
        return hash((self.meter_id, self.version, self.path, match.source_port, match.destination_port))

    @property
    def route(self) -> Route:
        """The way it goes."""
        return Route(self.path, self.backup_path, self.lightpaths, self.backup_lightpaths)

    def is_weak(self, ducts: Ducts) -> bool:
        """Whether it has less protection than its flow asked for: no backup, or one that a duct holds with the path."""
        asked = self.flow.requirement.protection
        bare = asked != "none" and self.backup_path is None and len(self.path) > 3
        return bare or (asked == "duct_disjoint" and bool(fatal_ducts(self.route, ducts)))

    @property
    def link_names(self) -> tuple[str, ...]:
        """The directed links it crosses, in order."""
        return link_names(self.path)

    @property
    def switches(self) -> tuple[str, ...]:
        """The switches it crosses, in order; a path starts and ends at a host."""
        return self.path[1:-1]


@frozen
class Reservation:
    """An atomic set of flows with a life; `number` names it in cookies. Times are seconds since the epoch.

    It is installed during [start_at_s, until_s) and, whatever its state, gone at `expires_at_s` unless renewed.
    `tenant` is who may change it: the token's name, "public" where none is needed.
    """

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
    start_at_s: float = 0.0
    end_at_s: float | None = None
    tenant: str = "public"

    @property
    def is_live(self) -> bool:
        """Whether it holds bandwidth."""
        return self.state in LIVE

    @property
    def carried(self) -> tuple[Placement, ...]:
        """The placements that have bandwidth: all that are not suspended."""
        return tuple(placement for placement in self.placements if not placement.suspended)

    @property
    def until_s(self) -> float:
        """When the switches stop to let it in; infinite without an end."""
        return inf if self.end_at_s is None else self.end_at_s - END_GUARD_S

    @property
    def rank(self) -> int:
        """That of its most important flow."""
        return min((placement.flow.requirement.rank for placement in self.placements), default=LOWEST_RANK)

    def moved_to(self, state: State, reason: str | None = None) -> Reservation:
        """The same reservation in another state.

        Raises: ValueError if TRANSITIONS has no such arrow (a bug in the caller).
        """
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"reservation {self.id} cannot go from {self.state} to {state}")
        facts = self.lease_s, self.created_at_s, self.expires_at_s, self.placements, reason
        times = self.start_at_s, self.end_at_s
        return Reservation(self.id, self.number, self.version, self.owner, state, *facts, *times, self.tenant)


def default_burst_bytes(rate_bps: int, frame_bytes: int) -> int:
    """The burst a flow gets that names none: 20 ms of its rate, and four of the largest frames at least.

    A sender that the kernel paces lets go of a few frames at a time, so this is ample without hurting the bound.
    """
    return max(4 * frame_bytes, round(rate_bps * 0.020 / 8))
