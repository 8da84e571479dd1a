"""/v1/reservations: reserve, hold, commit, read, modify, release; /v1/quotes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from math import ceil
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Body, Header, Query, Request, Response

from controller import errors
from controller.admission.admission import Rejected
from controller.api.middleware.concurrency import RequestExecutor, lane_of
from controller.api.routes.dependencies import QuotaTracker, Reader, Reserver, redaction_of
from controller.api.routes.reserve import ReserveHandler
from controller.api.schemas import examples
from controller.api.schemas.patterns import CURSOR, IDEMPOTENCY_KEY
from controller.api.schemas.problem_details import (
    ACCESS_ERRORS,
    ADMISSION_ERRORS,
    BODY_ERRORS,
    SWITCH_ERRORS,
    ErrorTypes,
    problem_of,
    problem_responses,
)
from controller.api.schemas.requests import QuoteRequest, ReservationChange, ReservationRequest, TransfersQuestion
from controller.api.schemas.reservation_responses import (
    PathLink,
    QuotedFlows,
    QuotedRefusal,
    QuotedTransfer,
    QuotedTransfers,
    ReservationBody,
    ReservationDetail,
    ReservationList,
)
from controller.api.schemas.serializers import counters_body, placed_flow, reservation_body
from controller.domain.reservation import Reservation, State
from controller.routing.coflow import Volume
from controller.security.access import Caller, can_see, require_visible
from controller.service.queries import PageKey
from controller.service.requests import ReservationSpec
from controller.service.reservation_service import Service
from controller.storage.ledger import IdempotencyKey

IdempotencyKeyHeader = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=IDEMPOTENCY_KEY,
        description="A request with the same key and body is answered with the first response for a day.",
        examples=["5f3c9a52-round-7"],
    ),
]
ReservationId = str

PAGE_LIMIT = 2000
"""The largest page, and the default: all that is listed while there are at most 1000 live reservations."""

ONE_RESERVATION_ERRORS: ErrorTypes = (
    *ACCESS_ERRORS, errors.NotFound, errors.InvalidRequest, errors.LedgerUnavailable,
)  # fmt: skip


def reservation_routes(
    service: Service, executor: RequestExecutor, quotas: QuotaTracker, handler: ReserveHandler
) -> APIRouter:
    """The routes under /v1/reservations, and /v1/quotes."""
    router = APIRouter(tags=["reservations"])
    _add_creating(router, service, executor, handler)
    _add_reading(router, service, executor)
    _add_changing(router, service, executor, quotas)
    return router


def _add_creating(router: APIRouter, service: Service, executor: RequestExecutor, handler: ReserveHandler) -> None:
    body_of = _body_of(service)
    key_errors = (errors.KeyReused, errors.InProgress)
    refusals: ErrorTypes = (
        *ACCESS_ERRORS,
        *BODY_ERRORS,
        *ADMISSION_ERRORS,
        *SWITCH_ERRORS,
        errors.QuotaExceeded,
        *key_errors,
    )
    replayed_header = {
        "description": "`true`: the response to an earlier request with the same key.",
        "schema": {"type": "string"},
    }

    @router.post(
        "/v1/reservations",
        status_code=201,
        responses={201: {"headers": {"Idempotency-Replayed": replayed_header}}, **problem_responses(*refusals)},
    )
    async def reserve(
        caller: Reserver,
        body: Annotated[ReservationRequest, Body(openapi_examples=examples.RESERVATION_REQUESTS)],
        request: Request,
        response: Response,
        idempotency_key: IdempotencyKeyHeader = None,
    ) -> ReservationBody:
        """Reserve all flows or none; answered when every switch on the paths has confirmed."""
        key = None
        if idempotency_key is not None:
            digest = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
            key = IdempotencyKey(caller.tenant, idempotency_key, digest)
        reservation, replayed = await handler(caller, body, key, None)
        request.state.reservation = reservation.id
        if replayed:
            response.headers["Idempotency-Replayed"] = "true"
        return body_of(caller, reservation)

    @router.post(
        "/v1/quotes",
        response_model_exclude_unset=True,
        responses={
            200: {"content": {"application/json": {"examples": examples.QUOTES}}},
            **problem_responses(
                *ACCESS_ERRORS, *BODY_ERRORS, errors.NotFound, errors.UnknownHost, errors.NoPath, errors.NoCapacity
            ),
        },
    )
    async def quote(
        caller: Reader, question: Annotated[QuoteRequest, Body(openapi_examples=examples.QUOTE_REQUESTS)]
    ) -> QuotedFlows | QuotedRefusal | QuotedTransfers:
        """What POST /v1/reservations would answer, or the shortest time for these transfers; nothing is reserved."""
        if isinstance(question, TransfersQuestion):
            return await executor.read(lane_of(caller), _quote_transfers, service, caller, question)
        spec = question.to_spec(caller.tenant, time.time())
        return await executor.read(lane_of(caller), _quote, service, caller, spec)


BodyOf = Callable[[Caller, Reservation], ReservationBody]


def _body_of(service: Service) -> BodyOf:
    """What a caller is answered about a reservation."""
    redaction, mtu_bytes = redaction_of(service.queries), service.network.mtu_bytes
    return lambda caller, found: reservation_body(redaction.reservation(caller, found), mtu_bytes)


def _quote_transfers(service: Service, caller: Caller, body: TransfersQuestion) -> QuotedTransfers:
    if body.instead_of is not None:
        require_visible(caller, service.queries.stored(body.instead_of))
    volumes = [Volume(flow.name, flow.source, flow.destination, flow.transfer_bytes) for flow in body.transfers]
    common = service.queries.quote_transfers(volumes, body.instead_of)
    flows = [
        QuotedTransfer(
            name=quote.name, path=list(quote.path), rate_bps=quote.rate_bps, transfer_ms=round(quote.transfer_ms, 3)
        )
        for quote in common.quotes
    ]
    links = [PathLink(link=link, free_bps=free_bps) for link, free_bps in common.free_bps.items()]
    return QuotedTransfers(
        transfer_ms=round(common.transfer_ms, 3),
        exact=common.is_exact,
        gap=ceil(common.gap * 1e4) / 1e4,
        flows=flows,
        links=links,
        bottleneck=common.bottleneck,
    )


def _quote(service: Service, caller: Caller, spec: ReservationSpec) -> QuotedFlows | QuotedRefusal:
    decision = service.queries.quote(spec)
    if isinstance(decision, Rejected):
        problem: Any = problem_of(redaction_of(service.queries).error(caller, decision.error))
        return QuotedRefusal(admitted=False, problem=problem)
    mtu_bytes = service.network.mtu_bytes
    return QuotedFlows(admitted=True, flows=[placed_flow(placed, mtu_bytes) for placed in decision.placements])


def _add_reading(router: APIRouter, service: Service, executor: RequestExecutor) -> None:
    body_of = _body_of(service)

    @router.get(
        "/v1/reservations",
        response_model=ReservationList,
        responses=problem_responses(*ACCESS_ERRORS, errors.InvalidRequest),
    )
    async def reservations(
        caller: Reader,
        state: State | None = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT, description="Reservations of a page.")] = PAGE_LIMIT,
        cursor: Annotated[str | None, Query(pattern=CURSOR, description="Where the page begins: see `next`.")] = None,
    ) -> Response:
        """The tenant's live and recently ended reservations, oldest first; all tenants' for operators.

        If there are more than `limit`, the answer has the path of the next page in `next`, and in the header Link.
        """

        def work() -> Response:
            after = None if cursor is None else _page_key(cursor)
            page, last = service.queries.page(state, lambda tenant: can_see(caller, tenant), limit, after)
            bodies = [body_of(caller, found) for found in page]
            if last is None:
                return _json(ReservationList(reservations=bodies).model_dump_json(exclude={"next"}))
            query = {"state": state} if state is not None else {}
            path = f"/v1/reservations?{urlencode({**query, 'limit': limit, 'cursor': f'{last[0]!r}_{last[1]}'})}"
            text = ReservationList(reservations=bodies, next=path).model_dump_json()
            return _json(text, {"Link": f'<{path}>; rel="next"'})

        return await executor.read(lane_of(caller), work)

    @router.get("/v1/reservations/{reservation_id}", responses=problem_responses(*ONE_RESERVATION_ERRORS))
    async def reservation(
        caller: Reader,
        reservation_id: ReservationId,
        counters: Annotated[bool, Query(description="False: without counters, and without asking switches.")] = True,
    ) -> ReservationDetail:
        """A reservation with the counters of its meters and flow entries, read from the switches now."""

        def work() -> ReservationDetail:
            found = require_visible(caller, service.queries.reservation(reservation_id))
            read = counters_body(service.network, found, *service.queries.counters(found)) if counters else None
            return ReservationDetail(**dict(body_of(caller, found)), counters=read)

        return await executor.read(lane_of(caller), work)


def _page_key(cursor: str) -> PageKey:
    created_at_s, _, reservation_id = cursor.partition("_")
    return float(created_at_s), reservation_id


def _json(text: str, headers: dict[str, str] | None = None) -> Response:
    return Response(text, media_type="application/json", headers=headers)


def _add_changing(router: APIRouter, service: Service, executor: RequestExecutor, quotas: QuotaTracker) -> None:
    body_of = _body_of(service)
    errors_of_change = (*ONE_RESERVATION_ERRORS, errors.NotLive, *SWITCH_ERRORS)

    @router.patch(
        "/v1/reservations/{reservation_id}",
        responses=problem_responses(*errors_of_change, *BODY_ERRORS, *ADMISSION_ERRORS, errors.QuotaExceeded),
    )
    async def modify(
        caller: Reserver,
        reservation_id: ReservationId,
        change: Annotated[ReservationChange, Body(openapi_examples=examples.CHANGES)],
    ) -> ReservationBody:
        """Renew the lease and, with `flows`, change the flows; after an error the reservation is unchanged."""
        flows = None if change.flows is None else tuple(flow.to_flow() for flow in change.flows)

        def work() -> Reservation:
            require_visible(caller, service.queries.stored(reservation_id))
            if flows is None:
                return service.modify(reservation_id, change.lease_s, None)
            with quotas.charge(caller, flows, instead_of=reservation_id):
                return service.modify(reservation_id, change.lease_s, flows)

        run = executor.renew if flows is None else executor.change
        return body_of(caller, await run(lane_of(caller), work))

    @router.post(
        "/v1/reservations/{reservation_id}/commit",
        responses=problem_responses(*errors_of_change, errors.NotHeld, *ADMISSION_ERRORS),
    )
    async def commit(caller: Reserver, reservation_id: ReservationId) -> ReservationBody:
        """Activate a held reservation; answered when every switch has confirmed.

        A second commit is refused (`not_held`) and changes nothing.
        """

        def work() -> Reservation:
            require_visible(caller, service.queries.stored(reservation_id))
            return service.commit(reservation_id)

        return body_of(caller, await executor.change(lane_of(caller), work))

    @router.delete("/v1/reservations/{reservation_id}", responses=problem_responses(*ONE_RESERVATION_ERRORS))
    async def release(caller: Reserver, reservation_id: ReservationId) -> ReservationBody:
        """Release a reservation. Idempotent: one that has ended is returned as it is."""

        def work() -> Reservation:
            require_visible(caller, service.queries.stored(reservation_id))
            return service.release(reservation_id)

        return body_of(caller, await executor.change(lane_of(caller), work))
