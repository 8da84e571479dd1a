"""/v1/healthz, /v1/network and /v1/paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Query

from controller.api.middleware.concurrency import RequestExecutor
from controller.api.routes.dependencies import Reader
from controller.api.schemas.network_responses import Health, NetworkBody, PathsBody
from controller.api.schemas.problem_details import ACCESS_ERRORS, problem_responses
from controller.api.schemas.serializers import network_body, paths_body
from controller.errors import InvalidRequest, UnknownHost
from controller.security.audit import AuditLog
from controller.service.queries import Queries


def network_routes(
    service: Queries, executor: RequestExecutor, propagation_emulated: Callable[[], bool], audit: AuditLog
) -> APIRouter:
    """The routes of this module."""
    router = APIRouter(tags=["network"])

    @router.get("/v1/healthz", responses=problem_responses())
    async def health() -> Health:
        """Whether every switch is connected and in sync and the audit log can be written. Needs no token."""
        up, expected, failing = service.switches_up(), len(service.network.switches), audit.is_failing
        status: Literal["ok", "degraded"] = "ok" if up == expected and not failing else "degraded"
        log: Literal["ok", "failing"] = "failing" if failing else "ok"
        return Health(status=status, switches_up=up, switches_expected=expected, audit=log)

    @router.get("/v1/network", responses=problem_responses(*ACCESS_ERRORS))
    async def network(caller: Reader) -> NetworkBody:
        """Nodes, links with their reserved bandwidth, and differences from the map."""

        def work() -> NetworkBody:
            return network_body(service.snapshot(), propagation_emulated())

        return await executor.read(caller.tenant, work)

    @router.get("/v1/paths", responses=problem_responses(*ACCESS_ERRORS, InvalidRequest, UnknownHost))
    async def paths(
        caller: Reader,
        source: Annotated[str, Query(examples=["edge1"])],
        destination: Annotated[str, Query(examples=["cloud"])],
    ) -> PathsBody:
        """Candidate paths between two hosts, best first, with the bandwidth free now."""
        hosts = [host.name for host in service.network.hosts]
        for host in (source, destination):
            if host not in hosts:
                raise UnknownHost(f"There is no host {host!r}; the hosts are {', '.join(hosts)}.", host=host)

        def work() -> PathsBody:
            return paths_body(service.snapshot(), source, destination)

        return await executor.read(caller.tenant, work)

    return router
