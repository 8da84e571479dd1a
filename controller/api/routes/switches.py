"""/v1/switches: what a switch can do."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from controller.api.middleware.concurrency import RequestExecutor, lane_of
from controller.api.routes.dependencies import Operator
from controller.api.schemas.problem_details import ACCESS_ERRORS, problem_responses
from controller.api.schemas.switch_responses import SwitchBody, switch_body
from controller.errors import InvalidRequest, NotFound, SwitchDown, SwitchTimeout
from controller.service.queries import Queries

SwitchName = Annotated[
    str, Path(max_length=64, description="Its name on the map, or its datapath id in hexadecimal digits.")
]


def switch_routes(service: Queries, executor: RequestExecutor) -> APIRouter:
    """The routes of this module."""
    router = APIRouter(tags=["operation"])
    problems = problem_responses(*ACCESS_ERRORS, NotFound, InvalidRequest, SwitchDown, SwitchTimeout)

    @router.get("/v1/switches/{switch}/capabilities", responses=problems)
    async def capabilities(caller: Operator, switch: SwitchName) -> SwitchBody:
        """What a switch says it can do, asked now, and what of the needs of its place on the map would not hold."""
        return await executor.change(lane_of(caller), lambda: switch_body(*service.check_switch(switch)))

    return router
