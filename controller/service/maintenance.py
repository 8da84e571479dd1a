"""Fibres and ducts taken out of service before somebody works on them, and put back: traffic leaves first.

What is out of service is in the ledger, so a controller that starts anew does not send traffic over it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from concurrent.futures import wait
from dataclasses import dataclass

from controller.dataplane.southbound import HUB_TIMEOUT_S
from controller.domain.reservation import State
from controller.service.lifecycle import LifecycleManager
from controller.service.state import ServiceState

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Maintained:
    """Spans that are now in service or not, and the reservations that are degraded now (ids)."""

    spans: tuple[str, ...]
    in_service: bool
    degraded: tuple[str, ...]


class Maintenance:
    """Which spans are out of service. Thread-safe."""

    def __init__(self, writer: ServiceState, caretaker: LifecycleManager) -> None:
        self._writer = writer
        self._caretaker = caretaker

    def put(self, spans: Collection[str], in_service: bool) -> Maintained:
        """Take spans out of service, or put them back, and return when the switches have moved the traffic.

        A switch that is away is told when it is back.

        Raises: ControllerError if the switches' side does not answer.
        """
        with self._writer.lock:
            before = self._writer.fabric.links.out_of_service
            closed = before - frozenset(spans) if in_service else before | frozenset(spans)
            self._writer.ledger.write_closed_spans(closed)
            self._writer.fabric.links.set_out_of_service(closed)
        log.warning("spans=%s in_service=%s", ",".join(sorted(spans)), in_service)
        wait(self._caretaker.catch_up(HUB_TIMEOUT_S), HUB_TIMEOUT_S)
        degraded = [each.id for each in self._writer.book.live() if each.state is State.DEGRADED]
        return Maintained(tuple(sorted(spans)), in_service, tuple(degraded))
