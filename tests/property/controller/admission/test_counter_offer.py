"""Counter-offers hold: the offered request is admitted, and the same request is admitted at `fits_at`.

Neither an offered nor a granted burst is below the least with which its meter passes the full rate.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from controller.admission.admission import Admitted, Rejected, Request, decide
from controller.admission.counter_offer import decide_with_offer
from controller.admission.live_reservations import LiveReservations
from controller.booking.calendar import Calendar
from controller.domain.network import network_from_map
from controller.domain.reservation import Flow, Match, Protection, Requirement, Reservation, State, least_burst_bytes
from controller.errors import Refused
from topologies.map_file.loader import load_map

PAIR = network_from_map(load_map("pair"))
PROTECTIONS: tuple[Protection, ...] = ("none", "none", "none", "none", "link_disjoint")


@st.composite
def requirements(draw: st.DrawFn) -> Requirement:
    limit_us = draw(st.none() | st.floats(1000, 60_000))
    protection = draw(st.sampled_from(PROTECTIONS))
    burst_bytes = draw(st.sampled_from((None, 1, 9014, 45_000)))
    if draw(st.booleans()):
        return Requirement(draw(st.integers(1000, 100_000_000)), burst_bytes, limit_us, protection=protection)
    periods = st.none() | st.just(1000.0)
    return Requirement(
        burst_bytes=burst_bytes,
        transfer_bytes=draw(st.integers(1, 5_000_000)),
        deadline_ms=draw(st.floats(5, 1000)),
        period_ms=draw(periods),
        max_latency_us=limit_us,
        protection=protection,
    )


@st.composite
def flows(draw: st.DrawFn, first_port: int) -> tuple[Flow, ...]:
    needs = draw(st.lists(requirements(), min_size=1, max_size=2))
    sources = st.sampled_from(["edge1", "edge2"])
    return tuple(
        Flow(f"f{number}", draw(sources), "cloud", Match("tcp", first_port + number, 7800), requirement)
        for number, requirement in enumerate(needs)
    )


def assert_bursts_carry_the_full_rate(admitted: Admitted) -> None:
    for placement in admitted.placements:
        assert placement.burst_bytes >= least_burst_bytes(placement.reserved_bps, PAIR.max_frame_bytes)


@given(reserved=st.lists(flows(1000), max_size=3), ends=st.permutations([10.0, 20.0, None]), requested=flows(2000))
@settings(max_examples=60, deadline=None)
def test_counter_offers_are_admitted(
    reserved: list[tuple[Flow, ...]], ends: list[float | None], requested: tuple[Flow, ...]
) -> None:
    calendar, live = Calendar(), LiveReservations(PAIR)
    for number, (held, end_s) in enumerate(zip(reserved, ends, strict=False), 1):
        ports = [replace(each, match=Match("udp", 10 * number + port, 1)) for port, each in enumerate(held)]
        request = Request(f"r-{number}", 1, tuple(ports), None, end_s or float("inf"))
        decision = decide(PAIR, calendar, live, request, 0.0)
        if isinstance(decision, Admitted):
            assert_bursts_carry_the_full_rate(decision)
            times = 60.0, 0.0, 60.0
            new = Reservation(request.reservation_id, number, 1, "test", State.ACTIVE, *times, decision.placements)
            calendar, live = decision.calendar, decision.others.with_reservation(replace(new, end_at_s=end_s))
    request = Request("r-99", 1, requested, None, 1000.0)
    decision = decide_with_offer(PAIR, calendar, live, request, 0.0)
    if not isinstance(decision, Rejected) or not isinstance(decision.error, Refused):
        return
    decision.error.add_offer()
    offered, fits_at_s = decision.error.facts["offer"], decision.error.facts["fits_at"]
    event(f"{decision.error.code}: offer {offered is not None}, later {fits_at_s is not None}")
    if isinstance(offered, tuple):
        assert [flow.five_tuple for flow in offered] == [flow.five_tuple for flow in requested]
        assert offered != requested
        admitted = decide(PAIR, calendar, live, replace(request, flows=offered), 0.0)
        assert isinstance(admitted, Admitted)
        assert_bursts_carry_the_full_rate(admitted)
        for placement in admitted.placements:
            assert placement.flow.requirement.burst_bytes in (None, placement.burst_bytes)
    if isinstance(fits_at_s, float):
        later = replace(request, start_s=fits_at_s, end_s=fits_at_s + 1000)
        assert fits_at_s in (10.0, 11.0, 20.0, 21.0)
        assert isinstance(decide(PAIR, calendar, live, later, 0.0), Admitted)
