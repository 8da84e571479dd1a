"""Transfers with deadlines, periodic windows, the calendar, and protection by a second path."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import ceil, inf

import pytest

from controller.admission.admission import Admitted, Rejected, Request, decide
from controller.admission.live_reservations import LiveReservations
from controller.booking.calendar import Calendar
from controller.booking.transfer_rate import HEADROOM_SHARE, LATE_US, SLOW_SHARE, least_rate_bps
from controller.domain.network import Network, network_from_map
from controller.domain.reservation import Flow, Match, Placement, Requirement, Reservation, State, Window
from controller.errors import FlowInUse, InvalidRequest, LatencyNotMet, NoCapacity, NoDisjointPath
from topologies.loader import load_map

METRO = network_from_map(load_map("metro"))
PAIR = network_from_map(load_map("pair"))
MBPS = 1_000_000


def flow(name: str, source: str = "edge1", port: int = 7801, **needed: object) -> Flow:
    requirement = Requirement(**({"burst_bytes": 20_000} | needed))  # type: ignore[arg-type]
    return Flow(name, source, "cloud", Match("tcp", port, 7800), requirement)


def transfer(name: str, source: str = "edge1", port: int = 7801, **needed: object) -> Flow:
    """1 MB within 500 ms: 16 Mb/s and what the latency costs."""
    return flow(name, source, port, **({"transfer_bytes": 1_000_000, "deadline_ms": 500.0} | needed))


class Admissions:
    """Requests one after the other on a network."""

    def __init__(self, network: Network = PAIR) -> None:
        self.network, self.bookings, self.standing, self.number = network, Calendar(), LiveReservations(network), 0

    def ask(self, *flows: Flow, start_s: float | None = None, end_s: float = inf) -> Admitted | Rejected:
        self.number += 1
        request = Request(f"r-{self.number}", 1, flows, start_s, end_s)
        decision = decide(self.network, self.bookings, self.standing, request, 0.0)
        if isinstance(decision, Admitted):
            new = Reservation(
                request.reservation_id, self.number, 1, "test", State.ACTIVE, 60, 0, 60, decision.placements
            )
            new = replace(new, start_at_s=start_s or 0, end_at_s=None if end_s == inf else end_s)
            self.bookings, self.standing = decision.bookings, decision.after.with_reservation(new)
        return decision

    def placed(self, *flows: Flow, start_s: float | None = None, end_s: float = inf) -> tuple[Placement, ...]:
        decision = self.ask(*flows, start_s=start_s, end_s=end_s)
        assert isinstance(decision, Admitted), decision
        return decision.placements

    def refusal(self, *flows: Flow, start_s: float | None = None, end_s: float = inf) -> Exception:
        decision = self.ask(*flows, start_s=start_s, end_s=end_s)
        assert isinstance(decision, Rejected), decision
        return decision.error


def test_a_transfer_gets_the_least_rate_at_which_it_is_there_in_time() -> None:
    placed = Admissions().placed(transfer("a"))[0]
    needed, latency_us = placed.flow.requirement, placed.accumulated_latency_us
    assert placed.reserved_bps == least_rate_bps(needed, latency_us, HEADROOM_SHARE)
    assert placed.completion_us == pytest.approx(8e12 / placed.reserved_bps + latency_us)
    assert placed.completion_us is not None and placed.completion_us <= 500_000 * (1 - HEADROOM_SHARE) + 1
    assert 8e12 / (placed.reserved_bps - 1000) + latency_us > 500_000 * (1 - HEADROOM_SHARE)
    assert placed.window is None


def test_without_room_for_headroom_the_very_least_rate_will_do() -> None:
    calendar = Admissions()
    # 76 Mb/s may be reserved: enough without headroom, not with it.
    probe = Admissions().placed(flow("a", min_bandwidth_bps=76 * MBPS))[0]
    size = round(75.5 * MBPS * (0.5 - probe.accumulated_latency_us / 1e6) / 8)
    placed = calendar.placed(transfer("a", transfer_bytes=size))[0]
    assert placed.reserved_bps == least_rate_bps(placed.flow.requirement, placed.accumulated_latency_us)
    assert placed.completion_us is not None and 499_000 < placed.completion_us <= 500_000


def test_later_flows_may_use_up_the_headroom_but_no_more() -> None:
    calendar = Admissions()
    before = calendar.placed(transfer("a"))[0].completion_us
    calendar.placed(flow("b", "edge2", min_bandwidth_bps=10 * MBPS))
    first = calendar.standing.get("r-1")
    assert first is not None
    now = calendar.standing.with_current_bounds(first).placements[0].completion_us
    assert before is not None and now is not None and before < now <= 500_000
    refusal = calendar.refusal(flow("c", "edge2", 7802, min_bandwidth_bps=10 * MBPS, burst_bytes=900_000))
    assert isinstance(refusal, LatencyNotMet)
    assert (refusal.facts["flow"], refusal.facts["promise"]) == ("a", "completion")


def test_a_deadline_shorter_than_the_latency_is_refused_with_both() -> None:
    refusal = Admissions().refusal(transfer("a", deadline_ms=2.0, transfer_bytes=100))
    assert isinstance(refusal, LatencyNotMet)
    assert refusal.facts["limit_us"] == 2000
    assert "deadline is 2000 us" in refusal.detail


def test_a_periodic_transfer_has_a_window_and_others_may_have_the_rest() -> None:
    """50 Mb/s in the first half of each second and 50 Mb/s in the second half fit through 76 Mb/s."""
    calendar = Admissions()
    periodic = partial(transfer, transfer_bytes=3_000_000, period_ms=1200.0)
    first = calendar.placed(periodic("a"))[0]
    assert first.reserved_bps > 50 * MBPS
    sending_us = ceil(24e12 / first.reserved_bps * (1 + SLOW_SHARE) + LATE_US)
    assert first.window == Window(1_200_000, 0, sending_us)
    calendar.placed(periodic("b", "edge2", offset_ms=600.0))
    refusal = calendar.refusal(periodic("c", "edge2", port=7802, offset_ms=250.0))
    assert isinstance(refusal, NoCapacity)
    assert calendar.bookings.reserved_bps("s1->s2", 0) == first.reserved_bps


def test_a_window_that_does_not_fit_its_period_is_no_request() -> None:
    refusal = Admissions().refusal(transfer("a", period_ms=400.0))
    assert isinstance(refusal, InvalidRequest)
    assert "500 ms" in refusal.detail and "400 ms" in refusal.detail


def test_what_does_not_overlap_in_the_calendar_does_not_add_up() -> None:
    calendar = Admissions()
    big = flow("a", min_bandwidth_bps=70 * MBPS)
    for start_s in (0, 10, 20):
        calendar.placed(big, start_s=start_s or None, end_s=start_s + 10)
    refusal = calendar.refusal(flow("b", "edge2", min_bandwidth_bps=10 * MBPS), start_s=5, end_s=15)
    assert isinstance(refusal, NoCapacity)
    assert calendar.placed(flow("b", "edge2", min_bandwidth_bps=10 * MBPS), start_s=30)
    assert isinstance(calendar.refusal(big, start_s=25, end_s=26), FlowInUse)


def test_a_calendar_of_many_that_never_meet_has_room_for_each() -> None:
    """Together they would want twelve times what the links have; each hour has one of them."""
    calendar = Admissions()
    for hour in range(1, 13):
        wanted = flow("a", port=hour, min_bandwidth_bps=70 * MBPS, max_latency_us=60_000.0)
        calendar.placed(wanted, start_s=hour * 3600.0, end_s=(hour + 1) * 3600.0)
    clash = flow("b", "edge2", min_bandwidth_bps=10 * MBPS)
    assert isinstance(calendar.refusal(clash, start_s=5 * 3600.0, end_s=5.5 * 3600), NoCapacity)
    assert calendar.placed(clash, start_s=13 * 3600.0 + 1)


def test_a_reservation_must_last_longer_than_its_last_packets_take() -> None:
    refusal = Admissions().refusal(flow("a", min_bandwidth_bps=MBPS), start_s=10.0, end_s=10.1)
    assert isinstance(refusal, InvalidRequest)
    assert "0.100 s after its start" in refusal.detail


def test_a_protected_flow_gets_two_paths_without_a_common_span_and_room_on_both() -> None:
    calendar = Admissions(METRO)
    placed = calendar.placed(flow("a", min_bandwidth_bps=50 * MBPS, protection="link_disjoint"))[0]
    assert placed.path == ("edge1", "r6", "r1", "r2", "cloud")
    assert placed.backup_path == ("edge1", "r6", "r5", "r4", "r3", "r2", "cloud")
    assert calendar.bookings.reserved_bps("r5->r4", 0) == 50 * MBPS
    assert calendar.bookings.reserved_bps("r1->r6", 0) == 50 * MBPS  # the way back to the first switch
    assert calendar.bookings.reserved_bps("r2->r1", 0) == 0  # nothing turns back at the last
    assert calendar.bookings.reserved_bps("edge1->r6", 0) == 50 * MBPS


def test_backups_that_no_single_failure_needs_together_share_their_capacity() -> None:
    calendar = Admissions(METRO)
    one = calendar.placed(flow("a", "edge1", min_bandwidth_bps=40 * MBPS, protection="link_disjoint"))[0]
    other = Flow(
        "b", "edge3", "edge1", Match("tcp", 1, 2), Requirement(40 * MBPS, 20_000, protection="link_disjoint")
    )
    two = calendar.placed(other)[0]
    assert two.path == ("edge3", "r5", "r6", "edge1") and one.backup_path is not None and two.backup_path is not None
    assert calendar.bookings.reserved_bps("r5->r4", 0) == 40 * MBPS
    third = flow("c", "edge2", 7802, min_bandwidth_bps=36 * MBPS, protection="link_disjoint")
    placed = calendar.placed(third)[0]
    assert calendar.bookings.reserved_bps("r5->r4", 0) <= 76 * MBPS
    assert placed.backup_path is not None


def test_the_bound_of_a_protected_flow_covers_the_detour() -> None:
    bare = Admissions(METRO).placed(flow("a", min_bandwidth_bps=10 * MBPS))[0]
    safe = Admissions(METRO).placed(flow("a", min_bandwidth_bps=10 * MBPS, protection="link_disjoint"))[0]
    assert safe.path == bare.path
    assert safe.accumulated_latency_us > bare.accumulated_latency_us + 3000  # three more switches at least
    refusal = Admissions(METRO).refusal(
        flow("a", min_bandwidth_bps=10 * MBPS, protection="link_disjoint", max_latency_us=bare.accumulated_latency_us)
    )
    assert isinstance(refusal, LatencyNotMet)


def test_without_a_second_path_protection_is_refused_and_says_so() -> None:
    refusal = Admissions(PAIR).refusal(flow("a", min_bandwidth_bps=MBPS, protection="link_disjoint"))
    assert isinstance(refusal, NoDisjointPath)
    assert refusal.code == "no_disjoint_path"


def test_hosts_at_one_switch_have_no_span_to_lose() -> None:
    wanted = replace(flow("a", min_bandwidth_bps=MBPS, protection="link_disjoint"), destination="edge2")
    placed = Admissions(PAIR).placed(wanted)[0]
    assert (len(placed.path), placed.backup_path) == (3, None)


def test_a_modification_keeps_both_paths() -> None:
    calendar = Admissions(METRO)
    wanted = flow("a", min_bandwidth_bps=10 * MBPS, protection="link_disjoint")
    before = calendar.placed(wanted)[0]
    more = replace(wanted, requirement=replace(wanted.requirement, min_bandwidth_bps=70 * MBPS))
    after = decide(METRO, calendar.bookings, calendar.standing, Request("r-1", 2, (more,)), 0.0)
    assert isinstance(after, Admitted)
    assert (after.placements[0].path, after.placements[0].backup_path) == (before.path, before.backup_path)


def test_refusals_carry_the_failure_code_of_ieee_802_1q_where_one_fits() -> None:
    too_big = Admissions().refusal(flow("a", min_bandwidth_bps=90 * MBPS))
    too_late = Admissions().refusal(flow("a", min_bandwidth_bps=MBPS, max_latency_us=1.0))
    assert isinstance(too_big, NoCapacity) and too_big.problem()["ieee8021q_failure_code"] == 1
    assert isinstance(too_late, LatencyNotMet) and too_late.problem()["ieee8021q_failure_code"] == 21
    no_second = Admissions().refusal(flow("a", min_bandwidth_bps=MBPS, protection="link_disjoint"))
    assert isinstance(no_second, NoDisjointPath) and "ieee8021q_failure_code" not in no_second.problem()
