"""/quality-on-demand/v1: QoS sessions, each a reservation whose lease is the duration."""

from __future__ import annotations

from math import ceil

from fastapi import APIRouter, Response

from controller.api.camara.bodies import (
    LONGEST_DURATION_S,
    CreateSession,
    ExtendSessionDuration,
    RetrieveByDevice,
    SessionInfo,
)
from controller.api.camara.context import Camara, ResourceId, error_responses
from controller.api.camara.errors import CamaraError
from controller.api.camara.mapping import host_of, is_of, require_profile, require_sink, session_spec
from controller.api.middleware.concurrency import lane_of
from controller.api.routes.dependencies import Reader, Reserver
from controller.api.schemas.serializers import utc_time
from controller.security.access import Caller, can_see
from controller.service.qos_sessions import Kind, QosSession

KIND: Kind = "session"


def session_routes(camara: Camara) -> APIRouter:
    """The routes of Quality on Demand."""
    router = APIRouter(tags=["QoS Sessions"])
    _add_changing(router, camara)
    _add_reading(router, camara)
    return router


def _add_changing(router: APIRouter, camara: Camara) -> None:
    offer = camara.offer

    @router.post("/sessions", status_code=201, response_model_exclude_none=True,
                 responses=error_responses(400, 404, 409, 413, 422))
    async def create_session(caller: Reserver, body: CreateSession) -> SessionInfo:
        """Reserve what the profile states between a device and an application server, for the duration."""
        sink = require_sink(offer.delivery, body)
        profile = require_profile(offer, body, "QUALITY_ON_DEMAND")
        reservation = await camara.reserve(caller, session_spec(offer, profile, body, caller.tenant))
        return _info(camara, await camara.record(caller, KIND, reservation, body, sink))

    @router.delete("/sessions/{session_id}", status_code=204, responses=error_responses(400, 404))
    async def delete_session(caller: Reserver, session_id: ResourceId) -> Response:
        """End a session; it can no longer be read."""

        def work() -> None:
            session = camara.visible(caller, session_id, KIND)
            if session.reservation_id is not None:
                camara.service.release(session.reservation_id)
            camara.sessions.remove(session_id)

        await camara.executor.change(lane_of(caller), work)
        return Response(status_code=204)

    @router.post("/sessions/{session_id}/extend", response_model_exclude_none=True,
                 responses=error_responses(400, 404, 409, 413))
    async def extend_session(caller: Reserver, session_id: ResourceId, body: ExtendSessionDuration) -> SessionInfo:
        """Lengthen an available session, at most to the longest duration of its profile."""

        def work() -> SessionInfo:
            return _info(camara, _extended(camara, caller, session_id, body.requestedAdditionalDuration))

        return await camara.executor.renew(lane_of(caller), work)


def _extended(camara: Camara, caller: Caller, session_id: str, additional_s: int) -> QosSession:
    session = camara.visible(caller, session_id, KIND)
    reservation = camara.sessions.reservation(session)
    if reservation is None or session.status != "AVAILABLE" or session.started_at_s is None:
        message = f"The session is {session.status}; only one that is AVAILABLE can be extended."
        raise CamaraError(409, "QUALITY_ON_DEMAND.SESSION_EXTENSION_NOT_ALLOWED", message)
    profile = camara.offer.profile(session.request["qosProfile"])
    longest_s = LONGEST_DURATION_S if profile is None else min(LONGEST_DURATION_S, profile.duration_range_s[1])
    until_s = min(reservation.expires_at_s + additional_s, session.started_at_s + longest_s)
    if until_s > reservation.expires_at_s:
        camara.service.modify(reservation.id, until_s - camara.clock(), None)
    return session


def _add_reading(router: APIRouter, camara: Camara) -> None:
    @router.get("/sessions/{session_id}", response_model_exclude_none=True, responses=error_responses(400, 404))
    async def get_session(caller: Reader, session_id: ResourceId) -> SessionInfo:
        """A session with its status; for an hour also after its end."""
        return await camara.executor.read(
            lane_of(caller), lambda: _info(camara, camara.visible(caller, session_id, KIND))
        )

    @router.post("/retrieve-sessions", response_model_exclude_none=True, responses=error_responses(400, 404, 413, 422))
    async def retrieve_sessions(caller: Reader, body: RetrieveByDevice) -> list[SessionInfo]:
        """The sessions of a device."""
        network = camara.offer.network

        def work() -> list[SessionInfo]:
            host = host_of(network, body.device)
            found = [each for each in camara.sessions.all(KIND) if can_see(caller, each.tenant)]
            return [_info(camara, session) for session in found if is_of(network, host, session.request)]

        return await camara.executor.read(lane_of(caller), work)


def _info(camara: Camara, session: QosSession) -> SessionInfo:
    reservation, started_at_s = camara.sessions.reservation(session), session.started_at_s
    expires_at_s = session.ended_at_s if reservation is None else reservation.expires_at_s
    duration_s = session.duration_s
    if started_at_s is not None and expires_at_s is not None:
        duration_s = max(1, ceil(expires_at_s - started_at_s - 0.5))
    return SessionInfo.model_validate({
        **{name: fact for name, fact in session.request.items() if name in SessionInfo.model_fields},
        "sessionId": session.id,
        "duration": duration_s,
        "startedAt": None if started_at_s is None else utc_time(started_at_s),
        "expiresAt": None if expires_at_s is None else utc_time(expires_at_s),
        "qosStatus": session.status,
        "statusInfo": session.status_info,
    })
