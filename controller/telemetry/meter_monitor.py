"""Polls the meters of reservations: dropped packets mean that a sender exceeds its reserved rate. And fragments."""

from __future__ import annotations

import logging
import threading
from collections.abc import Set

from controller.domain.reservation import Reservation
from controller.service.queries import Queries
from controller.service.state import INSTALLED
from controller.telemetry.event_stream import EventStream
from controller.telemetry.fragment_monitor import FragmentMonitor
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
        self._fragments = FragmentMonitor(service, metrics, stream)
        self._stopping = threading.Event()
        self._told: dict[tuple[str, str, int], int] = {}
        """Dropped packets told so far, by reservation, switch and meter."""
        self._installed_before: Set[str] = frozenset()
        self._last_id = ""

    def run(self) -> None:
        """Poll until `stop` is called."""
        while not self._stopping.wait(self._poll_interval_s):
            for poll in (self.poll, self._fragments.poll):
                try:
                    poll()
                except Exception:
                    # Reservations do not depend on it; the next poll reads the same counters again.
                    log.exception("counters: poll failed")

    def stop(self) -> None:
        """Stop polling."""
        self._stopping.set()

    def poll(self) -> None:
        """Report the meters of ended flows, and read those of the next BATCH reservations in the order of their ids."""
        for ended in self._service.pop_ended_meters():
            self._tell(ended.reservation, ended.switch, ended.meter_id, ended.counts.dropped_packets)
            if not ended.is_suspended:
                self._told.pop((ended.reservation.id, ended.switch, ended.meter_id), None)
        installed = {found.id: found for found in self._service.published() if found.state in INSTALLED}
        # The deletion of an ended flow's meter may be confirmed as late as the next poll but one.
        for key in [key for key in self._told if key[0] not in installed.keys() | self._installed_before]:
            del self._told[key]
        self._installed_before = installed.keys()
        ids = sorted(installed)
        following = [reservation_id for reservation_id in ids if reservation_id > self._last_id] or ids
        for reservation_id in following[:BATCH]:
            self._last_id = reservation_id
            self._read(installed[reservation_id])

    def _read(self, reservation: Reservation) -> None:
        for switch, meters in self._service.meters(reservation).items():
            for meter in meters:
                self._tell(reservation, switch, meter.entry.meter_id, meter.dropped_packets)

    def _tell(self, reservation: Reservation, switch: str, meter_id: int, dropped_packets: int) -> None:
        """Report what a meter has dropped since it was told last."""
        key = reservation.id, switch, meter_id
        new = dropped_packets - self._told.get(key, 0)
        if new <= 0:
            return
        self._told[key] = dropped_packets
        self._metrics.count_dropped(switch, new)
        packets = "1 packet was" if new == 1 else f"{new} packets were"
        sentence = f"{packets} dropped at {switch}: the sender exceeds the reserved rate."
        head = {"id": reservation.id, "version": reservation.version, "tenant": reservation.tenant}
        facts = {"cause": "sent_too_much", "reason": sentence, "switch": switch, "packets": new}
        self._stream.publish("violation", {**head, **facts}, reservation.tenant)
