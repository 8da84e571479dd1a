"""Limits that only linear programmes keep hold after every later decision and after a restart."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.admission.admission import Admitted, Request, decide
from controller.admission.live_reservations import LiveReservations
from controller.booking.calendar import Calendar
from controller.domain.network import network_from_map
from controller.domain.reservation import BoundAnalysis, Flow, Match, Protection, Requirement, Reservation, State
from topologies.map_file.loader import load_map

METRO = network_from_map(load_map("metro"))
HOSTS = ("edge1", "edge2", "edge3", "edge4", "cloud")


@st.composite
def requests(draw: st.DrawFn) -> list[tuple[str, str, Requirement]]:
    """Flows with limits from below to above what can be met."""
    asked = []
    for _ in range(draw(st.integers(3, 7))):
        source, destination = draw(st.permutations(HOSTS))[:2]
        analysis: BoundAnalysis = draw(st.sampled_from(("linear_programme", "linear_programme", "total_flow")))
        limit_us = draw(st.none() | st.floats(15_000, 90_000))
        protection: Protection = "link_disjoint" if draw(st.integers(0, 2)) == 0 else "none"
        burst, rate_bps = draw(st.integers(9014, 60_000)), draw(st.integers(1_000_000, 14_000_000))
        asked.append((source, destination, Requirement(
            rate_bps, burst, max_latency_us=limit_us, protection=protection, analysis=analysis,
        )))  # fmt: skip
    return asked


def keeps_all_limits(live: LiveReservations, slack: float) -> None:
    for reservation in live:
        for placement in live.with_current_bounds(reservation).placements:
            limit_us = placement.flow.requirement.max_latency_us
            assert limit_us is None or placement.accumulated_latency_us <= limit_us * (1 + slack)


@given(asked=requests(), released=st.integers(0, 6))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_limit_is_kept(asked: list[tuple[str, str, Requirement]], released: int) -> None:
    live, calendar = LiveReservations(METRO), Calendar()
    for number, (source, destination, requirement) in enumerate(asked):
        identity = f"r-{number:x}"
        flow = Flow("flow", source, destination, Match("tcp", 7000 + number, 7800), requirement)
        decision = decide(METRO, calendar, live, Request(identity, 1, (flow,)), 0.0)
        if isinstance(decision, Admitted):
            calendar = decision.calendar
            live = decision.others.with_reservation(
                Reservation(identity, number, 1, "test", State.ACTIVE, 60, 0, 60, decision.placements)
            )
            keeps_all_limits(live, 0.0)
    live = live.without(f"r-{released:x}")
    keeps_all_limits(live, 1e-3)
    keeps_all_limits(LiveReservations.of(METRO, list(live)), 1e-3)
