"""Whatever tenants do: promised bounds are kept, and every change of a told bound is an event and a new version."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from controller.domain.events import BoundsChanged, ReservationChanged, ServiceEvent
from controller.domain.reservation import Flow, Match, Placement, Requirement, Reservation
from controller.errors import Refused
from controller.service.requests import ReservationSpec
from controller.storage.ledger import Ledger
from tests.unit.controller.simulated_switches import running_service

SOURCES = ("edge1", "edge2", "load1")
DESTINATIONS = ("cloud", "cloud", "edge1")
NOISE = 1 + 1e-6

Told = tuple[float, float]


@st.composite
def requirements(draw: st.DrawFn) -> Requirement:
    rate_bps = draw(st.integers(1000, 20_000_000))
    burst_bytes = draw(st.sampled_from([9014, 20_000, 45_000, 200_000]))
    slack = draw(st.sampled_from([None, None, 0.0, 0.05, 0.5, 2.0]))
    latency_us = draw(st.sampled_from([None, None, None, 60_000.0]))
    return Requirement(rate_bps, burst_bytes, max_latency_us=latency_us, bound_slack=slack)


Choice = tuple[str, str, str, Requirement]
choices = st.lists(
    st.tuples(
        st.sampled_from(["f0", "f1", "f2"]), st.sampled_from(SOURCES), st.sampled_from(DESTINATIONS), requirements()
    ).filter(lambda choice: choice[1] != choice[2]),
    min_size=1,
    max_size=2,
    unique_by=lambda choice: choice[0],
)


def told_by(reservation: Reservation) -> dict[str, Told]:
    return {p.flow.name: _told(p) for p in reservation.placements}


def _told(placement: Placement) -> Told:
    return placement.accumulated_latency_us, placement.latency_variation_us


class Neighbours(RuleBasedStateMachine):
    live = Bundle("live")

    def __init__(self) -> None:
        super().__init__()
        self.stack, self.ledger = ExitStack(), Ledger("sqlite://", "pair")
        self.service = self.stack.enter_context(running_service(self.ledger))
        self.state = self.service._state
        self.versions: dict[str, list[Reservation]] = {}
        self.bound_events: list[BoundsChanged] = []
        self.service.queries.subscribe(self.take)
        self.ports = 10_000

    def take(self, event: ServiceEvent) -> None:
        if isinstance(event, ReservationChanged):
            self.versions.setdefault(event.reservation.id, []).append(event.reservation)
        elif isinstance(event, BoundsChanged):
            self.bound_events.append(event)

    def teardown(self) -> None:
        self.stack.close()

    def flows(self, chosen: list[Choice]) -> tuple[Flow, ...]:
        self.ports += len(chosen)
        return tuple(
            Flow(name, source, destination, Match("udp", self.ports + number, 7800), requirement)
            for number, (name, source, destination, requirement) in enumerate(chosen)
        )

    @rule(target=live, chosen=choices, tenant=st.sampled_from(["lab", "plant"]), hold=st.booleans())
    def reserve(self, chosen: list[Choice], tenant: str, hold: bool) -> object:
        try:
            reservation, _ = self.service.reserve(
                ReservationSpec("test", tenant, 600.0, self.flows(chosen), hold)
            ).result(10)
        except Refused:
            return multiple()
        return reservation.id

    @rule(identity=live, chosen=choices | st.none())
    def change(self, identity: str, chosen: list[Choice] | None) -> None:
        flows = None if chosen is None else self.flows(chosen)
        with suppress(Refused):
            self.service.modify(identity, None, flows)

    @rule(identity=live)
    def read(self, identity: str) -> None:
        """A reader is never told a bound that does not hold."""
        found = self.service.queries.reservation(identity)
        for name, bound in self.state.store.live.current_bounds(found).items():
            latency_us, variation_us = told_by(found)[name]
            assert bound.accumulated_latency_us <= latency_us * NOISE
            assert bound.latency_variation_us <= variation_us * NOISE

    @rule(identity=consumes(live))
    def release(self, identity: str) -> None:
        self.service.release(identity)

    @rule()
    def bounds_that_have_fallen_may_be_told(self) -> None:
        self.service._bound_updates._next_fall_s = 0.0

    @invariant()
    def promises_are_kept_and_every_change_is_told(self) -> None:
        self.state.wait_until_drained()
        with self.state.lock:
            self.state.purge()
            self.service._bound_updates.process()
            published = [each for each in self.state.store.published.values() if each.is_live]
            current = self.state.store.live
            for reservation in published:
                told, bounds = told_by(reservation), current.current_bounds(reservation)
                for placement in reservation.placements:
                    bound = bounds[placement.flow.name]
                    assert bound.accumulated_latency_us <= told[placement.flow.name][0] * NOISE
                    assert bound.latency_variation_us <= told[placement.flow.name][1] * NOISE
                    for limit_us, bound_us in (
                        (placement.promised_latency_us, bound.accumulated_latency_us),
                        (placement.promised_variation_us, bound.latency_variation_us),
                    ):
                        assert (limit_us is None) == (placement.flow.requirement.bound_slack is None)
                        assert limit_us is None or bound_us <= limit_us * NOISE
            events = len(self.bound_events), sum(map(len, self.versions.values()))
            self.service._bound_updates.process()
            assert events == (len(self.bound_events), sum(map(len, self.versions.values())))
            self.check_events()
        self.state.writer.flush(everything=True)
        for reservation in published:
            assert self.ledger.find(reservation.id) == reservation

    def check_events(self) -> None:
        """Told bounds change with a new version only, and each change has one event with both bounds."""
        expected = []
        for versions in self.versions.values():
            for before, after in pairwise(versions):
                changed = {
                    name: (told_by(before)[name], told)
                    for name, told in told_by(after).items()
                    if name in told_by(before) and _differ(told_by(before)[name], told)
                }
                if changed:
                    assert after.version > before.version
                    expected.append((after.id, after.version, changed))
        found = [
            (each.reservation.id, each.reservation.version,
             {change.after.flow.name: (_told(change.before), _told(change.after)) for change in each.flows})
            for each in self.bound_events
        ]
        assert sorted(found, key=lambda event: event[:2]) == sorted(expected, key=lambda event: event[:2])
        assert not [change for each in self.bound_events if each.cause != "requested" for change in each.flows
                    if change.broken_promise is not None]


def _differ(before: Told, after: Told) -> bool:
    return any(abs(new - old) > 1e-6 * old for old, new in zip(before, after, strict=True))


TestNeighbours = Neighbours.TestCase
TestNeighbours.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
