"""Whatever fails while the ledger fails and the clock steps: switches follow at once, and nothing is forgotten.

The service and its ledger are real; switches store the entries they are sent.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from controller import failpoints
from controller.admission.admission import Admitted, Request, decide
from controller.booking.calendar import Booking
from controller.booking.flow_bookings import bookings_of
from controller.clock import STEP_S
from controller.dataplane.fast_failover import active_path
from controller.domain.network import network_from_map
from controller.domain.reservation import LIVE, Flow, Match, Requirement, Reservation, State
from controller.errors import ControllerError, LedgerUnavailable
from controller.failpoints import FailPoint
from controller.service import ledger_writer
from controller.service.requests import ReservationSpec, until_s
from controller.service.reservation_service import Service
from controller.service.state import INSTALLED
from machine.polling import wait_until
from tests.simulated_service import FailingLedger, LedgerMode, SetClock, StoringSwitches, intended_entries
from topologies.map_file.loader import load_map

METRO = network_from_map(load_map("metro"))
MBPS = 1_000_000
SPANS = [("r1", "r2"), ("r2", "r3"), ("r3", "r4"), ("r4", "r5"), ("r5", "r6"), ("r6", "r1"), ("r1", "r4")]
LEASES_S = (20.0, 100.0, 5000.0)
TICK_S = 1.0


def flow(number: int, rate_mbps: int = 15) -> Flow:
    source, destination = [("edge1", "cloud"), ("edge2", "cloud"), ("edge3", "cloud"), ("load1", "load2")][number % 4]
    requirement = Requirement(rate_mbps * MBPS, 40_000, protection="link_disjoint" if number % 3 == 1 else "none")
    if number % 4 == 2:
        requirement = Requirement(transfer_bytes=100_000, deadline_ms=200.0, period_ms=700.0, offset_ms=100.0)
    return Flow(f"f{number}", source, destination, Match("udp", 9000 + number, 7800), requirement)


class World:
    """A service, its ledger, its switches and its clock; and what its clients were answered."""

    def __init__(self, directory: str) -> None:
        self.url = f"sqlite:///{directory}/ledger.db"
        self.clock = SetClock()
        self.switches = StoringSwitches(METRO)
        self.mode: LedgerMode = "ok"
        self.ids: list[str] = []
        """Of the reservations that clients were told of."""
        self.lease_ends_s: dict[str, float] = {}
        """By the monotonic clock."""
        self.released: set[str] = set()
        self.begun: set[str] = set()
        self.may_be_lost = False
        self.was_changed = False
        self.standby: tuple[FailingLedger, Service] | None = None
        self.start()

    def build(self) -> tuple[FailingLedger, Service]:
        ledger = FailingLedger(self.url, "metro")
        return ledger, Service(METRO, self.switches, ledger, clock=self.clock.pair(), verify_interval_s=3600.0)

    def start(self) -> None:
        (self.ledger, self.service), self.standby = self.standby or self.build(), None
        self.ledger.mode = self.mode
        self.switches.reconnect()
        self.service.start()
        wait_until(lambda: self.service.queries.switches_up() == len(METRO.switches))
        self.process()

    def fail(self, point: FailPoint) -> None:
        self.ledger.fail(point)

    def process(self) -> None:
        """Have the service process what has happened."""
        for _ in range(2):  # what one pass causes is due in the next
            self.service._lifecycle.process_pending(60)

    # Steps ----------------------------------------------------------------------------------------------------------

    def set_ledger(self, mode: LedgerMode) -> None:
        self.mode = self.ledger.mode = mode

    def reserve(self, number: int, lease_s: float, hold: bool, start_in_s: float | None, lasts_s: float | None) -> None:
        now_s = self.clock.monotonic_s + self.clock.offset_s
        start_s = None if start_in_s is None else now_s + start_in_s
        end_s = None if lasts_s is None else (start_s or now_s) + lasts_s
        spec = ReservationSpec("test", "public", lease_s, (flow(number),), hold, start_s, end_s)
        made = self.request(lambda: self.service.reserve(spec).result(60)[0])
        if made is not None:
            self.ids.append(made.id)
            self.lease_ends_s[made.id] = self.clock.monotonic_s + lease_s

    def change(self, action: str, place: int, lease_s: float) -> None:
        if not self.ids:
            return
        name = self.ids[place % len(self.ids)]
        service = self.service
        if action == "release":
            if self.request(lambda: service.release(name)) is not None:
                self.released.add(name)
        elif action == "renew":
            renewed = self.request(lambda: service.modify(name, lease_s, None))
            if renewed is not None:
                self.lease_ends_s[name] = self.clock.monotonic_s + lease_s
        elif action == "commit":
            if (committed := self.request(lambda: service.commit(name))) is not None:
                self.lease_ends_s[name] = self.clock.monotonic_s + committed.lease_s
        else:
            self.was_changed = True
            number = int(service.queries.stored(name).placements[0].flow.name[1:])
            if self.request(lambda: service.modify(name, lease_s, (flow(number, 10 + place % 30),))) is not None:
                self.lease_ends_s[name] = self.clock.monotonic_s + lease_s

    def request(self, call: Callable[[], Reservation]) -> Reservation | None:
        """The answer to a request; None if it was refused or failed, which may only be because of the ledger."""
        try:
            return call()
        except LedgerUnavailable:
            assert self.mode != "ok" or self.service.queries.ledger_status().failing_since_s is not None
            self.may_be_lost |= self.mode == "lost"
        except ControllerError as error:
            assert error.status == 409, error
        return None

    def set_span(self, place: int, up: bool) -> None:
        self.switches.set_span(*SPANS[place], up=up)

    def maintain(self, place: int, in_service: bool) -> None:
        try:
            self.service.maintenance.set_in_service(["-".join(sorted(SPANS[place]))], in_service)
        except LedgerUnavailable:
            assert self.mode != "ok" or self.service.queries.ledger_status().failing_since_s is not None

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def step(self, seconds: float) -> None:
        self.clock.step(seconds)

    def follow(self) -> None:
        """Have a standby keep up with the ledger; it takes over at the next restart."""
        self.standby = self.standby or self.build()
        self.standby[1]._lifecycle.loader.follow(lambda: False)

    def restart(self) -> None:
        """End the controller as a crash does: what is not in the ledger is lost. A standby takes over, if there is one.
        """
        self.service.stop()
        self.start()
        known = {name: found for name in self.ids if (found := self.ledger.find(name)) is not None}
        assert known.keys() == set(self.ids), "a reservation that a client was told of is gone"
        for name, found in known.items():
            # Unix time is all that a new process has.
            end_s = found.expires_at_s - self.clock.offset_s
            self.lease_ends_s[name] = min(end_s, self.clock.monotonic_s + found.lease_s)
        for reservation in self.service.queries.reservations():
            if reservation.id not in self.ids:
                assert self.may_be_lost, "the client was told that this reservation was not made"
                self.ids.append(reservation.id)
                self.lease_ends_s[reservation.id] = reservation.expires_at_s - self.clock.offset_s

    # Checks ---------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """What holds after every step, whatever the ledger does."""
        now_s, down = self.service._clock(), self.service._switches.links.down
        assert abs(now_s - self.clock.monotonic_s - self.clock.offset_s) < 1e-3
        live = [each for each in self.service.queries.reservations() if each.is_live]
        installed = [each for each in live if each.state in INSTALLED]
        for each in installed:
            for placement in each.carried_placements:
                assert active_path(placement, down) is not None, f"{each.id} is on a dead link: {placement.path}"
            self.begun.add(each.id)
        for each in live:
            assert each.id not in self.released
            assert each.state in INSTALLED or each.id not in self.begun, "a reservation was un-started"
            assert self.lease_ends_s[each.id] > self.clock.monotonic_s - TICK_S, "the lease is over"
            assert abs(each.expires_at_s - now_s - (self.lease_ends_s[each.id] - self.clock.monotonic_s)) < STEP_S
            assert each.state is not State.SCHEDULED or each.start_at_s > now_s
            assert each.installed_until_s > now_s
        for each in self.service.queries.reservations(State.EXPIRED):
            if each.id in self.ids:
                assert self.lease_ends_s[each.id] <= self.clock.monotonic_s + STEP_S, "the lease ended early"
        self.check_switches(installed, down, now_s)
        self.check_calendar(live, now_s)

    def check_switches(self, installed: list[Reservation], down: frozenset[str], now_s: float) -> None:
        meter_bursts = {each.id: self.service._store.live.meter_bursts(each.id) for each in installed}
        expected = intended_entries(METRO, installed, down, int(now_s * 1e6), meter_bursts)
        self.service._switches.on_clock_step()  # gates wait by the machine's clock
        try:
            wait_until(lambda: self.switches.installed() == expected, 10)
        except TimeoutError:
            assert self.switches.installed() == expected

    def check_calendar(self, live: list[Reservation], now_s: float) -> None:
        store = self.service._store
        for each in live:
            start_s = max(each.start_at_s, each.created_at_s)
            times = start_s, until_s(each.end_at_s)
            fresh = bookings_of(METRO.srlg_by_span, each.id, each.placements, *times)
            assert from_now(store.calendar.bookings_of(each.id), now_s) == from_now(fresh, now_s)
            assert each.state not in INSTALLED or start_s <= now_s + STEP_S
        booked = {booking.reservation_id for link in METRO.links for booking in store.calendar.bookings_on(link)}
        assert booked <= {each.id for each in live}, "bookings of no live reservation are left"
        assert {each.id for each in store.live} - set(store._draining) == {each.id for each in live}
        for link in METRO.links.values():
            assert store.calendar.reserved_bps(link.name, now_s) <= link.reservable_bps
        requested = sum(1 for each in live if each.tenant == "public")
        assert store.usage.usage_of("public").reservations == requested

    def check_recorded(self) -> None:
        """What holds once the ledger works again."""
        self.set_ledger("ok")
        wait_until(lambda: self.is_recorded(), 60)
        self.process()
        wait_until(lambda: self.is_recorded(), 60)
        published = self.service._store.published_live()
        with suppress(TimeoutError):  # bounds may be told anew meanwhile
            wait_until(lambda: self.recorded() == self.service._store.published, 10)
        assert self.recorded() == self.service._store.published
        assert {each.id for each in self.service.queries.reservations()} == set(self.ids) - self.forgotten()
        closed = self.service._switches.links.out_of_service
        assert self.ledger.closed_spans() == closed
        if not self.was_changed:
            self.check_alternatives(published)

    def recorded(self) -> dict[str, Reservation]:
        """What the ledger has of the reservations that clients see."""
        return {name: found for name in tuple(self.service._store.published) if (found := self.ledger.find(name))}

    def is_recorded(self) -> bool:
        status = self.service.queries.ledger_status()
        return status.failing_since_s is None and not status.unrecorded

    def forgotten(self) -> set[str]:
        """Those that ended before the last restart are in the ledger only."""
        listed = {each.id for each in self.service.queries.reservations()}
        ended = {name for name in self.ids if (found := self.ledger.find(name)) and found.state not in LIVE}
        return ended - listed

    def check_alternatives(self, published: list[Reservation]) -> None:
        """No flow is suspended although it could be placed."""
        store, down = self.service._store, self.service._switches.links.down
        for each in published:
            kept = frozenset(placement.flow.name for placement in each.carried_placements)
            if each.state in INSTALLED and len(kept) < len(each.placements):
                flows = tuple(placement.flow for placement in each.placements)
                request = Request(each.id, each.version + 1, flows, None, until_s(each.end_at_s), kept)
                decision = decide(METRO, store.calendar, store.live, request, self.service._clock(), down)
                assert not isinstance(decision, Admitted), f"{each.id} could be placed"


def from_now(bookings: Iterable[Booking], now_s: float) -> Counter[Booking]:
    """The bookings from now on: those of a flow that was rerouted start at that time."""
    return Counter(booking._replace(start_s=max(booking.start_s, now_s)) for booking in bookings)


Step = tuple[Any, ...]

STEPS: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("set_ledger"), st.sampled_from(["ok", "locked", "lost", "every other"])),
    st.tuples(
        st.just("reserve"), st.integers(0, 7), st.sampled_from(LEASES_S), st.booleans(),
        st.sampled_from([None, None, 30.0, 300.0]), st.sampled_from([None, None, 60.0, 4000.0]),
    ),
    st.tuples(
        st.just("change"), st.sampled_from(["release", "renew", "commit", "modify"]), st.integers(0, 30),
        st.sampled_from(LEASES_S),
    ),
    st.tuples(st.just("set_span"), st.integers(0, len(SPANS) - 1), st.booleans()),
    st.tuples(st.just("set_span"), st.integers(0, len(SPANS) - 1), st.just(False)),
    st.tuples(st.just("maintain"), st.integers(0, len(SPANS) - 1), st.booleans()),
    st.tuples(st.just("advance"), st.sampled_from([0.3, 10.0, 35.0, 120.0])),
    st.tuples(st.just("step"), st.sampled_from([-3600.0, -30.0, -5.0, -0.05, 0.05, 5.0, 30.0, 3600.0])),
    st.tuples(st.just("restart")),
    st.tuples(st.just("follow")),
)


@contextmanager
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world whose ledger fails as its mode says."""
    with tempfile.TemporaryDirectory() as directory, monkeypatch.context() as patch:
        patch.setattr(ledger_writer, "RETRY_S", 0.001)
        patch.setattr(failpoints, "_watchers", [])
        made = World(str(Path(directory)))
        failpoints.on_failpoint(made.fail)
        try:
            yield made
        finally:
            made.set_ledger("ok")
            made.service.stop()
            if made.standby is not None:
                made.standby[0].close()


def run(made: World, steps: list[Step]) -> None:
    for name, *arguments in steps:
        getattr(made, name)(*arguments)
        made.process()
        made.check()
    made.check_recorded()
    made.check()


RESERVE: Step = ("reserve", 0, 5000.0, False, None, None)
FOLLOW: Step = ("follow",)
RESTART: Step = ("restart",)


@settings(max_examples=20)
@given(st.lists(STEPS, min_size=3, max_size=14))
@example([RESERVE, ("set_ledger", "locked"), ("set_span", 0, False), ("restart",)])
@example([RESERVE, ("set_ledger", "lost"), ("change", "release", 0, 20.0), ("set_span", 0, False)])
@example([RESERVE, ("set_ledger", "every other"), ("change", "modify", 9, 20.0), ("advance", 35.0)])
@example([("reserve", 0, 5000.0, False, 30.0, 60.0), ("set_ledger", "locked"), ("advance", 35.0), ("advance", 120.0)])
@example([("reserve", 2, 5000.0, False, None, None), ("step", -3600.0), ("reserve", 3, 20.0, False, None, None)])
@example([("reserve", 0, 20.0, True, None, None), ("step", 3600.0), ("change", "commit", 0, 20.0), ("step", -30.0)])
@example([RESERVE, FOLLOW, ("set_span", 0, False), ("change", "modify", 0, 5000.0), RESTART, ("set_span", 0, True)])
@example([
    ("reserve", 1, 5000.0, True, None, None), FOLLOW, ("change", "commit", 0, 20.0), RESERVE, FOLLOW, ("step", 30.0),
    ("reserve", 2, 5000.0, False, None, None), ("change", "release", 1, 20.0), RESTART,
])
def test_switches_follow_every_failure_at_once_and_nothing_is_forgotten(steps: list[Step]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch, world(monkeypatch) as made:
        run(made, steps)


EVERYTHING: list[Step] = [
    RESERVE,
    ("reserve", 1, 20.0, False, None, None),
    ("reserve", 3, 5000.0, False, 30.0, 60.0),
    ("reserve", 4, 5000.0, True, None, None),
    ("set_span", 0, False),
    ("change", "renew", 0, 5000.0),
    ("change", "commit", 3, 5000.0),
    ("set_span", 0, True),
    ("maintain", 2, False),
    ("advance", 35.0),
    ("set_span", 5, False),
    ("maintain", 2, True),
    ("advance", 120.0),
    ("change", "modify", 0, 5000.0),
    ("step", -30.0),
    ("change", "release", 0, 5000.0),
]


@pytest.mark.parametrize("lasting", [1, 1000], ids=["one transaction", "all from then on"])
def test_any_transaction_may_fail(lasting: int) -> None:
    """Each transaction of a day in which everything happens: expiry, start, end, cut, repair, maintenance, requests."""
    first, is_reached = 1, True
    while is_reached:
        with pytest.MonkeyPatch.context() as monkeypatch, world(monkeypatch) as made:
            made.set_ledger("numbered")
            made.ledger.failing = range(first, first + lasting)
            run(made, EVERYTHING)
            is_reached = made.ledger.transactions >= first
            made.restart()
            made.check()
        first += 1
    assert first > 10
