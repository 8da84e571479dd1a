"""/v1/detnet: reservations in terms of RFC 9633 (DetNet YANG), as RFC 7951 JSON."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Annotated

from fastapi import APIRouter, Body, Response

from controller import errors
from controller.api.middleware.concurrency import RequestExecutor, lane_of
from controller.api.routes.dependencies import QuotaTracker, Reader, Reserver
from controller.api.schemas.detnet_bodies import DetnetBody, DetnetDocument
from controller.api.schemas.detnet_document import EXAMPLE, detnet_document
from controller.api.schemas.problem_details import (
    ACCESS_ERRORS,
    ADMISSION_ERRORS,
    BODY_ERRORS,
    SWITCH_ERRORS,
    problem_responses,
)
from controller.domain.reservation import Reservation
from controller.security.access import can_see
from controller.service.reservation_service import Service

OWNER, LEASE_S = "detnet", 86_400.0


def detnet_routes(service: Service, executor: RequestExecutor, quotas: QuotaTracker) -> APIRouter:
    """The routes of /v1/detnet."""
    router = APIRouter(tags=["detnet"])

    @router.get("/v1/detnet", responses=problem_responses(*ACCESS_ERRORS))
    async def show_detnet(caller: Reader) -> DetnetDocument:
        """All live flows of the tenant in terms of RFC 9633; for operators those of all tenants."""

        def work() -> DetnetDocument:
            found = service.queries.reservations()
            return _document(service, [each for each in found if each.is_live and can_see(caller, each.tenant)])

        return await executor.read(lane_of(caller), work)

    refusals = (*ACCESS_ERRORS, *BODY_ERRORS, *ADMISSION_ERRORS, *SWITCH_ERRORS, errors.QuotaExceeded)

    @router.post("/v1/detnet", status_code=201, responses=problem_responses(*refusals))
    async def reserve_detnet(
        caller: Reserver,
        response: Response,
        body: Annotated[DetnetBody, Body(openapi_examples={"camera": {"value": EXAMPLE}})],
    ) -> DetnetDocument:
        """Reserve all flows of a document of RFC 9633 for a day, or none; `Location` is the reservation."""
        spec = body.spec(service.network, caller.tenant, OWNER, LEASE_S)

        def charge() -> AbstractContextManager[None]:
            return quotas.charge(caller, spec.flows)

        reservation, _ = await executor.submit(lane_of(caller), service.reserve, spec, None, charge, None)
        response.headers["location"] = f"/v1/reservations/{reservation.id}"
        return _document(service, [reservation])

    return router


def _document(service: Service, reservations: list[Reservation]) -> DetnetDocument:
    return DetnetDocument.model_validate({"ietf-detnet:detnet": detnet_document(service.network, reservations)})
