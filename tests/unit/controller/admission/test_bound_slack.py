"""A bound told "as promised" is a limit for all later admissions; others may grow, and are told anew."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.admission.admission import Admitted, Rejected, Request, decide
from controller.admission.counter_offer import decide_with_offer
from controller.admission.live_reservations import LiveReservations
from controller.admission.restoration import restore
from controller.admission.told_bounds import FALL_SHARE, ROOM_SHARE, bound_changes, retold
from controller.booking.calendar import Calendar
from controller.domain.network import Network, network_from_map
from controller.domain.reservation import Flow, Match, Placement, Requirement, Reservation, State
from controller.errors import LatencyNotMet
from topologies.map_file.loader import load_map

PAIR = network_from_map(load_map("pair"))
METRO = network_from_map(load_map("metro"))


def flow(
    name: str, source: str, port: int, rate_bps: int = 5_000_000, burst_bytes: int = 40_000, **extra: float
) -> Flow:
    requirement = Requirement(rate_bps, burst_bytes, **extra)  # type: ignore[arg-type]
    return Flow(name, source, "cloud", Match("udp", port, 7800), requirement)


class Domain:
    """Reservations decided one after the other."""

    def __init__(self, network: Network = PAIR) -> None:
        self.network, self.calendar, self.live = network, Calendar(), LiveReservations(network)

    def reserve(self, number: int, *flows: Flow) -> Reservation:
        decision = self.decide(Request(f"r-{number}", 1, flows))
        assert isinstance(decision, Admitted), decision
        times = 60.0, float(number), 60.0
        new = Reservation(f"r-{number}", number, 1, "test", State.ACTIVE, *times, decision.placements)
        self.calendar, self.live = decision.calendar, decision.others.with_reservation(new)
        return new

    def change(self, before: Reservation, *flows: Flow) -> Reservation:
        decision = self.decide(Request(before.id, before.version + 1, flows))
        assert isinstance(decision, Admitted), decision
        after = replace(before, version=before.version + 1, placements=decision.placements)
        self.calendar, self.live = decision.calendar, decision.others.with_reservation(after)
        return after

    def decide(self, request: Request) -> Admitted | Rejected:
        return decide(self.network, self.calendar, self.live, request, 0.0)

    def refusal(self, number: int, *flows: Flow) -> LatencyNotMet:
        decision = self.decide(Request(f"r-{number}", 1, flows))
        assert isinstance(decision, Rejected), decision
        assert isinstance(decision.error, LatencyNotMet)
        return decision.error

    def told(self, before: Reservation) -> Reservation:
        return retold(before, self.live.current_bounds(before))


def only(reservation: Reservation) -> Placement:
    (placement,) = reservation.placements
    return placement


def test_a_later_burst_that_would_break_the_promise_is_refused_and_says_so() -> None:
    domain = Domain()
    promised = only(domain.reserve(1, flow("a", "edge1", 7801, bound_slack=0.1)))
    refusal = domain.refusal(2, flow("burst", "load1", 7802, burst_bytes=400_000))
    assert refusal.facts["reservation"] == "r-1"
    assert refusal.facts["bound_slack"] == 0.1
    assert refusal.facts["limit_us"] == round(promised.accumulated_latency_us * 1.1, 1)
    assert "a of live reservation r-1" in refusal.detail
    assert "as promised" in refusal.detail
    assert f"{promised.accumulated_latency_us:.0f} us with a bound_slack of 0.1" in refusal.detail


def test_without_a_slack_the_same_burst_is_admitted() -> None:
    domain = Domain()
    before = domain.reserve(1, flow("a", "edge1", 7801))
    assert only(before).promised_latency_us is None
    domain.reserve(2, flow("burst", "load1", 7802, burst_bytes=400_000))
    assert only(domain.told(before)).accumulated_latency_us > 2 * only(before).accumulated_latency_us


@pytest.mark.parametrize("slack", [0.0, 0.1, 1.0, 3.0])
def test_admissions_use_the_slack_and_no_more(slack: float) -> None:
    domain = Domain()
    first = domain.reserve(1, flow("a", "edge1", 7801, bound_slack=slack))
    admitted = 0
    for number in range(2, 12):
        burst = flow("burst", "edge2", 7800 + number, 100_000, 9014)
        decision = domain.decide(Request(f"r-{number}", 1, (burst,)))
        if isinstance(decision, Admitted):
            domain.reserve(number, burst)
            admitted += 1
    bound = domain.live.current_bounds(first)["a"]
    assert bound.accumulated_latency_us <= only(first).accumulated_latency_us * (1 + slack) * (1 + 1e-6)
    assert bound.latency_variation_us <= only(first).latency_variation_us * (1 + slack) * (1 + 1e-6)
    assert (admitted > 0) == (slack > 0)


def test_the_offer_of_the_refused_request_keeps_the_promise() -> None:
    domain = Domain()
    first = domain.reserve(1, flow("a", "edge1", 7801, bound_slack=0.5))
    request = Request("r-2", 1, (flow("burst", "load1", 7802, burst_bytes=400_000),))
    decision = decide_with_offer(PAIR, domain.calendar, domain.live, request, 0.0)
    assert isinstance(decision, Rejected)
    assert isinstance(decision.error, LatencyNotMet)
    decision.error.add_offer()
    offered: Flow = decision.error.facts["offer"][0]  # type: ignore[index]
    domain.reserve(2, offered)
    limit_us = only(first).promised_latency_us
    assert limit_us is not None
    assert domain.live.current_bounds(first)["a"].accumulated_latency_us <= limit_us * (1 + 1e-6)


def test_a_change_of_the_flows_promises_anew() -> None:
    domain = Domain()
    first = domain.reserve(1, flow("a", "edge1", 7801, bound_slack=0.1))
    after = domain.change(first, flow("a", "edge1", 7801, burst_bytes=80_000, bound_slack=0.1))
    assert only(after).accumulated_latency_us > only(first).accumulated_latency_us * 1.1
    assert only(after).promised_latency_us == pytest.approx(only(after).accumulated_latency_us * 1.1)


def test_a_neighbours_change_is_held_to_the_promise_too() -> None:
    domain = Domain()
    domain.reserve(1, flow("a", "edge1", 7801, bound_slack=0.1))
    other = domain.reserve(2, flow("b", "load1", 7802, 100_000, 9014))
    grown = Request(other.id, 2, (flow("b", "load1", 7802, 100_000, 400_000),))
    decision = domain.decide(grown)
    assert isinstance(decision, Rejected)
    assert decision.error.facts["reservation"] == "r-1"


def test_a_reroute_after_a_failure_promises_the_bound_of_the_new_route() -> None:
    domain = Domain(METRO)
    first = domain.reserve(1, flow("a", "edge1", 7801, bound_slack=0.05))
    assert only(first).path == ("edge1", "r6", "r1", "r2", "cloud")
    after = restore(METRO, domain.calendar, domain.live, 1.0, frozenset({"r1->r2", "r2->r1"}))
    moved = next(iter(after.live))
    assert moved.state is State.ACTIVE
    assert only(moved).path != only(first).path
    assert only(moved).promised_latency_us == pytest.approx(only(moved).accumulated_latency_us * 1.05)
    (change,) = bound_changes(first, moved)
    assert change.broken_promise is not None
    assert "a: the proven latency is" in change.broken_promise


def test_what_stays_in_place_in_a_reroute_keeps_its_promise() -> None:
    domain = Domain(METRO)
    flows = (flow("moved", "edge1", 7801, bound_slack=0.2), flow("stays", "load2", 7803, bound_slack=0.2))
    first = domain.reserve(1, *flows)
    after = restore(METRO, domain.calendar, domain.live, 1.0, frozenset({"r6->r1", "r1->r6"}))
    before_stays, stays = (next(p for p in each.placements if p.flow.name == "stays")
                           for each in (first, next(iter(after.live))))
    assert stays.path == before_stays.path
    assert stays.promised_latency_us == before_stays.promised_latency_us


def test_a_bound_told_anew_has_room_within_the_limits_of_the_flow() -> None:
    domain = Domain()
    free, limited = domain.reserve(1, flow("a", "edge1", 7801)), flow("b", "load1", 7802, bound_slack=0.3)
    second = domain.reserve(2, limited)
    domain.reserve(3, flow("c", "edge2", 7803, 100_000, 10_000))
    for before in (free, second):
        current, told = domain.live.current_bounds(before), only(domain.told(before))
        bound_us = current[told.flow.name].accumulated_latency_us
        assert bound_us < told.accumulated_latency_us <= bound_us * (1 + ROOM_SHARE) * (1 + 1e-9)
        assert told.promised_latency_us is None or told.accumulated_latency_us <= told.promised_latency_us
        assert domain.told(replace(before, placements=(told,))).placements == (told,)


def test_a_bound_that_falls_far_is_told_anew_and_one_that_falls_a_little_is_not() -> None:
    domain = Domain()
    first = domain.reserve(1, flow("a", "edge1", 7801))
    domain.reserve(2, flow("burst", "load1", 7802, burst_bytes=400_000))
    high = domain.told(first)
    domain.live = domain.live.without("r-2")
    current_us = domain.live.current_bounds(first)["a"].accumulated_latency_us
    assert current_us < only(high).accumulated_latency_us * (1 - FALL_SHARE)
    low = domain.told(high)
    assert only(low).accumulated_latency_us == pytest.approx(current_us * (1 + ROOM_SHARE))
    assert retold(high, domain.live.current_bounds(high), with_falls=False) is high
    assert domain.told(low) is low
