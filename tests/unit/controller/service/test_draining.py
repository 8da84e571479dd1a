"""A flow that has ended or shrunk counts in the bounds until its packets have left the network."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace

import pytest

from controller.admission.admission import Admitted
from controller.dataplane.meter_tokens import MeterCounts
from controller.dataplane.southbound import ChangesByDatapath, Pause
from controller.domain.reservation import Flow, Match, Requirement, Reservation
from controller.errors import Refused
from controller.service.requests import ReservationSpec
from controller.service.reservation_service import Service
from controller.storage.ledger import Ledger
from machine.polling import wait_until
from tests.unit.controller.simulated_switches import PAIR, ConfirmingSwitches

BURST_BYTES = 500_000


class UsedSwitches(ConfirmingSwitches):
    """Switches whose meters have passed `passed_bytes` when they are deleted."""

    passed_bytes = 0

    def apply(self, stages: Iterable[ChangesByDatapath | Pause], timeout_s: float) -> Future[None]:
        return super().apply(self._counted(stages), timeout_s)

    def _counted(self, stages: Iterable[ChangesByDatapath | Pause]) -> Iterator[ChangesByDatapath | Pause]:
        for stage in stages:
            yield stage
            for change in () if isinstance(stage, Pause) else [each for listed in stage.values() for each in listed]:
                if change.kind == "delete_meter" and change.tokens is not None:
                    change.tokens.before = MeterCounts(1, self.passed_bytes, 0, 0)


@pytest.fixture
def switches() -> UsedSwitches:
    return UsedSwitches()


@pytest.fixture
def service(switches: UsedSwitches) -> Iterator[Service]:
    running = Service(PAIR, switches, Ledger("sqlite://", "pair"))
    running.start()
    wait_until(lambda: running.queries.switches_up() == len(PAIR.switches))
    yield running
    running.stop()


def requested(port: int, source: str, rate_bps: int, burst_bytes: int, max_latency_us: float | None = None) -> Flow:
    return Flow("up", source, "cloud", Match("udp", port, 7800), Requirement(rate_bps, burst_bytes, max_latency_us))


def reserve(service: Service, flow: Flow) -> Reservation:
    return service.reserve(ReservationSpec("test", "public", 60.0, (flow,))).result(30)[0]


def large(port: int = 7810) -> Flow:
    return requested(port, "edge2", 5_000_000, BURST_BYTES)


def with_neighbour(service: Service) -> Reservation:
    """A large flow, and a neighbour whose limit holds beside one such flow but not beside two."""
    first = reserve(service, large())
    alone = reserve(service, requested(7820, "edge1", 30_000_000, 50_000))
    bound_us = alone.placements[0].accumulated_latency_us
    service.release(alone.id)
    reserve(service, requested(7821, "edge1", 30_000_000, 50_000, 1.1 * bound_us))
    with pytest.raises(Refused):
        reserve(service, large(7811))
    return first


def test_a_flow_takes_the_place_of_another_when_its_packets_have_left(service: Service, switches: UsedSwitches) -> None:
    first = with_neighbour(service)
    switches.passed_bytes = 1500
    service.release(first.id)
    snapshot = service.queries.snapshot()
    assert snapshot.calendar.reserved_bps("s1->s2", snapshot.now_s) == 30_000_000, "the bandwidth is free at once"
    drained_s = service._state.store.drained_s()
    assert drained_s is not None
    assert time.monotonic() < drained_s < time.monotonic() + 1
    reserve(service, large(7811))
    assert time.monotonic() >= drained_s


def test_a_quote_tells_what_a_request_gets(service: Service, switches: UsedSwitches) -> None:
    first = with_neighbour(service)
    switches.passed_bytes = 1500
    service.release(first.id)
    quote = service.queries.quote(ReservationSpec("test", "public", 60.0, (large(7811),)))
    assert isinstance(quote, Admitted)


def test_a_flow_that_has_sent_nothing_gives_its_place_at_once(service: Service) -> None:
    first = with_neighbour(service)
    service.release(first.id)
    assert service._state.store.drained_s() is None
    reserve(service, large(7811))


def test_a_smaller_burst_counts_when_the_larger_has_left(service: Service) -> None:
    first = with_neighbour(service)
    service.modify(first.id, None, (requested(7810, "edge2", 5_000_000, 50_000),))
    drained_s = service._state.store.drained_s()
    assert drained_s is not None
    reserve(service, requested(7811, "edge2", 5_000_000, BURST_BYTES - 50_000))
    assert time.monotonic() >= drained_s


def test_a_refusal_beside_draining_flows_is_final_when_they_have_left(
    service: Service, switches: UsedSwitches
) -> None:
    first = with_neighbour(service)
    reserve(service, requested(7812, "edge2", 1_000_000, 30_000))
    switches.passed_bytes = 1500
    service.release(first.id)
    with pytest.raises(Refused):
        reserve(service, requested(7811, "edge2", 5_000_000, 3 * BURST_BYTES))
    assert service._state.store.drained_s() is None


def test_rates_that_flows_exchange_leave_room_for_the_next_exchange(service: Service) -> None:
    """Their sum is near the capacity: what each may have sent before does not fit beside what the other may now."""
    rates_bps = 45_000_000, 30_000_000

    def flows(first_bps: int, second_bps: int) -> tuple[Flow, ...]:
        return (
            replace(requested(7810, "edge1", first_bps, 50_000), name="first"),
            replace(requested(7811, "edge2", second_bps, 50_000), name="second"),
        )

    spec = ReservationSpec("test", "public", 60.0, flows(*rates_bps))
    made = service.reserve(spec).result(30)[0]
    began_s = time.monotonic()
    for number in range(6):
        service.modify(made.id, None, flows(*(rates_bps if number % 2 else rates_bps[::-1])))
    assert time.monotonic() - began_s < 5, "no exchange waits for the one before"
    bounds = service.queries.reservation(made.id)
    assert all(0 < placement.accumulated_latency_us < 1e6 for placement in bounds.placements)


def test_a_flow_that_replaces_another_on_its_path_is_counted_once(service: Service) -> None:
    first = with_neighbour(service)
    for port in (7812, 7813, 7810):
        service.modify(first.id, None, (large(port),))
    assert service._state.store.drained_s() is None


def test_the_bounds_of_a_flow_that_has_ended_are_not_followed(service: Service, switches: UsedSwitches) -> None:
    switches.passed_bytes = 1_000_000
    kept = reserve(service, requested(7820, "edge1", 5_000_000, 50_000)).id
    ended = reserve(service, large()).id
    wait_until(lambda: service._bound_updates.followed() == {kept, ended})
    service.release(ended)
    assert service._store.live.get(ended) is not None, "its packets may still be in the network"
    wait_until(lambda: service._bound_updates.followed() == {kept})
