"""Flows that failures move: beside whose packets they are placed, and how long their own count on the former path."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from controller.domain.network import network_from_map
from controller.domain.reservation import Flow, Match, Requirement, Reservation, State
from controller.errors import SwitchDown
from controller.service.requests import ReservationSpec
from controller.service.reservation_service import Service
from controller.storage.ledger import Ledger
from machine.polling import wait_until
from tests.simulated_service import UsedSwitches
from topologies.map_file.loader import load_map

METRO = network_from_map(load_map("metro"))
MBPS = 1_000_000
LARGE_BYTES = 500_000


@pytest.fixture
def switches() -> UsedSwitches:
    return UsedSwitches(METRO)


@pytest.fixture
def service(switches: UsedSwitches) -> Iterator[Service]:
    running = Service(METRO, switches, Ledger("sqlite://", "metro"), verify_interval_s=3600.0)
    running.start()
    wait_until(lambda: running.queries.switches_up() == len(METRO.switches))
    yield running
    running.stop()


def reserve(
    service: Service, ends: tuple[str, str], port: int, rate_mbps: int, burst_bytes: int = 45_000,
    max_latency_us: float | None = None,
) -> Reservation:  # fmt: skip
    requirement = Requirement(rate_mbps * MBPS, burst_bytes, max_latency_us)
    flow = Flow("up", *ends, Match("udp", port, 7800), requirement)
    return service.reserve(ReservationSpec("test", "public", 60.0, (flow,))).result(30)[0]


def is_active(service: Service, reservation: Reservation) -> bool:
    service._lifecycle.process_pending(10)
    return service.queries.stored(reservation.id).state is State.ACTIVE


def has_drained(service: Service) -> bool:
    service._lifecycle.process_pending(10)
    return service._store.drained_s() is None


def suspended_by_a_cut(
    service: Service, switches: UsedSwitches, burst_bytes: int
) -> tuple[Reservation, Reservation]:
    """A flow from edge3 to edge1 that a failure has cut, and the one that has no room for it on the other path."""
    blocker = reserve(service, ("cloud", "load1"), 7800, 72)
    suspended = reserve(service, ("edge3", "edge1"), 7801, 5, burst_bytes)
    switches.set_span("r5", "r6", up=False)
    wait_until(lambda: not is_active(service, suspended) and has_drained(service), 10)
    return blocker, suspended


def test_a_suspended_flow_waits_for_the_packets_of_the_one_that_made_room(
    service: Service, switches: UsedSwitches
) -> None:
    """A neighbour's limit holds beside one large burst and not beside two; the first is still in the queues."""
    blocker, suspended = suspended_by_a_cut(service, switches, LARGE_BYTES)
    large = reserve(service, ("load1", "edge1"), 7802, 5, LARGE_BYTES)
    neighbour = reserve(service, ("edge2", "edge1"), 7803, 5)
    bound_us = neighbour.placements[0].accumulated_latency_us
    service.release(neighbour.id)
    reserve(service, ("edge2", "edge1"), 7804, 5, max_latency_us=1.1 * bound_us)
    service.release(blocker.id)
    wait_until(lambda: has_drained(service), 10)
    assert not is_active(service, suspended), "the neighbour's limit forbids it"

    service.release(large.id)
    drained_s = service._store.drained_s()
    assert drained_s is not None
    wait_until(lambda: is_active(service, suspended), 10)
    assert time.monotonic() >= drained_s


def test_what_was_sent_on_a_former_path_counts_until_it_has_left(service: Service, switches: UsedSwitches) -> None:
    moved = reserve(service, ("edge1", "cloud"), 7801, 15, LARGE_BYTES)
    assert moved.placements[0].path[1:-1] == ("r6", "r1", "r2")
    switches.set_span("r1", "r6", up=False)
    wait_until(lambda: service.queries.stored(moved.id).placements[0].path != moved.placements[0].path)
    assert is_active(service, moved)
    ((_, flows),) = [(name, each.flows) for name, each in service._store._draining.items()]
    (old,) = flows.values()
    assert old.route.path == ("r6", "r1", "r2", "cloud")
    assert old.burst_bytes >= LARGE_BYTES + 15e6 / 8 * moved.placements[0].accumulated_latency_us / 1e6
    wait_until(lambda: is_active(service, moved) and not service._store._draining, 10)


def test_a_commit_that_a_switch_prevents_leaves_nothing(service: Service, switches: UsedSwitches) -> None:
    """Its path is cut, and a switch on the other one is away: the reservation is held as it was."""
    flow = Flow("up", "edge1", "cloud", Match("udp", 7801, 7800), Requirement(5 * MBPS, 45_000))
    held = service.reserve(ReservationSpec("test", "public", 60.0, (flow,), hold=True)).result(30)[0]
    assert held.placements[0].path[1:-1] == ("r6", "r1", "r2")
    switches.set_span("r1", "r6", up=False)
    wait_until(lambda: (service._lifecycle.process_pending(10), service._switches.links.down)[1], 10)
    store = service._store
    booked = store.calendar.bookings_of(held.id)
    del switches.connections[METRO.nodes["r5"].datapath_id or 0]
    with pytest.raises(SwitchDown):
        service.commit(held.id)
    assert store.live.get(held.id) == store.published[held.id] == held
    assert store.calendar.bookings_of(held.id) == booked


def test_the_counters_of_a_suspended_flow_continue_when_it_returns(service: Service, switches: UsedSwitches) -> None:
    blocker, returning = suspended_by_a_cut(service, switches, 45_000)
    totals = service._switches.tracker.buckets.totals
    meter = returning.placements[0].switches[0], returning.placements[0].meter_id
    service.release(blocker.id)
    wait_until(lambda: is_active(service, returning), 10)
    assert totals.known(meter).passed_bytes == 1500, "what its first meter had passed"
    service.release(returning.id)
    service._lifecycle.process_pending(10)
    assert not totals._suspended
