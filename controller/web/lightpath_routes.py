"""Lightpaths over REST: which are lit, on which channel, and who travels in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import ConfigDict, Field

from controller import errors
from controller.optical.overview import LightpathState
from controller.security.access import Caller, sees
from controller.service import Service
from controller.web import examples
from controller.web.answers import Answer
from controller.web.guard import Operator, Reader
from controller.web.load import Desk
from controller.web.problems import GUARDED, SWITCHES, described


class Passenger(Answer):
    """A flow that travels in a lightpath; `backup`: only when its path has failed."""

    reservation: str
    flow: str
    backup: bool


class LightpathBody(Answer):
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


class LightpathList(Answer):
    """All lightpaths, by route and channel; none where the map is not optical."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"lightpaths": [examples.LIGHTPATH]}]})

    lightpaths: list[LightpathBody]


class ChannelMove(Answer):
    """A lightpath that is on another channel now, and has another id."""

    nodes: list[str]
    from_lightpath: str
    from_channel: int
    to_lightpath: str
    to_channel: int


class Defragmented(Answer):
    """What was moved, in that order."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.DEFRAGMENTED]})

    moves: list[ChannelMove]


def lightpath_routes(service: Service, desk: Desk) -> APIRouter:
    """The routes under /v1/lightpaths."""
    router = APIRouter(tags=["lightpaths"])

    @router.get("/v1/lightpaths", responses=described(*GUARDED))
    async def lightpaths(caller: Reader) -> LightpathList:
        """Every lightpath with its channel, its quality, and one's own flows in it (for operators everybody's)."""
        return await desk.read(caller.tenant, _listed(service, caller))

    @router.post("/v1/lightpaths/defragment", responses=described(*GUARDED, *SWITCHES))
    async def defragment(caller: Operator) -> Defragmented:
        """Move lightpaths to lower channels while packets travel in them; none is lost. For operators."""

        def work() -> Defragmented:
            moves = service.defragment()
            return Defragmented(
                moves=[
                    ChannelMove(
                        nodes=list(each.before.nodes),
                        from_lightpath=each.before.id,
                        from_channel=each.before.first_slot,
                        to_lightpath=each.after.id,
                        to_channel=each.after.first_slot,
                    )
                    for each in moves
                ]
            )

        return await desk.change(caller.tenant, work)

    @router.get("/v1/lightpaths/{lightpath_id}", responses=described(*GUARDED, errors.NotFound, errors.InvalidRequest))
    async def lightpath(caller: Reader, lightpath_id: str) -> LightpathBody:
        """One of them."""

        def work() -> LightpathBody:
            found = [each for each in service.lightpaths() if each.lightpath.id == lightpath_id]
            if not found:
                raise errors.NotFound(f"There is no lightpath {lightpath_id} now.")
            return lightpath_body(found[0], caller)

        return await desk.read(caller.tenant, work)

    return router


def _listed(service: Service, caller: Caller) -> Callable[[], LightpathList]:
    return lambda: LightpathList(lightpaths=[lightpath_body(each, caller) for each in service.lightpaths()])


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
        vlan=lightpath.label,
        flows=[
            Passenger(reservation=each.reservation_id, flow=each.flow, backup=each.is_backup)
            for each in standing.passengers
            if sees(caller, each.tenant)
        ],
    )
