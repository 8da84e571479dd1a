"""What a switch must offer is what entries consist of; a switch that offers less is told so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from controller.admission.admission import Admitted, Request, decide
from controller.booking.calendar import Calendar
from controller.dataplane.entries import SwitchState
from controller.dataplane.meter_tokens import token_entry
from controller.dataplane.pipeline import intended_states
from controller.dataplane.switch_capabilities import (
    GroupCapabilities,
    MeterCapabilities,
    PortDescription,
    SwitchCapabilities,
    TableCapabilities,
)
from controller.dataplane.switch_check import Check, Place, check_switch, switch_named
from controller.dataplane.switch_needs import OPTICAL_NEEDS, PACKET_NEEDS, TableNeeds, group_actions_of, needs_of
from controller.domain.network import Network, network_from_map
from controller.domain.ports import PortRange
from controller.domain.reservation import Flow, Match, Protocol, Requirement, Reservation, State
from controller.errors import NotFound
from topologies.map_file.loader import load_map

PAIR = network_from_map(load_map("pair"))
REQUIREMENTS = (
    Requirement(1_000_000, 40_000),
    Requirement(1_000_000, 40_000, protection="link_disjoint"),
    Requirement(1_000_000, 40_000, protection="link_disjoint", backup="seamless"),
    Requirement(transfer_bytes=100_000, deadline_ms=200, period_ms=1000),
)
PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp")


def reservations(network: Network) -> Iterator[Reservation]:
    """One of every kind that fits, alone, with ranges of ports."""
    source, destination = network.hosts[0].name, network.hosts[-1].name
    for requirement in REQUIREMENTS:
        for protocol in PROTOCOLS:
            match = Match(protocol, PortRange(100, 113), PortRange(7000, 7007))
            flow = Flow("flow", source, destination, match, requirement)
            decision = decide(network, Calendar(), (), Request("r-00000001", 1, (flow,)), 0.0)
            if isinstance(decision, Admitted):
                yield Reservation("r-00000001", 1, 1, "test", State.ACTIVE, 60, 0, 60, decision.placements)


def states_of(network: Network) -> Iterator[SwitchState]:
    """The states of all switches with each of them: whole, with a link down, inside and outside its window."""
    for reservation in reservations(network):
        for down in (frozenset[str](), frozenset(list(network.links)[:1])):
            for now_us in (None, 900_000):
                yield from intended_states(network, [reservation], down, now_us).values()


def union(states: Iterable[SwitchState]) -> dict[int, dict[str, frozenset[object]]]:
    """What the entries of these states consist of, by table and kind."""
    found: dict[int, dict[str, frozenset[object]]] = defaultdict(lambda: defaultdict(frozenset))
    token = token_entry(110_000)
    with_tokens = SwitchState(flows={token.key: token})
    for state in (*states, with_tokens):
        for table, needs in needs_of(state).items():
            for kind in TableNeeds.__slots__:
                found[table][kind] |= getattr(needs, kind)
    return found


@pytest.mark.parametrize(("maps", "needs", "unseen"), [
    (("pair", "metro"), PACKET_NEEDS, frozenset()),
    (("waves",), OPTICAL_NEEDS, frozenset({"group"})),  # in table 2: behind a lightpath that another one can replace
])  # fmt: skip
def test_the_needs_are_what_entries_consist_of(
    maps: tuple[str, ...], needs: dict[int, TableNeeds], unseen: frozenset[str]
) -> None:
    found = union(state for name in maps for state in states_of(network_from_map(load_map(name))))
    assert found.keys() == needs.keys()
    for table, need in needs.items():
        for kind in TableNeeds.__slots__:
            missing = getattr(need, kind) - found[table][kind]
            assert missing <= (unseen if table == 2 else frozenset()), (table, kind)
            assert found[table][kind] <= getattr(need, kind), (table, kind)


def test_groups_only_send_and_set_what_is_asked_for() -> None:
    for name, actions in (("metro", {"output"}), ("waves", {"output", "set_field"})):
        groups = [group for state in states_of(network_from_map(load_map(name))) for group in state.groups.values()]
        assert group_actions_of(groups) == actions


GOOD = SwitchCapabilities(
    1,
    table_count=2,
    tables={
        number: TableCapabilities(
            number, 64, need.matches, need.masks, need.set_fields, need.actions, need.instructions, need.next_tables
        )
        for number, need in PACKET_NEEDS.items()
    },
    meters=MeterCapabilities(64, 1, True, True, True, True),
    groups=GroupCapabilities(True, 1, frozenset({"output"})),
    ports={number: PortDescription(number, f"port{number}", True, 10**9) for number in (1, 2, 3, 4)},
)
PLACE = Place(PAIR, "s1")


def failing(said: SwitchCapabilities, place: Place | None = PLACE) -> list[Check]:
    return [check for check in check_switch(said, place) if check.verdict == "fails"]


def test_a_switch_that_has_all_of_it_holds() -> None:
    assert failing(GOOD) == []
    assert failing(GOOD, None) == []
    unknown = [check.subject for check in check_switch(GOOD, PLACE) if check.verdict == "not_stated"]
    assert unknown == ["meters: numbers", "queues", "meters: rates"]


assert GOOD.tables and GOOD.meters and GOOD.groups and GOOD.ports
FIRST, SECOND = GOOD.tables[0], GOOD.tables[1]


@pytest.mark.parametrize(("changes", "subject"), [
    ({"table_count": 1, "tables": {0: FIRST}}, "tables"),
    ({"tables": {0: replace(FIRST, matches=FIRST.matches - {"ip_frag"}), 1: SECOND}}, "table 0: matches"),
    ({"tables": {0: replace(FIRST, masks=frozenset({"vlan_vid"})), 1: SECOND}}, "table 0: masks"),
    ({"tables": {0: replace(FIRST, set_fields=frozenset()), 1: SECOND}}, "table 0: sets"),
    ({"tables": {0: replace(FIRST, next_tables=frozenset()), 1: SECOND}}, "table 0: goes on to"),
    ({"tables": {0: replace(FIRST, max_entries=8), 1: SECOND}}, "table 0: entries"),
    ({"tables": {0: FIRST, 1: replace(SECOND, actions=frozenset({"output", "set_field"}))}}, "table 1: actions"),
    ({"tables": {0: FIRST, 1: replace(SECOND, instructions=frozenset({"apply_actions"}))}}, "table 1: instructions"),
    ({"meters": replace(GOOD.meters, max_meters=7)}, "meters"),
    ({"meters": replace(GOOD.meters, has_drop=False)}, "meters: drop bands"),
    ({"meters": replace(GOOD.meters, has_kbps=False)}, "meters: rates in kb/s"),
    ({"meters": replace(GOOD.meters, has_burst=False)}, "meters: bursts"),
    ({"meters": replace(GOOD.meters, has_statistics=False)}, "meters: statistics"),
    ({"meters": replace(GOOD.meters, max_bands=0)}, "meters: bands"),
    ({"groups": replace(GOOD.groups, has_fast_failover=False)}, "groups: fast failover"),
    ({"groups": replace(GOOD.groups, max_fast_failover=0)}, "groups: number"),
    ({"groups": replace(GOOD.groups, actions=frozenset())}, "groups: actions"),
    ({"ports": {number: GOOD.ports[number] for number in (1, 2, 3)}}, "port 4"),
    ({"ports": {**GOOD.ports, 2: replace(GOOD.ports[2], is_up=False)}}, "port 2"),
    ({"ports": {**GOOD.ports, 1: replace(GOOD.ports[1], rate_bps=10_000_000)}}, "port 1"),
])  # fmt: skip
def test_what_would_not_hold_is_told_with_its_consequence(changes: dict[str, object], subject: str) -> None:
    found = failing(replace(GOOD, **changes))  # type: ignore[arg-type]
    assert [check.subject for check in found] == [subject]
    assert found[0].stated and found[0].needed
    assert found[0].reason or subject == "meters: bands"


def test_a_question_that_a_switch_does_not_answer_is_open() -> None:
    said = SwitchCapabilities(1, refused={"meter features": "the switch answered error 1, 2"})
    checks = {check.subject: check for check in check_switch(said, PLACE)}
    assert {check.verdict for check in checks.values()} == {"not_stated"}
    assert checks["meters"].reason == "asked for its meter features: the switch answered error 1, 2"
    assert checks["groups"].reason == "asked for its group features: it gave no answer"


def test_a_switch_is_found_by_name_and_by_datapath_id() -> None:
    assert [switch_named(PAIR, name) for name in ("s2", "2", "0000000000000002", "0x2")] == ["s2"] * 4
    for name in ("edge1", "7", "s9", "-1"):
        with pytest.raises(NotFound, match=r"its switches are s1 \(0000000000000001\), s2"):
            switch_named(PAIR, name)
