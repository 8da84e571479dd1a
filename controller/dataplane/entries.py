"""Meters, groups and flow entries as plain data, and the number ranges that identify those managed by Paceline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

COOKIE_TAG = 0x9ACE
"""The first 16 bits of every managed cookie; 32 bits of reservation number (0: none) and 16 of version follow."""
COOKIE_TAG_MASK = 0xFFFF << 48
COOKIE_RESERVATION_MASK = 0xFFFF_FFFF_FFFF << 16

BEST_EFFORT_METERS = 100_000
ARP_METERS = 105_000
MANAGED_METERS = range(100_000, 262_144)
"""The managed meter ids: best effort and ARP by port number, reservations from 110000 up."""

LIGHTPATH_GROUPS = range(0x5000_0000, 0x5800_0000)
"""On an optical network: two pairs of fibre (6 bits) and channel (7 bits), and whether the second is crankback."""
PORT_PAIR_GROUPS = range(0x5A00_0000, 0x5C00_0000)
"""Elsewhere: two port numbers of 12 bits, and whether the second is crankback."""
MANAGED_GROUPS = range(LIGHTPATH_GROUPS.start, PORT_PAIR_GROUPS.stop)
"""The managed group ids."""

CONTROLLER_PORT = 0xFFFF_FFFD
IN_PORT = 0xFFFF_FFF8
"""OFPP_IN_PORT: the ingress port, to which a switch sends only if an action names it this way."""

VLAN = 0x8100
VLAN_PRESENT = 0x1000
"""OFPVID_PRESENT: the bit that marks a frame as tagged."""

MatchValue = int | str | tuple[int, int]
FlowMatch = tuple[tuple[str, MatchValue], ...]
Action = tuple[str, int | str]
EntryKey = tuple[int, int, FlowMatch]


class MeterEntry(NamedTuple):
    """A meter with one drop band."""

    meter_id: int
    rate_kbps: int
    burst_kbit: int


class Bucket(NamedTuple):
    """Output while `watch_port` is up; `vlan_vid`, with OFPVID_PRESENT, is set first if given."""

    watch_port: int
    out_port: int
    vlan_vid: int | None = None

    @property
    def actions(self) -> tuple[Action, ...]:
        """The actions on packets that take this bucket."""
        out: tuple[Action, ...] = (("output", self.out_port),)
        return out if self.vlan_vid is None else (("set_vlan_vid", self.vlan_vid), *out)


class GroupEntry(NamedTuple):
    """A fast-failover group: the first bucket whose port is up takes the packet. Source: OpenFlow 1.3.5, §5.6.1."""

    group_id: int
    buckets: tuple[Bucket, ...]


class FlowEntry(NamedTuple):
    """A flow entry; `match` is sorted by field, a pair as value is (value, mask).

    Order of execution: meter, then actions, then the next table. Actions: ("set_ip_dscp", n), ("set_eth_dst", address),
    ("output", port), ("group", id), ("push_vlan", 0x8100), ("set_vlan_vid", VLAN_PRESENT | id), ("pop_vlan", 0).
    """

    table: int
    priority: int
    match: FlowMatch
    cookie: int
    meter_id: int | None = None
    actions: tuple[Action, ...] = ()
    goto: int | None = None

    @property
    def key(self) -> EntryKey:
        """Its identity: a switch holds at most one entry of a key."""
        return self.table, self.priority, self.match


@dataclass(frozen=True, slots=True)
class SwitchState:
    """All managed entries of one switch."""

    meters: Mapping[int, MeterEntry] = field(default_factory=dict)
    flows: Mapping[EntryKey, FlowEntry] = field(default_factory=dict)
    groups: Mapping[int, GroupEntry] = field(default_factory=dict)


Entry = FlowEntry | MeterEntry | GroupEntry

Key = tuple[Literal["meter", "group"], int] | tuple[Literal["flow"], EntryKey]
"""The identity of an entry: a switch holds at most one of a key."""

Entries = dict[Key, Entry]


def key_of(entry: Entry) -> Key:
    """The key of an entry."""
    if isinstance(entry, FlowEntry):
        return "flow", (entry.table, entry.priority, entry.match)
    return ("meter", entry.meter_id) if isinstance(entry, MeterEntry) else ("group", entry.group_id)


def entries_of(state: SwitchState) -> Entries:
    """The entries of a state by key."""
    meters: Entries = {("meter", meter_id): meter for meter_id, meter in state.meters.items()}
    flows: Entries = {("flow", key): entry for key, entry in state.flows.items()}
    groups: Entries = {("group", group_id): group for group_id, group in state.groups.items()}
    return meters | flows | groups


def meters_in(entries: Entries) -> Iterator[MeterEntry]:
    """The meters among the entries of a switch."""
    return (entry for entry in entries.values() if isinstance(entry, MeterEntry))


def cookie_of(number: int, version: int) -> int:
    """The cookie of a reservation's entries."""
    return COOKIE_TAG << 48 | (number & 0xFFFF_FFFF) << 16 | version & 0xFFFF


BASE_COOKIE = cookie_of(0, 0)


def match_of(fields: Mapping[str, MatchValue]) -> FlowMatch:
    """A match in canonical order."""
    return tuple(sorted(fields.items()))  # field names are unique, so values are never compared


def describe(entry: Entry) -> str:
    """An entry as one readable line."""
    if isinstance(entry, MeterEntry):
        return f"meter {entry.meter_id}: {entry.rate_kbps} kbit/s, burst {entry.burst_kbit} kbit"
    if isinstance(entry, GroupEntry):
        buckets = "; ".join(
            f"{', '.join(f'{name}:{value}' for name, value in bucket.actions)} while {bucket.watch_port} is up"
            for bucket in entry.buckets
        )
        return f"group 0x{entry.group_id:08x}: {buckets}"
    match = ",".join(f"{name}={value}" for name, value in entry.match)
    instructions = [f"meter:{entry.meter_id}"] if entry.meter_id is not None else []
    instructions += [f"{name}:{value}" for name, value in entry.actions]
    instructions += [f"goto:{entry.goto}"] if entry.goto is not None else []
    where = f"table {entry.table}, priority {entry.priority}, cookie 0x{entry.cookie:016x}"
    return f"{where}: {match or 'anything'} -> {', '.join(instructions) or 'drop'}"
