"""What Prometheus reads: counted as it happens, and the network as it stands when it is asked.

A promise counts as violated when a reservation goes from active to degraded: the controller knows that it cannot be
kept any more. A drop at a reservation's meter is none: its sender sent more than was reserved (counted apart). What a
host sees arrive late the controller cannot know, and does not count.
"""

from __future__ import annotations

import threading
import time
from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from controller.domain.events import Installed, Reconciled, ReservationChanged, ServiceEvent
from controller.domain.reservation import State
from controller.service.queries import Queries

INSTALL_BUCKETS_S = (0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.06, 0.1, 0.25, 1, 5)


class Metrics:
    """The controller's own registry. Thread-safe."""

    def __init__(self, service: Queries) -> None:
        self._registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._degraded_since_s: dict[str, float] = {}
        ours = self._registry
        self._requests = Counter(
            "paceline_requests", "REST requests by route and status.", ["method", "route", "status"], registry=ours
        )
        self._seconds = Histogram(
            "paceline_request_seconds", "How long a REST request took to answer.", ["method", "route"], registry=ours
        )
        self._install = Histogram(
            "paceline_install_seconds",
            "From a decision to the last switch's confirmation.",
            buckets=INSTALL_BUCKETS_S,
            registry=ours,
        )
        self._reconciled = Counter(
            "paceline_reconcile_entries",
            "Entries found missing, wrong (both put right) or foreign (left alone) when a switch was read back.",
            ["switch", "kind"],
            registry=ours,
        )
        self._violations = Counter(
            "paceline_promise_violations", "Reservations that went from active to degraded.", registry=ours
        )
        self._degraded = Counter(
            "paceline_degraded_seconds", "Time reservations have been degraded, all together.", registry=ours
        )
        self._dropped = Counter(
            "paceline_meter_dropped_packets",
            "Packets dropped at reservations' own meters: their senders sent more than was reserved.",
            ["switch"],
            registry=ours,
        )
        self._unaudited = Counter(
            "paceline_audit_write_failures",
            "Requests that were answered although the audit log could not be written.",
            registry=ours,
        )
        self._registry.register(_Standing(service))
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """All of it in Prometheus' text format."""
        self._count_degraded_time()
        return generate_latest(self._registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request has been answered."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def unaudited(self) -> None:
        """A request is answered that could not be written into the audit log."""
        self._unaudited.inc()

    def dropped(self, switch: str, packets: int) -> None:
        """A reservation's meter has dropped so many more packets."""
        self._dropped.labels(switch).inc(packets)

    def hear(self, event: ServiceEvent) -> None:
        """Count what the service tells."""
        if isinstance(event, Installed):
            self._install.observe(event.seconds)
        elif isinstance(event, Reconciled):
            for kind in ("missing", "wrong", "foreign"):
                self._reconciled.labels(event.switch, kind).inc(getattr(event, kind))
        elif isinstance(event, ReservationChanged):
            self._hear_state(event.reservation.id, event.reservation.state)

    def _hear_state(self, name: str, state: State) -> None:
        with self._lock:
            since_s = self._degraded_since_s.get(name)
            if state is State.DEGRADED and since_s is None:
                self._degraded_since_s[name] = time.monotonic()
                self._violations.inc()
            elif state is not State.DEGRADED and since_s is not None:
                self._degraded.inc(time.monotonic() - since_s)
                del self._degraded_since_s[name]

    def _count_degraded_time(self) -> None:
        with self._lock:
            now_s = time.monotonic()
            for name, since_s in self._degraded_since_s.items():
                self._degraded.inc(now_s - since_s)
                self._degraded_since_s[name] = now_s


class _Standing(Collector):
    """How reservations, links and switches stand, read when Prometheus asks."""

    def __init__(self, service: Queries) -> None:
        self._service = service

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that registering it reads nothing."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Called by the registry."""
        states = Tally(reservation.state for reservation in self._service.reservations())
        reservations = GaugeMetricFamily(
            "paceline_reservations", "Live reservations, and ended ones still listed, by state.", labels=["state"]
        )
        for state in State:
            reservations.add_metric([str(state)], states[state])
        yield reservations
        snapshot = self._service.snapshot()
        up = GaugeMetricFamily("paceline_switch_up", "Whether it is connected and in step.", labels=["switch"])
        for switch in snapshot.network.switches:
            up.add_metric([switch.name], switch.name in snapshot.switches_up)
        yield up
        yield GaugeMetricFamily("paceline_complaints", "Things not as the map says.", len(snapshot.complaints))
        names = ("up", "capacity_bps", "reservable_bps", "promised_bps", "free_bps")
        families = {
            name: GaugeMetricFamily(f"paceline_link_{name}", f"Of a directed link: {name}.", labels=["link"])
            for name in names
        }
        for link in snapshot.network.links.values():
            promised_bps = snapshot.bookings.reserved_bps(link.name, snapshot.now_s)
            free_bps = link.reservable_bps - promised_bps
            values = (link.name not in snapshot.down, link.capacity_bps, link.reservable_bps, promised_bps, free_bps)
            for name, value in zip(names, values, strict=True):
                families[name].add_metric([link.name], float(value))
        yield from families.values()
