"""Assembly of the REST application. Its contract is docs/rest-api.md.

Handlers are coroutines that pass blocking work to a `RequestExecutor`: worker threads under uvicorn, a direct call
where each request has its own greenlet (ryu-manager).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request

from controller.api.camara.apps import camara_apps
from controller.api.camara.context import Camara
from controller.api.camara.errors import CamaraAnswers
from controller.api.camara.mapping import Offer
from controller.api.camara.profiles import DEFAULT_PROFILES, OfferedProfile
from controller.api.middleware.authentication import AuthenticationMiddleware
from controller.api.middleware.body_limit import BodyLimit
from controller.api.middleware.concurrency import RequestExecutor, RunInThread
from controller.api.middleware.content_type import JsonContentType
from controller.api.middleware.head import HeadAsGet
from controller.api.middleware.lanes import RequestLanes
from controller.api.middleware.request_log import RequestLogMiddleware
from controller.api.openapi import DocumentedApp
from controller.api.routes.dependencies import QuotaTracker, redaction_of
from controller.api.routes.detnet import detnet_routes
from controller.api.routes.lightpaths import lightpath_routes
from controller.api.routes.network import network_routes
from controller.api.routes.operations import operation_routes
from controller.api.routes.reservations import reservation_routes
from controller.api.routes.reserve import reserve_handler
from controller.api.routes.reserve_fast_path import ReserveFastPath
from controller.api.routes.streams import stream_routes
from controller.api.routes.switches import switch_routes
from controller.api.schemas.problem_details import add_error_handlers
from controller.api.swagger_ui import add_swagger_ui
from controller.errors import ControllerError
from controller.security.audit import AuditLog
from controller.security.tokens import TokenStore
from controller.service.qos_sessions import QosSession, QosSessions
from controller.service.reservation_service import Service
from controller.service.streams import Streams
from controller.storage.ledger import IN_MEMORY
from controller.telemetry.audit_writer import AuditWriter
from controller.telemetry.event_stream import EventStream
from controller.telemetry.metrics import Metrics
from controller.telemetry.qos_events import tell_by
from controller.telemetry.sink_delivery import SinkDelivery

DESCRIPTION = """Reserve paths with a rate and a proven latency bound through a deterministic network.

A rate is in L2 bits per second (Ethernet header included, preamble and FCS not). A directed link is named `a->b`.
Errors are problem details (RFC 9457) with a stable `code`."""

NO_TELEMETRY = {"tracing": False, "metrics": False, "logs": False}
"""FastAPI's own; looking for its exporters would take 18 calls of each request. `Metrics` counts requests."""


@dataclass(frozen=True, slots=True)
class QosOffer:
    """What is offered over the APIs of CAMARA: the profiles, and who delivers events."""

    profiles: Sequence[OfferedProfile] = DEFAULT_PROFILES
    delivery: SinkDelivery = field(default_factory=SinkDelivery)


def create_app(
    service: Service,
    propagation_emulated: Callable[[], bool] = lambda: False,
    run_in_thread: RunInThread | None = None,
    tokens: TokenStore | None = None,
    audit: AuditLog | None = None,
    stream: EventStream | None = None,
    metrics: Metrics | None = None,
    qos: QosOffer | None = None,
) -> FastAPI:
    """Build the application on a running service. `run_in_thread`: given where there is no event loop.

    Without `tokens` clients at management addresses may do everything; without `audit` the audit log is in memory.
    """
    executor = RequestExecutor(run_in_thread)
    tokens, audit = tokens or TokenStore(IN_MEMORY), audit or AuditLog(IN_MEMORY, service.network.name)
    head: dict[str, Any] = {"title": "Paceline controller", "version": "1", "description": DESCRIPTION}
    hosts = [host.name for host in service.network.hosts]
    app = DocumentedApp(hosts, lambda: tokens.is_configured, **head, docs_url=None, redoc_url=None,
                        redirect_slashes=False, telemetry=NO_TELEMETRY)
    stream, metrics = stream or EventStream(), metrics or Metrics(service.queries)
    redaction = redaction_of(service.queries)
    stream.redact = redaction.reason
    for listener in (stream.on_event, metrics.on_event):
        service.queries.subscribe(listener)
    add_swagger_ui(app)
    quotas = QuotaTracker(service.queries)
    reserve = reserve_handler(service, executor, quotas)
    joint_audit = audit if audit.shares_database(service.ledger.engine) else None
    app.add_middleware(HeadAsGet)
    app.add_middleware(
        ReserveFastPath,
        reserve=reserve,
        audit=joint_audit,
        redaction=redaction,
        mtu_bytes=service.network.mtu_bytes,
    )
    app.add_middleware(JsonContentType)
    app.add_middleware(RequestLanes)
    app.add_middleware(BodyLimit)
    app.add_middleware(AuthenticationMiddleware, tokens=tokens, run_in_thread=executor.run_in_thread)
    app.add_middleware(CamaraAnswers)
    app.add_middleware(
        RequestLogMiddleware,
        metrics=metrics,
        audit_writer=AuditWriter(audit, executor.run_in_thread, executor.has_loop),
    )

    def redact(request: Request, error: ControllerError) -> ControllerError:
        return redaction.error(getattr(request.state, "caller", None), error)

    add_error_handlers(app, redact)
    app.include_router(reservation_routes(service, executor, quotas, reserve))
    app.include_router(detnet_routes(service, executor, quotas))
    app.include_router(stream_routes(service, Streams(service), executor, quotas))
    app.include_router(lightpath_routes(service, executor))
    app.include_router(network_routes(service.queries, executor, propagation_emulated, audit))
    app.include_router(switch_routes(service.queries, executor))
    app.include_router(operation_routes(service, executor, metrics, stream, audit))
    qos = qos or QosOffer()
    app.state.qos_sessions = _qos_sessions(service, qos.delivery)
    offer = Offer(service.network, qos.profiles, qos.delivery)
    camara = Camara(service, app.state.qos_sessions, offer, executor, quotas, time.time)
    for path, api in camara_apps(camara, redact).items():
        app.mount(path, api)
    return app


def _qos_sessions(service: Service, delivery: SinkDelivery) -> QosSessions:
    def save(session: QosSession) -> None:
        sessions.save(session)

    sessions = QosSessions(service, time.time, tell_by(delivery, time.time, save))
    return sessions
