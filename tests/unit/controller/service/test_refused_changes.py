"""A change that is refused leaves all bounds exactly as they were; one that is made leaves nothing once it is over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.admission.latency_limits import exceeds_limits
from controller.calculus.network_bounds import Bound
from controller.domain.lightpath import lightpath_id
from controller.domain.network import network_from_map
from controller.domain.reservation import Flow, Match, Requirement, Reservation
from controller.errors import LatencyNotMet, SwitchRefused
from controller.optical.defragmentation import LightpathMove
from controller.service.requests import ReservationSpec
from controller.service.reservation_service import Service
from controller.storage.ledger import Ledger
from machine.polling import wait_until
from tests.unit.controller.simulated_switches import ConfirmingSwitches, running_service
from topologies.map_file.loader import load_map

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


def test_a_change_that_a_switch_fails_leaves_every_promise_once_it_is_undone() -> None:
    """Undoing it is the opposite change, beside what was sent meanwhile: bounds stay higher, but below every limit."""
    switches = ConfirmingSwitches()
    with running_service(Ledger("sqlite://", "pair"), switches=switches) as service:
        before = flows(10_000, ("edge1", Requirement(1000, 18_028)), ("edge2", Requirement(2_000_000, 9014)))
        neighbour, _ = service.reserve(ReservationSpec("test", "lab", 600.0, before)).result(10)
        spec = ReservationSpec("test", "lab", 600.0, flows(10_003, ("edge2", AS_PROMISED)))
        promised, _ = service.reserve(spec).result(10)
        switches.failures = 1
        with pytest.raises(SwitchRefused):
            service.modify(neighbour.id, None, flows(10_010, ("edge1", Requirement(100_000, 9014))))
        service._state.wait_until_drained()
        with service._state.lock:
            service._state.purge()
            live = service._state.store.live
            bound, (placement,) = live.current_bounds(promised)["f0"], promised.placements
        assert not exceeds_limits(placement, bound), (bound, placement.promised_latency_us)
        assert live.get(neighbour.id) == service._state.store.published[neighbour.id]


def test_a_lightpath_that_may_not_take_another_route_leaves_the_bounds() -> None:
    waves = load_map("waves")
    links = tuple(replace(link, length_km=1000.0) if "r6" in link.ends else link for link in waves.links)
    network = network_from_map(replace(waves, links=links))
    service = Service(network, ConfirmingSwitches(network), Ledger("sqlite://", "waves"))
    service.start()
    try:
        wait_until(lambda: service.queries.switches_up() == len(network.switches))
        spec = ReservationSpec("test", "lab", 600.0, flows(10_000, ("edge1", SMALL)))
        neighbour, _ = service.reserve(spec).result(10)
        service.modify(neighbour.id, None, flows(10_001, ("edge1", SMALL), ("edge1", SMALL)))
        spec = ReservationSpec("test", "lab", 600.0, flows(10_003, ("edge2", AS_PROMISED)))
        promised, _ = service.reserve(spec).result(10)
        service._state.wait_until_drained()
        before = promised.placements[0].lightpaths[0]
        nodes = ("r1", "r6", "r5")
        assert before.nodes != nodes
        after = replace(before, id=lightpath_id(nodes, before.first_slot, before.width), nodes=nodes)
        users = (neighbour.id, promised.id)
        move = LightpathMove(before, after, users)
        with service._state.lock:
            service._state.purge()
            store = service._state.store
            live, calendar = store.live, store.calendar
            befores = [store.published[name] for name in users]
            bounds = [live.current_bounds(each) for each in befores]
            with pytest.raises(LatencyNotMet, match="as promised"):
                service._migrator._begin(move, befores)
            assert [store.live.current_bounds(each) for each in befores] == bounds
            assert store.calendar is calendar
            assert not store.is_draining(promised.id)
    finally:
        service.stop()
