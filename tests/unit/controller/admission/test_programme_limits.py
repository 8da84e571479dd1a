"""Requirements whose limits are kept by linear programmes: admission, later reservations, restart, large networks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.admission.admission import Admitted, Rejected, Request, decide
from controller.admission.counter_offer import decide_with_offer
from controller.admission.limit_checks import MAY_BE_LOWER
from controller.admission.live_reservations import LiveReservations
from controller.booking.calendar import Calendar
from controller.calculus import programme_bounds
from controller.domain.network import network_from_map
from controller.domain.reservation import Flow, Match, Requirement, Reservation, State
from controller.errors import LatencyNotMet
from topologies.map_file.loader import load_map

METRO = network_from_map(load_map("metro"))
EDGES = ("edge1", "edge2", "edge3", "edge4")


def flow(name: str, source: str, limit_us: float | None = None, by_programmes: bool = True) -> Flow:
    requirement = Requirement(12_000_000, 45_000, max_latency_us=limit_us)
    if by_programmes:
        requirement = replace(requirement, analysis="linear_programme")
    return Flow(name, source, "cloud", Match("tcp", 7801 + EDGES.index(source), 7800), requirement)


def request(identity: str, *flows: Flow) -> Request:
    return Request(identity, 1, flows)


def reservation(identity: str, admitted: Admitted) -> Reservation:
    return Reservation(identity, int(identity[2:], 16), 1, "test", State.ACTIVE, 60, 0, 60, admitted.placements)


def decided(asked: Request, live: LiveReservations, calendar: Calendar) -> Admitted | Rejected:
    return decide(METRO, calendar, live, asked, 0.0)


@pytest.fixture
def others() -> tuple[LiveReservations, Calendar]:
    """Three edges send to the cloud."""
    admitted = decided(request("r-1", *(flow(f"{edge}-up", edge, by_programmes=False) for edge in EDGES[1:])),
                       LiveReservations(METRO), Calendar())  # fmt: skip
    assert isinstance(admitted, Admitted)
    return LiveReservations.of(METRO, [reservation("r-1", admitted)]), admitted.calendar


def bounds_us(live: LiveReservations, calendar: Calendar) -> tuple[float, float]:
    """The bounds of a further flow by linear programmes and by total-flow analysis."""
    told_us = []
    for by_programmes in (True, False):
        decision = decided(request("r-2", flow("up", "edge1", None, by_programmes)), live, calendar)
        assert isinstance(decision, Admitted)
        told_us.append(decision.placements[0].accumulated_latency_us)
    return told_us[0], told_us[1]


def test_a_limit_between_both_bounds_is_met_by_linear_programmes_only(
    others: tuple[LiveReservations, Calendar],
) -> None:
    smaller_us, larger_us = bounds_us(*others)
    assert smaller_us < 0.9 * larger_us
    limit_us = (smaller_us + larger_us) / 2
    refused = decided(request("r-2", flow("up", "edge1", limit_us, by_programmes=False)), *others)
    assert isinstance(refused, Rejected)
    assert isinstance(refused.error, LatencyNotMet)
    assert refused.error.detail.endswith(MAY_BE_LOWER)
    hopeless = decided(request("r-2", flow("up", "edge1", smaller_us / 20, by_programmes=False)), *others)
    assert isinstance(hopeless, Rejected)
    assert isinstance(hopeless.error, LatencyNotMet)
    assert MAY_BE_LOWER not in hopeless.error.detail
    admitted = decided(request("r-2", flow("up", "edge1", limit_us)), *others)
    assert isinstance(admitted, Admitted)
    assert admitted.placements[0].accumulated_latency_us == pytest.approx(smaller_us)


def admitted_beside(others: tuple[LiveReservations, Calendar], slack: float) -> tuple[LiveReservations, Calendar]:
    """A live flow whose limit only linear programmes keep, with this slack."""
    smaller_us, larger_us = bounds_us(*others)
    limit_us = smaller_us * (1 + slack)
    assert limit_us < larger_us
    admitted = decided(request("r-2", flow("up", "edge1", limit_us)), *others)
    assert isinstance(admitted, Admitted)
    return admitted.others.with_reservation(reservation("r-2", admitted)), admitted.calendar


def down(burst: int) -> Flow:
    requirement = Requirement(1_000_000, burst)
    return Flow("more", "edge2", "cloud", Match("udp", 9000, 9000), requirement)


def test_later_reservations_keep_it_and_are_refused_where_they_would_not(
    others: tuple[LiveReservations, Calendar],
) -> None:
    live, calendar = admitted_beside(others, slack=0.08)
    small = decided(request("r-3", down(9014)), live, calendar)
    assert isinstance(small, Admitted)
    kept = small.others.with_current_bounds(next(r for r in small.others if r.id == "r-2")).placements[0]
    assert kept.flow.requirement.max_latency_us is not None
    assert kept.accumulated_latency_us <= kept.flow.requirement.max_latency_us
    large = decided(request("r-3", down(200_000)), live, calendar)
    assert isinstance(large, Rejected)
    assert isinstance(large.error, LatencyNotMet)
    assert large.error.facts["reservation"] == "r-2"


def test_the_limit_is_still_kept_after_a_restart(others: tuple[LiveReservations, Calendar]) -> None:
    live, _ = admitted_beside(others, slack=0.01)
    again = LiveReservations.of(METRO, list(live))
    for placement in again.with_current_bounds(next(r for r in again if r.id == "r-2")).placements:
        assert placement.flow.requirement.max_latency_us is not None
        assert placement.accumulated_latency_us <= placement.flow.requirement.max_latency_us


def test_a_network_with_too_many_flows_has_the_bounds_of_total_flow_analysis(
    others: tuple[LiveReservations, Calendar], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programme_bounds, "MAX_HOPS", 5)
    smaller_us, larger_us = bounds_us(*others)
    assert smaller_us == pytest.approx(larger_us, rel=0.02)  # the second is updated, the first is new


def test_an_offer_is_found_without_linear_programmes(
    others: tuple[LiveReservations, Calendar], monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller_us, _ = bounds_us(*others)
    live, calendar = others
    asked = request("r-2", flow("up", "edge1", smaller_us / 2))
    refused = decide_with_offer(METRO, calendar, live, asked, 0.0)
    assert isinstance(refused, Rejected)
    assert isinstance(refused.error, LatencyNotMet)
    monkeypatch.setattr(programme_bounds, "_path_delays", lambda *_: pytest.fail("solved"))
    offer = refused.error.advice(refused.error)["offer"] if refused.error.advice else None
    assert offer
