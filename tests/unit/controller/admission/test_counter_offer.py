"""Counter-offers of refusals."""

from __future__ import annotations

from dataclasses import replace

from controller.admission.admission import Admitted, Rejected, Request, decide
from controller.admission.counter_offer import decide_with_offer
from controller.admission.live_reservations import LiveReservations
from controller.booking.calendar import Calendar
from controller.domain.network import network_from_map
from controller.domain.reservation import Flow, Match, Requirement, Reservation, State
from controller.errors import Refused
from topologies.map_file.loader import load_map

PAIR = network_from_map(load_map("pair"))
MBPS = 1_000_000


def flow(name: str, source: str = "edge1", **requirement: object) -> Flow:
    return Flow(name, source, "cloud", Match("tcp", 7801, 7800), Requirement(**requirement))  # type: ignore[arg-type]


def refusal_facts(*requested: Flow, held: Flow | None = None, until_s: float | None = None) -> dict[str, object]:
    """The facts of a refusal, offer included, beside at most one other reservation."""
    calendar, live = Calendar(), LiveReservations(PAIR)
    if held is not None:
        first = decide(PAIR, calendar, live, Request("r-1", 1, (held,), None, until_s or float("inf")), 0.0)
        assert isinstance(first, Admitted)
        new = Reservation("r-1", 1, 1, "test", State.ACTIVE, 60, 0, 60, first.placements, end_at_s=until_s)
        calendar, live = first.calendar, first.others.with_reservation(new)
    decision = decide_with_offer(PAIR, calendar, live, Request("r-2", 1, requested), 0.0)
    assert isinstance(decision, Rejected) and isinstance(decision.error, Refused)
    assert "offer" not in decision.error.facts
    decision.error.add_offer()
    return dict(decision.error.facts)


def test_a_rate_that_is_too_high_is_offered_the_free_capacity() -> None:
    facts = refusal_facts(flow("a", min_bandwidth_bps=90 * MBPS))
    offered = facts["offer"]
    assert isinstance(offered, tuple)
    assert 75 * MBPS <= offered[0].requirement.min_bandwidth_bps <= 76 * MBPS
    assert facts["fits_at"] is None


def test_rates_are_lowered_in_the_same_proportion() -> None:
    first, second = flow("a", min_bandwidth_bps=80 * MBPS), flow("b", "edge2", min_bandwidth_bps=20 * MBPS)
    offered = refusal_facts(first, second)["offer"]
    assert isinstance(offered, tuple)
    rates = [flow.requirement.min_bandwidth_bps for flow in offered]
    assert abs(rates[0] / rates[1] - 4) < 0.001
    assert 75 * MBPS < sum(rates) <= 76 * MBPS


def test_a_transfer_is_offered_a_later_deadline() -> None:
    offered = refusal_facts(flow("a", transfer_bytes=10_000_000, deadline_ms=500.0))["offer"]
    assert isinstance(offered, tuple)
    assert 1050 < offered[0].requirement.deadline_ms < 1150
    assert offered[0].requirement.transfer_bytes == 10_000_000


def test_a_latency_limit_that_a_smaller_burst_meets_is_offered_the_smaller_burst() -> None:
    requested = flow("a", min_bandwidth_bps=MBPS, burst_bytes=200_000, max_latency_us=29_000.0)
    offered = refusal_facts(requested)["offer"]
    assert isinstance(offered, tuple)
    burst_bytes = offered[0].requirement.burst_bytes
    assert PAIR.max_frame_bytes <= burst_bytes < 200_000
    assert offered[0] == replace(requested, requirement=replace(requested.requirement, burst_bytes=burst_bytes))


def test_a_limit_that_cannot_be_met_is_offered_one_that_can() -> None:
    offered = refusal_facts(flow("a", min_bandwidth_bps=MBPS, max_latency_us=10.0))["offer"]
    assert isinstance(offered, tuple)
    assert 1000 < offered[0].requirement.max_latency_us < 100_000


def test_without_a_disjoint_path_the_offer_is_unprotected() -> None:
    requested = flow("a", min_bandwidth_bps=MBPS, protection="link_disjoint")
    offered = refusal_facts(requested)["offer"]
    assert offered == (replace(requested, requirement=replace(requested.requirement, protection="none")),)


def test_fits_at_is_the_end_of_the_blocking_reservation() -> None:
    held = flow("b", "edge2", min_bandwidth_bps=50 * MBPS)
    facts = refusal_facts(flow("a", min_bandwidth_bps=60 * MBPS), held=held, until_s=120.0)
    assert facts["fits_at"] == 120.0
    assert isinstance(facts["offer"], tuple)


def test_a_five_tuple_in_use_is_free_when_its_holder_ends() -> None:
    requested = flow("a", min_bandwidth_bps=MBPS)
    facts = refusal_facts(requested, held=requested, until_s=60.0)
    assert (facts["fits_at"], facts["offer"]) == (60.0, None)
