"""Invariant: no link is oversubscribed, in whatever order reservations are admitted, modified and released."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from controller.admission.admission import Admitted, Request, decide
from controller.booking.calendar import Calendar
from controller.dataplane.entries import BEST_EFFORT_METERS
from controller.dataplane.pipeline import intended_states
from controller.domain.network import network_from_map
from controller.domain.reservation import Flow, Requirement, Reservation, State
from tests.property.strategies import groups
from topologies.map_file.loader import load_map

NETWORK = network_from_map(load_map("metro"))
HOSTS = [host.name for host in NETWORK.hosts]


REQUIREMENTS = st.builds(
    Requirement,
    st.integers(1000, 90_000_000),
    st.none() | st.integers(1, 100_000),
    st.none() | st.floats(1000, 300_000),
)
FLOWS = groups(HOSTS, REQUIREMENTS, 4)


class Reservations(RuleBasedStateMachine):
    live = Bundle("live")

    def __init__(self) -> None:
        super().__init__()
        self.calendar = Calendar()
        self.reservations: dict[str, Reservation] = {}
        self.numbers = iter(range(1, 10_000))
        self.down: frozenset[str] = frozenset()

    @rule(target=live, requested=FLOWS)
    def reserve(self, requested: tuple[Flow, ...]) -> object:
        number = next(self.numbers)
        identity = f"r-{number:08x}"
        decision = self._decide(Request(identity, 1, requested))
        if not isinstance(decision, Admitted):
            return multiple()
        new = Reservation(identity, number, 1, "test", State.ACTIVE, 60, 0, 60, decision.placements)
        self._accept(decision, new)
        assert decision.calendar.without_reservation(identity) == self.before
        return identity

    @rule(identity=live, requested=FLOWS)
    def modify(self, identity: str, requested: tuple[Flow, ...]) -> None:
        before_change = self.reservations[identity]
        decision = self._decide(Request(identity, before_change.version + 1, requested))
        if isinstance(decision, Admitted):
            self._accept(
                decision, replace(before_change, version=before_change.version + 1, placements=decision.placements)
            )

    @rule(identity=consumes(live))
    def release(self, identity: str) -> None:
        del self.reservations[identity]
        self.calendar = self.calendar.without_reservation(identity)

    @rule(down=st.sets(st.sampled_from(sorted(NETWORK.links)), max_size=2))
    def links_fail(self, down: set[str]) -> None:
        self.down = frozenset(down)

    def _decide(self, request: Request) -> object:
        return decide(NETWORK, self.calendar, tuple(self.reservations.values()), request, 0.0, self.down)

    def _accept(self, decision: Admitted, changed: Reservation) -> None:
        self.before = self.calendar
        self.calendar = decision.calendar
        self.reservations |= {each.id: decision.others.with_current_bounds(each) for each in decision.others}
        self.reservations[changed.id] = changed
        for placement in changed.placements:
            assert not self.down & set(placement.link_names)

    @invariant()
    def no_link_is_oversubscribed(self) -> None:
        taken = dict.fromkeys(NETWORK.links, 0)
        for reservation in self.reservations.values():
            for placement in reservation.placements:
                for name in placement.link_names:
                    taken[name] += placement.reserved_bps
        for name, link in NETWORK.links.items():
            assert taken[name] == self.calendar.reserved_bps(name, 0.0) <= link.reservable_bps

    @invariant()
    def every_limit_is_met(self) -> None:
        for reservation in self.reservations.values():
            for placement in reservation.placements:
                limit_us = placement.flow.requirement.max_latency_us
                assert limit_us is None or placement.accumulated_latency_us <= limit_us

    @invariant()
    def meters_do_not_exceed_link_capacity(self) -> None:
        """The best-effort meter and the reserved rates of a link never exceed its capacity."""
        states = intended_states(NETWORK, self.reservations.values())
        for name, link in NETWORK.links.items():
            if NETWORK.nodes[link.source].is_switch:
                meter = states[link.source].meters[BEST_EFFORT_METERS + link.source_port]
                best_effort_bps = meter.rate_kbps * 1000
                taken_bps = self.calendar.reserved_bps(name, 0.0)
                assert 0 < best_effort_bps <= link.capacity_bps - link.margin_bps - taken_bps

    def teardown(self) -> None:
        for identity in list(self.reservations):
            self.release(identity)
        assert self.calendar == Calendar()


TestReservations = Reservations.TestCase
TestReservations.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
