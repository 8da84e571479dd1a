"""What meters counted before a change is kept, also where only some switches confirm it."""

from __future__ import annotations

from dataclasses import replace

from controller.admission.admission import Admitted, Request, decide
from controller.booking.calendar import Calendar
from controller.dataplane.entries import entries_of
from controller.dataplane.meter_tokens import NO_COUNTS, MeterCounts
from controller.dataplane.pipeline import intended_states
from controller.domain.network import network_from_map
from controller.domain.reservation import Flow, Match, Requirement, Reservation, State
from controller.switches.state_tracker import SwitchStateTracker
from tests.switch_updates import StageChanges
from topologies.map_file.loader import load_map

METRO = network_from_map(load_map("metro"))
COUNTED = MeterCounts(100, 100_000, 60, 60_000)


def reservation(rate_bps: int) -> Reservation:
    """Two flows from hosts at different switches."""
    match, requirement = Match("udp", 7801, 7800), Requirement(rate_bps, 40_000)
    flows = tuple(Flow(host, host, "cloud", match, requirement) for host in ("edge1", "edge3"))
    decision = decide(METRO, Calendar(), (), Request("r-1", 1, flows), 0.0)
    assert isinstance(decision, Admitted)
    return Reservation("r-1", 1, 1, "test", State.ACTIVE, 60, 0, 60, decision.placements)


def execute(stage: object, *switches: str, before: MeterCounts = COUNTED, after: MeterCounts = NO_COUNTS) -> None:
    """The readings that these switches return with a stage."""
    assert isinstance(stage, dict)
    changes: StageChanges = stage
    for switch in switches:
        for change in changes[switch]:
            if change.tokens is not None:
                change.tokens.before, change.tokens.after, change.tokens.is_read = before, after, True


def test_a_switch_that_confirms_keeps_its_count_where_another_fails() -> None:
    held = reservation(10_000_000)
    first, second = ((placement.switches[0], placement.meter_id) for placement in held.placements)
    assert first[0] != second[0]
    tracker = SwitchStateTracker(METRO)
    tracker.set_intended({held.id: held})
    for name, state in intended_states(METRO, [held]).items():
        assert not any(tracker.set_applied(name, entries_of(state)).values())
    lower = replace(held, placements=tuple(replace(placed, reserved_bps=5_000_000) for placed in held.placements))
    stages = tracker.update_stages(tracker.set_intended({held.id: lower}), require_all=True)
    totals = tracker.buckets.totals
    execute(next(stages), first[0], second[0], after=COUNTED)
    execute(next(stages), first[0])
    assert totals.begin(first) is None
    stages.close()
    tracker.forget([second[0]])
    assert (totals.known(first), totals.known(second)) == (COUNTED, COUNTED)
    assert totals.record(first, totals.begin(first), 1, COUNTED) == COUNTED.plus(COUNTED), "counted since the change"
    assert totals.record(second, totals.begin(second), 1, COUNTED) == COUNTED, "the change was not executed"
