"""Polls the meters of reservations: dropped packets mean that a sender exceeds its reserved rate."""

from __future__ import annotations

import logging
import threading

from controller.domain.reservation import Reservation
from controller.service.queries import Queries
from controller.service.state import INSTALLED
from controller.telemetry.event_stream import EventStream
from controller.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

POLL_INTERVAL_S = 10.0
BATCH = 25
"""Reservations read in one poll: with more of them each is read less often, and the load of switches is bounded."""


class MeterMonitor(threading.Thread):
    """Reports packets dropped by meters to the metrics and as `violation` events with cause `sent_too_much`."""

    def __init__(
        self, service: Queries, metrics: Metrics, stream: EventStream, poll_interval_s: float = POLL_INTERVAL_S
    ) -> None:
        super().__init__(name="paceline-meters", daemon=True)
        self._service = service
        self._metrics = metrics
        self._stream = stream
        self._poll_interval_s = poll_interval_s
        self._stopping = threading.Event()
        self._dropped: dict[tuple[str, str, int], int] = {}
        self._last_id = ""

    def run(self) -> None:
        """Poll until `stop` is called."""
        while not self._stopping.wait(self._poll_interval_s):
            try:
                self.poll()
            except Exception:
                # Reservations do not depend on it; the next poll reads the same meters again.
                log.exception("meters: poll failed")

    def stop(self) -> None:
        """Stop polling."""
        self._stopping.set()

    def poll(self) -> None:
        """Read the meters of the next BATCH reservations in the order of their ids, round robin."""
        reservations = self._service.reservations()
        installed = {found.id: found for found in reservations if found.state in INSTALLED}
        self._dropped = {key: count for key, count in self._dropped.items() if key[0] in installed}
        ids = sorted(installed)
        following = [reservation_id for reservation_id in ids if reservation_id > self._last_id] or ids
        for reservation_id in following[:BATCH]:
            self._last_id = reservation_id
            self._read(installed[reservation_id])

    def _read(self, reservation: Reservation) -> None:
        counters, _ = self._service.counters(reservation)
        for switch in counters:
            for meter in switch.meters:
                key = reservation.id, switch.switch, meter.entry.meter_id
                before = self._dropped.get(key, 0)
                self._dropped[key] = meter.dropped_packets
                # A switch that has restarted counts from zero.
                new = meter.dropped_packets - before if meter.dropped_packets >= before else meter.dropped_packets
                if new:
                    self._report(reservation, switch.switch, new)

    def _report(self, reservation: Reservation, switch: str, packets: int) -> None:
        self._metrics.count_dropped(switch, packets)
        sentence = f"{packets} packets were dropped at {switch}: the sender exceeds the reserved rate."
        head = {"id": reservation.id, "version": reservation.version, "tenant": reservation.tenant}
        self._stream.publish("violation", {**head, "cause": "sent_too_much", "reason": sentence}, reservation.tenant)
