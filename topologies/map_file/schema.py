"""The schema of a map file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from topologies.map_file.identifiers import datapath_id, ip_address, mac_address
from topologies.maps import (
    LEAST_LOSS_DB_PER_KM,
    MAX_PORT_NUMBER,
    MIN_QUEUE_BYTES,
    MOST_LOSS_DB_PER_KM,
    USUAL_LOSS_DB_PER_KM,
    Band,
    CrossTraffic,
    FibreType,
    Grid,
    Map,
    MapLink,
    MapNode,
)

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,8}$")]
Ends = tuple[Name, Name]
PortNumber = Annotated[int, Field(ge=1, le=MAX_PORT_NUMBER)]
DatapathId = Annotated[int, BeforeValidator(datapath_id)]
IpAddress = Annotated[str, BeforeValidator(ip_address)]
MacAddress = Annotated[str, BeforeValidator(mac_address)]
QueueBytes = Annotated[int, Field(ge=MIN_QUEUE_BYTES, le=10**9)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Node(_Strict):
    name: Name
    kind: Literal["switch", "edge", "cloud", "host"]
    position_km: tuple[float, float]
    cpu_share: Annotated[float, Field(ge=0.01, le=64)] | None = None
    label: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    datapath_id: DatapathId | None = None
    ip: IpAddress | None = None
    mac: MacAddress | None = None


class _Link(_Strict):
    ends: Ends
    length_km: Annotated[float, Field(ge=0, le=20_000)]
    channels: Annotated[int, Field(ge=1, le=768)] = 1
    channel_rate_gbps: Annotated[float, Field(gt=0, le=10_000)]
    duct: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    queue_bytes: QueueBytes | None = None
    ports: tuple[PortNumber | None, PortNumber | None] = (None, None)
    loss_db_per_km: Annotated[float, Field(ge=LEAST_LOSS_DB_PER_KM, le=MOST_LOSS_DB_PER_KM)] = USUAL_LOSS_DB_PER_KM
    fibre_type: FibreType = "SSMF"
    idle_slope_gbps: Annotated[float, Field(gt=0, le=10_000)] | None = None


class _CrossTraffic(_Strict):
    source: Name
    sink: Name
    bottleneck: Ends


class _Optical(_Strict):
    grid: Grid
    regenerators: Literal["all", "none"] | tuple[Name, ...] = "all"
    band: Band = "C"

    @property
    def regenerating(self) -> tuple[str, ...] | None:
        """The switches that regenerate; None: all."""
        if isinstance(self.regenerators, tuple):
            return self.regenerators
        return None if self.regenerators == "all" else ()


class MapFile(_Strict):
    """A map file."""

    name: Name
    description: str = ""
    source: str = ""
    notes: list[str] = []
    scale_mbps_per_gbps: Annotated[float, Field(gt=0, le=1000)]
    mtu_bytes: Annotated[int, Field(ge=576, le=9000)] = 9000
    queue_bytes: QueueBytes | None = None
    nodes: Annotated[list[_Node], Field(min_length=2)]
    links: Annotated[list[_Link], Field(min_length=1)]
    cross_traffic: _CrossTraffic | None = None
    optical: _Optical | None = None
    ats: bool = False


def as_map(file: MapFile) -> Map:
    """The map that a valid file describes."""
    cross = file.cross_traffic
    return Map(
        name=file.name,
        description=file.description,
        source=file.source,
        notes=tuple(file.notes),
        scale_mbps_per_gbps=file.scale_mbps_per_gbps,
        mtu_bytes=file.mtu_bytes,
        nodes=tuple(
            MapNode(n.name, n.kind, n.position_km, n.cpu_share, n.label, n.datapath_id, n.ip, n.mac) for n in file.nodes
        ),
        links=tuple(
            MapLink(
                k.ends, k.length_km, k.channels, k.channel_rate_gbps, k.duct, k.queue_bytes, k.ports, k.loss_db_per_km,
                k.fibre_type, k.idle_slope_gbps,
            )
            for k in file.links
        ),
        cross_traffic=None if cross is None else CrossTraffic(cross.source, cross.sink, cross.bottleneck),
        grid=None if file.optical is None else file.optical.grid,
        queue_bytes=file.queue_bytes,
        regenerators=None if file.optical is None else file.optical.regenerating,
        band="C" if file.optical is None else file.optical.band,
        ats=file.ats,
    )
