"""/v1/healthz, /v1/network, /v1/network/counters and /v1/paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Query

from controller.api.middleware.concurrency import RequestExecutor, lane_of
from controller.api.routes.dependencies import Reader
from controller.api.schemas.network_responses import CarriedBody, CarriedLinksBody, Health, NetworkBody, PathsBody
from controller.api.schemas.problem_details import ACCESS_ERRORS, problem_responses
from controller.api.schemas.serializers import network_body, paths_body, utc_time
from controller.errors import InvalidRequest, UnknownHost
from controller.security.audit import AuditLog
from controller.service.queries import Queries


def _condition(is_failing: bool) -> Literal["ok", "failing"]:
    return "failing" if is_failing else "ok"


def network_routes(
    service: Queries, executor: RequestExecutor, propagation_emulated: Callable[[], bool], audit: AuditLog
) -> APIRouter:
    """The routes of this module."""
    router = APIRouter(tags=["network"])

    @router.get("/v1/healthz", responses=problem_responses(), response_model_exclude_none=True)
    async def health() -> Health:
        """Whether all switches are in sync, and ledger and audit log can be written. Needs no token."""
        up, expected, ledger = service.switches_up(), len(service.network.switches), service.ledger_status()
        since_s, step = ledger.failing_since_s, service.last_clock_step()
        is_ok = up == expected and not audit.is_failing and since_s is None
        return Health(
            status="ok" if is_ok else "degraded",
            switches_up=up,
            switches_expected=expected,
            audit=_condition(audit.is_failing),
            ledger=_condition(since_s is not None),
            ledger_failing_since=None if since_s is None else utc_time(since_s),
            ledger_unrecorded=ledger.unrecorded or None,
            clock_step_s=None if step is None else round(step.by_s, 3),
            clock_stepped_at=None if step is None else utc_time(step.at_s),
        )

    @router.get("/v1/network", responses=problem_responses(*ACCESS_ERRORS))
    async def network(caller: Reader) -> NetworkBody:
        """Nodes, links with their reserved bandwidth, and differences from the map."""

        def work() -> NetworkBody:
            return network_body(service.snapshot(), propagation_emulated())

        return await executor.read(lane_of(caller), work)

    @router.get("/v1/network/counters", responses=problem_responses(*ACCESS_ERRORS))
    async def counters(caller: Reader) -> CarriedLinksBody:
        """Bytes that every directed link has carried, read from the switches' ports."""

        def work() -> CarriedLinksBody:
            found = service.link_counters()
            links = [CarriedBody(link=link, bytes=count) for link, count in found.bytes_by_link.items()]
            return CarriedLinksBody(read_at=utc_time(found.at_s), links=links, unavailable=list(found.unavailable))

        return await executor.read(lane_of(caller), work)

    @router.get("/v1/paths", responses=problem_responses(*ACCESS_ERRORS, InvalidRequest, UnknownHost))
    async def paths(
        caller: Reader,
        source: Annotated[str, Query(examples=["edge1"])],
        destination: Annotated[str, Query(examples=["cloud"])],
    ) -> PathsBody:
        """Candidate paths between two hosts, best first, with the bandwidth free now."""
        hosts = [host.name for host in service.network.hosts]
        if source == destination:
            sentence = f"source and destination are both {source}"
            raise InvalidRequest(f"The request is not valid: query.destination: {sentence}.",
                                 mistakes=[{"place": "query.destination", "message": sentence}])
        for host in (source, destination):
            if host not in hosts:
                raise UnknownHost(f"There is no host {host!r}; the hosts are {', '.join(hosts)}.", host=host)

        def work() -> PathsBody:
            return paths_body(service.snapshot(), source, destination)

        return await executor.read(lane_of(caller), work)

    return router
