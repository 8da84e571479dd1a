"""Transfers with deadlines, periodic windows, the admissions, and protection by a second path."""

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
from topologies.map_file.loader import load_map

METRO = network_from_map(load_map("metro"))
PAIR = network_from_map(load_map("pair"))
MBPS = 1_000_000


def flow(name: str, source: str = "edge1", port: int = 7801, **requirement: object) -> Flow:
    needs = Requirement(**({"burst_bytes": 20_000} | requirement))  # type: ignore[arg-type]
    return Flow(name, source, "cloud", Match("tcp", port, 7800), needs)


def transfer(name: str, source: str = "edge1", port: int = 7801, **requirement: object) -> Flow:
    """1 MB within 500 ms: 16 Mb/s, and more to make up for the latency."""
    return flow(name, source, port, **({"transfer_bytes": 1_000_000, "deadline_ms": 500.0} | requirement))


class Admissions:
    """Successive requests on one network."""

    def __init__(self, network: Network = PAIR) -> None:
        self.network, self.calendar, self.live, self.number = network, Calendar(), LiveReservations(network), 0

    def decide(self, *flows: Flow, start_s: float | None = None, end_s: float = inf) -> Admitted | Rejected:
        self.number += 1
        request = Request(f"r-{self.number}", 1, flows, start_s, end_s)
        decision = decide(self.network, self.calendar, self.live, request, 0.0)
        if isinstance(decision, Admitted):
            new = Reservation(
                request.reservation_id, self.number, 1, "test", State.ACTIVE, 60, 0, 60, decision.placements
            )
            new = replace(new, start_at_s=start_s or 0, end_at_s=None if end_s == inf else end_s)
            self.calendar, self.live = decision.calendar, decision.others.with_reservation(new)
        return decision

    def placed(self, *flows: Flow, start_s: float | None = None, end_s: float = inf) -> tuple[Placement, ...]:
        decision = self.decide(*flows, start_s=start_s, end_s=end_s)
        assert isinstance(decision, Admitted), decision
        return decision.placements

    def refusal(self, *flows: Flow, start_s: float | None = None, end_s: float = inf) -> Exception:
        decision = self.decide(*flows, start_s=start_s, end_s=end_s)
        assert isinstance(decision, Rejected), decision
        return decision.error


def test_a_transfer_gets_the_least_rate_that_meets_its_deadline() -> None:
    placed = Admissions().placed(transfer("a"))[0]
    requirement, latency_us = placed.flow.requirement, placed.accumulated_latency_us
    assert placed.reserved_bps == least_rate_bps(requirement, latency_us, HEADROOM_SHARE)
    assert placed.completion_us == pytest.approx(8e12 / placed.reserved_bps + latency_us)
    assert placed.completion_us is not None and placed.completion_us <= 500_000 * (1 - HEADROOM_SHARE) + 1
    assert 8e12 / (placed.reserved_bps - 1000) + latency_us > 500_000 * (1 - HEADROOM_SHARE)
    assert placed.window is None


def test_without_capacity_for_headroom_the_least_rate_is_granted() -> None:
    admissions = Admissions()
    # 76 Mb/s may be reserved: enough without headroom, not with it.
    probe = Admissions().placed(flow("a", min_bandwidth_bps=76 * MBPS))[0]
    size = round(75.5 * MBPS * (0.5 - probe.accumulated_latency_us / 1e6) / 8)
    placed = admissions.placed(transfer("a", transfer_bytes=size))[0]
    assert placed.reserved_bps == least_rate_bps(placed.flow.requirement, placed.accumulated_latency_us)
    assert placed.completion_us is not None and 499_000 < placed.completion_us <= 500_000


def test_later_flows_may_use_up_the_headroom_but_no_more() -> None:
    admissions = Admissions()
    before = admissions.placed(transfer("a"))[0].completion_us
    admissions.placed(flow("b", "edge2", min_bandwidth_bps=10 * MBPS))
    first = admissions.live.get("r-1")
    assert first is not None
    now = admissions.live.with_current_bounds(first).placements[0].completion_us
    assert before is not None and now is not None and before < now <= 500_000
    refusal = admissions.refusal(flow("c", "edge2", 7802, min_bandwidth_bps=10 * MBPS, burst_bytes=900_000))
    assert isinstance(refusal, LatencyNotMet)
    assert (refusal.facts["flow"], refusal.facts["promise"]) == ("a", "completion")


def test_a_deadline_shorter_than_the_latency_is_refused() -> None:
    refusal = Admissions().refusal(transfer("a", deadline_ms=2.0, transfer_bytes=100))
    assert isinstance(refusal, LatencyNotMet)
    assert refusal.facts["limit_us"] == 2000
    assert "deadline is 2000 us" in refusal.detail


def test_a_periodic_transfer_has_a_window_and_leaves_the_rest_of_the_period_to_others() -> None:
    """50 Mb/s in the first half of each second and 50 Mb/s in the second half fit through 76 Mb/s."""
    admissions = Admissions()
    periodic = partial(transfer, transfer_bytes=3_000_000, period_ms=1200.0)
    first = admissions.placed(periodic("a"))[0]
    assert first.reserved_bps > 50 * MBPS
    sending_us = ceil(24e12 / first.reserved_bps * (1 + SLOW_SHARE) + LATE_US)
    assert first.window == Window(1_200_000, 0, sending_us)
    admissions.placed(periodic("b", "edge2", offset_ms=600.0))
    refusal = admissions.refusal(periodic("c", "edge2", port=7802, offset_ms=250.0))
    assert isinstance(refusal, NoCapacity)
    assert admissions.calendar.reserved_bps("s1->s2", 0) == first.reserved_bps


def test_a_window_longer_than_its_period_is_invalid() -> None:
    refusal = Admissions().refusal(transfer("a", period_ms=400.0))
    assert isinstance(refusal, InvalidRequest)
    assert "500 ms" in refusal.detail and "400 ms" in refusal.detail


def test_bookings_that_do_not_overlap_do_not_add_up() -> None:
    admissions = Admissions()
    big = flow("a", min_bandwidth_bps=70 * MBPS)
    for start_s in (0, 10, 20):
        admissions.placed(big, start_s=start_s or None, end_s=start_s + 10)
    refusal = admissions.refusal(flow("b", "edge2", min_bandwidth_bps=10 * MBPS), start_s=5, end_s=15)
    assert isinstance(refusal, NoCapacity)
    assert admissions.placed(flow("b", "edge2", min_bandwidth_bps=10 * MBPS), start_s=30)
    assert isinstance(admissions.refusal(big, start_s=25, end_s=26), FlowInUse)


def test_many_bookings_that_never_overlap_all_fit() -> None:
    """Their sum is twelve times the capacity, but each hour has only one of them."""
    admissions = Admissions()
    for hour in range(1, 13):
        requested = flow("a", port=hour, min_bandwidth_bps=70 * MBPS, max_latency_us=60_000.0)
        admissions.placed(requested, start_s=hour * 3600.0, end_s=(hour + 1) * 3600.0)
    clash = flow("b", "edge2", min_bandwidth_bps=10 * MBPS)
    assert isinstance(admissions.refusal(clash, start_s=5 * 3600.0, end_s=5.5 * 3600), NoCapacity)
    assert admissions.placed(clash, start_s=13 * 3600.0 + 1)


def test_a_reservation_must_last_longer_than_the_end_guard() -> None:
    refusal = Admissions().refusal(flow("a", min_bandwidth_bps=MBPS), start_s=10.0, end_s=10.1)
    assert isinstance(refusal, InvalidRequest)
    assert "0.100 s after its start" in refusal.detail


def test_a_protected_flow_gets_two_paths_without_a_common_span_and_room_on_both() -> None:
    admissions = Admissions(METRO)
    placed = admissions.placed(flow("a", min_bandwidth_bps=50 * MBPS, protection="link_disjoint"))[0]
    assert placed.path == ("edge1", "r6", "r1", "r2", "cloud")
    assert placed.backup_path == ("edge1", "r6", "r5", "r4", "r3", "r2", "cloud")
    assert admissions.calendar.reserved_bps("r5->r4", 0) == 50 * MBPS
    assert admissions.calendar.reserved_bps("r1->r6", 0) == 50 * MBPS  # the way back to the first switch
    assert admissions.calendar.reserved_bps("r2->r1", 0) == 0  # the last switch turns nothing back
    assert admissions.calendar.reserved_bps("edge1->r6", 0) == 50 * MBPS


def test_backups_that_no_single_failure_needs_together_share_their_capacity() -> None:
    admissions = Admissions(METRO)
    first = admissions.placed(flow("a", "edge1", min_bandwidth_bps=40 * MBPS, protection="link_disjoint"))[0]
    other = Flow(
        "b", "edge3", "edge1", Match("tcp", 1, 2), Requirement(40 * MBPS, 20_000, protection="link_disjoint")
    )
    second = admissions.placed(other)[0]
    assert second.path == ("edge3", "r5", "r6", "edge1")
    assert first.backup_path is not None and second.backup_path is not None
    assert admissions.calendar.reserved_bps("r5->r4", 0) == 40 * MBPS
    third = flow("c", "edge2", 7802, min_bandwidth_bps=36 * MBPS, protection="link_disjoint")
    placed = admissions.placed(third)[0]
    assert admissions.calendar.reserved_bps("r5->r4", 0) <= 76 * MBPS
    assert placed.backup_path is not None


def test_the_bound_of_a_protected_flow_covers_the_detour() -> None:
    unprotected = Admissions(METRO).placed(flow("a", min_bandwidth_bps=10 * MBPS))[0]
    protected = Admissions(METRO).placed(flow("a", min_bandwidth_bps=10 * MBPS, protection="link_disjoint"))[0]
    assert protected.path == unprotected.path
    assert protected.accumulated_latency_us > unprotected.accumulated_latency_us + 3000  # at least three more switches
    refusal = Admissions(METRO).refusal(
        flow(
            "a",
            min_bandwidth_bps=10 * MBPS,
            protection="link_disjoint",
            max_latency_us=unprotected.accumulated_latency_us,
        )
    )
    assert isinstance(refusal, LatencyNotMet)


def test_without_a_disjoint_path_protection_is_refused() -> None:
    refusal = Admissions(PAIR).refusal(flow("a", min_bandwidth_bps=MBPS, protection="link_disjoint"))
    assert isinstance(refusal, NoDisjointPath)
    assert refusal.code == "no_disjoint_path"


def test_a_flow_between_hosts_of_one_switch_needs_no_backup() -> None:
    requested = replace(flow("a", min_bandwidth_bps=MBPS, protection="link_disjoint"), destination="edge2")
    placed = Admissions(PAIR).placed(requested)[0]
    assert (len(placed.path), placed.backup_path) == (3, None)


def test_a_modification_keeps_both_paths() -> None:
    admissions = Admissions(METRO)
    requested = flow("a", min_bandwidth_bps=10 * MBPS, protection="link_disjoint")
    before = admissions.placed(requested)[0]
    more = replace(requested, requirement=replace(requested.requirement, min_bandwidth_bps=70 * MBPS))
    after = decide(METRO, admissions.calendar, admissions.live, Request("r-1", 2, (more,)), 0.0)
    assert isinstance(after, Admitted)
    assert (after.placements[0].path, after.placements[0].backup_path) == (before.path, before.backup_path)


def test_refusals_carry_the_failure_code_of_ieee_802_1q_where_one_fits() -> None:
    too_big = Admissions().refusal(flow("a", min_bandwidth_bps=90 * MBPS))
    too_late = Admissions().refusal(flow("a", min_bandwidth_bps=MBPS, max_latency_us=1.0))
    assert isinstance(too_big, NoCapacity) and too_big.problem()["ieee8021q_failure_code"] == 1
    assert isinstance(too_late, LatencyNotMet) and too_late.problem()["ieee8021q_failure_code"] == 21
    no_second = Admissions().refusal(flow("a", min_bandwidth_bps=MBPS, protection="link_disjoint"))
    assert isinstance(no_second, NoDisjointPath) and "ieee8021q_failure_code" not in no_second.problem()
