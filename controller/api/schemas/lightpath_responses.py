"""Lightpath bodies (from lightpath_routes.py)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from controller.api.schemas import examples
from controller.api.schemas.reservation_responses import ResponseBody
from controller.optical.inventory import LightpathState
from controller.security.access import Caller, can_see


class Passenger(ResponseBody):
    """A flow that travels in a lightpath; `backup`: only when its path has failed."""

    reservation: str
    flow: str
    backup: bool


class LightpathBody(ResponseBody):
    """A channel of light along switches, and the flows in it that one may see."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.LIGHTPATH]})

    id: str
    nodes: Annotated[list[str], Field(description="The switches along it.")]
    length_km: float
    lit: Annotated[bool, Field(description="Not if it is only booked, for a reservation that is held or scheduled.")]
    channel: Annotated[int, Field(description="Its lowest slot on the map's grid.")]
    slots: int
    central_thz: Annotated[float, Field(description="The middle of the channel on the grid of ITU-T G.694.1.")]
    width_ghz: float
    vlan: Annotated[int, Field(description="The VLAN id that stands for the channel in the data plane.")]
    rate_bps: int
    reserved_bps: int
    free_bps: int
    modulation: str
    gsnr_db: Annotated[float, Field(description="Signal to noise at its end, in 0.1 nm, all channels lit; to 0.1 dB.")]
    margin_db: Annotated[float, Field(description="What is left of it above what the modulation and ageing need.")]
    flows: list[Passenger]


class LightpathList(ResponseBody):
    """All lightpaths, by route and channel; none where the map is not optical."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"lightpaths": [examples.LIGHTPATH]}]})

    lightpaths: list[LightpathBody]


class ChannelMove(ResponseBody):
    """A lightpath that is on another channel now, and has another id."""

    nodes: list[str]
    from_lightpath: str
    from_channel: int
    to_lightpath: str
    to_channel: int


class Defragmented(ResponseBody):
    """What was moved, in that order."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.DEFRAGMENTED]})

    moves: list[ChannelMove]


def lightpath_body(standing: LightpathState, caller: Caller) -> LightpathBody:
    """A lightpath as this caller may see it."""
    lightpath = standing.lightpath
    facts: dict[str, Any] = {
        name: getattr(lightpath, name) for name in ("id", "rate_bps", "modulation", "gsnr_db", "margin_db")
    }
    facts |= {name: getattr(standing, name) for name in ("central_thz", "width_ghz", "reserved_bps", "free_bps")}
    return LightpathBody(
        **facts,
        nodes=list(lightpath.nodes),
        length_km=round(standing.length_km, 3),
        lit=standing.is_lit,
        channel=lightpath.first_slot,
        slots=lightpath.width,
        vlan=lightpath.vlan_id,
        flows=[
            Passenger(reservation=each.reservation_id, flow=each.flow, backup=each.is_backup)
            for each in standing.passengers
            if can_see(caller, each.tenant)
        ],
    )
