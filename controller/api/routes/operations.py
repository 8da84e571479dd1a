"""For those who run the network: consistency, events, metrics, the audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from controller.api.middleware.concurrency import RequestExecutor
from controller.api.routes.dependencies import Operator, Reader
from controller.api.schemas import examples
from controller.api.schemas.network_responses import AuditBody, Consistency, MaintainedBody
from controller.api.schemas.problem_details import ACCESS_ERRORS, problem_responses
from controller.api.schemas.serializers import audit_body, consistency_body
from controller.errors import InvalidRequest, NotAvailable, NotFound
from controller.security.access import Caller, can_see
from controller.security.audit import AuditLog
from controller.service.reservation_service import Service
from controller.switches.span_status import spans_of_duct, spans_of_link
from controller.telemetry.event_stream import EventStream
from controller.telemetry.metrics import Metrics

Action = Literal["down", "up"]
EventId = Annotated[
    str | None, Header(max_length=64, pattern=r"^[0-9a-f]+-[0-9]+$", description="Go on after this event.")
]


def operation_routes(
    service: Service, executor: RequestExecutor, metrics: Metrics, stream: EventStream, audit: AuditLog
) -> APIRouter:
    """/v1/consistency, /v1/links, /v1/ducts, /v1/audit, /v1/events and /metrics."""
    router = APIRouter(tags=["operation"])

    @router.get("/v1/consistency", responses=problem_responses(*ACCESS_ERRORS))
    async def consistency(caller: Operator) -> Consistency:
        """What every switch holds against what it should, read from all of them now."""
        return consistency_body(await executor.change(caller.tenant, service.consistency))

    @router.post("/v1/consistency/repair", responses=problem_responses(*ACCESS_ERRORS))
    async def repair(caller: Operator) -> Consistency:
        """Put right what is missing or wrong, and say how it stands then; foreign entries are left alone."""
        return consistency_body(await executor.change(caller.tenant, service.repair))

    _add_maintenance(router, service, executor)

    @router.get("/v1/audit", responses=problem_responses(*ACCESS_ERRORS, InvalidRequest))
    async def audit_log(
        caller: Operator,
        after: Annotated[int, Query(ge=0, le=2**53, description="The number of the last entry known.")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> AuditBody:
        """Who asked for what, and what they were answered, oldest first."""

        def work() -> AuditBody:
            return audit_body(audit.read(after, limit), after)

        return await executor.read(caller.tenant, work)

    _add_events(router, executor, stream)

    @router.get("/metrics", response_class=Response, responses={200: _TEXT, **problem_responses(*ACCESS_ERRORS)})
    async def prometheus(caller: Reader) -> Response:
        """For Prometheus: promises, links, switches, requests."""
        text = await executor.read(caller.tenant, metrics.render)
        return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router


def _add_maintenance(router: APIRouter, service: Service, executor: RequestExecutor) -> None:
    async def put(caller: Caller, spans: Callable[[], frozenset[str]], in_service: bool) -> MaintainedBody:
        now = await executor.change(caller.tenant, lambda: service.maintenance.put(spans(), in_service))
        return MaintainedBody(spans=list(now.spans), in_service=now.in_service, degraded=list(now.degraded))

    problems = problem_responses(*ACCESS_ERRORS, NotFound, InvalidRequest)

    @router.post("/v1/links/{link}/{action}", responses=problems)
    async def link(caller: Operator, link: str, action: Action) -> MaintainedBody:
        """Take a span out of service (`down`): its traffic is moved before this answers. Or put it back (`up`).

        `link` is the span (`r1-r2`) or a direction of it (`r1->r2`). What has no other way is degraded.
        """
        return await put(caller, lambda: spans_of_link(service.network, link), action == "up")

    @router.post("/v1/ducts/{duct}/{action}", responses=problems)
    async def duct(caller: Operator, duct: str, action: Action) -> MaintainedBody:
        """The same for all spans of a duct at once."""
        return await put(caller, lambda: spans_of_duct(service.network, duct), action == "up")


def _add_events(router: APIRouter, executor: RequestExecutor, stream: EventStream) -> None:
    @router.get(
        "/v1/events",
        response_class=StreamingResponse,
        responses={200: _EVENTS, **problem_responses(*ACCESS_ERRORS, InvalidRequest, NotAvailable)},
    )
    async def events(caller: Reader, last_event_id: EventId = None) -> StreamingResponse:
        """What happens, as it happens (server-sent events): `reservation`, `violation`, `link`, `alarm`, `switch`,
        `reconcile`.

        Of reservations one's own; for operators everybody's. `missed`: so much has happened since Last-Event-ID (or
        the controller has been started anew) that events are gone.
        """
        if not executor.has_loop:
            raise NotAvailable("Inside ryu-manager there is no event stream; run paceline controller.")
        with executor.streams.admit(caller.tenant):
            pass  # there is one; it is taken when the stream begins

        async def followed() -> AsyncIterator[str]:
            with executor.streams.admit(caller.tenant):
                async for text in stream.subscribe(last_event_id, lambda tenant: can_see(caller, tenant)):
                    yield text

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(followed(), media_type="text/event-stream", headers=headers)


_TEXT: dict[str, Any] = {
    "description": "Prometheus' text format",
    "content": {"text/plain": {"schema": {"type": "string"}, "example": 'paceline_reservations{state="active"} 3.0\n'}},
}
_EVENTS: dict[str, Any] = {
    "description": "A stream that does not end",
    "content": {"text/event-stream": {"schema": {"type": "string"}, "example": examples.EVENTS}},
}
