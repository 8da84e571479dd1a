"""What clients are answered about the network, its switches and its operation: shapes and examples."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from controller.api.schemas import examples
from controller.api.schemas.reservation_responses import PathLink, ResponseBody
from controller.domain.events import SwitchSyncState


class NodeBody(ResponseBody):
    """A switch is up when it is connected and holds what it should; a host when its link is up."""

    name: str
    kind: str
    up: bool
    ip: str | None = None


class LinkBody(ResponseBody):
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


class NetworkBody(ResponseBody):
    """The network now; `complaints` are sentences about what is not as the map says."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.NETWORK]})

    map: str
    scale_mbps_per_gbps: float
    mtu_bytes: int
    propagation_emulated: bool
    nodes: list[NodeBody]
    links: list[LinkBody]
    complaints: list[str]


class PathBody(ResponseBody):
    """A candidate path; `free_bps` is that of its tightest link."""

    nodes: list[str]
    length_km: float
    propagation_us: float
    free_bps: int
    links: list[PathLink]


class PathsBody(ResponseBody):
    """Candidate paths, best first."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.PATHS]})

    source: str
    destination: str
    paths: list[PathBody]


class Health(ResponseBody):
    """`ok` when every switch of the map is connected and holds what it should and the audit log is written.

    Else `degraded`. `audit` is `failing` when the last entry of the audit log could not be written.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [examples.HEALTH]})

    status: Literal["ok", "degraded"]
    switches_up: int
    switches_expected: int
    audit: Literal["ok", "failing"]


class SwitchConsistency(ResponseBody):
    """A line for each entry, meter or group that is not as it should be; `foreign` ones are never touched."""

    switch: str
    state: SwitchSyncState
    missing: list[str]
    wrong: list[str]
    foreign: list[str]


class Consistency(ResponseBody):
    """What the switches hold against what they should."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.CONSISTENCY]})

    consistent: bool
    switches: list[SwitchConsistency]


class MaintainedBody(ResponseBody):
    """Spans that are now in service or not, and the reservations that are degraded now (`degraded`: ids)."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.MAINTAINED]})

    spans: list[str]
    in_service: bool
    degraded: list[str]


class AuditEntry(ResponseBody):
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


class AuditBody(ResponseBody):
    """Entries, oldest first; ask again with `after` = `last` for more."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.AUDIT]})

    entries: list[AuditEntry]
    last: int
