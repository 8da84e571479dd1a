"""The controller in a process that somebody else started (ryu-manager), which says what it wants by Ryu's options."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from functools import partial

import click
from fastapi import FastAPI

from controller.api.app import create_app
from controller.api.middleware.concurrency import RunInThread
from controller.api.server import RestThread
from controller.api.wsgi import plain_call, wsgi_of
from controller.errors import StartError
from controller.openflow import ryu_app, ryu_runtime
from controller.openflow.switch_client import SwitchClient
from controller.runtime.environment import load_network, propagation_emulated
from controller.runtime.listen_address import Address, AddressType, check_near, listening
from controller.runtime.stores import Stores, open_stores
from controller.security.tls import TlsFiles, rest_tls
from controller.service.reservation_service import Service
from controller.telemetry.event_stream import EventStream
from controller.telemetry.meter_monitor import MeterMonitor
from controller.telemetry.metrics import Metrics

NO_STREAM = (
    "Inside ryu-manager there is no event stream: GET /v1/events answers 501. For events run "
    "`paceline controller MAP --ryu-app MODULE`, which takes other Ryu applications too."
)

log = logging.getLogger(__name__)


def assemble(front: SwitchClient, settings: ryu_app.OpenFlowSettings) -> ryu_runtime.Stop:
    """Build on the switches; ryu-manager calls it by name.

    Raises: SystemExit with a sentence.
    """
    try:
        if not settings.map_name:
            raise StartError("Name a map: PACELINE_MAP=metro ryu-manager controller.openflow.ryu_app", exit_code=2)
        network = load_network(settings.map_name)
        addresses = [AddressType()(address) for address in settings.listen]
        https = rest_tls(settings.tls_cert, settings.tls_key, "paceline_tls_cert and paceline_tls_key")
        books = open_stores(settings.ledger or None, network.name, settings.audit_days)
        if not books.tokens.is_configured:
            check_near(addresses)
        service = Service(network, front, books.ledger, forgets=(books.forget,))
    except (StartError, click.UsageError) as error:
        raise SystemExit(f"paceline: {error}") from error
    service.start()
    serve = _on_hub if settings.uses_greenlets else _in_thread
    rest = serve(service, books, addresses, https)
    urls = ", ".join(f"{'https' if https else 'http'}://{host}:{port}" for host, port in addresses)
    log.warning("Controller of %s: REST on %s (Swagger at /docs). %s", network.name, urls, books.access_summary)
    if settings.uses_greenlets:
        log.warning("%s", NO_STREAM)

    def stop() -> None:
        rest()
        service.stop()
        books.close()

    return stop


def _on_hub(service: Service, books: Stores, addresses: Sequence[Address], tls: TlsFiles | None) -> ryu_runtime.Stop:
    application = wsgi_of(_app(service, books, plain_call))
    try:
        stops = [ryu_runtime.serve_wsgi(application, host, port, tls) for host, port in addresses]
    except OSError as error:
        raise SystemExit(f"paceline: the REST interface cannot listen on {addresses}: {error}") from error

    def stop() -> None:
        for each in stops:
            each()

    return stop


def _in_thread(
    service: Service, books: Stores, addresses: Sequence[Address], tls: TlsFiles | None
) -> ryu_runtime.Stop:
    stack = contextlib.ExitStack()
    sockets = [stack.enter_context(listening(address)) for address in addresses]
    rest = RestThread(_app(service, books, None), sockets, tls)
    rest.start()

    def stop() -> None:
        rest.stop()
        stack.close()

    return stop


def _app(service: Service, books: Stores, beside: RunInThread | None) -> FastAPI:
    emulated = partial(propagation_emulated, service.network.name)
    stream, metrics = EventStream(), Metrics(service)
    MeterMonitor(service, metrics, stream).start()
    return create_app(service, emulated, beside, books.tokens, books.audit, stream, metrics)
