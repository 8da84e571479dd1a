"""/qos-booking/v0.1: QoS bookings, each a reservation with a start and an end."""

from __future__ import annotations

from fastapi import APIRouter, Response

from controller.api.camara.bodies import BookingInfo, CreateBooking, RetrieveByDevice
from controller.api.camara.context import Camara, ResourceId, error_responses
from controller.api.camara.mapping import booking_spec, host_of, is_of, require_profile, require_sink
from controller.api.middleware.concurrency import lane_of
from controller.api.routes.dependencies import Reader, Reserver
from controller.api.schemas.serializers import utc_time
from controller.domain.reservation import Reservation
from controller.errors import FlowInUse, Refused
from controller.security.access import can_see
from controller.service.qos_sessions import Kind, QosSession

KIND: Kind = "booking"


def booking_routes(camara: Camara) -> APIRouter:
    """The routes of QoS Booking."""
    router = APIRouter(tags=["Device QoS Booking"])
    _add_changing(router, camara)
    _add_reading(router, camara)
    return router


def _add_changing(router: APIRouter, camara: Camara) -> None:
    offer = camara.offer

    @router.post("/device-qos-bookings", status_code=201, response_model_exclude_none=True,
                 responses=error_responses(400, 404, 409, 413, 422))
    async def create_booking(caller: Reserver, body: CreateBooking) -> BookingInfo:
        """Book what the profile states, from the start for the duration; a refusal is a booking that is UNAVAILABLE."""
        sink = require_sink(offer.delivery, body)
        profile = require_profile(offer, body, "QOS_BOOKING")
        spec = booking_spec(offer, profile, body, caller.tenant, camara.clock())
        reservation: Reservation | None
        try:
            reservation = await camara.reserve(caller, spec)
        except FlowInUse:
            raise
        except Refused:
            reservation = None
        return _info(await camara.record(caller, KIND, reservation, body, sink))

    @router.delete("/device-qos-bookings/{booking_id}", status_code=204, responses=error_responses(400, 404))
    async def delete_booking(caller: Reserver, booking_id: ResourceId) -> Response:
        """End a booking; it can be read for another hour."""

        def work() -> None:
            booking = camara.visible(caller, booking_id, KIND)
            if booking.reservation_id is not None:
                camara.service.release(booking.reservation_id)

        await camara.executor.change(lane_of(caller), work)
        return Response(status_code=204)


def _add_reading(router: APIRouter, camara: Camara) -> None:
    @router.get("/device-qos-bookings/{booking_id}", response_model_exclude_none=True,
                responses=error_responses(400, 404))
    async def get_booking(caller: Reader, booking_id: ResourceId) -> BookingInfo:
        """A booking with its status; for an hour also after its end."""
        return await camara.executor.read(lane_of(caller), lambda: _info(camara.visible(caller, booking_id, KIND)))

    @router.post("/retrieve-device-qos-bookings", response_model_exclude_none=True,
                 responses=error_responses(400, 404, 413, 422))
    async def retrieve_bookings(caller: Reader, body: RetrieveByDevice) -> list[BookingInfo]:
        """The bookings of a device, at most the last hundred."""
        network = camara.offer.network

        def work() -> list[BookingInfo]:
            host = host_of(network, body.device)
            found = [each for each in camara.sessions.all(KIND) if can_see(caller, each.tenant)]
            return [_info(booking) for booking in found if is_of(network, host, booking.request)][-100:]

        return await camara.executor.read(lane_of(caller), work)


def _info(booking: QosSession) -> BookingInfo:
    return BookingInfo.model_validate({
        **{name: fact for name, fact in booking.request.items() if name in BookingInfo.model_fields},
        "bookingId": booking.id,
        "duration": booking.duration_s,
        "startedAt": None if booking.started_at_s is None else utc_time(booking.started_at_s),
        "status": booking.status,
        "statusInfo": booking.status_info,
    })
