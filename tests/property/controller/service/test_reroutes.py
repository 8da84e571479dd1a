"""Whatever is cut, repaired, reserved and released: what is told holds, also beside what has just left its path."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, multiple, rule

from controller.admission.latency_limits import exceeds_limits
from controller.domain.network import network_from_map
from controller.domain.reservation import Flow, Match, Protection, Requirement, Reservation, State
from controller.errors import ControllerError
from controller.service.requests import ReservationSpec
from controller.service.reservation_service import Service
from controller.storage.ledger import Ledger
from machine.polling import wait_until
from tests.simulated_service import UsedSwitches
from topologies.map_file.loader import load_map

METRO = network_from_map(load_map("metro"))
SPANS = [("r1", "r2"), ("r2", "r3"), ("r3", "r4"), ("r4", "r5"), ("r5", "r6"), ("r6", "r1"), ("r1", "r4")]
NOISE = 1 + 1e-6


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    rate_bps = draw(st.sampled_from([2_000_000, 15_000_000, 30_000_000, 60_000_000]))
    burst_bytes = draw(st.sampled_from([45_000, 200_000, 600_000]))
    limit_us = draw(st.sampled_from([None, 40_000.0, 60_000.0, 90_000.0, 150_000.0]))
    protection: Protection = draw(st.sampled_from(["none", "none", "link_disjoint"]))
    source = draw(st.sampled_from(["edge1", "edge2", "edge3", "edge4", "load1"]))
    requirement = Requirement(rate_bps, burst_bytes, max_latency_us=limit_us, protection=protection)
    return Flow("up", source, draw(st.sampled_from(["cloud", "load2"])), Match("udp", 1, 7800), requirement)


class Failures(RuleBasedStateMachine):
    live = Bundle("live")

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.switches = UsedSwitches(METRO)
        self.service = Service(METRO, self.switches, Ledger("sqlite://", "metro"), verify_interval_s=3600.0)
        self.service.start()
        self.stack.callback(self.service.stop)
        wait_until(lambda: self.service.queries.switches_up() == len(METRO.switches))
        self.store = self.service._store
        self.down: tuple[str, str] | None = None
        self.port = 10_000

    def teardown(self) -> None:
        self.stack.close()

    @rule(target=live, flow=flows())
    def reserve(self, flow: Flow) -> object:
        self.port += 1
        flow = replace(flow, match=Match("udp", self.port, 7800))
        try:
            made, _ = self.service.reserve(ReservationSpec("test", "public", 600.0, (flow,))).result(30)
        except ControllerError as error:
            assert error.status == 409, error
            return multiple()
        self.check()
        return made.id

    @rule(identity=live, flow=flows())
    def change(self, identity: str, flow: Flow) -> None:
        before = self.service.queries.stored(identity)
        same = before.placements[0].flow
        flow = replace(flow, source=same.source, destination=same.destination, match=same.match)
        with suppress(ControllerError):
            self.service.modify(identity, None, (flow,))
        self.check()

    @rule(identity=consumes(live))
    def release(self, identity: str) -> None:
        self.service.release(identity)
        self.process()
        self.check()

    @rule(span=st.sampled_from(SPANS))
    def cut(self, span: tuple[str, str]) -> None:
        """One span at a time, and the next when the queues have drained."""
        if self.down is None:
            self.set_span(span, up=False)

    @rule()
    def mend(self) -> None:
        if self.down is not None:
            self.set_span(self.down, up=True)

    def set_span(self, span: tuple[str, str], up: bool) -> None:
        self.switches.set_span(*span, up=up)
        self.down = None if up else span
        self.process()
        self.check_told()
        self.drain()
        self.check()

    def process(self) -> None:
        for _ in range(2):
            for update in self.service._lifecycle.process_pending(60):
                update.result(10)

    def drain(self) -> None:
        """Wait until what was in transit has left."""

        def has_drained() -> bool:
            self.process()
            return not self.store._draining

        wait_until(has_drained, 30)

    def active(self) -> list[Reservation]:
        return [each for each in self.store.published_live() if each.state is State.ACTIVE]

    def check(self) -> None:
        """Told bounds and limits hold beside all whose packets may be in the network."""
        with self.service._state.lock:
            self.service._state.purge()
            live = self.store.live_with_draining_bursts()
            for reservation in self.store.published_live():
                if self.store.is_draining(reservation.id):
                    continue
                bounds = live.current_bounds(reservation)
                for placement in reservation.carried_placements:
                    assert not exceeds_limits(placement, bounds[placement.flow.name]), (placement, bounds)
        self.check_told()
        ended = set(self.store._retiring) | {each.split("~")[0] for each in self.store._draining}
        known = {each.id for each in self.store.published_live()}
        booked = {booking.reservation_id for link in METRO.links for booking in self.store.calendar.bookings_on(link)}
        assert booked <= known | ended

    def check_told(self) -> None:
        for reservation in self.service.queries.reservations():
            with self.service._state.lock:
                if not reservation.is_live or self.store.is_draining(reservation.id):
                    continue
                bounds = self.store.live_with_draining_bursts().current_bounds(reservation)
            for placement in reservation.carried_placements:
                bound = bounds[placement.flow.name]
                assert bound.accumulated_latency_us <= placement.accumulated_latency_us * NOISE
                assert bound.latency_variation_us <= placement.latency_variation_us * NOISE


TestFailures = Failures.TestCase
TestFailures.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
