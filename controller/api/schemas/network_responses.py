"""Response bodies about network, health, consistency, maintenance and audit log, with examples."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from controller.api.schemas import examples
from controller.api.schemas.reservation_responses import PathLink, ResponseBody
from controller.domain.events import SwitchSyncState


class NodeBody(ResponseBody):
    """A switch is up if it is connected and in sync; a host if its link is up."""

    name: str
    kind: str
    up: bool
    ip: str | None = None
    position_km: Annotated[tuple[float, float], Field(description="Place on the map: east, north.")]


class LinkBody(ResponseBody):
    """A directed link."""

    link: str
    source: str
    destination: str
    length_km: float
    duct: Annotated[str | None, Field(description="Spans with the same duct fail together.")]
    up: bool
    in_service: Annotated[bool, Field(description="False: taken out of service by an operator.")]
    capacity_bps: int
    reservable_bps: int
    reserved_bps: int
    free_bps: int
    queue_bytes: Annotated[int, Field(description="What the port's queue for reserved frames holds.")]
    idle_slope_bps: Annotated[
        int | None, Field(description="Idle slope of the credit-based shaper of its port; null: it has none.")
    ]
    slots: Annotated[int, Field(description="Slots of its spectrum; 0 on packet links and at hosts.")]


class NetworkBody(ResponseBody):
    """The network now; `complaints` are sentences about differences from the map."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.NETWORK]})

    map: str
    scale_mbps_per_gbps: float
    mtu_bytes: int
    propagation_emulated: bool
    ats: Annotated[
        bool, Field(description="Whether every port of a switch shapes asynchronously (IEEE 802.1Qcr).")
    ]
    nodes: list[NodeBody]
    links: list[LinkBody]
    complaints: list[str]


class CarriedBody(ResponseBody):
    """What a directed link has carried."""

    link: Annotated[str, Field(description="The directed link, as in GET /v1/network.")]
    bytes: Annotated[int, Field(description="L2 bytes since the switch knows the port; from 0 after it restarts.")]


class CarriedLinksBody(ResponseBody):
    """What all links have carried, as of the last reading, at most half a second old."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.CARRIED]})

    read_at: Annotated[datetime, Field(description="When the ports were read.")]
    links: Annotated[list[CarriedBody], Field(description="Links at switches that could be read.")]
    unavailable: Annotated[list[str], Field(description="Switches that could not be read.")]


class PathBody(ResponseBody):
    """A candidate path; `free_bps` is the least free bandwidth of its links."""

    nodes: list[str]
    length_km: float
    propagation_us: float
    free_bps: int
    links: list[PathLink]


class PathsBody(ResponseBody):
    """Candidate paths, best first. `down`: where there is none, the spans that separate the two hosts."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.PATHS]})

    source: str
    destination: str
    down: list[str]
    paths: list[PathBody]


class Health(ResponseBody):
    """`ok` if all switches of the map are in sync and ledger and audit log can be written, else `degraded`.

    `audit` is `failing` if the last entry of the audit log could not be written, `ledger` while the ledger cannot:
    since `ledger_failing_since`. `ledger_unrecorded` changes of reservations are applied but not yet in the ledger.
    `clock_step_s`: the last step of the wall clock since the start, at `clock_stepped_at`. Absent: none of it.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [examples.HEALTH]}, json_schema_serialization_defaults_required=False
    )

    status: Literal["ok", "degraded"]
    switches_up: int
    switches_expected: int
    audit: Literal["ok", "failing"]
    ledger: Literal["ok", "failing"]
    ledger_failing_since: datetime | None = None
    ledger_unrecorded: int | None = None
    clock_step_s: float | None = None
    clock_stepped_at: datetime | None = None


class SwitchConsistency(ResponseBody):
    """Entries, meters and groups that differ from the intended state; `foreign` ones are never touched."""

    switch: str
    state: SwitchSyncState
    missing: list[str]
    wrong: list[str]
    foreign: list[str]


class Consistency(ResponseBody):
    """Comparison of the switches with the intended state."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.CONSISTENCY]})

    consistent: bool
    switches: list[SwitchConsistency]


class MaintainedBody(ResponseBody):
    """Spans whose state was set, and the ids of reservations that are degraded now."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.MAINTAINED]})

    spans: list[str]
    in_service: bool
    degraded: list[str]


class AuditEntry(ResponseBody):
    """One request and its outcome; `tenant` is null if authentication failed."""

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
    request: Annotated[str, Field(description="The first 4096 characters of the request body.")]


class AuditBody(ResponseBody):
    """Entries, oldest first; request the next ones with `after` = `last`."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.AUDIT]})

    entries: list[AuditEntry]
    last: int
