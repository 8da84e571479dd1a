"""Compares what a switch says of itself with what Paceline needs of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from controller.dataplane.entries import SwitchState
from controller.dataplane.pipeline import intended_states
from controller.dataplane.switch_capabilities import SwitchCapabilities, TableCapabilities
from controller.dataplane.switch_needs import OPTICAL_NEEDS, PACKET_NEEDS, TableNeeds, group_actions_of
from controller.domain.network import DirectedLink, Network
from controller.domain.reservation import FIRST_METER_ID
from controller.errors import NotFound

Verdict = Literal["holds", "fails", "not_stated"]


@dataclass(frozen=True, slots=True)
class Check:
    """A need, and what the switch says about it; `reason`: what follows, or why it is not known."""

    subject: str
    needed: str
    stated: str
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A switch on its map."""

    network: Network
    name: str

    @property
    def links(self) -> tuple[DirectedLink, ...]:
        """The links that leave it."""
        return tuple(self.network.links_from(self.name))

    @property
    def state(self) -> SwitchState:
        """Its entries while nothing is reserved."""
        return intended_states(self.network, ())[self.name]


def switch_named(network: Network, switch: str) -> str:
    """The name of a switch of the map, by name or by datapath id in up to 16 hexadecimal digits.

    Raises: NotFound.
    """
    if switch in network.nodes and network.nodes[switch].is_switch:
        return switch
    with suppress(ValueError):
        if (node := network.switch_by_datapath_id.get(int(switch, 16))) is not None:
            return node.name
    known = ", ".join(f"{node.name} ({number:016x})" for number, node in network.switch_by_datapath_id.items())
    raise NotFound(f"There is no switch {switch} on map {network.name}; its switches are {known}.")


def check_switch(said: SwitchCapabilities, place: Place | None) -> list[Check]:
    """Every need, with what the switch says about it. `place`: None if it is on no map, so nothing is counted."""
    state = place.state if place else SwitchState()
    is_optical = place is not None and place.network.grid is not None
    return [
        *_tables(said, OPTICAL_NEEDS if is_optical else PACKET_NEEDS, state),
        *_meters(said, state),
        *_groups(said, state, is_optical),
        *(_ports(said, place) if place else ()),
        *_UNASKED,
    ]


def _unanswered(said: SwitchCapabilities, question: str, subject: str, needed: str) -> Check:
    reason = said.refused.get(question, "it gave no answer")
    return Check(subject, needed, "nothing", "not_stated", f"asked for its {question}: {reason}")


def _verdict(does_hold: bool) -> Verdict:
    return "holds" if does_hold else "fails"


# Tables -------------------------------------------------------------------------------------------------------------


def _tables(said: SwitchCapabilities, needs: Mapping[int, TableNeeds], state: SwitchState) -> Iterator[Check]:
    count = len(needs)
    if said.table_count is None:
        yield _unanswered(said, "tables", "tables", f"{count}")
    else:
        yield Check("tables", f"{count}", f"{said.table_count}", _verdict(said.table_count >= count),
                    "" if said.table_count >= count else f"tables 0 to {count - 1} are used, one after the other")
    if said.tables is None:
        yield _unanswered(said, "table features", "entries", "matches, actions and instructions of each table")
        return
    for number, need in needs.items():
        table = said.tables.get(number)
        if table is None:
            if said.table_count is None or said.table_count > number:
                yield Check(f"table {number}", "entries", "nothing", "not_stated", "its features leave this table out")
            continue
        yield from _table(table, need)
        entries = sum(1 for entry in state.flows.values() if entry.table == number)
        is_enough = table.max_entries > entries
        reason = "" if is_enough else "the entries that are there without a reservation do not fit"
        yield Check(f"table {number}: entries", f"more than {entries}", f"{table.max_entries}", _verdict(is_enough),
                    reason)


def _table(table: TableCapabilities, need: TableNeeds) -> Iterator[Check]:
    asked = (
        ("matches", need.matches, table.matches, "an entry that matches it is refused"),
        ("masks", need.masks, table.masks, "an entry that matches a part of it is refused"),
        ("sets", need.set_fields, table.set_fields, "an entry that sets it is refused"),
        ("actions", need.actions, table.actions, "an entry with it is refused"),
        ("instructions", need.instructions, table.instructions, "an entry with it is refused"),
    )
    for what, needed, stated, consequence in asked:
        if not needed:
            continue
        missing = needed - stated
        known = next((_REASONS[name] for name in sorted(missing) if name in _REASONS), consequence)
        reason = f"{_list(missing)}: {known}" if missing else ""
        yield Check(f"table {table.table}: {what}", _list(needed), "all of it" if not missing else
                    f"all but {_list(missing)}", _verdict(not missing), reason)
    missing_tables = need.next_tables - table.next_tables
    if need.next_tables:
        yield Check(
            f"table {table.table}: goes on to", _list(map(str, need.next_tables)), _ranges(table.next_tables),
            _verdict(not missing_tables), "" if not missing_tables else "an entry that goes on to it is refused",
        )  # fmt: skip


_REASONS = {
    "ip_frag": "a match of Open vSwitch, without which fragments are not counted and the first reservation is refused",
    "meter": "without meters nothing can be promised",
    "group": "without groups no flow can be protected, and the switch never gets in step",
}


def _list(names: Iterable[str]) -> str:
    return " ".join(sorted(names)) or "nothing"


def _ranges(numbers: Iterable[int]) -> str:
    """1-253 for all of 1 to 253."""
    ordered = sorted(numbers)
    is_range = len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1
    return f"{ordered[0]}-{ordered[-1]}" if is_range else _list(map(str, ordered))


# Meters and groups --------------------------------------------------------------------------------------------------


def _meters(said: SwitchCapabilities, state: SwitchState) -> Iterator[Check]:
    needed, meters = len(state.meters), said.meters
    if meters is None:
        yield _unanswered(said, "meter features", "meters", "drop bands in kb/s with bursts and statistics")
        return
    room = meters.max_meters - needed
    yield Check(
        "meters", f"{needed} and one of each flow that enters here", f"{meters.max_meters}", _verdict(room > 0),
        f"leaves {room} flows that enter here" if room > 0 else "no flow can enter here",
    )  # fmt: skip
    flags = (
        ("drop bands", meters.has_drop, "a meter is refused"),
        ("rates in kb/s", meters.has_kbps, "a meter is refused"),
        ("bursts", meters.has_burst, "a sender loses what it sends at once, or gets more than was promised"),
        ("statistics", meters.has_statistics, "drops at meters are not seen, and changes hand out tokens"),
    )
    for name, has_it, reason in flags:
        yield Check(f"meters: {name}", "yes", "yes" if has_it else "no", _verdict(has_it), "" if has_it else reason)
    yield Check("meters: bands", "1", f"{meters.max_bands}", _verdict(meters.max_bands >= 1))
    if meters.max_meters < FIRST_METER_ID:
        yield Check("meters: numbers", f"from 100001, flows from {FIRST_METER_ID}", f"{meters.max_meters} meters",
                    "not_stated", "the standard allows any number; a switch that ends at its count refuses these")


def _groups(said: SwitchCapabilities, state: SwitchState, is_optical: bool) -> Iterator[Check]:
    groups, needed = said.groups, max(1, len(state.groups))
    if groups is None:
        yield _unanswered(said, "group features", "groups", "fast failover")
        return
    has_type = groups.has_fast_failover
    reason = "no flow can be protected, and the switch never gets in step"
    yield Check("groups: fast failover", "yes", "yes" if has_type else "no", _verdict(has_type),
                "" if has_type else reason)
    if not has_type:
        return
    is_enough = groups.max_fast_failover >= needed
    yield Check("groups: number", f"{needed}", f"{groups.max_fast_failover}", _verdict(is_enough),
                "" if is_enough else "one for every pair of ports between switches; the switch never gets in step")
    actions = group_actions_of(state.groups.values()) | {"output"} | ({"set_field"} if is_optical else set())
    missing = actions - groups.actions
    yield Check("groups: actions", _list(actions), "all of it" if not missing else f"all but {_list(missing)}",
                _verdict(not missing), f"{_list(missing)}: a group with it is refused" if missing else "")


# Ports --------------------------------------------------------------------------------------------------------------


def _ports(said: SwitchCapabilities, place: Place) -> Iterator[Check]:
    for link in place.links:
        needed = f"{_rate(link.capacity_bps)} towards {link.destination}"
        subject = f"port {link.source_port}"
        if said.ports is None:
            yield _unanswered(said, "ports", subject, needed)
            continue
        port = said.ports.get(link.source_port)
        if port is None:
            yield Check(subject, needed, "no such port", "fails", "the map has a number that the switch does not have")
        elif not port.is_up:
            yield Check(subject, needed, f"{port.name} is down", "fails", "nothing can be reserved over it")
        elif port.rate_bps is None:
            yield Check(subject, needed, f"{port.name}, up", "not_stated", "the switch does not say how fast it is")
        else:
            is_enough = port.rate_bps >= link.capacity_bps
            reason = "" if is_enough else "more would be promised than the port carries"
            yield Check(subject, needed, f"{port.name}, {_rate(port.rate_bps)}", _verdict(is_enough), reason)


def _rate(rate_bps: int) -> str:
    return f"{rate_bps / 1e9:g} Gb/s" if rate_bps >= 10**9 else f"{rate_bps / 1e6:g} Mb/s"


_UNASKED = (
    Check("queues", "strict priority for DSCP 46 at every port, queue_bytes of it", "nothing", "not_stated",
          "OpenFlow 1.3 has no question for it"),
    Check("meters: rates", "exact to 1 kb/s, refilled at least once a millisecond", "nothing", "not_stated",
          "OpenFlow 1.3 has no question for it; paceline consistency shows a meter that was rounded"),
)  # fmt: skip
