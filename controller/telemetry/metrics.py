"""Prometheus metrics: counters of events, and gauges of the network read at the time of the scrape.

A promise counts as violated when a reservation goes from active to degraded, the state in which the controller knows
that it no longer holds. Packets dropped by a reservation's meter are counted apart: their sender exceeded the reserved
rate. Late arrival at a host is unknown to the controller and not counted.
"""

from __future__ import annotations

import threading
import time
from collections import Counter as Multiset
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from controller.caches import cache_uses
from controller.domain.events import (
    ClockStepped,
    LightpathMoved,
    ReservationChanged,
    ReservationInstalled,
    ServiceEvent,
    SwitchReconciled,
)
from controller.domain.reservation import State
from controller.service.queries import Queries

LINK_GAUGES = {
    "up": "Whether the directed link is up.",
    "capacity_bps": "Capacity of the directed link.",
    "reservable_bps": "The most that reservations may take of the directed link.",
    "promised_bps": "Bandwidth reserved now on the directed link.",
    "free_bps": "Bandwidth that can still be reserved now on the directed link.",
}
INSTALL_BUCKETS_S = (0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.06, 0.1, 0.25, 1, 5)


class Metrics:
    """Metrics of one controller in a registry of its own. Thread-safe."""

    def __init__(self, service: Queries) -> None:
        self._registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._degraded_since_s: dict[str, float] = {}
        self._counters: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        """Of requests, by method, route and status."""
        registry = self._registry
        self._requests = Counter(
            "paceline_requests", "REST requests by route and status.", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "paceline_request_seconds", "Response time of REST requests.", ["method", "route"], registry=registry
        )
        self._install = Histogram(
            "paceline_install_seconds",
            "Time from the admission decision to the confirmation of the last switch.",
            buckets=INSTALL_BUCKETS_S,
            registry=registry,
        )
        self._reconciled = Counter(
            "paceline_reconcile_entries",
            "Entries that were missing, wrong (both repaired) or foreign (not touched) when a switch was read back.",
            ["switch", "kind"],
            registry=registry,
        )
        self._violations = Counter(
            "paceline_promise_violations", "Reservations that went from active to degraded.", registry=registry
        )
        self._degraded = Counter(
            "paceline_degraded_seconds", "Total time of all reservations in the state degraded.", registry=registry
        )
        self._dropped = Counter(
            "paceline_meter_dropped_packets",
            "Packets dropped by meters of reservations: the senders exceeded the reserved rates.",
            ["switch"],
            registry=registry,
        )
        self._fragments = Counter(
            "paceline_fragments",
            "IP fragments between hosts with a reservation, which passed its meter and its mark.",
            ["switch"],
            registry=registry,
        )
        self._audit_failures = Counter(
            "paceline_audit_write_failures",
            "Requests that were answered although the audit log could not be written.",
            registry=registry,
        )
        self._moves = Counter(
            "paceline_lightpath_moves", "Lightpaths moved to other channels.", ["cause"], registry=registry
        )
        self._clock_steps = Counter("paceline_clock_steps", "Steps of the wall clock.", registry=registry)
        self._registry.register(_StateCollector(service))
        self._registry.register(_CacheCollector())
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        self._count_degraded_time()
        return generate_latest(self._registry)

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        labels = method, route, status
        counters = self._counters.get(labels)
        if counters is None:
            of_route = self._seconds.labels(method, route)
            counters = self._counters[labels] = self._requests.labels(method, route, str(status)), of_route
        counters[0].inc()
        counters[1].observe(seconds)

    def count_audit_failure(self) -> None:
        """Count a request that could not be written to the audit log."""
        self._audit_failures.inc()

    def count_dropped(self, switch: str, packets: int) -> None:
        """Count packets that meters of reservations on this switch have dropped."""
        self._dropped.labels(switch).inc(packets)

    def count_fragments(self, switch: str, packets: int) -> None:
        """Count fragments that hosts with reservations have sent to this switch."""
        self._fragments.labels(switch).inc(packets)

    def on_event(self, event: ServiceEvent) -> None:
        """Count an event of the service."""
        if isinstance(event, ReservationInstalled):
            self._install.observe(event.seconds)
        elif isinstance(event, SwitchReconciled):
            for kind in ("missing", "wrong", "foreign"):
                self._reconciled.labels(event.switch, kind).inc(getattr(event, kind))
        elif isinstance(event, ClockStepped):
            self._clock_steps.inc()
        elif isinstance(event, LightpathMoved):
            self._moves.labels(event.cause).inc()
        elif isinstance(event, ReservationChanged):
            self._on_state(event.reservation.id, event.reservation.state)

    def _on_state(self, reservation_id: str, state: State) -> None:
        with self._lock:
            since_s = self._degraded_since_s.get(reservation_id)
            if state is State.DEGRADED and since_s is None:
                self._degraded_since_s[reservation_id] = time.monotonic()
                self._violations.inc()
            elif state is not State.DEGRADED and since_s is not None:
                self._degraded.inc(time.monotonic() - since_s)
                del self._degraded_since_s[reservation_id]

    def _count_degraded_time(self) -> None:
        with self._lock:
            now_s = time.monotonic()
            for reservation_id, since_s in self._degraded_since_s.items():
                self._degraded.inc(now_s - since_s)
                self._degraded_since_s[reservation_id] = now_s


class _StateCollector(Collector):
    """Gauges of reservations, links and switches, read at the time of the scrape."""

    def __init__(self, service: Queries) -> None:
        self._service = service

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registration does not read the service."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Read the gauges; called by the registry."""
        states = Multiset(reservation.state for reservation in self._service.published())
        reservations = GaugeMetricFamily(
            "paceline_reservations",
            "Live reservations, and ended ones that are still listed, by state.",
            labels=["state"],
        )
        for state in State:
            reservations.add_metric([str(state)], states[state])
        yield reservations
        snapshot = self._service.snapshot()
        up = GaugeMetricFamily("paceline_switch_up", "Whether the switch is connected and in sync.", labels=["switch"])
        for switch in snapshot.network.switches:
            up.add_metric([switch.name], switch.name in snapshot.switches_up)
        yield up
        yield GaugeMetricFamily(
            "paceline_complaints", "Differences between the network and the map.", len(snapshot.complaints)
        )
        ledger = self._service.ledger_status()
        writable, unrecorded = float(ledger.failing_since_s is None), float(ledger.unrecorded)
        yield GaugeMetricFamily("paceline_ledger_writable", "Whether the ledger can be written.", writable)
        yield GaugeMetricFamily(
            "paceline_ledger_unrecorded", "Changes of reservations that the ledger does not have yet.", unrecorded
        )
        families = {
            name: GaugeMetricFamily(f"paceline_link_{name}", description, labels=["link"])
            for name, description in LINK_GAUGES.items()
        }
        for link in snapshot.network.links.values():
            promised_bps = snapshot.calendar.reserved_bps(link.name, snapshot.now_s)
            free_bps = link.reservable_bps - promised_bps
            values = (link.name not in snapshot.down, link.capacity_bps, link.reservable_bps, promised_bps, free_bps)
            for family, value in zip(families.values(), values, strict=True):
                family.add_metric([link.name], float(value))
        yield from families.values()


class _CacheCollector(Collector):
    """What the caches of the process hold, read at the time of the scrape."""

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the caches are known later."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Read the caches; called by the registry."""
        gauges = [
            GaugeMetricFamily("paceline_cache_entries", "Entries of a cache.", labels=["cache"]),
            GaugeMetricFamily("paceline_cache_bytes", "Estimated bytes of its entries.", labels=["cache"]),
            GaugeMetricFamily("paceline_cache_max_bytes", "Bytes beyond which entries are dropped.", labels=["cache"]),
        ]
        counters = [
            CounterMetricFamily("paceline_cache_hits", "Look-ups that found an entry.", labels=["cache"]),
            CounterMetricFamily("paceline_cache_misses", "Look-ups that found none.", labels=["cache"]),
        ]
        for use in cache_uses():
            for gauge, value in zip(gauges, (use.entries, use.bytes, use.max_bytes), strict=True):
                gauge.add_metric([use.name], value)
            for counter, value in zip(counters, (use.hits, use.misses), strict=True):
                counter.add_metric([use.name], value)
        yield from (*gauges, *counters)
