"""What goes over the REST interface: shapes, limits and examples. A rate is in L2 bits per second."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from controller import reservation as facts
from controller.reservation import State

Port = Annotated[int, Field(ge=1, le=65535)]
Microseconds = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
LeaseSeconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False, examples=[60])]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w.:@ -]+$")]

EXAMPLE_FLOW: JsonDict = {
    "name": "edge1-up",
    "source": "edge1",
    "destination": "cloud",
    "match": {"protocol": "tcp", "source_port": 7801, "destination_port": 7800},
    "requirement": {"min_bandwidth_bps": 15_000_000, "burst_bytes": 40_000},
}


class Strict(BaseModel):
    """A misspelt field is a mistake, not something to ignore."""

    model_config = ConfigDict(extra="forbid")


class MatchBody(Strict):
    """The ports and protocol of a flow."""

    protocol: Literal["tcp", "udp"]
    source_port: Port
    destination_port: Port


class RequirementBody(Strict):
    """What a flow needs. No burst: one is chosen. No limit: the bound is told but not promised to stay."""

    min_bandwidth_bps: Annotated[int, Field(ge=1000, le=10**12)]
    burst_bytes: Annotated[int, Field(ge=1, le=10**8)] | None = None
    max_latency_us: Microseconds | None = None
    max_latency_variation_us: Microseconds | None = None


class FlowBody(Strict):
    """One direction of one transfer."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_FLOW]})

    name: Name
    source: Name
    destination: Name
    match: MatchBody
    requirement: RequirementBody

    def to_flow(self) -> facts.Flow:
        """The fact behind it."""
        match = facts.Match(**self.match.model_dump())
        return facts.Flow(
            self.name, self.source, self.destination, match, facts.Requirement(**self.requirement.model_dump())
        )


Flows = Annotated[list[FlowBody], Field(min_length=1, max_length=256)]


def _check_flows(flows: list[FlowBody]) -> None:
    if not flows:
        return
    repeated = [name for name, times in Counter(flow.name for flow in flows).items() if times > 1]
    if repeated:
        raise ValueError(f"each flow needs a name of its own; repeated: {', '.join(repeated)}")
    tuples = Counter(flow.to_flow().five_tuple for flow in flows)
    if max(tuples.values()) > 1:
        raise ValueError("two flows have the same source, destination, protocol and ports")
    for flow in flows:
        if flow.source == flow.destination:
            raise ValueError(f"{flow.name}: source and destination are both {flow.source}")


class ReservationRequest(Strict):
    """An atomic set of flows: all are admitted or none."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"owner": "cloud", "lease_s": 60, "flows": [EXAMPLE_FLOW]}]}
    )

    owner: Name = "anonymous"
    lease_s: LeaseSeconds = 60
    flows: Flows

    @model_validator(mode="after")
    def _flows_differ(self) -> Self:
        _check_flows(self.flows)
        return self


class ReservationChange(Strict):
    """A renewal (`{}` or `lease_s`), and with `flows` a new full list of flows."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"lease_s": 60}]})

    lease_s: LeaseSeconds | None = None
    flows: Flows | None = None

    @model_validator(mode="after")
    def _flows_differ(self) -> Self:
        _check_flows(self.flows or [])
        return self


class PlacedFlow(FlowBody):
    """A flow with its path and its proven bounds, worst case and worst minus best."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={})

    path: list[str]
    reserved_bps: int
    burst_bytes: int
    accumulated_latency_us: float
    latency_variation_us: float


class MeterCounters(BaseModel):
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


class EntryCounters(BaseModel):
    """A flow entry on a switch; `flow` is null if it belongs to none of the present flows."""

    switch: str
    table: int
    priority: int
    match: dict[str, int | str | tuple[int, int]]
    flow: str | None
    cookie: str
    packets: int
    bytes: int


class Counters(BaseModel):
    """Read from the switches just now; `unavailable` names those that could not be read."""

    meters: list[MeterCounters]
    entries: list[EntryCounters]
    unavailable: list[str]


class ReservationBody(BaseModel):
    """A reservation as it stands."""

    id: Annotated[str, Field(examples=["r-4f1c09ab"])]
    version: int
    state: State
    owner: str
    lease_s: float
    created_at: datetime
    expires_at: datetime
    reason: str | None
    flows: list[PlacedFlow]


class ReservationDetail(ReservationBody):
    """A reservation with its counters."""

    counters: Counters


class ReservationList(BaseModel):
    """Reservations, oldest first."""

    reservations: list[ReservationBody]


class NodeBody(BaseModel):
    """A switch is up when it is connected and holds what it should; a host when its link is up."""

    name: str
    kind: str
    up: bool
    ip: str | None = None


class LinkBody(BaseModel):
    """One direction of a span."""

    link: str
    source: str
    destination: str
    length_km: float
    up: bool
    capacity_bps: int
    reservable_bps: int
    reserved_bps: int
    free_bps: int


class NetworkBody(BaseModel):
    """The network now; `complaints` are sentences about what is not as the map says."""

    map: str
    scale_mbps_per_gbps: float
    mtu_bytes: int
    propagation_emulated: bool
    nodes: list[NodeBody]
    links: list[LinkBody]
    complaints: list[str]


class PathLink(BaseModel):
    """What is free on one link of a path."""

    link: str
    free_bps: int


class PathBody(BaseModel):
    """A candidate path; `free_bps` is that of its tightest link."""

    nodes: list[str]
    length_km: float
    propagation_us: float
    free_bps: int
    links: list[PathLink]


class PathsBody(BaseModel):
    """Candidate paths, best first."""

    source: str
    destination: str
    paths: list[PathBody]


class Health(BaseModel):
    """`ok` when every switch of the map is connected and holds what it should, else `degraded`."""

    status: Literal["ok", "degraded"]
    switches_up: int
    switches_expected: int


class Bottleneck(BaseModel):
    """The link in the way; `asked_bps` is what the whole request wants of it."""

    link: str
    capacity_bps: int
    reserved_bps: int
    free_bps: int
    asked_bps: int


class Mistake(BaseModel):
    """One thing wrong with a request, and where."""

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
