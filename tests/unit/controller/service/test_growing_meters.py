"""What a change makes of meters is in what it promises: those of its own flows and of their neighbours at the port."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.admission.latency_limits import exceeds_limits
from controller.calculus.network_bounds import Bound
from controller.domain.reservation import Flow, Match, Requirement, Reservation
from controller.errors import LatencyNotMet
from controller.service.requests import ReservationSpec
from controller.service.reservation_service import Service
from controller.storage.ledger import Ledger
from tests.unit.controller.simulated_switches import running_service

LARGE, SMALL = Requirement(1000, 20_000), Requirement(1000, 9014)
AS_PROMISED = replace(SMALL, bound_slack=0.0)


def flow(name: str, source: str, port: int, requirement: Requirement, destination: str = "cloud") -> Flow:
    return Flow(name, source, destination, Match("udp", port, 7800), requirement)


def reserved(service: Service, *flows: Flow) -> Reservation:
    reservation, _ = service.reserve(ReservationSpec("test", "lab", 600.0, flows)).result(10)
    return reservation


def drained(service: Service, reservation: Reservation) -> dict[str, Bound]:
    """The bounds of a reservation once nothing that was changed is in the network."""
    service._state.wait_until_drained()
    with service._state.lock:
        service._state.purge()
        return service._state.store.live.current_bounds(reservation)


def keeps_limits(service: Service, reservation: Reservation) -> bool:
    bounds = drained(service, reservation)
    return not any(exceeds_limits(placement, bounds[placement.flow.name]) for placement in reservation.placements)


def test_a_flow_under_another_name_is_promised_a_bound_with_the_meter_that_its_former_self_makes_it_need() -> None:
    with running_service(Ledger("sqlite://", "pair")) as service:
        before = reserved(service, flow("f0", "edge2", 10_000, LARGE))
        renamed = flow("f0", "edge1", 10_001, AS_PROMISED), flow("f1", "edge2", 10_002, SMALL)
        assert keeps_limits(service, service.modify(before.id, None, renamed))


def test_a_flow_to_another_host_is_promised_a_bound_beside_what_it_sent_to_the_first() -> None:
    with running_service(Ledger("sqlite://", "pair")) as service:
        before = reserved(service, flow("f0", "edge2", 10_000, LARGE, "edge1"))
        after = service.modify(before.id, None, (flow("f0", "edge2", 10_001, replace(LARGE, bound_slack=0.0)),))
        assert keeps_limits(service, after)


def test_the_meters_of_neighbours_at_its_port_that_grow_are_in_the_promise() -> None:
    with running_service(Ledger("sqlite://", "pair")) as service:
        neighbour = reserved(service, flow("f0", "edge2", 9000, Requirement(20_000_000, 9014)))
        before = reserved(service, flow("f0", "edge2", 10_000, replace(LARGE, burst_bytes=200_000), "edge1"))
        bursts = service._state.store.live.meter_bursts(neighbour.id)
        large = Requirement(1000, 200_000, bound_slack=0.0)
        after = service.modify(before.id, None, (flow("f0", "edge2", 10_001, large),))
        assert service._state.store.live.meter_bursts(neighbour.id)["f0"] > bursts["f0"]
        assert keeps_limits(service, after)


def test_a_limit_that_grown_meters_exceed_refuses_the_change_and_nothing_has_changed() -> None:
    def renamed(limit_us: float | None) -> tuple[Flow, Flow]:
        limited = replace(SMALL, max_latency_us=limit_us)
        return flow("f0", "edge1", 10_001, limited), flow("f1", "edge2", 10_002, SMALL)

    with running_service(Ledger("sqlite://", "pair")) as service:
        alone = reserved(service, *renamed(None))
        least_us = drained(service, alone)["f0"].accumulated_latency_us
        service.release(alone.id)
        before = reserved(service, flow("f0", "edge2", 10_000, LARGE))
        after = service.modify(before.id, None, renamed(None))
        most_us = drained(service, after)["f0"].accumulated_latency_us
        assert most_us > least_us + 100
        service.release(after.id)
        before = reserved(service, flow("f0", "edge2", 10_000, LARGE))
        drained(service, before)
        live, calendar = service._state.store.live, service._state.store.calendar
        with pytest.raises(LatencyNotMet) as refusal:
            service.modify(before.id, None, renamed((least_us + most_us) / 2))
        assert refusal.value.facts["flow"] == "f0"
        assert service._state.store.live is live
        assert service._state.store.calendar is calendar
        assert keeps_limits(service, service.modify(before.id, None, renamed(most_us + 1)))
