"""Reads reservations' meters now and then: has a sender sent more than was reserved for it?"""

from __future__ import annotations

import logging
import threading

from controller.domain.reservation import Reservation
from controller.service.queries import Queries
from controller.service.state import INSTALLED
from controller.telemetry.event_stream import EventStream
from controller.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

PAUSE_S = 10.0
AT_ONCE = 25
"""Reservations read in one go; with more of them each is read less often, and the switches have no more to do."""


class MeterWatch(threading.Thread):
    """Tells the metrics, and the events as a `violation` of the sender's own side, what the meters have dropped."""

    def __init__(self, service: Queries, metrics: Metrics, stream: EventStream, pause_s: float = PAUSE_S) -> None:
        super().__init__(name="paceline-meters", daemon=True)
        self._service = service
        self._metrics = metrics
        self._stream = stream
        self._pause_s = pause_s
        self._stopping = threading.Event()
        self._seen: dict[tuple[str, str, int], int] = {}
        self._last = ""

    def run(self) -> None:
        """Read until told to stop."""
        while not self._stopping.wait(self._pause_s):
            try:
                self.look()
            except Exception:
                # Nothing depends on it; the next turn reads the same meters again.
                log.exception("meters: they cannot be read")

    def stop(self) -> None:
        """Read no more."""
        self._stopping.set()

    def look(self) -> None:
        """Read the next AT_ONCE reservations, by name, beginning anew after the last."""
        installed = {each.id: each for each in self._service.reservations() if each.state in INSTALLED}
        self._seen = {key: count for key, count in self._seen.items() if key[0] in installed}
        names = sorted(installed)
        following = [name for name in names if name > self._last] or names
        for name in following[:AT_ONCE]:
            self._last = name
            self._compare(installed[name])

    def _compare(self, reservation: Reservation) -> None:
        counters, _ = self._service.counters(reservation)
        for switch in counters:
            for meter in switch.meters:
                key = reservation.id, switch.switch, meter.entry.meter_id
                before = self._seen.get(key, 0)
                self._seen[key] = meter.dropped_packets
                # A switch that comes back empty counts from nought.
                more = meter.dropped_packets - before if meter.dropped_packets >= before else meter.dropped_packets
                if more:
                    self._tell(reservation, switch.switch, more)

    def _tell(self, reservation: Reservation, switch: str, packets: int) -> None:
        self._metrics.dropped(switch, packets)
        sentence = f"{packets} packets were dropped at {switch}: more was sent than is reserved."
        told = {"id": reservation.id, "version": reservation.version, "tenant": reservation.tenant}
        self._stream.publish("violation", {**told, "cause": "sent_too_much", "reason": sentence}, reservation.tenant)
