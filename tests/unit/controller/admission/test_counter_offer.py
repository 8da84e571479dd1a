"""What stands beside a refusal."""

from __future__ import annotations

from dataclasses import replace

from controller.admission.admission import Admitted, Rejected, Request, decide
from controller.admission.counter_offer import decide_with_offer
from controller.admission.live_reservations import LiveReservations
from controller.booking.calendar import Calendar
from controller.domain.network import network_from_map
from controller.domain.reservation import Flow, Match, Requirement, Reservation, State
from controller.errors import Refused
from topologies.loader import load_map

PAIR = network_from_map(load_map("pair"))
MBPS = 1_000_000


def flow(name: str, source: str = "edge1", **needed: object) -> Flow:
    return Flow(name, source, "cloud", Match("tcp", 7801, 7800), Requirement(**needed))  # type: ignore[arg-type]


def advice(*wanted: Flow, held: Flow | None = None, until_s: float | None = None) -> dict[str, object]:
    """The facts of a refusal beside one reservation that holds something."""
    bookings, standing = Calendar(), LiveReservations(PAIR)
    if held is not None:
        first = decide(PAIR, bookings, standing, Request("r-1", 1, (held,), None, until_s or float("inf")), 0.0)
        assert isinstance(first, Admitted)
        new = Reservation("r-1", 1, 1, "test", State.ACTIVE, 60, 0, 60, first.placements, end_at_s=until_s)
        bookings, standing = first.bookings, first.after.with_reservation(new)
    decision = decide_with_offer(PAIR, bookings, standing, Request("r-2", 1, wanted), 0.0)
    assert isinstance(decision, Rejected) and isinstance(decision.error, Refused)
    assert "offer" not in decision.error.facts
    decision.error.add_offer()
    return dict(decision.error.facts)


def test_too_high_a_rate_is_offered_what_is_free() -> None:
    facts = advice(flow("a", min_bandwidth_bps=90 * MBPS))
    offered = facts["offer"]
    assert isinstance(offered, tuple)
    assert 75 * MBPS <= offered[0].requirement.min_bandwidth_bps <= 76 * MBPS
    assert facts["fits_at"] is None


def test_rates_are_lowered_in_the_same_proportion() -> None:
    one, two = flow("a", min_bandwidth_bps=80 * MBPS), flow("b", "edge2", min_bandwidth_bps=20 * MBPS)
    offered = advice(one, two)["offer"]
    assert isinstance(offered, tuple)
    rates = [each.requirement.min_bandwidth_bps for each in offered]
    assert abs(rates[0] / rates[1] - 4) < 0.001
    assert 75 * MBPS < sum(rates) <= 76 * MBPS


def test_a_transfer_is_offered_a_later_deadline() -> None:
    offered = advice(flow("a", transfer_bytes=10_000_000, deadline_ms=500.0))["offer"]
    assert isinstance(offered, tuple)
    assert 1050 < offered[0].requirement.deadline_ms < 1150
    assert offered[0].requirement.transfer_bytes == 10_000_000


def test_a_latency_limit_that_a_smaller_burst_can_keep_is_offered_the_smaller_burst() -> None:
    wanted = flow("a", min_bandwidth_bps=MBPS, burst_bytes=200_000, max_latency_us=30_000.0)
    offered = advice(wanted)["offer"]
    assert isinstance(offered, tuple)
    burst_bytes = offered[0].requirement.burst_bytes
    assert PAIR.frame_bytes <= burst_bytes < 200_000
    assert offered[0] == replace(wanted, requirement=replace(wanted.requirement, burst_bytes=burst_bytes))


def test_a_limit_that_nothing_can_keep_is_offered_one_that_can_be_kept() -> None:
    offered = advice(flow("a", min_bandwidth_bps=MBPS, max_latency_us=10.0))["offer"]
    assert isinstance(offered, tuple)
    assert 1000 < offered[0].requirement.max_latency_us < 100_000


def test_without_a_second_path_the_offer_is_unprotected() -> None:
    wanted = flow("a", min_bandwidth_bps=MBPS, protection="link_disjoint")
    offered = advice(wanted)["offer"]
    assert offered == (replace(wanted, requirement=replace(wanted.requirement, protection="none")),)


def test_what_ends_is_told_as_the_time_at_which_it_fits() -> None:
    held = flow("b", "edge2", min_bandwidth_bps=50 * MBPS)
    facts = advice(flow("a", min_bandwidth_bps=60 * MBPS), held=held, until_s=120.0)
    assert facts["fits_at"] == 120.0
    assert isinstance(facts["offer"], tuple)


def test_a_five_tuple_in_use_is_free_when_its_holder_ends() -> None:
    wanted = flow("a", min_bandwidth_bps=MBPS)
    facts = advice(wanted, held=wanted, until_s=60.0)
    assert (facts["fits_at"], facts["offer"]) == (60.0, None)
