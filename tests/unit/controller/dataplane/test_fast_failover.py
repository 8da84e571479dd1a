"""Packets of protected flows on simulated switches, with cut links that the controller may not know of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations, pairwise

import pytest

from controller.booking.flow_bookings import bookings_of
from controller.dataplane.entries import BEST_EFFORT_METERS, MANAGED_GROUPS, FlowEntry, SwitchState
from controller.dataplane.flow_label import flow_label
from controller.dataplane.pipeline import (
    base_states,
    best_effort_meter,
    intended_states,
    links_in_use,
    reserved_entries,
)
from controller.domain.reservation import Reservation
from controller.domain.route import link_usage
from tests.switch_updates import kinds, updates_from
from tests.unit.controller.dataplane.test_pipeline import METRO, changed, packet, reservation, send, steps

WORKING = ("edge1", "r6", "r1", "r2", "cloud")
BACKUP = ("edge1", "r6", "r5", "r4", "r3", "r2", "cloud")

SPANS = [("r1", "r2"), ("r2", "r3"), ("r3", "r4"), ("r4", "r5"), ("r5", "r6"), ("r6", "r1"), ("r1", "r4")]


def protected(working: tuple[str, ...] = WORKING, backup: tuple[str, ...] = BACKUP) -> Reservation:
    held = reservation()
    return replace(held, placements=(replace(held.placements[0], path=working, backup_path=backup),))


def cut(*spans: tuple[str, str]) -> frozenset[str]:
    return frozenset(f"{a}->{b}" for span in spans for a, b in (span, span[::-1]))


def spans_of(path: tuple[str, ...]) -> list[tuple[str, str]]:
    return [span for span in SPANS if {*span} in [{*pair} for pair in pairwise(path)]]


def test_with_all_links_up_a_protected_flow_takes_its_working_path() -> None:
    trace = send(intended_states(METRO, [protected()]), "edge1", packet())
    assert (tuple(trace.nodes), trace.marks) == (WORKING, [46, 46, 46])


def seamless() -> Reservation:
    held = protected()
    flow = held.placements[0].flow
    requirement = replace(flow.requirement, protection="link_disjoint", backup="seamless")
    return replace(held, placements=(replace(held.placements[0], flow=replace(flow, requirement=requirement)),))


def outputs(entries: Iterable[tuple[str, FlowEntry]], switch: str) -> list[set[str]]:
    """The nodes to which the entries of a switch for labelled packets send."""
    ports = {link.source_port: link.destination for link in METRO.links_from(switch)}
    labelled = [entry for name, entry in entries if name == switch and entry.table == 1]
    return [{ports[int(port)] for action, port in entry.actions if action == "output"} for entry in labelled]


def test_every_packet_of_a_seamless_flow_takes_both_paths() -> None:
    entries = reserved_entries(METRO, seamless().placements[0], 1)
    assert outputs(entries, "r6") == [{"r1", "r5"}]
    assert outputs(entries, "r2") == [{"cloud"}, {"cloud"}]
    for switch, after in (("r1", "r2"), ("r5", "r4"), ("r4", "r3"), ("r3", "r2")):
        assert outputs(entries, switch) == [{after}]
    assert all(action != "group" for _, entry in entries for action, *_ in entry.actions)


def test_a_seamless_flow_books_both_paths_at_all_times_and_its_last_link_twice() -> None:
    used = Counter(links_in_use(seamless().placements[0], frozenset(), None))
    booked = Counter(link for link, failures in link_usage(seamless().placements[0].route, {}) if not failures)
    assert used == booked
    assert (used["r2->cloud"], used["edge1->r6"], used["r6->r1"], used["r6->r5"]) == (2, 1, 1, 1)
    (booking,) = [
        each for each in bookings_of({}, "r", seamless().placements, 0.0) if each.link == "r2->cloud"
    ]  # fmt: skip
    assert booking.rate_bps == 2 * seamless().placements[0].reserved_bps
    cut_off = links_in_use(seamless().placements[0], cut(("r1", "r2")), None)
    assert "r6->r1" not in cut_off and cut_off.count("r2->cloud") == 1


def test_a_cut_behind_the_first_switch_cranks_packets_back_to_the_backup() -> None:
    trace = send(intended_states(METRO, [protected()]), "edge1", packet(), cut(("r1", "r2")))
    assert trace.nodes == ["edge1", "r6", "r1", "r6", "r5", "r4", "r3", "r2", "cloud"]
    assert set(trace.marks) == {46}
    assert trace.arrived["eth_dst"] == METRO.nodes["cloud"].mac
    assert [meter for _, meter in trace.meters] == [110_000]


def test_a_cut_at_the_first_switch_sends_packets_directly_to_the_backup() -> None:
    trace = send(intended_states(METRO, [protected()]), "edge1", packet(), cut(("r6", "r1")))
    assert tuple(trace.nodes) == BACKUP


@pytest.mark.parametrize(("working", "backup"), [(WORKING, BACKUP), (BACKUP, WORKING)])
@pytest.mark.parametrize("known", [False, True], ids=["controller away", "controller informed"])
def test_under_any_cuts_packets_never_loop_and_one_intact_path_suffices(
    working: tuple[str, ...], backup: tuple[str, ...], known: bool
) -> None:
    for count in range(4):
        for spans in combinations(SPANS, count):
            down = cut(*spans)
            states = intended_states(METRO, [protected(working, backup)], down if known else frozenset())
            trace = send(states, "edge1", packet(), down)
            intact = not set(spans) & set(spans_of(working)) or not set(spans) & set(spans_of(backup))
            assert not intact or (trace.nodes[-1] == "cloud" and set(trace.marks) == {46}), spans


def test_an_informed_controller_sends_packets_directly_to_the_backup() -> None:
    down = cut(("r1", "r2"))
    states = intended_states(METRO, [protected()], down)
    assert tuple(send(states, "edge1", packet(), down).nodes) == BACKUP
    assert out_port(states["r6"], METRO.links["r1->r6"].destination_port) == METRO.links["r6->r5"].source_port


def out_port(state: SwitchState, in_port: int) -> object:
    """The egress port of the flow's packets from an ingress port."""
    fields = {"in_port": in_port, "eth_dst": flow_label(METRO, protected().placements[0])}
    entry = next(e for e in state.flows.values() if e.table == 1 and fields.items() <= dict(e.match).items())
    return dict(entry.actions)["output"]


def test_a_backup_that_shares_a_link_with_its_working_path_is_rejected() -> None:
    held = protected(BACKUP, ("edge1", "r6", "r1", "r4", "r3", "r2", "cloud"))
    with pytest.raises(ValueError, match="shares"):
        intended_states(METRO, [held])


def test_best_effort_may_use_the_backup_rate_until_a_failure() -> None:
    def best_effort_kbps(link: str, down: Iterable[str] = ()) -> int:
        states = intended_states(METRO, [protected()], frozenset(down))
        egress = METRO.links[link]
        return states[egress.source].meters[BEST_EFFORT_METERS + egress.source_port].rate_kbps

    free = best_effort_meter(METRO.links["r5->r4"], 0).rate_kbps
    assert (best_effort_kbps("r6->r1"), best_effort_kbps("r5->r4")) == (free - 15_000, free)
    down = cut(("r1", "r2"))
    assert (best_effort_kbps("r6->r1", down), best_effort_kbps("r5->r4", down)) == (free, free - 15_000)


def test_with_both_paths_cut_a_flow_is_forwarded_as_best_effort() -> None:
    down = cut(("r1", "r2"), ("r5", "r6"))
    trace = send(intended_states(METRO, [protected()], down), "edge1", packet(), down)
    assert (trace.nodes[-1], set(trace.marks)) == ("cloud", {0})
    down = cut(("r1", "r2"))
    trace = send(intended_states(METRO, [reservation()], down), "edge1", packet(), down)
    assert (trace.nodes[-1], set(trace.marks)) == ("cloud", {0})


def test_an_empty_switch_gets_groups_before_the_entries_that_use_them() -> None:
    held = {protected().id: protected()}
    filled = kinds(updates_from(METRO, {"r6": SwitchState()}, held, held))[0]["r6"]
    assert "add_group" in filled
    assert filled.index("add_flow") > len(filled) - 1 - filled[::-1].index("add_group")


def test_every_group_a_flow_uses_is_installed_in_advance() -> None:
    base = base_states(METRO)
    for held in (protected(), protected(BACKUP, WORKING)):
        for name, entry in reserved_entries(METRO, held.placements[0], 0):
            assert all(value in base[name].groups for kind, value in entry.actions if kind == "group")
    assert all(group_id in MANAGED_GROUPS for state in base.values() for group_id in state.groups)


def test_a_new_path_is_complete_before_the_first_switch_uses_it() -> None:
    held = changed(15_000_000)
    moved = replace(held, version=2, placements=(replace(held.placements[0], path=BACKUP, version=2),))
    stages = steps([held], [moved])
    install = next(number for number, changes in enumerate(stages) if "add_flow r5 table 1" in changes)
    switch_over = next(number for number, changes in enumerate(stages) if "add_flow r6 table 0" in changes)
    clear = next(number for number, changes in enumerate(stages) if "delete_flow r1 table 1" in changes)
    assert install < switch_over < clear
    assert (
        sum("table 1" in line for changes in stages[:switch_over] for line in changes if line.startswith("delete")) == 0
    )
