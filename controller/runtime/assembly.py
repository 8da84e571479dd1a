"""Service, REST API and monitors on the switches of a process; as the active controller, or first as a standby."""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fastapi import FastAPI
from starlette.types import ASGIApp

from controller.api.app import QosOffer, create_app
from controller.api.server import STOP_TIMEOUT_S, RestServer
from controller.api.standby import ReplaceableApp, standby_app
from controller.calculus.network_bounds import Calibration
from controller.domain.network import Network
from controller.errors import LedgerUnavailable
from controller.openflow import ryu_runtime
from controller.openflow.roles import Role
from controller.openflow.switch_client import SwitchClient
from controller.runtime.environment import propagation_emulated
from controller.runtime.limits import Limits
from controller.runtime.stores import Stores
from controller.security.tls import TlsFiles
from controller.service.reservation_service import Service
from controller.storage.advisory_lock import Succession, Writer
from controller.storage.ledger import Ledger
from controller.telemetry.event_stream import EventStream
from controller.telemetry.meter_monitor import MeterMonitor
from controller.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

GC_THRESHOLD = 50_000
FULL_COLLECTION_EVERY = 10
"""Collections of the second generation before one of all; with 100, what is in reference cycles stayed for hours."""


@dataclass(frozen=True, slots=True)
class RestEndpoint:
    """Where and how the REST API is served."""

    sockets: list[socket.socket]
    tls: TlsFiles | None
    limits: Limits


@dataclass(frozen=True, slots=True)
class _Controller:
    """What the active controller is made of."""

    stores: Stores
    service: Service
    stream: EventStream
    meter_monitor: MeterMonitor
    app: FastAPI


class Assembly:
    """What runs in this process beside Ryu; `activate` or `stand_by` before use, `stop` after."""

    def __init__(
        self, network: Network, switches: SwitchClient, calibration: Calibration, rest: RestEndpoint, qos: QosOffer
    ) -> None:
        self._network, self._switches, self._calibration, self._rest = network, switches, calibration, rest
        self._qos = qos
        self._app: ReplaceableApp | None = None
        self._server: RestServer | None = None
        self._stop: list[Callable[[], None]] = []

    def activate(self, stores: Stores) -> None:
        """Build the service and serve its REST API."""
        self._activate(self._build(stores))

    def stand_by(self, stores: Stores, succession: Succession, ledger: Ledger) -> None:
        """Serve what a standby can, and become active when the succession comes.

        What the ledger tells until then is followed. `ledger`: for the requests that a standby answers.
        """
        controller, taken = self._build(stores), threading.Event()
        self._be_slave(succession.writer)
        app = standby_app(ledger, stores.tokens, lambda: _address(succession.writer), self._network.mtu_bytes)
        self._serve(app)
        tune_garbage_collector()
        following = threading.Thread(
            target=controller.service.follow, args=(taken,), name="paceline-follow", daemon=True
        )
        following.start()

        def run() -> None:
            try:
                if succession.wait(self._be_slave):
                    began_s = time.monotonic()
                    taken.set()
                    following.join()
                    self._activate(controller)
                    log.warning("active after %.2f s", time.monotonic() - began_s)
            except Exception as error:
                log.exception("the standby could not take over")
                ryu_runtime.fail(f"The standby could not take over: {error}")

        waiting = threading.Thread(target=run, name="paceline-standby", daemon=True)
        waiting.start()
        self._at_stop(ledger.close, self._stop_serving, lambda: following.join(STOP_TIMEOUT_S), taken.set)
        self._at_stop(lambda: waiting.join(STOP_TIMEOUT_S), succession.stop)

    def _build(self, stores: Stores) -> _Controller:
        """Build what the active controller is made of; nothing of it runs or uses the stores yet."""
        service = Service(
            self._network, self._switches, stores.ledger, self._calibration, retention_tasks=(stores.forget,),
            retention_interval_s=stores.retention_interval_s,
        )  # fmt: skip
        stream, metrics = EventStream(), Metrics(service.queries)
        is_emulated = partial(propagation_emulated, self._network.name)
        app = create_app(service, is_emulated, None, stores.tokens, stores.audit, stream, metrics, self._qos)
        return _Controller(stores, service, stream, MeterMonitor(service.queries, metrics, stream), app)

    def _activate(self, built: _Controller) -> None:
        """Start the controller and serve its REST API."""
        lock = built.stores.lock
        if lock.generation is not None:
            self._switches.set_role(Role(True, lock.generation))
        gc.disable()  # until all is loaded, which stays
        built.service.start()
        with contextlib.suppress(LedgerUnavailable):  # loaded with the first request then
            built.app.state.qos_sessions.load()
        built.meter_monitor.start()
        self._serve(built.app)
        tune_garbage_collector()
        self._at_stop(
            built.stores.close, built.service.stop, self._qos.delivery.stop, self._stop_serving, built.stream.close,
            built.meter_monitor.stop,
        )

    def stop(self) -> None:
        """Stop all of it, in the reverse order."""
        while self._stop:
            self._stop.pop()()

    def _at_stop(self, *functions: Callable[[], None]) -> None:
        self._stop += functions

    def _be_slave(self, writer: Writer | None) -> None:
        """Change nothing at the switches as long as another controller is active."""
        self._switches.set_role(Role(False, 0 if writer is None else writer.fence))

    def _serve(self, app: ASGIApp) -> None:
        if self._app is not None:
            self._app.app = app
            return
        self._app = ReplaceableApp(app)
        self._server = RestServer(
            self._app, self._rest.sockets, self._rest.tls, self._rest.limits.rest, ryu_runtime.fail
        )
        self._server.start()
        self._server.ready.wait(STOP_TIMEOUT_S)

    def _stop_serving(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None


def _address(writer: Writer | None) -> str | None:
    return None if writer is None else writer.address


def tune_garbage_collector() -> None:
    """Collect rarely: objects present at the start stay, and few of the later ones are in reference cycles."""
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, FULL_COLLECTION_EVERY)
    gc.enable()
