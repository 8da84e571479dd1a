"""A change that is refused leaves all bounds exactly as they were; one that is made leaves nothing once it is over."""

from __future__ import annotations

import pytest

from controller.admission.latency_limits import exceeds_limits
from controller.calculus.network_bounds import Bound
from controller.domain.reservation import Flow, Match, Requirement, Reservation
from controller.errors import LatencyNotMet
from controller.service.requests import ReservationSpec
from controller.storage.ledger import Ledger
from tests.unit.controller.simulated_switches import running_service

SMALL = Requirement(1000, 9014)
AS_PROMISED = Requirement(1000, 9014, bound_slack=0.0)


def flows(port: int, *chosen: tuple[str, Requirement]) -> tuple[Flow, ...]:
    return tuple(
        Flow(f"f{number}", source, "cloud", Match("udp", port + number, 7800), requirement)
        for number, (source, requirement) in enumerate(chosen)
    )


def test_a_change_refused_for_the_packets_of_the_flows_before_it_leaves_the_bounds() -> None:
    """The opposite of a change is no undoing of it: delays are lowered only where they exceed a tolerance."""
    with running_service(Ledger("sqlite://", "pair")) as service:
        spec = ReservationSpec("test", "lab", 600.0, flows(10_000, ("edge1", SMALL)))
        neighbour, _ = service.reserve(spec).result(10)
        service.modify(neighbour.id, None, flows(10_001, ("edge1", SMALL), ("edge1", SMALL)))
        spec = ReservationSpec("test", "lab", 600.0, flows(10_003, ("edge2", AS_PROMISED)))
        promised, _ = service.reserve(spec).result(10)
        store = service._state.store
        service._state.wait_until_drained()
        with service._state.lock:
            service._state.purge()
            live, calendar = store.live, store.calendar
            bounds = live.current_bounds(promised)
        with pytest.raises(LatencyNotMet, match="as promised"):
            service.modify(neighbour.id, None, flows(10_004, ("edge2", SMALL)))
        assert store.live.current_bounds(promised) == bounds
        assert store.calendar == calendar
        assert store.live.get(neighbour.id) == live.get(neighbour.id)


def test_a_changed_reservation_keeps_its_promise_when_its_former_flows_have_drained() -> None:
    with running_service(Ledger("sqlite://", "pair")) as service:

        def drained(reservation: Reservation) -> Bound:
            service._state.wait_until_drained()
            with service._state.lock:
                service._state.purge()
                return service._state.store.live.current_bounds(reservation)["f0"]

        spec = ReservationSpec("test", "lab", 600.0, flows(10_000, ("edge1", SMALL)))
        made, _ = service.reserve(spec).result(10)
        drained(made)
        drained(service.modify(made.id, None, flows(10_001, ("edge2", SMALL))))
        promised = service.modify(made.id, None, flows(10_002, ("edge1", Requirement(1001, 9014, bound_slack=0.0))))
        bound, (placement,) = drained(promised), promised.placements
        assert not exceeds_limits(placement, bound), (bound, placement.promised_latency_us)
