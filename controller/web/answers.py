"""What clients are answered: shapes and examples."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from controller.events import SwitchStanding
from controller.reservation import State
from controller.schemas import MatchBody, RequirementBody
from controller.web import examples


class Answer(BaseModel):
    """All its fields are always there."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class WindowBody(Answer):
    """When a periodic transfer travels: from `offset_ms` after each multiple of the period, for `length_ms`."""

    period_ms: float
    offset_ms: float
    length_ms: float


class PlacedFlow(Answer):
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


class MeterCounters(Answer):
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


class EntryCounters(Answer):
    """A flow entry on a switch; `flow` is null if it belongs to none of the present flows."""

    switch: str
    table: int
    priority: int
    match: dict[str, int | str | list[int]]
    flow: str | None
    cookie: str
    packets: int
    bytes: int


class Counters(Answer):
    """Read from the switches just now; `unavailable` names those that could not be read."""

    meters: list[MeterCounters]
    entries: list[EntryCounters]
    unavailable: list[str]


class ReservationBody(Answer):
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


class ReservationList(Answer):
    """Reservations, oldest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reservations": [examples.RESERVATION]}]})

    reservations: list[ReservationBody]


class NodeBody(Answer):
    """A switch is up when it is connected and holds what it should; a host when its link is up."""

    name: str
    kind: str
    up: bool
    ip: str | None = None


class LinkBody(Answer):
    """One direction of a span."""

    link: str
    source: str
    destination: str
    length_km: float
    duct: Annotated[str | None, Field(description="Spans with the same duct are cut together.")]
    up: bool
    in_service: Annotated[bool, Field(description="False: taken out of service by an operator.")]
    capacity_bps: int
    reservable_bps: int
    reserved_bps: int
    free_bps: int


class NetworkBody(Answer):
    """The network now; `complaints` are sentences about what is not as the map says."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.NETWORK]})

    map: str
    scale_mbps_per_gbps: float
    mtu_bytes: int
    propagation_emulated: bool
    nodes: list[NodeBody]
    links: list[LinkBody]
    complaints: list[str]


class PathLink(Answer):
    """What is free on one link of a path."""

    link: str
    free_bps: int


class PathBody(Answer):
    """A candidate path; `free_bps` is that of its tightest link."""

    nodes: list[str]
    length_km: float
    propagation_us: float
    free_bps: int
    links: list[PathLink]


class PathsBody(Answer):
    """Candidate paths, best first."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.PATHS]})

    source: str
    destination: str
    paths: list[PathBody]


class Health(Answer):
    """`ok` when every switch of the map is connected and holds what it should and the audit log is written.

    Else `degraded`. `audit` is `failing` when the last entry of the audit log could not be written.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [examples.HEALTH]})

    status: Literal["ok", "degraded"]
    switches_up: int
    switches_expected: int
    audit: Literal["ok", "failing"]


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


class QuotedFlows(Answer):
    """It would be admitted, like this; nothing has been reserved."""

    admitted: Literal[True]
    flows: list[PlacedFlow]


class QuotedRefusal(Answer):
    """It would be refused; the problem is what POST /v1/reservations would answer."""

    admitted: Literal[False]
    problem: Problem


class QuotedTransfer(Answer):
    """How one of the transfers would travel."""

    name: str
    path: list[str]
    rate_bps: int
    transfer_ms: float


class QuotedTransfers(Answer):
    """The shortest time in which all can be done together over the candidate paths, and the link that sets it.

    `links`: what is free now on every link of these paths.
    """

    transfer_ms: float
    flows: list[QuotedTransfer]
    links: list[PathLink]
    bottleneck: str | None


class SwitchConsistency(Answer):
    """A line for each entry, meter or group that is not as it should be; `foreign` ones are never touched."""

    switch: str
    state: SwitchStanding
    missing: list[str]
    wrong: list[str]
    foreign: list[str]


class Consistency(Answer):
    """What the switches hold against what they should."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.CONSISTENCY]})

    consistent: bool
    switches: list[SwitchConsistency]


class MaintainedBody(Answer):
    """Spans that are now in service or not, and the reservations that are degraded now (`degraded`: ids)."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.MAINTAINED]})

    spans: list[str]
    in_service: bool
    degraded: list[str]


class AuditEntry(Answer):
    """One request and its answer; `tenant` is null for a caller who was not let in."""

    number: int
    at: datetime
    tenant: str | None
    token: str | None
    client: str
    method: str
    path: str
    status: int
    code: str | None
    reservation: str | None
    request: Annotated[str, Field(description="The request's body as it came, its first 4096 characters.")]


class AuditBody(Answer):
    """Entries, oldest first; ask again with `after` = `last` for more."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.AUDIT]})

    entries: list[AuditEntry]
    last: int
