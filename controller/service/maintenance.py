"""Takes fibres and ducts out of service for maintenance, and back: traffic is moved off them first.

Spans out of service are stored in the ledger, so a restarted controller does not route traffic over them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from concurrent.futures import wait
from dataclasses import dataclass

from controller.dataplane.southbound import HUB_TIMEOUT_S
from controller.domain.reservation import State
from controller.service.lifecycle import LifecycleManager
from controller.service.state import ServiceState

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MaintenanceResult:
    """Spans whose service state was set, and the ids of the reservations that are degraded after it."""

    spans: tuple[str, ...]
    in_service: bool
    degraded: tuple[str, ...]


class Maintenance:
    """The spans out of service. Thread-safe."""

    def __init__(self, state: ServiceState, lifecycle: LifecycleManager) -> None:
        self._state = state
        self._lifecycle = lifecycle
        self._lock = threading.Lock()

    def set_in_service(self, spans: Collection[str], in_service: bool) -> MaintenanceResult:
        """Take spans out of service or back, and return when the switches have moved the traffic.

        A disconnected switch is updated when it reconnects.

        Raises: LedgerUnavailable; ControllerError if the lifecycle thread does not respond.
        """
        with self._lock:
            before = self._state.switches.links.out_of_service
            closed = before - frozenset(spans) if in_service else before | frozenset(spans)
            self._state.writer.write_closed_spans(closed, before)
            self._state.switches.links.set_out_of_service(closed)
        log.warning("spans=%s in_service=%s", ",".join(sorted(spans)), in_service)
        wait(self._lifecycle.process_pending(HUB_TIMEOUT_S), HUB_TIMEOUT_S)
        degraded = [each.id for each in self._state.store.published_live() if each.state is State.DEGRADED]
        return MaintenanceResult(tuple(sorted(spans)), in_service, tuple(degraded))
