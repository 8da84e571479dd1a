"""A change of rates alone changes meters, and waits for no packets; one of paths waits for those on the old path."""

from __future__ import annotations

from dataclasses import replace

from controller.admission.admission import Admitted, Request, decide
from controller.booking.calendar import Calendar
from controller.dataplane.entries import entries_of
from controller.dataplane.pipeline import intended_states
from controller.dataplane.southbound import Pause
from controller.domain.network import network_from_map
from controller.domain.reservation import Flow, Match, Requirement, Reservation, State
from controller.switches.pending_update import StageChanges
from controller.switches.state_tracker import SwitchStateTracker
from topologies.map_file.loader import load_map

METRO = network_from_map(load_map("metro"))
DRAIN_S = 0.05


def flow(rate_bps: int, protection: str = "none") -> Flow:
    requirement = Requirement(rate_bps, 40_000, protection=protection)  # type: ignore[arg-type]
    return Flow("f", "edge1", "cloud", Match("udp", 7801, 7800), requirement)


def stages_of_change(before: Flow, after: Flow) -> list[StageChanges | Pause]:
    """The stages of a modification, each confirmed at once."""
    admitted = decide(METRO, Calendar(), (), Request("r-1", 1, (before,)), 0.0)
    assert isinstance(admitted, Admitted)
    held = Reservation("r-1", 1, 1, "test", State.ACTIVE, 60, 0, 60, admitted.placements)
    tracker = SwitchStateTracker(METRO)
    tracker.set_intended({held.id: held})
    for name, state in intended_states(METRO, [held]).items():
        tracker.set_applied(name, entries_of(state))
    changed = decide(METRO, admitted.calendar, [held], Request("r-1", 2, (after,)), 0.0)
    assert isinstance(changed, Admitted)
    keys = tracker.set_intended({held.id: replace(held, version=2, placements=changed.placements)})
    return list(tracker.update_stages(keys, require_all=True, drain_s=DRAIN_S))


def kinds(stages: list[StageChanges | Pause]) -> list[set[str]]:
    return [
        {"pause"} if isinstance(stage, Pause) else {change.kind for changes in stage.values() for change in changes}
        for stage in stages
    ]


def test_a_higher_rate_shrinks_best_effort_everywhere_before_the_meter_grows() -> None:
    found = kinds(stages_of_change(flow(10_000_000), flow(20_000_000)))
    assert found == [{"modify_meter"}, {"move_tokens"}, {"modify_meter"}]


def test_a_lower_rate_grows_best_effort_last_and_pauses_for_no_packets() -> None:
    found = kinds(stages_of_change(flow(20_000_000), flow(10_000_000)))
    assert found == [{"move_tokens"}, {"modify_meter"}, {"modify_meter"}]


def test_an_old_path_is_removed_after_its_packets_have_left_it() -> None:
    found = kinds(stages_of_change(flow(10_000_000, "link_disjoint"), flow(10_000_000)))
    assert "add_flow" in found[0]
    assert found[-2] == {"pause"}
    assert found[-1] == {"delete_flow"}
