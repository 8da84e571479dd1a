"""Packets of protected flows on simulated switches, with links cut that the switches see and the controller may not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations, pairwise

import pytest

from controller.dataplane.entries import BEST_EFFORT_METERS, OUR_GROUPS, SwitchState
from controller.dataplane.flow_label import label
from controller.dataplane.pipeline import base_states, best_effort_meter, reserved_entries, wanted_states
from controller.domain.reservation import Reservation
from tests.telling import kinds, told_from
from tests.unit.controller.dataplane.test_pipeline import METRO, changed, packet, reservation, send, steps

PRIMARY = ("edge1", "r6", "r1", "r2", "cloud")
BACKUP = ("edge1", "r6", "r5", "r4", "r3", "r2", "cloud")

SPANS = [("r1", "r2"), ("r2", "r3"), ("r3", "r4"), ("r4", "r5"), ("r5", "r6"), ("r6", "r1"), ("r1", "r4")]


def protected(primary: tuple[str, ...] = PRIMARY, backup: tuple[str, ...] = BACKUP) -> Reservation:
    held = reservation()
    return replace(held, placements=(replace(held.placements[0], path=primary, backup_path=backup),))


def cut(*spans: tuple[str, str]) -> frozenset[str]:
    return frozenset(f"{a}->{b}" for span in spans for a, b in (span, span[::-1]))


def spans_of(path: tuple[str, ...]) -> list[tuple[str, str]]:
    return [span for span in SPANS if {*span} in [{*pair} for pair in pairwise(path)]]


def test_with_all_links_up_a_protected_flow_takes_its_primary() -> None:
    journey = send(wanted_states(METRO, [protected()]), "edge1", packet())
    assert (tuple(journey.nodes), journey.marks) == (PRIMARY, [46, 46, 46])


def test_a_cut_behind_the_first_switch_turns_packets_back_and_onto_the_backup() -> None:
    journey = send(wanted_states(METRO, [protected()]), "edge1", packet(), cut(("r1", "r2")))
    assert journey.nodes == ["edge1", "r6", "r1", "r6", "r5", "r4", "r3", "r2", "cloud"]
    assert set(journey.marks) == {46}
    assert journey.arrived["eth_dst"] == METRO.nodes["cloud"].mac
    assert [meter for _, meter in journey.meters] == [110_000]


def test_a_cut_at_the_first_switch_sends_packets_straight_to_the_backup() -> None:
    journey = send(wanted_states(METRO, [protected()]), "edge1", packet(), cut(("r6", "r1")))
    assert tuple(journey.nodes) == BACKUP


@pytest.mark.parametrize(("primary", "backup"), [(PRIMARY, BACKUP), (BACKUP, PRIMARY)])
@pytest.mark.parametrize("known", [False, True], ids=["controller away", "controller told"])
def test_whatever_is_cut_nothing_goes_round_in_circles_and_one_whole_path_is_enough(
    primary: tuple[str, ...], backup: tuple[str, ...], known: bool
) -> None:
    for count in range(4):
        for spans in combinations(SPANS, count):
            gone = cut(*spans)
            states = wanted_states(METRO, [protected(primary, backup)], gone if known else frozenset())
            journey = send(states, "edge1", packet(), gone)
            whole = not set(spans) & set(spans_of(primary)) or not set(spans) & set(spans_of(backup))
            assert not whole or (journey.nodes[-1] == "cloud" and set(journey.marks) == {46}), spans


def test_a_controller_that_knows_of_the_cut_sends_packets_straight_to_the_backup() -> None:
    gone = cut(("r1", "r2"))
    states = wanted_states(METRO, [protected()], gone)
    assert tuple(send(states, "edge1", packet(), gone).nodes) == BACKUP
    assert out_port(states["r6"], METRO.links["r1->r6"].destination_port) == METRO.links["r6->r5"].source_port


def out_port(state: SwitchState, in_port: int) -> object:
    """Where a switch sends a packet of the flow that came in there."""
    fields = {"in_port": in_port, "eth_dst": label(METRO, protected().placements[0])}
    entry = next(e for e in state.flows.values() if e.table == 1 and fields.items() <= dict(e.match).items())
    return dict(entry.actions)["output"]


def test_a_backup_that_shares_a_link_with_its_primary_is_a_bug_that_is_not_laid() -> None:
    held = protected(BACKUP, ("edge1", "r6", "r1", "r4", "r3", "r2", "cloud"))
    with pytest.raises(ValueError, match="shares"):
        wanted_states(METRO, [held])


def test_best_effort_has_the_backups_rate_until_it_is_needed() -> None:
    def left_kbps(link: str, down: Iterable[str] = ()) -> int:
        states = wanted_states(METRO, [protected()], frozenset(down))
        wire = METRO.links[link]
        return states[wire.source].meters[BEST_EFFORT_METERS + wire.source_port].rate_kbps

    free = best_effort_meter(METRO.links["r5->r4"], 0).rate_kbps
    assert (left_kbps("r6->r1"), left_kbps("r5->r4")) == (free - 15_000, free)
    gone = cut(("r1", "r2"))
    assert (left_kbps("r6->r1", gone), left_kbps("r5->r4", gone)) == (free, free - 15_000)


def test_with_both_paths_broken_a_flow_goes_as_best_effort() -> None:
    gone = cut(("r1", "r2"), ("r5", "r6"))
    journey = send(wanted_states(METRO, [protected()], gone), "edge1", packet(), gone)
    assert (journey.nodes[-1], set(journey.marks)) == ("cloud", {0})
    gone = cut(("r1", "r2"))
    journey = send(wanted_states(METRO, [reservation()], gone), "edge1", packet(), gone)
    assert (journey.nodes[-1], set(journey.marks)) == ("cloud", {0})


def test_a_switch_that_comes_back_empty_gets_groups_before_the_entries_that_use_them() -> None:
    held = {protected().id: protected()}
    filled = kinds(told_from(METRO, {"r6": SwitchState()}, held, held))[0]["r6"]
    assert "add_group" in filled
    assert filled.index("add_flow") > len(filled) - 1 - filled[::-1].index("add_group")


def test_every_group_a_flow_uses_stands_before_it_comes() -> None:
    base = base_states(METRO)
    for held in (protected(), protected(BACKUP, PRIMARY)):
        for name, entry in reserved_entries(METRO, held.placements[0], 0):
            assert all(value in base[name].groups for kind, value in entry.actions if kind == "group")
    assert all(group_id in OUR_GROUPS for state in base.values() for group_id in state.groups)


def test_a_new_path_is_laid_whole_before_the_first_switch_turns_to_it() -> None:
    held = changed(15_000_000)
    moved = replace(held, version=2, placements=(replace(held.placements[0], path=BACKUP, version=2),))
    told = steps([held], [moved])
    laying = next(number for number, phase in enumerate(told) if "add_flow r5 table 1" in phase)
    turning = next(number for number, phase in enumerate(told) if "add_flow r6 table 0" in phase)
    clearing = next(number for number, phase in enumerate(told) if "delete_flow r1 table 1" in phase)
    assert laying < turning < clearing
    assert sum("table 1" in line for phase in told[:turning] for line in phase if line.startswith("delete")) == 0
