"""Flows, requirements and reservations, and the state machine of a reservation.

Names follow RFC 9016 (DetNet flow and service information model), with the unit in the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, inf
from typing import Literal

from controller.domain.frozen import frozen
from controller.domain.lightpath import Lightpath
from controller.domain.path import link_names, nodes_of
from controller.domain.ports import Ports
from controller.domain.route import Route, SrlgBySpan, shared_srlgs

Protocol = Literal["tcp", "udp"]
Protection = Literal["none", "link_disjoint", "duct_disjoint"]
PROTECTIONS: tuple[Protection, ...] = ("duct_disjoint", "link_disjoint", "none")
"""Strongest first."""
Backup = Literal["shared", "dedicated", "seamless"]
BoundAnalysis = Literal["total_flow", "linear_programme"]

LOWEST_RANK = 255
DEFAULT_RANK = 128
"""Ranks are 0…255, 0 the most important: important flows are served first when not all can be kept. Source: RFC 9016
§5.7."""

END_GUARD_S = 0.25
"""A reservation with an end is removed from the switches this long before it, so that packets in flight arrive by the
end and another reservation can start at that time on the same links."""

FIRST_METER_ID = 110_000
"""The first meter id of reservations on each switch; lower ids are the meters of ports."""

LABELLED_VERSIONS = 1 << 16
"""How many versions of a placement its label on the switches tells apart."""

METER_TICKS_PER_S = 1000
"""How often a meter refills its bucket: whole milliseconds, and for one packet never more of them than the burst
holds."""


class State(StrEnum):
    """The states of a reservation; the transitions are in TRANSITIONS."""

    __hash__ = str.__hash__  # cached by str; the hash of an enum is recomputed on every call

    HELD = "held"
    SCHEDULED = "scheduled"
    ACTIVE = "active"
    DEGRADED = "degraded"
    ENDED = "ended"
    RELEASED = "released"
    EXPIRED = "expired"
    FAILED = "failed"


_TERMINATED = frozenset({State.RELEASED, State.EXPIRED, State.FAILED})

TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.HELD: _TERMINATED | {State.SCHEDULED, State.ACTIVE},
    State.SCHEDULED: _TERMINATED | {State.ACTIVE, State.DEGRADED},
    State.ACTIVE: _TERMINATED | {State.DEGRADED, State.ENDED},
    State.DEGRADED: _TERMINATED | {State.ACTIVE, State.ENDED},
    State.ENDED: frozenset(),
    State.RELEASED: frozenset(),
    State.EXPIRED: frozenset(),
    State.FAILED: frozenset(),
}
"""The states reachable from each state; a state without any is final."""

LIVE = frozenset(state for state, successors in TRANSITIONS.items() if successors)
"""The states in which a reservation books bandwidth."""


@frozen
class Match:
    """The 5-tuple apart from the addresses, which are those of the flow's source and destination.

    Ports may be one, a range, or any (None).
    """

    protocol: Protocol
    source_port: Ports
    destination_port: Ports

    @property
    def is_exact(self) -> bool:
        """Whether it has one source and one destination port."""
        return type(self.source_port) is int and type(self.destination_port) is int


@frozen
class Requirement:
    """Traffic and service requirements of a flow, in one of two forms; None: default burst, no limit guaranteed.

    A rate: `min_bandwidth_bps`. A transfer: `transfer_bytes` (L2), available at once and delivered within
    `deadline_ms`; with `period_ms` repeated in every period, from `offset_ms` after its start. Periods are counted from
    the Unix epoch. `max_frame_bytes`: its largest frame (L2; None: that of the map); a transfer that fits in one frame
    of its own is sent at once instead of paced. `rank`: 0 is the most important. `backup`: whether the backup may share
    its capacity with backups that no single failure requires together with it (RFC 4427: shared mesh or 1:1), or every
    packet takes both paths at once (seamless: 1+1, IEEE 802.1CB).
    `bound_slack`: the bounds told at admission become limits, with this share of slack; None: they do not.
    `analysis`: how the bounds of the flow are proven. `pinned`: its lightpaths are never moved. Source: RFC 9016 §5.5,
    §5.7, §5.9.
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
    analysis: BoundAnalysis = "total_flow"
    max_frame_bytes: int | None = None
    bound_slack: float | None = None
    pinned: bool = False

    @property
    def is_one_frame(self) -> bool:
        """Whether it is a transfer that fits in one frame of the declared size."""
        transfer_bytes, frame_bytes = self.transfer_bytes, self.max_frame_bytes
        return transfer_bytes is not None and frame_bytes is not None and transfer_bytes <= frame_bytes

    def frame_bytes(self, largest_bytes: int) -> int:
        """Its largest frame on a map with that largest frame."""
        return largest_bytes if self.max_frame_bytes is None else min(self.max_frame_bytes, largest_bytes)


@dataclass(frozen=True, slots=True)
class Window:
    """The part of every period in which a periodic transfer is sent: [k period + offset, + length) of Unix time."""

    period_us: int
    offset_us: int
    length_us: int


@frozen
class Flow:
    """One direction of one transfer, as requested."""

    name: str
    source: str
    destination: str
    match: Match
    requirement: Requirement

    @property
    def five_tuple(self) -> tuple[str, str, Protocol, Ports, Ports]:
        """The 5-tuple that identifies its packets; hosts by name, ports as in its match."""
        return (
            self.source,
            self.destination,
            self.match.protocol,
            self.match.source_port,
            self.match.destination_port,
        )


@frozen
class Placement:
    """The resources assigned to a flow: path, rate, burst, the meter at its first switch, and its bounds.

    `version`: the reservation's version in which the flow entries of this flow last changed. `window`: the flow is
    admitted only then (None: always). `backup_path`: used while a link of `path` is down. `completion_us`: of a
    transfer, the bound on the time from its start until its last byte is delivered. `suspended`: no path is available
    at present: nothing is booked or installed for it, and `path` is the last one used. `lightpaths`,
    `backup_lightpaths`: those that carry it on an optical network. `promised_latency_us`, `promised_variation_us`: of a
    flow with a `bound_slack`, what its bounds may grow to on this route by later admissions.
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
    promised_latency_us: float | None = None
    promised_variation_us: float | None = None

    def __hash__(self) -> int:  # over the fields that differ most between placements
        match = self.flow.match
        return hash((self.meter_id, self.version, self.path, match.source_port, match.destination_port))

    @property
    def route(self) -> Route:
        """Its working and backup path."""
        return Route(self.path, self.backup_path, self.lightpaths, self.backup_lightpaths, self.is_seamless)

    @property
    def is_seamless(self) -> bool:
        """Whether every packet takes both paths."""
        return self.backup_path is not None and self.flow.requirement.backup == "seamless"

    def is_underprotected(self, srlgs: SrlgBySpan) -> bool:
        """Whether it has less protection than requested: no backup, or one that shares an SRLG with the path."""
        protection = self.flow.requirement.protection
        has_no_backup = protection != "none" and self.backup_path is None and len(self.path) > 3
        return has_no_backup or (protection == "duct_disjoint" and bool(shared_srlgs(self.route, srlgs)))

    @property
    def link_names(self) -> tuple[str, ...]:
        """The directed links of its path, in order."""
        return link_names(self.path)

    @property
    def switches(self) -> tuple[str, ...]:
        """The switches of its path, in order; a path starts and ends at a host."""
        return nodes_of(self.path)[1:-1]


@frozen
class Reservation:
    """An atomic set of flows with a lifetime; `number` identifies it in cookies. Times are seconds since the epoch.

    It is installed during [start_at_s, installed_until_s) and expires at `expires_at_s`, in any state, unless renewed.
    `tenant`: the only one that may change it: the token's name, "public" where no token is required.
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
        """Whether it books bandwidth."""
        return self.state in LIVE

    @property
    def carried_placements(self) -> tuple[Placement, ...]:
        """The placements that are not suspended."""
        for placement in self.placements:
            if placement.suspended:
                return tuple([each for each in self.placements if not each.suspended])
        return self.placements

    @property
    def installed_until_s(self) -> float:
        """When its entries are removed from the switches; infinite without an end."""
        return inf if self.end_at_s is None else self.end_at_s - END_GUARD_S

    @property
    def rank(self) -> int:
        """The rank of its most important flow."""
        return min((placement.flow.requirement.rank for placement in self.placements), default=LOWEST_RANK)

    def with_state(self, state: State, reason: str | None = None) -> Reservation:
        """Return the reservation in another state.

        Raises: ValueError if TRANSITIONS does not contain the transition (a bug in the caller).
        """
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"reservation {self.id} cannot go from {self.state} to {state}")
        facts = self.lease_s, self.created_at_s, self.expires_at_s, self.placements, reason
        times = self.start_at_s, self.end_at_s
        return Reservation(self.id, self.number, self.version, self.owner, state, *facts, *times, self.tenant)


def least_burst_bytes(rate_bps: int, max_frame_bytes: int) -> int:
    """Return the least burst with which a meter passes a stream of its full rate in frames of up to that size.

    At least one frame and one millisecond of the rate, in whole milliseconds of the rate. A shorter burst drops frames
    of senders that keep to the rate, and one shorter than a millisecond passes a single bucket and then nothing. Proof:
    docs/guarantees.md, "Meters".
    """
    ticks = ceil(max_frame_bytes * 8 * METER_TICKS_PER_S / rate_bps) + 1 if rate_bps > 0 else 0
    return max(max_frame_bytes, ceil(ticks * rate_bps / (8 * METER_TICKS_PER_S)))


def default_burst_bytes(rate_bps: int, frame_bytes: int) -> int:
    """Return the default burst: 20 ms of the rate, at least four frames of the largest size.

    A sender paced by the kernel releases a few frames at a time, so this suffices without inflating the bound.
    """
    return max(4 * frame_bytes, round(rate_bps * 0.020 / 8))
