"""/v1/streams: streams in terms of IEEE 802.1Qcc; /v1/gates: the gate control lists of the time-aware ones."""

from __future__ import annotations

from contextlib import AbstractContextManager
from math import ceil
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path

from controller import errors
from controller.api.middleware.concurrency import RequestExecutor, lane_of
from controller.api.routes.dependencies import Operator, QuotaTracker, Reader, Reserver
from controller.api.schemas.patterns import STREAM_ID
from controller.api.schemas.problem_details import (
    ACCESS_ERRORS,
    ADMISSION_ERRORS,
    BODY_ERRORS,
    SWITCH_ERRORS,
    problem_responses,
)
from controller.api.schemas.serializers import utc_time
from controller.api.schemas.stream_bodies import (
    GateSchedule,
    InterfaceConfigurationBody,
    InterfaceIdAnswer,
    StatusInfoBody,
    StreamBody,
    StreamList,
    StreamStatus,
)
from controller.domain.path import link_names
from controller.domain.reservation import Reservation, State
from controller.errors import Refused, StreamError
from controller.security.access import Caller, can_see
from controller.service.requests import ReservationSpec
from controller.service.reservation_service import Service
from controller.service.streams import Streams
from controller.tsn.export import schedule_document, taprio_lines
from controller.tsn.gate_lists import gate_lists
from controller.tsn.requests import StreamRecord, StreamRequest
from controller.tsn.streams import FailureCode

CODES = {"no_path": FailureCode.INSUFFICIENT_BANDWIDTH, "no_disjoint_path": FailureCode.INSUFFICIENT_BANDWIDTH}
"""Failure codes for refusals that the standard's table does not name."""

StreamId = Annotated[str, Path(pattern=STREAM_ID, examples=["02-00-00-00-00-01:00-01"])]

EXAMPLE: dict[str, Any] = {
    "StreamID": {"MacAddress": "02-00-00-00-00-01", "UniqueID": 1},
    "Talker": {
        "EndStationInterfaces": [{"InterfaceName": "edge1"}],
        "DataFrameSpecification": {"IPv4-tuple": {"Protocol": 17, "SourcePort": 7801, "DestinationPort": 7800}},
        "TrafficSpecification": {
            "Interval": {"Numerator": 1, "Denominator": 50},
            "MaxFramesPerInterval": 1,
            "MaxFrameSize": 200,
            "TSpecTimeAware": {"EarliestTransmitOffset": 0, "LatestTransmitOffset": 19_000_000, "Jitter": 0},
        },
        "UserToNetworkRequirements": {"NumSeamlessTrees": 1, "MaxLatency": 20_000_000},
    },
    "Listeners": [{"EndStationInterfaces": [{"InterfaceName": "cloud"}]}],
}


def stream_routes(
    service: Service, streams: Streams, executor: RequestExecutor, quotas: QuotaTracker
) -> APIRouter:
    """The routes under /v1/streams, and /v1/gates."""
    router = APIRouter(tags=["streams"])
    _add_requesting(router, service, streams, executor, quotas)
    _add_reading(router, service, streams, executor)
    return router


def _add_requesting(
    router: APIRouter, service: Service, streams: Streams, executor: RequestExecutor, quotas: QuotaTracker
) -> None:
    refusals = (*ACCESS_ERRORS, *BODY_ERRORS, *ADMISSION_ERRORS, *SWITCH_ERRORS, errors.QuotaExceeded)

    @router.post(
        "/v1/streams",
        status_code=201,
        responses=problem_responses(*refusals, errors.StreamInUse, errors.NoSchedule),
    )
    async def request_stream(
        caller: Reserver,
        body: Annotated[StreamBody, Body(openapi_examples={"time_aware": {"value": EXAMPLE}})],
    ) -> StreamStatus:
        """Reserve a stream and, if its talker is time-aware, schedule its frames; nothing is kept after a refusal."""
        request = body.to_request(service.network)
        spec = ReservationSpec(request.stream_id, caller.tenant, body.lease_s, (request.flow,))

        def charge() -> AbstractContextManager[None]:
            return quotas.charge(caller, spec.flows)

        try:
            await executor.read(lane_of(caller), streams.claim, request.stream_id)
            try:
                reservation, _ = await executor.submit(lane_of(caller), service.reserve, spec, None, charge, None)
                record = await executor.change(lane_of(caller), streams.complete, request, reservation)
            finally:
                streams.give_up_claim(request.stream_id)
        except (Refused, StreamError) as error:
            add_status(service, request, error)
            raise
        return _status(service, record, reservation)

    @router.delete(
        "/v1/streams/{stream_id}",
        responses=problem_responses(*ACCESS_ERRORS, errors.NotFound, errors.InvalidRequest, errors.LedgerUnavailable),
    )
    async def release_stream(caller: Reserver, stream_id: StreamId) -> StreamStatus:
        """End a stream with its reservation and its windows; no other stream moves."""

        def work() -> StreamStatus:
            _visible(caller, streams, stream_id)
            return _status(service, *streams.release(stream_id))

        return await executor.change(lane_of(caller), work)


def _add_reading(router: APIRouter, service: Service, streams: Streams, executor: RequestExecutor) -> None:
    @router.get("/v1/streams", responses=problem_responses(*ACCESS_ERRORS, errors.LedgerUnavailable))
    async def list_streams(caller: Reader) -> StreamList:
        """All streams of the tenant with their state; for operators those of all tenants."""

        def work() -> StreamList:
            found = [pair for pair in streams.records() if can_see(caller, pair[1].tenant)]
            return StreamList(streams=[_status(service, *pair) for pair in found])

        return await executor.read(lane_of(caller), work)

    @router.get(
        "/v1/streams/{stream_id}",
        responses=problem_responses(*ACCESS_ERRORS, errors.NotFound, errors.InvalidRequest, errors.LedgerUnavailable),
    )
    async def show_stream(caller: Reader, stream_id: StreamId) -> StreamStatus:
        """One stream with its state, latency and the instants at which its talker has to send."""
        return await executor.read(
            lane_of(caller), lambda: _status(service, *_visible(caller, streams, stream_id))
        )

    @router.get("/v1/gates", responses=problem_responses(*ACCESS_ERRORS, errors.LedgerUnavailable))
    async def gates(caller: Operator) -> GateSchedule:
        """The gate control lists of all time-aware streams, as JSON and as tc commands. For operators."""

        def work() -> GateSchedule:
            schedule = streams.schedule()
            lists = gate_lists(streams.network, schedule)
            return GateSchedule(**schedule_document(schedule, lists), taprio=taprio_lines(lists))

        return await executor.read(lane_of(caller), work)


def _visible(caller: Caller, streams: Streams, stream_id: str) -> tuple[StreamRecord, Reservation]:
    record, reservation = streams.find(stream_id)
    if not can_see(caller, reservation.tenant):
        raise errors.NotFound(f"There is no stream {stream_id}.")
    return record, reservation


def add_status(service: Service, request: StreamRequest, error: Refused | StreamError) -> None:
    """Add to the problem what the standard answers for a stream that failed (§46.2.5)."""
    code = error.ieee8021q_failure_code or CODES.get(error.code, FailureCode.CANNOT_BE_SUPPORTED)
    bottleneck = error.facts.get("bottleneck")
    name = bottleneck.get("link") if isinstance(bottleneck, dict) else error.facts.get("link")
    link = service.network.links.get(str(name))
    failed = [] if link is None else [{"MacAddress": None, "InterfaceName": f"{link.source}-eth{link.source_port}"}]
    status = {"TalkerStatus": "Failed", "ListenerStatus": "Failed", "FailureCode": int(code)}
    error.facts = {**error.facts, "StreamID": request.stream_id, "StatusInfo": status, "FailedInterfaces": failed}


def _status(service: Service, record: StreamRecord, reservation: Reservation) -> StreamStatus:
    (placement,) = reservation.placements
    request, jitter_ns = record.request, 0 if record.request.time_aware is None else record.request.time_aware.jitter_ns
    holds = bool(record.frames) and not placement.suspended and link_names(placement.path) == record.links
    offsets = [frame.offset_ns + jitter_ns for frame in record.frames] if holds else []
    fallback_ns = ceil(placement.accumulated_latency_us * 1000)
    talker = service.network.nodes[request.talker]
    configuration = InterfaceConfigurationBody(
        InterfaceID=InterfaceIdAnswer(MacAddress=talker.mac, InterfaceName=f"{talker.name}-eth1"),
        TimeAwareOffset=offsets[0] if offsets else None,
        TimeAwareOffsets=offsets,
    )
    return StreamStatus(
        StreamID=request.stream_id,
        StatusInfo=_status_info(reservation, has_lost_schedule=bool(record.frames) and not holds),
        AccumulatedLatency=record.latency_ns if holds and record.latency_ns is not None else fallback_ns,
        InterfaceConfiguration=[configuration],
        FailedInterfaces=[],
        FallbackLatency=fallback_ns,
        scheduled=holds,
        reservation=reservation.id,
        expires_at=utc_time(reservation.expires_at_s),
    )


def _status_info(reservation: Reservation, has_lost_schedule: bool) -> StatusInfoBody:
    if not reservation.is_live:
        return StatusInfoBody(TalkerStatus="None", ListenerStatus="None", FailureCode=0)
    if any(placement.suspended for placement in reservation.placements):
        code = FailureCode.INSUFFICIENT_BANDWIDTH
    elif has_lost_schedule or reservation.state is State.DEGRADED:
        code = FailureCode.REPORTED_LATENCY_CHANGED
    else:
        return StatusInfoBody(TalkerStatus="Ready", ListenerStatus="Ready", FailureCode=0)
    return StatusInfoBody(TalkerStatus="Failed", ListenerStatus="Failed", FailureCode=int(code))
