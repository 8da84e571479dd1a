"""Response bodies of /v1/lightpaths."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from controller.api.schemas import examples
from controller.api.schemas.reservation_responses import ResponseBody
from controller.optical.inventory import LightpathState
from controller.security.access import Caller, can_see


class Passenger(ResponseBody):
    """A flow carried by a lightpath; `backup`: only after its working path has failed."""

    reservation: str
    flow: str
    backup: bool


class LightpathBody(ResponseBody):
    """An optical channel along switches, and the flows in it that the caller may see."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.LIGHTPATH]})

    id: str
    nodes: Annotated[list[str], Field(description="Switches along the lightpath.")]
    links: Annotated[list[str], Field(description="Directed links that it crosses, as in GET /v1/network.")]
    length_km: float
    lit: Annotated[bool, Field(description="False if it is only booked, for a held or scheduled reservation.")]
    channel: Annotated[int, Field(description="Lowest slot on the map's grid.")]
    slots: int
    central_thz: Annotated[float, Field(description="Central frequency on the grid of ITU-T G.694.1.")]
    width_ghz: float
    vlan: Annotated[int, Field(description="VLAN id that represents the channel in the data plane.")]
    rate_bps: int
    reserved_bps: int
    free_bps: int
    modulation: str
    gsnr_db: Annotated[float, Field(description="GSNR at the receiver in 0.1 nm with all channels lit, to 0.1 dB.")]
    margin_db: Annotated[
        float, Field(description="GSNR above what modulation and ageing margin require.")
    ]
    flows: list[Passenger]


class LightpathList(ResponseBody):
    """All lightpaths, by route and channel; empty if the map is not optical."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"lightpaths": [examples.LIGHTPATH], "moves": 0}]})

    lightpaths: list[LightpathBody]
    moves: Annotated[int, Field(description="Lightpaths moved to other channels since the controller's start.")]


class ChannelMove(ResponseBody):
    """A lightpath that was moved to another channel and has a new id."""

    nodes: list[str]
    from_lightpath: str
    from_channel: int
    to_lightpath: str
    to_channel: int


class Defragmented(ResponseBody):
    """The moves, in the order in which they were made."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.DEFRAGMENTED]})

    moves: list[ChannelMove]


def lightpath_body(state: LightpathState, caller: Caller) -> LightpathBody:
    """A lightpath with the flows that this caller may see."""
    lightpath = state.lightpath
    facts: dict[str, Any] = {
        name: getattr(lightpath, name) for name in ("id", "rate_bps", "modulation", "gsnr_db", "margin_db")
    }
    facts |= {name: getattr(state, name) for name in ("central_thz", "width_ghz", "reserved_bps", "free_bps")}
    return LightpathBody(
        **facts,
        nodes=list(lightpath.nodes),
        links=list(lightpath.links),
        length_km=round(state.length_km, 3),
        lit=state.is_lit,
        channel=lightpath.first_slot,
        slots=lightpath.width,
        vlan=lightpath.vlan_id,
        flows=[
            Passenger(reservation=flow.reservation_id, flow=flow.flow, backup=flow.is_backup)
            for flow in state.flows
            if can_see(caller, flow.tenant)
        ],
    )
