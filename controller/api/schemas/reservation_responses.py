"""Response bodies of reservations, quotes and problems, with examples."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from controller.api.schemas import examples
from controller.api.schemas.requests import MatchBody
from controller.api.schemas.requirements import RequirementBody
from controller.domain.reservation import Protocol, State


class ResponseBody(BaseModel):
    """A response body; all its fields are always present."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class PathLink(ResponseBody):
    """Free bandwidth of one link of a path."""

    link: str
    free_bps: int


class WindowBody(ResponseBody):
    """Window of a periodic transfer: opens `offset_ms` after each multiple of the period, for `length_ms`."""

    period_ms: float
    offset_ms: float
    length_ms: float


class PlacedFlow(ResponseBody):
    """A flow with its path and its proven bounds: worst-case latency, and worst minus best case."""

    name: str
    source: str
    destination: str
    match: MatchBody
    requirement: RequirementBody
    path: list[str]
    reserved_bps: int
    burst_bytes: int
    accumulated_latency_us: float
    latency_variation_us: float
    latency_limit_us: Annotated[
        float | None,
        Field(
            description="What later requests of others may raise the latency bound to: `max_latency_us`, or as "
            "promised with `bound_slack`; null: anything."
        ),
    ]
    latency_variation_limit_us: Annotated[float | None, Field(description="Likewise of the latency variation.")]
    completion_ms: Annotated[
        float | None,
        Field(description="Of a transfer: bound of the time from its start to its last byte."),
    ]
    window: WindowBody | None
    backup_path: list[str] | None
    suspended: Annotated[bool, Field(description="All its paths are down; it has no bandwidth until one is up.")]
    lightpaths: Annotated[
        list[str], Field(description="On an optical map: lightpaths along `path`, see /v1/lightpaths.")
    ]
    backup_lightpaths: list[str]
    max_datagram_bytes: Annotated[
        int,
        Field(
            description="The largest payload of a UDP datagram, or of a TCP segment without options, that is not sent "
            "as fragments. Fragments have no ports, so they are neither metered nor marked: they travel as best effort."
        ),
    ]


class MeterCounters(ResponseBody):
    """Meter of a flow at its first switch; `packets` and `bytes` include dropped ones."""

    switch: str
    meter_id: int
    flow: str
    rate_kbps: int
    burst_kbit: int
    packets: int
    bytes: int
    dropped_packets: int
    dropped_bytes: int


class EntryCounters(ResponseBody):
    """A flow entry on a switch; `flow` is null if it belongs to none of the present flows."""

    switch: str
    table: int
    priority: int
    match: dict[str, int | str | list[int]]
    flow: str | None
    cookie: str
    packets: int
    bytes: int


class FragmentCounters(ResponseBody):
    """IP fragments of a protocol from one host to another at the first switch, unmetered and unmarked.

    Fragments have no ports: they may be of these flows, of other reservations' or of none.
    """

    switch: str
    source: str
    destination: str
    protocol: Protocol
    flows: list[str]
    packets: int
    bytes: int


class Counters(ResponseBody):
    """Counters read from the switches now; `unavailable` names switches that could not be read."""

    meters: list[MeterCounters]
    entries: list[EntryCounters]
    fragments: list[FragmentCounters]
    unavailable: list[str]


class ReservationBody(ResponseBody):
    """A reservation."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.RESERVATION]})

    id: str
    version: int
    state: State
    owner: str
    tenant: str
    lease_s: float
    created_at: datetime
    expires_at: datetime
    start_at: datetime
    end_at: datetime | None
    reason: str | None
    flows: list[PlacedFlow]


class ReservationDetail(ReservationBody):
    """A reservation with its counters."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{**examples.RESERVATION, "counters": examples.COUNTERS}]}
    )

    counters: Annotated[Counters | None, Field(description="As read now; null if they were not asked for.")]


class ReservationList(ResponseBody):
    """Reservations, oldest first. `next`: path and query of the next page; absent if there is none."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"reservations": [examples.RESERVATION]}]},
        json_schema_serialization_defaults_required=False,
    )

    reservations: list[ReservationBody]
    next: str | None = None


class Bottleneck(BaseModel):
    """The limiting link; `asked_bps` is the demand of the whole request on it."""

    link: str
    capacity_bps: int
    reserved_bps: int
    free_bps: int
    asked_bps: int


class Mistake(BaseModel):
    """One mistake in a request: its place, and what would be valid."""

    place: str
    message: str


class Problem(BaseModel):
    """Problem details (RFC 9457) with a stable `code`; other fields depend on the code."""

    model_config = ConfigDict(extra="allow")

    type: Annotated[str, Field(examples=["urn:paceline:problem:no_capacity"])]
    title: str
    status: int
    code: Annotated[str, Field(examples=["no_capacity"])]
    detail: str
    flow: str | None = None
    bottleneck: Bottleneck | None = None
    mistakes: list[Mistake] | None = None
    switches: list[str] | None = None
    ieee8021q_failure_code: Annotated[
        int | None, Field(description="IEEE 802.1Q-2022 Table 46-15, if a code applies.")
    ] = None
    fits_at: Annotated[
        datetime | None, Field(description="The earliest time at which the same request would be admitted.")
    ] = None
    offer: Annotated[
        dict[str, Any] | None, Field(description="The nearest request that would be accepted now: `flows`.")
    ] = None
    retry_after_s: float | None = None


class QuotedFlows(ResponseBody):
    """The request would be admitted with these flows; nothing was reserved."""

    admitted: Literal[True]
    flows: list[PlacedFlow]


class QuotedRefusal(ResponseBody):
    """The request would be refused; `problem` is what POST /v1/reservations would answer."""

    admitted: Literal[False]
    problem: Problem


class QuotedTransfer(ResponseBody):
    """Path, rate and time of one transfer."""

    name: str
    path: list[str]
    rate_bps: int
    transfer_ms: float


class QuotedTransfers(ResponseBody):
    """The shortest common time of all transfers over the candidate paths, and the link that limits it.

    `exact`: no other choice of paths is quicker. Otherwise the proof was given up after a fixed effort, and no choice
    is quicker by more than the part `gap` of the time. `links`: bandwidth free now on every link of these paths.
    """

    transfer_ms: float
    exact: bool
    gap: float
    flows: list[QuotedTransfer]
    links: list[PathLink]
    bottleneck: str | None
