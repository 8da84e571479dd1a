"""Packets of protected flows in lightpaths, with cut spans that the controller may not know of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations, pairwise, product

import pytest

from controller.admission.admission import Admitted, Request, decide
from controller.booking.calendar import Calendar
from controller.dataplane.entries import MANAGED_GROUPS
from controller.dataplane.lightpath_entries import PROTECTED_OFFSET, lightpath_failover_group
from controller.dataplane.pipeline import intended_states
from controller.domain.lightpath import Lightpath, lightpath_id
from controller.domain.network import network_from_map
from controller.domain.path import span_name
from controller.domain.reservation import Flow, Match, Protection, Requirement, Reservation, State, Window
from controller.domain.route import path_under_failure
from tests.simulated_forwarding import Trace, packet, send
from tests.switch_updates import kinds, updates
from topologies.map_file.loader import load_map

WAVES = network_from_map(load_map("waves"))
PATH = ("edge1", "r1", "r2", "r3", "r4", "r5", "cloud")
BACKUP = ("edge1", "r1", "r6", "r5", "cloud")
SPANS = [*pairwise(PATH[1:-1]), *pairwise(BACKUP[1:-1])]
ROWS = ["r1 r2 r3 r4 r5", "r1 r2 r3,r3 r4 r5", "r1 r2,r2 r3 r4 r5", "r1 r2,r2 r3,r3 r4,r4 r5"]
"""The path in one lightpath, and with regeneration at intermediate switches."""


def reservation(
    protection: Protection = "link_disjoint", row: str = ROWS[0], flows: int = 1, first_port: int = 7801
) -> Reservation:
    requested = tuple(
        Flow(f"f{port}", "edge1", "cloud", Match("udp", port, 7800), Requirement(500_000, protection=protection))
        for port in range(first_port, first_port + flows)
    )
    decision = decide(WAVES, Calendar(), (), Request(f"r-{first_port:08x}", 1, requested), 0.0)
    assert isinstance(decision, Admitted)
    (like,) = {each.lightpaths for each in decision.placements}
    path = tuple(in_light(like[0], tuple(part.split())) for part in row.split(","))
    placements = tuple(
        replace(each, lightpaths=path, meter_id=110_000 + first_port + number)
        for number, each in enumerate(decision.placements)
    )
    return Reservation(f"r-{first_port:08x}", first_port, 1, "test", State.ACTIVE, 60, 0, 60, placements)


def in_light(like: Lightpath, nodes: tuple[str, ...]) -> Lightpath:
    return replace(like, id=lightpath_id(nodes, like.first_slot, like.width), nodes=nodes)


def cut(*spans: tuple[str, str]) -> frozenset[str]:
    return frozenset(f"{a}->{b}" for span in spans for a, b in (span, span[::-1]))


def journey_of(held: Reservation, *spans: tuple[str, str], known: bool = False) -> Trace:
    """The trace of a packet of the first flow."""
    states = intended_states(WAVES, [held], cut(*spans) if known else frozenset())
    return send(WAVES, states, "edge1", packet(WAVES, held.placements[0].flow), cut(*spans))


@pytest.mark.parametrize("row", ROWS)
def test_a_cut_anywhere_cranks_packets_back_into_the_backup_lightpath(row: str) -> None:
    held = reservation(row=row)
    route = held.placements[0].route
    assert tuple(journey_of(held).nodes) == PATH
    for span in pairwise(PATH[1:-1]):
        trace = journey_of(held, span)
        assert tuple(trace.nodes) == path_under_failure(route, span_name(*span), {})
        assert [meter for _, meter in trace.meters] == [held.placements[0].meter_id], "metered once"
        assert set(trace.marks) == {46}
        assert "vlan_vid" not in trace.arrived
        assert trace.arrived["eth_dst"] == WAVES.nodes["cloud"].mac


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("known", [False, True], ids=["controller away", "controller informed"])
def test_under_any_cuts_packets_never_loop_and_one_intact_path_suffices(row: str, known: bool) -> None:
    held = reservation(row=row)
    for count in range(4):
        for spans in combinations(SPANS, count):
            trace = journey_of(held, *spans, known=known)
            intact = [not {*spans} & {*pairwise(path[1:-1])} for path in (PATH, BACKUP)]
            assert not any(intact) or (trace.nodes[-1], set(trace.marks)) == ("cloud", {46}), spans


def test_an_informed_controller_sends_packets_directly_into_the_backup_lightpath() -> None:
    assert tuple(journey_of(reservation(), ("r3", "r4"), known=True).nodes) == BACKUP


def test_unprotected_flows_are_not_cranked_back_in_the_same_lightpath() -> None:
    held, unprotected = reservation(), reservation("none", first_port=9001)
    states = intended_states(WAVES, [held, unprotected])
    assert held.placements[0].lightpaths == unprotected.placements[0].lightpaths
    trace = send(WAVES, states, "edge1", packet(WAVES, unprotected.placements[0].flow), cut(("r3", "r4")))
    assert trace.nodes == ["edge1", "r1", "r2", "r3"]


def test_intermediate_switches_have_the_same_entries_for_twenty_flows_as_for_one() -> None:
    one, twenty = (intended_states(WAVES, [reservation(flows=flows)]) for flows in (1, 20))
    for name in ("r2", "r3", "r4", "r6"):
        assert one[name] == twenty[name]
    assert one["r1"].groups == twenty["r1"].groups, "flows between the same lightpaths share a group"


@pytest.mark.parametrize("protection", ["none", "link_disjoint"])
def test_late_packets_take_the_same_lightpath_with_their_own_mark(protection: Protection) -> None:
    bound = reservation(protection)
    (placement,) = bound.placements
    held = replace(bound, placements=(replace(placement, window=Window(1_000_000, 0, 500_000)),))
    for now_us, mark in ((250_000, 46), (750_000, 34)):
        states = intended_states(WAVES, [held], now_us=now_us)
        trace = send(WAVES, states, "edge1", packet(WAVES, placement.flow))
        assert (tuple(trace.nodes), trace.marks) == (PATH, [mark] * 5)
        assert trace.tags == [0x1001 + (PROTECTED_OFFSET if protection != "none" else 0)] * 4 + [None]
        assert trace.arrived["eth_dst"] == WAVES.nodes["cloud"].mac


def test_groups_are_added_before_and_removed_after_the_entries_that_use_them() -> None:
    added_kinds = kinds(updates(WAVES, [], [reservation()]))[0]
    removed_kinds = kinds(updates(WAVES, [reservation()], []))[-1]
    with_groups = [name for name, changes in added_kinds.items() if "add_group" in changes]
    assert with_groups
    for name in with_groups:
        added, removed = added_kinds[name], removed_kinds[name]
        assert "add_flow" not in added[: added.index("add_group")]
        assert "delete_flow" not in removed[removed.index("delete_group") :]


def test_the_group_id_determines_the_group() -> None:
    like = reservation().placements[0].lightpaths[0]
    ends = list(product([replace(like, first_slot=slot) for slot in (0, 1, 127)], ports("r1")))
    groups = {
        lightpath_failover_group(WAVES, "r1", first, second, crankback)
        for first, second, crankback in product(ends, ends, (False, True))
        if first[1] != second[1]
    }
    assert len({group.group_id for group in groups}) == len(groups) == 3 * 3 * 2 * 2
    assert all(group.group_id in MANAGED_GROUPS for group in groups)


def ports(switch: str) -> Iterable[int]:
    return [link.source_port for link in WAVES.links_from(switch) if WAVES.nodes[link.destination].is_switch]
