"""Operations: consistency, maintenance, audit log, events and metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from controller.api.middleware.concurrency import RequestExecutor, lane_of
from controller.api.routes.dependencies import Operator, Reader
from controller.api.schemas import examples
from controller.api.schemas.network_responses import AuditBody, Consistency, MaintainedBody
from controller.api.schemas.patterns import EVENT_ID
from controller.api.schemas.problem_details import ACCESS_ERRORS, problem_responses
from controller.api.schemas.serializers import audit_body, consistency_body
from controller.errors import InvalidRequest, LedgerUnavailable, NotAvailable, NotFound
from controller.security.access import Caller, can_see
from controller.security.audit import AuditLog
from controller.service.reservation_service import Service
from controller.switches.span_status import spans_of_duct, spans_of_link
from controller.telemetry.event_stream import EventStream
from controller.telemetry.metrics import Metrics

Action = Literal["down", "up"]
EventId = Annotated[
    str | None, Header(max_length=64, pattern=EVENT_ID, description="Resume after this event.")
]


def operation_routes(
    service: Service, executor: RequestExecutor, metrics: Metrics, stream: EventStream, audit: AuditLog
) -> APIRouter:
    """The routes /v1/consistency, /v1/links, /v1/ducts, /v1/audit, /v1/events and /metrics."""
    router = APIRouter(tags=["operation"])

    @router.get("/v1/consistency", responses=problem_responses(*ACCESS_ERRORS))
    async def consistency(caller: Operator) -> Consistency:
        """Compare the entries of every switch, read now, with the intended state."""
        return consistency_body(await executor.change(lane_of(caller), service.queries.consistency))

    @router.post("/v1/consistency/repair", responses=problem_responses(*ACCESS_ERRORS))
    async def repair(caller: Operator) -> Consistency:
        """Repair missing and wrong entries and return the result; foreign entries are not touched."""
        return consistency_body(await executor.change(lane_of(caller), service.repair))

    _add_maintenance(router, service, executor)

    @router.get("/v1/audit", responses=problem_responses(*ACCESS_ERRORS, InvalidRequest, LedgerUnavailable))
    async def audit_log(
        caller: Operator,
        after: Annotated[int, Query(ge=0, le=2**53, description="Number of the last entry already read.")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> AuditBody:
        """Audited requests with caller and outcome, oldest first."""

        def work() -> AuditBody:
            return audit_body(audit.read(after, limit), after)

        return await executor.read(lane_of(caller), work)

    _add_events(router, executor, stream)

    @router.get("/metrics", response_class=Response, responses={200: _TEXT, **problem_responses(*ACCESS_ERRORS)})
    async def prometheus(caller: Reader) -> Response:
        """Metrics for Prometheus: reservations, links, switches, requests."""
        text = await executor.read(lane_of(caller), metrics.render)
        return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router


def _add_maintenance(router: APIRouter, service: Service, executor: RequestExecutor) -> None:
    async def put(caller: Caller, spans: Callable[[], frozenset[str]], in_service: bool) -> MaintainedBody:
        result = await executor.change(lane_of(caller), lambda: service.maintenance.set_in_service(spans(), in_service))
        return MaintainedBody(spans=list(result.spans), in_service=result.in_service, degraded=list(result.degraded))

    problems = problem_responses(*ACCESS_ERRORS, NotFound, InvalidRequest, LedgerUnavailable)

    @router.post("/v1/links/{link}/{action}", responses=problems)
    async def link(caller: Operator, link: str, action: Action) -> MaintainedBody:
        """Take a span out of service (`down`), after moving its traffic, or put it back (`up`).

        `link` is a span (`r1-r2`) or a directed link of it (`r1->r2`). Reservations without another path are degraded.
        """
        return await put(caller, lambda: spans_of_link(service.network, link), action == "up")

    @router.post("/v1/ducts/{duct}/{action}", responses=problems)
    async def duct(caller: Operator, duct: str, action: Action) -> MaintainedBody:
        """Take all spans of a duct out of service, or put them back."""
        return await put(caller, lambda: spans_of_duct(service.network, duct), action == "up")


def _add_events(router: APIRouter, executor: RequestExecutor, stream: EventStream) -> None:
    @router.get(
        "/v1/events",
        response_class=StreamingResponse,
        responses={200: _EVENTS, **problem_responses(*ACCESS_ERRORS, InvalidRequest, NotAvailable)},
    )
    async def events(caller: Reader, last_event_id: EventId = None) -> StreamingResponse:
        """Server-sent events: `reservation`, `bounds`, `violation`, `link`, `switch`, `reconcile`, `alarm`, `ledger`,
        `clock`, `gates`, `lightpath`, `impostor`.

        Events of reservations are those of the tenant; operators receive all. `missed`: events after Last-Event-ID
        were dropped from the buffer, or the controller has restarted.
        """
        if not executor.has_loop:
            raise NotAvailable("Inside ryu-manager there is no event stream; run paceline controller.")
        with executor.streams.admit(lane_of(caller)):
            pass  # answers 503 or 429 now; the stream is counted when it starts

        async def events_of_caller() -> AsyncIterator[str]:
            with executor.streams.admit(lane_of(caller)):
                async for text in stream.subscribe(last_event_id, lambda tenant: can_see(caller, tenant)):
                    yield text

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(events_of_caller(), media_type="text/event-stream", headers=headers)


_TEXT: dict[str, Any] = {
    "description": "Prometheus text format",
    "content": {"text/plain": {"schema": {"type": "string"}, "example": 'paceline_reservations{state="active"} 3.0\n'}},
}
_EVENTS: dict[str, Any] = {
    "description": "An endless stream of events",
    "content": {"text/event-stream": {"schema": {"type": "string"}, "example": examples.EVENTS}},
}
