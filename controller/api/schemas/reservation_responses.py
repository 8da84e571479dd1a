"""What clients are answered about reservations and quotes, and when something is wrong: shapes and examples."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from controller.api.schemas import examples
from controller.api.schemas.requests import MatchBody, RequirementBody
from controller.domain.reservation import State


class ResponseBody(BaseModel):
    """All its fields are always there."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class PathLink(ResponseBody):
    """What is free on one link of a path."""

    link: str
    free_bps: int


class WindowBody(ResponseBody):
    """When a periodic transfer travels: from `offset_ms` after each multiple of the period, for `length_ms`."""

    period_ms: float
    offset_ms: float
    length_ms: float


class PlacedFlow(ResponseBody):
    """A flow with its path and its proven bounds, worst case and worst minus best."""

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
    completion_ms: Annotated[
        float | None, Field(description="Of a transfer: from its start until its last byte is there, at most.")
    ]
    window: WindowBody | None
    backup_path: list[str] | None
    suspended: Annotated[bool, Field(description="Its ways are all down; it has no bandwidth until one is back.")]
    lightpaths: Annotated[
        list[str], Field(description="On an optical map: what it travels in along `path`, see /v1/lightpaths.")
    ]
    backup_lightpaths: list[str]


class MeterCounters(ResponseBody):
    """A flow's meter at its first switch; `packets` and `bytes` count what came in, dropped or not."""

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


class Counters(ResponseBody):
    """Read from the switches just now; `unavailable` names those that could not be read."""

    meters: list[MeterCounters]
    entries: list[EntryCounters]
    unavailable: list[str]


class ReservationBody(ResponseBody):
    """A reservation as it stands."""

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

    counters: Counters


class ReservationList(ResponseBody):
    """Reservations, oldest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reservations": [examples.RESERVATION]}]})

    reservations: list[ReservationBody]


class Bottleneck(BaseModel):
    """The link in the way; `asked_bps` is what the whole request wants of it."""

    link: str
    capacity_bps: int
    reserved_bps: int
    free_bps: int
    asked_bps: int


class Mistake(BaseModel):
    """One thing wrong with a request, where, and what would be right."""

    place: str
    message: str


class Problem(BaseModel):
    """Problem details (RFC 9457) with a stable `code`; other fields depend on it."""

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
        int | None, Field(description="IEEE 802.1Q-2022 Table 46-15, where one fits.")
    ] = None
    fits_at: Annotated[
        datetime | None, Field(description="The earliest time at which the same request would be admitted.")
    ] = None
    offer: Annotated[
        dict[str, Any] | None, Field(description="The nearest request that would be accepted now: `flows`.")
    ] = None
    retry_after_s: float | None = None


class QuotedFlows(ResponseBody):
    """It would be admitted, like this; nothing has been reserved."""

    admitted: Literal[True]
    flows: list[PlacedFlow]


class QuotedRefusal(ResponseBody):
    """It would be refused; the problem is what POST /v1/reservations would answer."""

    admitted: Literal[False]
    problem: Problem


class QuotedTransfer(ResponseBody):
    """How one of the transfers would travel."""

    name: str
    path: list[str]
    rate_bps: int
    transfer_ms: float


class QuotedTransfers(ResponseBody):
    """The shortest time in which all can be done together over the candidate paths, and the link that sets it.

    `links`: what is free now on every link of these paths.
    """

    transfer_ms: float
    flows: list[QuotedTransfer]
    links: list[PathLink]
    bottleneck: str | None
