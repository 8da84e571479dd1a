"""Gates of periodic windows: when they are open, the intended state then, and updates that do not accumulate."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.booking.gate_schedule import GRACE_US, GUARD_US, TOLERATED_LATE_US, is_open, next_change_us
from controller.clock import Clock
from controller.dataplane.entries import BEST_EFFORT_METERS
from controller.dataplane.intended_state import ChangedKeys
from controller.dataplane.pipeline import best_effort_meter, intended_states
from controller.domain.events import GatesLate
from controller.domain.reservation import Reservation, Window
from controller.switches.gate_control import MAX_WAIT_S, TELL_INTERVAL_S, GateController
from controller.switches.state_tracker import SwitchStateTracker
from machine.polling import wait_until
from tests.unit.controller.dataplane.test_pipeline import METRO, packet, reservation, send

SECOND_US = 1_000_000
WINDOW = Window(SECOND_US, 300_000, 400_000)
OPEN_US, CLOSED_US = 50 * SECOND_US + 500_000, 50 * SECOND_US + 900_000


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
def test_a_gate_changes_at_the_next_moment_and_not_before(window: Window, now_us: int) -> None:
    moment_us = next_change_us([window], now_us)
    if moment_us is None:
        assert window.length_us + GUARD_US + GRACE_US >= window.period_us
        assert all(is_open(window, now_us + us) for us in range(0, window.period_us, 997))
        return
    assert now_us < moment_us <= now_us + window.period_us
    assert is_open(window, now_us) == is_open(window, moment_us - 1) != is_open(window, moment_us)


@given(st.lists(windows(), min_size=1, max_size=4), st.integers(0, 10**9))
def test_the_next_moment_of_several_windows_is_the_earliest(several: list[Window], now_us: int) -> None:
    moments_us = [next_change_us([window], now_us) for window in several]
    assert next_change_us(several, now_us) == min((us for us in moments_us if us is not None), default=None)


def test_a_flow_is_reserved_inside_its_window_and_late_but_metered_outside() -> None:
    inside = send(intended_states(METRO, [periodic()], now_us=OPEN_US), "edge1", packet())
    outside = send(intended_states(METRO, [periodic()], now_us=CLOSED_US), "edge1", packet(ip_dscp=46))
    assert (set(inside.marks), set(outside.marks)) == ({46}, {34})
    assert inside.nodes[-1] == outside.nodes[-1] == "cloud"
    assert [meter_id for _, meter_id in inside.meters] == [meter_id for _, meter_id in outside.meters] == [110_000]


def test_best_effort_may_use_the_rate_of_a_closed_window() -> None:
    link = METRO.links["r6->r1"]
    meter_id = BEST_EFFORT_METERS + link.source_port
    for now_us, reserved_bps in ((OPEN_US, 15_000_000), (CLOSED_US, 0)):
        state = intended_states(METRO, [periodic()], now_us=now_us)["r6"]
        assert state.meters[meter_id] == best_effort_meter(link, reserved_bps)


def test_the_intended_state_follows_the_clock() -> None:
    now_us = OPEN_US
    tracker = SwitchStateTracker(METRO, lambda: now_us / 1e6)
    held = periodic()
    tracker.set_intended({held.id: held})
    moment_us = tracker.next_gate_us()
    assert moment_us == 50 * SECOND_US + 700_000 + GRACE_US
    now_us = moment_us
    changed = tracker.apply_gates()
    assert changed.keys() == {"r6", "r1", "r2"}
    assert sum(kind == "flow" for keys in changed.values() for kind, _ in keys) == 1
    assert tracker.apply_gates() == {}
    assert tracker.next_gate_us() == 51 * SECOND_US + 300_000 - GUARD_US


class SlowSwitches:
    """A gate target that always has another change, and two switches of which one does not confirm."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []
        self.changes = 0
        self.confirmation: Future[None] = Future()
        self.enough = threading.Event()

    def next_gate_us(self) -> int | None:
        return 0

    def apply_gates(self) -> ChangedKeys:
        self.changes += 1
        if self.changes >= 50:
            self.enough.set()
        return {name: {("meter", self.changes)} for name in ("slow", "quick")}

    def synchronize(self, changed: ChangedKeys) -> Future[None]:
        ((name, keys),) = changed.items()
        self.sent.append((name, len(keys)))
        if name == "slow" and not self.confirmation.done():
            return self.confirmation
        done: Future[None] = Future()
        done.set_result(None)
        return done


def test_a_slow_switch_delays_no_other_and_gets_all_later_changes_in_one_update() -> None:
    switches = SlowSwitches()
    gates = GateController(switches, switches.synchronize, lambda _: None)
    gates.start()
    assert switches.enough.wait(60)
    gates.stop()
    assert [name for name, _ in switches.sent].count("slow") == 1
    assert [name for name, _ in switches.sent].count("quick") == switches.changes
    switches.confirmation.set_result(None)
    assert switches.sent[-1] == ("slow", switches.changes - 1)


def test_changes_that_a_switch_confirms_too_late_are_told_once() -> None:
    """The change that it gets next was due while it was slow, and is late by as much at least."""
    switches, told = SlowSwitches(), list[GatesLate]()
    gates = GateController(switches, switches.synchronize, told.append)
    gates.start()
    assert switches.enough.wait(60)
    time.sleep(2 * TOLERATED_LATE_US / 1e6)
    switches.confirmation.set_result(None)
    wait_until(lambda: any("slow" in event.switches for event in told), 10)
    gates.stop()
    event = next(event for event in told if "slow" in event.switches)
    assert event.late_s > 2 * TOLERATED_LATE_US / 1e6
    assert event.changes >= 2
    assert len(told) <= 2 + event.late_s / TELL_INTERVAL_S


class Sender:
    """Records when gates change, by the monotonic clock."""

    def __init__(self) -> None:
        self.changes_s: list[float] = []

    def synchronize(self, _: ChangedKeys) -> Future[None]:
        self.changes_s.append(time.monotonic())
        done: Future[None] = Future()
        done.set_result(None)
        return done


PERIOD_S = 0.25


@pytest.mark.parametrize("is_taken", [True, False], ids=["step seen", "step not seen"])
@pytest.mark.parametrize("step_s", [-3600.0, -30.0, -5.0, 5.0, 30.0, 3600.0])
def test_no_gate_stops_when_the_clock_steps(step_s: float, is_taken: bool) -> None:
    """`step not seen`: the clock that the gates are given steps by itself."""
    shift_s = [0.0]
    clock = Clock(lambda: time.time() + shift_s[0])
    now: Callable[[], float] = clock if is_taken else lambda: time.time() + shift_s[0]
    tracker, sender = SwitchStateTracker(METRO, now), Sender()
    held = periodic(Window(round(PERIOD_S * SECOND_US), 100_000, 50_000))
    tracker.set_intended({held.id: held})
    told: list[GatesLate] = []
    gates = GateController(tracker, sender.synchronize, told.append, now)
    gates.start()
    wait_until(lambda: len(sender.changes_s) >= 2)
    shift_s[0] = step_s
    stepped_s, seen = time.monotonic(), len(sender.changes_s)
    if is_taken:
        clock.take_step(clock.step_s())
        gates.reschedule()
    wait_until(lambda: len(sender.changes_s) >= seen + 12, timeout_s=20)
    gates.stop()
    silent_s = max(after - before for before, after in pairwise([stepped_s, *sender.changes_s[seen:]]))
    assert not [event for event in told if event.late_s > abs(step_s) - 1.5], "a step is no lateness"
    assert silent_s < (0 if is_taken else MAX_WAIT_S) + 2 * PERIOD_S + 1.0, "a second for a loud machine"
