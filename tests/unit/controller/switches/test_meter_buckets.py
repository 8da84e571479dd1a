"""Which meters start full: only the first ones of flows that have never sent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from controller.dataplane.entries import entries_of
from controller.dataplane.intended_state import ChangedKeys
from controller.dataplane.meter_tokens import MeterCounts, bucket_bytes
from controller.dataplane.pipeline import intended_states, reservation_meter
from controller.dataplane.update_order import Change
from controller.domain.reservation import Requirement, Reservation
from controller.switches.meter_buckets import DRAWN_BYTES
from controller.switches.state_tracker import SwitchStateTracker
from tests.unit.controller.dataplane.test_pipeline import METRO, flow, reservation

FIRST = flow(port=7801)
SECOND = replace(flow(port=7802), name="second")


class Switches:
    """Switches that confirm everything; their meters count `passed_bytes` when they are deleted."""

    def __init__(self, *installed: Reservation) -> None:
        self.tracker = SwitchStateTracker(METRO)
        self.passed_bytes = 0
        self.tracker.set_intended({each.id: each for each in installed})
        for name, state in intended_states(METRO, installed).items():
            self.tracker.set_applied(name, entries_of(state))

    def set(self, reservation_id: str, after: Reservation | None) -> list[Change]:
        """The changes of reservations' meters that this makes."""
        return self.update(self.tracker.set_intended({reservation_id: after}))

    def update(self, keys: ChangedKeys) -> list[Change]:
        meters = []
        for stage in self.tracker.update_stages(keys, require_all=True):
            assert isinstance(stage, dict)
            changes = [change for listed in stage.values() for change in listed]
            meters += [change for change in changes if change.entry[0] >= 110_000 and "meter" in change.kind]
            for change in changes:
                if change.kind == "delete_meter" and change.tokens is not None:
                    change.tokens.before = MeterCounts(10, self.passed_bytes, 0, 0)
        return meters


def starts_full(changes: Iterable[Change]) -> list[bool]:
    """Whether each meter that is added starts full; the others start empty."""
    added = [change for change in changes if change.kind == "add_meter"]
    drained = [sum(change.tokens.frames) if change.tokens else 0 for change in added]
    full = [bucket_bytes(reservation_meter(placement)) for placement in reservation().placements]
    assert set(drained) <= {0, *full}
    return [not removed for removed in drained]


def test_a_new_reservation_starts_full_and_so_does_the_next_one_after_its_release() -> None:
    switches, new = Switches(), reservation()
    assert starts_full(switches.set(new.id, new)) == [True]
    assert starts_full(switches.set(new.id, None)) == []
    later = reservation(2)
    assert starts_full(switches.set(later.id, later)) == [True]


def test_a_flow_added_to_a_reservation_starts_full_but_one_that_replaces_another_starts_empty() -> None:
    switches, one = Switches(), reservation(1, FIRST)
    both = reservation(1, FIRST, SECOND, version=2)
    switches.set(one.id, one)
    assert starts_full(switches.set(one.id, both)) == [True]
    assert starts_full(switches.set(one.id, one)) == []
    other = replace(one, placements=(replace(both.placements[1], meter_id=110_001),))
    assert starts_full(switches.set(one.id, other)) == [False]


def test_a_meter_that_is_restored_starts_empty() -> None:
    switches, installed = Switches(), reservation()
    switches.set(installed.id, installed)
    states = intended_states(METRO, [installed])
    without = replace(states["r6"], meters={})
    keys = switches.tracker.set_applied("r6", entries_of(without))
    assert starts_full(switches.update(keys)) == [False]


def test_a_meter_that_was_never_confirmed_starts_empty_at_the_next_attempt() -> None:
    switches, installed = Switches(), reservation()
    keys = switches.tracker.set_intended({installed.id: installed})
    switches.tracker.forget(["r6"])
    switches.tracker.set_applied("r6", entries_of(intended_states(METRO, [])["r6"]))
    assert starts_full(switches.update(keys)) == [False]


def test_a_restart_of_the_controller_leaves_meters_as_they_are() -> None:
    installed = reservation()
    switches = Switches(installed)
    keys = {name: set(switches.tracker.applied(name)) for name in ("r6", "r1", "r2")}
    assert switches.update(keys) == []


def test_a_link_that_fails_leaves_the_meter_as_it_is() -> None:
    switches, installed = Switches(), reservation()
    switches.set(installed.id, installed)
    assert switches.update(switches.tracker.set_links_down(frozenset({"r6->r1", "r1->r6"}))) == []


def test_an_ended_flow_may_forward_until_its_meter_is_gone_and_is_told_to_have_sent() -> None:
    for passed_bytes in (0, 1500):
        switches, ended = Switches(), reservation()
        switches.set(ended.id, ended)
        switches.passed_bytes = passed_bytes
        keys = switches.tracker.set_intended({ended.id: None})
        stages = switches.tracker.update_stages(keys, require_all=True)
        for stage in stages:
            assert isinstance(stage, dict)
            assert switches.tracker.may_forward(ended)
            for change in stage.get("r6", ()):
                if change.tokens is not None:
                    change.tokens.before = MeterCounts(1, passed_bytes, 0, 0)
        assert not switches.tracker.may_forward(ended)
        assert (switches.tracker.pop_end_s(ended) is not None) == (passed_bytes > 0)


def test_many_meters_grow_some_after_others_each_drawn_shortly_before_it_is_changed() -> None:
    """As many at a time as hold DRAWN_BYTES in their buckets."""
    burst_bytes, count = 400_000, 12
    assert burst_bytes * count > 2 * DRAWN_BYTES
    held = [reservation(number, replace(flow(port=7800 + number), requirement=Requirement(1_000_000, burst_bytes)))
            for number in range(1, count + 1)]
    held = [replace(each, placements=tuple(replace(placement, meter_id=placement.meter_id + each.number)
                                           for placement in each.placements)) for each in held]
    tracker = SwitchStateTracker(METRO)
    small = {each.id: {"edge1-up": burst_bytes} for each in held}
    tracker.set_intended({each.id: each for each in held}, small)
    for name, state in intended_states(METRO, held, meter_bursts=small).items():
        tracker.set_applied(name, entries_of(state))
    keys = tracker.set_intended({}, {each.id: {"edge1-up": burst_bytes + 1000} for each in held})
    sent = [[(change.kind, change.entry[0]) for listed in stage.values() for change in listed]
            for stage in tracker.update_stages(keys, require_all=True) if isinstance(stage, dict)]
    drawn: set[object] = set()
    grown: list[object] = []
    for changes in sent:
        assert len({kind for kind, _ in changes}) <= 1
        assert sum(burst_bytes for kind, _ in changes if kind == "move_tokens") <= DRAWN_BYTES + 2 * burst_bytes
        drawn |= {meter_id for kind, meter_id in changes if kind == "move_tokens"}
        changed = [meter_id for kind, meter_id in changes if kind == "modify_meter"]
        grown += changed
        assert drawn == set(grown) if changed else True
    assert sorted(map(str, grown)) == sorted(str(placement.meter_id) for each in held for placement in each.placements)
    assert len(sent) > 4
    assert not any(tracker.update_stages(keys, require_all=True))
