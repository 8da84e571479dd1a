"""/v1/lightpaths: lightpaths, their channels and the flows they carry; defragmentation."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter

from controller import errors
from controller.api.middleware.concurrency import RequestExecutor, lane_of
from controller.api.routes.dependencies import Operator, Reader
from controller.api.schemas.lightpath_responses import (
    ChannelMove,
    Defragmented,
    LightpathBody,
    LightpathList,
    lightpath_body,
)
from controller.api.schemas.problem_details import ACCESS_ERRORS, SWITCH_ERRORS, problem_responses
from controller.security.access import Caller
from controller.service.reservation_service import Service


def lightpath_routes(service: Service, executor: RequestExecutor) -> APIRouter:
    """The routes under /v1/lightpaths."""
    router = APIRouter(tags=["lightpaths"])

    @router.get("/v1/lightpaths", responses=problem_responses(*ACCESS_ERRORS))
    async def lightpaths(caller: Reader) -> LightpathList:
        """All lightpaths with channel, transmission quality and the tenant's flows (operators: all flows)."""
        return await executor.read(lane_of(caller), _listed(service, caller))

    @router.post("/v1/lightpaths/defragment", responses=problem_responses(*ACCESS_ERRORS, *SWITCH_ERRORS))
    async def defragment(caller: Operator) -> Defragmented:
        """Move lightpaths to lower channels without packet loss. For operators."""

        def work() -> Defragmented:
            moves = service.defragment()
            return Defragmented(
                moves=[
                    ChannelMove(
                        nodes=list(move.before.nodes),
                        from_lightpath=move.before.id,
                        from_channel=move.before.first_slot,
                        to_lightpath=move.after.id,
                        to_channel=move.after.first_slot,
                    )
                    for move in moves
                ]
            )

        return await executor.change(lane_of(caller), work)

    @router.get(
        "/v1/lightpaths/{lightpath_id}",
        responses=problem_responses(*ACCESS_ERRORS, errors.NotFound, errors.InvalidRequest),
    )
    async def lightpath(caller: Reader, lightpath_id: str) -> LightpathBody:
        """One lightpath."""

        def work() -> LightpathBody:
            found = [entry for entry in service.queries.lightpaths() if entry.lightpath.id == lightpath_id]
            if not found:
                raise errors.NotFound(f"There is no lightpath {lightpath_id} now.")
            return lightpath_body(found[0], caller)

        return await executor.read(lane_of(caller), work)

    return router


def _listed(service: Service, caller: Caller) -> Callable[[], LightpathList]:
    return lambda: LightpathList(
        lightpaths=[lightpath_body(entry, caller) for entry in service.queries.lightpaths()],
        moves=service.lightpath_moves,
    )
