"""The controller as an application inside ryu-manager, configured by Ryu's options.

Why this exists: sites that run ryu-manager already can add the controller to it with
`ryu-manager controller.openflow.ryu_app`. ryu-manager replaces threads with greenlets, and a blocking asyncio loop
would stop its hub, so uvicorn cannot serve the REST API there. The cost is three pieces: `_on_hub` below serves the
API with eventlet's WSGI server, `controller.api.wsgi` drives the ASGI application without an event loop, and
`RequestExecutor.has_loop` lets handlers block their greenlet. What needs a loop, the event stream, is answered 501.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from functools import partial

import click
from fastapi import FastAPI

from controller.api.app import create_app
from controller.api.middleware.concurrency import RunInThread
from controller.api.server import RestServer
from controller.api.wsgi import call_directly, wsgi_of
from controller.errors import StartError
from controller.openflow import ryu_app, ryu_runtime
from controller.openflow.switch_client import SwitchClient
from controller.runtime.environment import load_network, propagation_emulated
from controller.runtime.listen_address import Address, AddressType, listening_socket, require_management_addresses
from controller.runtime.stores import Stores, open_stores
from controller.security.tls import TlsFiles, rest_tls
from controller.service.reservation_service import Service
from controller.telemetry.event_stream import EventStream
from controller.telemetry.meter_monitor import MeterMonitor
from controller.telemetry.metrics import Metrics

NO_EVENT_STREAM = (
    "Inside ryu-manager there is no event stream: GET /v1/events answers 501. For events run "
    "`paceline controller MAP --ryu-app MODULE`, which runs other Ryu applications as well."
)

log = logging.getLogger(__name__)


def assemble(switch_client: SwitchClient, settings: ryu_app.OpenFlowSettings) -> ryu_runtime.Stop:
    """Build service and REST API on the switches; called by the Ryu application.

    Raises: SystemExit with the error message.
    """
    try:
        if not settings.map_name:
            raise StartError("No map is given: PACELINE_MAP=metro ryu-manager controller.openflow.ryu_app", exit_code=2)
        network = load_network(settings.map_name)
        addresses = [AddressType()(address) for address in settings.listen]
        https = rest_tls(settings.tls_cert, settings.tls_key, "paceline_tls_cert and paceline_tls_key")
        stores = open_stores(settings.ledger or None, network.name, settings.audit_days, settings.reservation_days)
        if not stores.tokens.is_configured:
            require_management_addresses(addresses)
        service = Service(network, switch_client, stores.ledger, retention_tasks=(stores.forget,))
    except (StartError, click.UsageError) as error:
        raise SystemExit(f"Error: {error}") from error
    service.start()
    serve = _on_hub if settings.uses_greenlets else _in_thread
    stop_rest = serve(service, stores, addresses, https)
    urls = ", ".join(f"{'https' if https else 'http'}://{host}:{port}" for host, port in addresses)
    log.warning("Controller of %s: REST on %s (Swagger at /docs). %s", network.name, urls, stores.access_summary)
    if settings.uses_greenlets:
        log.warning("%s", NO_EVENT_STREAM)

    def stop() -> None:
        stop_rest()
        service.stop()
        stores.close()

    return stop


def _on_hub(service: Service, stores: Stores, addresses: Sequence[Address], tls: TlsFiles | None) -> ryu_runtime.Stop:
    application = wsgi_of(_app(service, stores, call_directly))
    try:
        stops = [ryu_runtime.serve_wsgi(application, host, port, tls) for host, port in addresses]
    except OSError as error:
        raise SystemExit(f"Error: The REST API cannot listen on {addresses}: {error}") from error

    def stop() -> None:
        for stop_server in stops:
            stop_server()

    return stop


def _in_thread(
    service: Service, stores: Stores, addresses: Sequence[Address], tls: TlsFiles | None
) -> ryu_runtime.Stop:
    stack = contextlib.ExitStack()
    sockets = [stack.enter_context(listening_socket(address)) for address in addresses]
    server = RestServer(_app(service, stores, None), sockets, tls)
    server.start()

    def stop() -> None:
        server.stop()
        stack.close()

    return stop


def _app(service: Service, stores: Stores, run_in_thread: RunInThread | None) -> FastAPI:
    is_emulated = partial(propagation_emulated, service.network.name)
    stream, metrics = EventStream(), Metrics(service.queries)
    MeterMonitor(service.queries, metrics, stream).start()
    return create_app(service, is_emulated, run_in_thread, stores.tokens, stores.audit, stream, metrics)
