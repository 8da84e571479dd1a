"""Gates of periodic windows: what is open when, what the switches hold then, and that turns never pile up."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from controller.booking.gate_schedule import GRACE_US, GUARD_US, is_open, next_change_us
from controller.dataplane.entries import BEST_EFFORT_METERS
from controller.dataplane.intended_state import ChangedKeys
from controller.dataplane.pipeline import best_effort_meter, intended_states
from controller.domain.reservation import Reservation, Window
from controller.switches.gate_control import GateController
from controller.switches.state_tracker import SwitchStateTracker
from tests.unit.controller.dataplane.test_pipeline import METRO, packet, reservation, send

SECOND_US = 1_000_000
WINDOW = Window(SECOND_US, 300_000, 400_000)
OPEN_US, SHUT_US = 50 * SECOND_US + 500_000, 50 * SECOND_US + 900_000


@st.composite
def windows(draw: st.DrawFn) -> Window:
    period_us = draw(st.integers(GUARD_US, 10 * GUARD_US))
    return Window(period_us, draw(st.integers(0, period_us - 1)), draw(st.integers(1, period_us)))


def periodic(window: Window = WINDOW) -> Reservation:
    held = reservation()
    return replace(held, placements=(replace(held.placements[0], window=window),))


def test_a_gate_opens_the_guard_time_before_its_window_and_closes_the_grace_after_it() -> None:
    assert [is_open(WINDOW, 7 * SECOND_US + us) for us in (299_999 - GUARD_US, 300_000 - GUARD_US)] == [False, True]
    assert [is_open(WINDOW, 7 * SECOND_US + us) for us in (699_999 + GRACE_US, 700_000 + GRACE_US)] == [True, False]


@given(windows(), st.integers(0, 10**9))
def test_between_now_and_the_next_moment_no_gate_turns_and_at_it_one_does(window: Window, now_us: int) -> None:
    moment_us = next_change_us([window], now_us)
    if moment_us is None:
        assert window.length_us + GUARD_US + GRACE_US >= window.period_us
        assert all(is_open(window, now_us + us) for us in range(0, window.period_us, 997))
        return
    assert now_us < moment_us <= now_us + window.period_us
    assert is_open(window, now_us) == is_open(window, moment_us - 1) != is_open(window, moment_us)


@given(st.lists(windows(), min_size=1, max_size=4), st.integers(0, 10**9))
def test_the_next_moment_of_several_is_the_first_of_theirs(several: list[Window], now_us: int) -> None:
    each = [next_change_us([window], now_us) for window in several]
    assert next_change_us(several, now_us) == min((us for us in each if us is not None), default=None)


def test_outside_its_window_a_flow_is_late_but_metered_and_inside_it_is_served() -> None:
    inside = send(intended_states(METRO, [periodic()], now_us=OPEN_US), "edge1", packet())
    outside = send(intended_states(METRO, [periodic()], now_us=SHUT_US), "edge1", packet(ip_dscp=46))
    assert (set(inside.marks), set(outside.marks)) == ({46}, {34})
    assert inside.nodes[-1] == outside.nodes[-1] == "cloud"
    assert [meter_id for _, meter_id in inside.meters] == [meter_id for _, meter_id in outside.meters] == [110_000]


def test_best_effort_gets_a_window_s_rate_while_it_is_closed() -> None:
    link = METRO.links["r6->r1"]
    meter_id = BEST_EFFORT_METERS + link.source_port
    for now_us, taken_bps in ((OPEN_US, 15_000_000), (SHUT_US, 0)):
        state = intended_states(METRO, [periodic()], now_us=now_us)["r6"]
        assert state.meters[meter_id] == best_effort_meter(link, taken_bps)


def test_what_switches_should_hold_follows_the_clock() -> None:
    now_us = OPEN_US
    holdings = SwitchStateTracker(METRO, lambda: now_us / 1e6)
    held = periodic()
    holdings.set_intended({held.id: held})
    moment_us = holdings.next_gate_us()
    assert moment_us == 50 * SECOND_US + 700_000 + GRACE_US
    now_us = moment_us
    touched = holdings.apply_gates()
    assert touched.keys() == {"r6", "r1", "r2"}
    assert sum(kind == "flow" for keys in touched.values() for kind, _ in keys) == 1
    assert holdings.apply_gates() == {}
    assert holdings.next_gate_us() == 51 * SECOND_US + 300_000 - GUARD_US


class SlowSwitches:
    """A timetable that always has another turn, and one switch of two that does not confirm."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.turns = 0
        self.confirmation: Future[None] = Future()
        self.enough = threading.Event()

    def next_gate_us(self) -> int | None:
        return 0

    def apply_gates(self) -> ChangedKeys:
        self.turns += 1
        if self.turns >= 50:
            self.enough.set()
        return {name: {("meter", self.turns)} for name in ("slow", "quick")}

    def synchronize(self, touched: ChangedKeys) -> Future[None]:
        ((name, keys),) = touched.items()
        self.told.append((name, len(keys)))
        if name == "slow" and not self.confirmation.done():
            return self.confirmation
        done: Future[None] = Future()
        done.set_result(None)
        return done


def test_a_slow_switch_holds_up_no_other_and_hears_of_all_turns_at_once_when_it_confirms() -> None:
    switches = SlowSwitches()
    gates = GateController(switches)
    gates.start()
    assert switches.enough.wait(60)
    gates.stop()
    assert [name for name, _ in switches.told].count("slow") == 1
    assert [name for name, _ in switches.told].count("quick") == switches.turns
    switches.confirmation.set_result(None)
    assert switches.told[-1] == ("slow", switches.turns - 1)
