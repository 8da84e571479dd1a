"""Reservations over REST: ask, hold, commit, look, change, release; and what would be promised."""

from __future__ import annotations

import hashlib
import time
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Request, Response

from controller import errors
from controller.admission.admission import Rejected
from controller.api.middleware.concurrency import RequestExecutor
from controller.api.routes.dependencies import QuotaTracker, Reader, Reserver, redacted
from controller.api.routes.reserve import ReserveHandler
from controller.api.schemas import examples
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
from controller.service.requests import ReservationSpec
from controller.service.reservation_service import Service
from controller.storage.ledger import IdempotencyKey

IdempotencyKeyHeader = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[!-~]([ -~]*[!-~])?$",
        description="The same key and body within a day get the first answer again.",
        examples=["5f3c9a52-round-7"],
    ),
]
ReservationId = str

ONE_RESERVATION_ERRORS: ErrorTypes = (*ACCESS_ERRORS, errors.NotFound, errors.InvalidRequest)


def reservation_routes(
    service: Service, executor: RequestExecutor, quotas: QuotaTracker, promise: ReserveHandler
) -> APIRouter:
    """The routes under /v1/reservations, and /v1/quotes."""
    router = APIRouter(tags=["reservations"])
    _add_creating(router, service, executor, promise)
    _add_reading(router, service, executor)
    _add_changing(router, service, executor, quotas)
    return router


def _add_creating(router: APIRouter, service: Service, executor: RequestExecutor, promise: ReserveHandler) -> None:
    repeats = (errors.KeyReused, errors.InProgress)
    refusals: ErrorTypes = (
        *ACCESS_ERRORS,
        *BODY_ERRORS,
        *ADMISSION_ERRORS,
        *SWITCH_ERRORS,
        errors.QuotaExceeded,
        *repeats,
    )
    replayed = {"description": "`true`: this is an earlier answer.", "schema": {"type": "string"}}

    @router.post(
        "/v1/reservations",
        status_code=201,
        responses={201: {"headers": {"Idempotency-Replayed": replayed}}, **problem_responses(*refusals)},
    )
    async def reserve(
        caller: Reserver,
        wanted: Annotated[ReservationRequest, Body(openapi_examples=examples.RESERVATION_REQUESTS)],
        request: Request,
        response: Response,
        idempotency_key: IdempotencyKeyHeader = None,
    ) -> ReservationBody:
        """Reserve all flows or none; answered when every switch on the paths has confirmed."""
        repeat = None
        if idempotency_key is not None:
            digest = hashlib.sha256(wanted.model_dump_json().encode()).hexdigest()
            repeat = IdempotencyKey(caller.tenant, idempotency_key, digest)
        reservation, again = await promise(caller, wanted, repeat, None)
        request.state.reservation = reservation.id
        if again:
            response.headers["Idempotency-Replayed"] = "true"
        return reservation_body(reservation)

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
        """What POST /v1/reservations would promise, or how fast these volumes can go together; nothing is reserved."""
        if isinstance(question, TransfersQuestion):
            return await executor.read(caller.tenant, _quoted_transfers, service, caller, question)
        asked = question.to_spec(caller.tenant, time.time())
        return await executor.read(caller.tenant, _quoted, service, caller, asked)


def _quoted_transfers(service: Service, caller: Caller, question: TransfersQuestion) -> QuotedTransfers:
    if question.instead_of is not None:
        require_visible(caller, service.reservation(question.instead_of))
    volumes = [Volume(each.name, each.source, each.destination, each.transfer_bytes) for each in question.transfers]
    common = service.quote_transfers(volumes, question.instead_of)
    flows = [
        QuotedTransfer(
            name=each.name, path=list(each.path), rate_bps=each.rate_bps, transfer_ms=round(each.transfer_ms, 3)
        )
        for each in common.quotes
    ]
    links = [PathLink(link=link, free_bps=free_bps) for link, free_bps in common.free_bps.items()]
    return QuotedTransfers(
        transfer_ms=round(common.transfer_ms, 3), flows=flows, links=links, bottleneck=common.bottleneck
    )


def _quoted(service: Service, caller: Caller, asked: ReservationSpec) -> QuotedFlows | QuotedRefusal:
    decision = service.quote(asked)
    if isinstance(decision, Rejected):
        problem: Any = problem_of(redacted(service, caller, decision.error))
        return QuotedRefusal(admitted=False, problem=problem)
    return QuotedFlows(admitted=True, flows=[placed_flow(placement) for placement in decision.placements])


def _add_reading(router: APIRouter, service: Service, executor: RequestExecutor) -> None:
    @router.get("/v1/reservations", responses=problem_responses(*ACCESS_ERRORS, errors.InvalidRequest))
    async def reservations(caller: Reader, state: State | None = None) -> ReservationList:
        """One's own live reservations and those that ended not long ago, oldest first; for operators everybody's."""

        def work() -> ReservationList:
            seen = [each for each in service.reservations(state) if can_see(caller, each.tenant)]
            return ReservationList(reservations=[reservation_body(each) for each in seen])

        return await executor.read(caller.tenant, work)

    @router.get("/v1/reservations/{reservation_id}", responses=problem_responses(*ONE_RESERVATION_ERRORS))
    async def reservation(caller: Reader, reservation_id: ReservationId) -> ReservationDetail:
        """A reservation with its meters' and entries' counters, read from the switches now."""

        def work() -> ReservationDetail:
            found = require_visible(caller, service.reservation(reservation_id))
            counters = counters_body(service.network, found, *service.counters(found))
            return ReservationDetail(**dict(reservation_body(found)), counters=counters)

        return await executor.read(caller.tenant, work)


def _add_changing(router: APIRouter, service: Service, executor: RequestExecutor, quotas: QuotaTracker) -> None:
    of_one = (*ONE_RESERVATION_ERRORS, errors.NotLive, *SWITCH_ERRORS)

    @router.patch(
        "/v1/reservations/{reservation_id}",
        responses=problem_responses(*of_one, *BODY_ERRORS, *ADMISSION_ERRORS, errors.QuotaExceeded),
    )
    async def modify(
        caller: Reserver,
        reservation_id: ReservationId,
        change: Annotated[ReservationChange, Body(openapi_examples=examples.CHANGES)],
    ) -> ReservationBody:
        """Renew the lease and, with `flows`, change what is reserved; on any refusal it stays as it was."""
        flows = None if change.flows is None else tuple(flow.to_flow() for flow in change.flows)

        def work() -> Reservation:
            require_visible(caller, service.reservation(reservation_id))
            if flows is None:
                return service.modify(reservation_id, change.lease_s, None)
            with quotas.charge(caller, flows, instead_of=reservation_id):
                return service.modify(reservation_id, change.lease_s, flows)

        return reservation_body(await executor.change(caller.tenant, work))

    @router.post(
        "/v1/reservations/{reservation_id}/commit",
        responses=problem_responses(*of_one, errors.NotHeld, *ADMISSION_ERRORS),
    )
    async def commit(caller: Reserver, reservation_id: ReservationId) -> ReservationBody:
        """Turn what is held into a promise; answered when every switch has confirmed. Safe to repeat."""

        def work() -> Reservation:
            require_visible(caller, service.reservation(reservation_id))
            return service.commit(reservation_id)

        return reservation_body(await executor.change(caller.tenant, work))

    @router.delete("/v1/reservations/{reservation_id}", responses=problem_responses(*ONE_RESERVATION_ERRORS))
    async def release(caller: Reserver, reservation_id: ReservationId) -> ReservationBody:
        """Release it; one that has already ended is answered as it ended."""

        def work() -> Reservation:
            require_visible(caller, service.reservation(reservation_id))
            return service.release(reservation_id)

        return reservation_body(await executor.change(caller.tenant, work))
