"""What the entries of a switch consist of, table by table: what it must offer.

A test compares PACKET_NEEDS and OPTICAL_NEEDS with the entries of reservations of every kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controller.dataplane.entries import GroupEntry, SwitchState


@dataclass(frozen=True, slots=True)
class TableNeeds:
    """What the entries of a table consist of."""

    matches: frozenset[str]
    masks: frozenset[str]
    set_fields: frozenset[str]
    actions: frozenset[str]
    instructions: frozenset[str]
    next_tables: frozenset[int]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CLASSIFIER = TableNeeds(
    matches=_words(
        "in_port eth_dst eth_src eth_type vlan_vid ip_proto ipv4_src ipv4_dst ip_frag tcp_src tcp_dst udp_src udp_dst "
        "arp_op arp_spa arp_tpa arp_sha"
    ),
    masks=_words("vlan_vid ip_frag tcp_src tcp_dst udp_src udp_dst"),
    set_fields=_words("ip_dscp eth_dst eth_src arp_op arp_spa arp_tpa arp_sha arp_tha"),
    actions=_words("output set_field"),
    instructions=_words("meter apply_actions goto_table"),
    next_tables=frozenset({1}),
)
_LABEL = _words("in_port eth_dst eth_type ip_dscp")
PACKET_NEEDS: Mapping[int, TableNeeds] = {
    0: _CLASSIFIER,
    1: TableNeeds(
        matches=_LABEL,
        masks=frozenset(),
        set_fields=_words("eth_dst"),
        actions=_words("output group set_field"),
        instructions=_words("meter apply_actions"),
        next_tables=frozenset(),
    ),
}
"""By table, on a map whose links are plain lines."""
OPTICAL_NEEDS: Mapping[int, TableNeeds] = {
    0: _CLASSIFIER,
    1: TableNeeds(
        matches=_LABEL | {"vlan_vid"},
        masks=frozenset(),
        set_fields=_words("vlan_vid"),
        actions=_words("output group set_field push_vlan pop_vlan"),
        instructions=_words("meter apply_actions goto_table"),
        next_tables=frozenset({2}),
    ),
    2: TableNeeds(
        matches=_words("in_port eth_dst eth_type"),
        masks=frozenset(),
        set_fields=_words("eth_dst vlan_vid"),
        actions=_words("output group set_field push_vlan"),
        instructions=_words("apply_actions"),
        next_tables=frozenset(),
    ),
}
"""On a map with lightpaths."""


def needs_of(state: SwitchState) -> dict[int, TableNeeds]:
    """What the entries of a switch consist of, by table."""
    return {
        table: TableNeeds(
            frozenset(name for entry in entries for name, _ in entry.match),
            frozenset(name for entry in entries for name, value in entry.match if isinstance(value, tuple)),
            frozenset(name[4:] for entry in entries for name, _ in entry.actions if name.startswith("set_")),
            frozenset(
                "set_field" if name.startswith("set_") else name for entry in entries for name, _ in entry.actions
            ),
            frozenset(
                instruction
                for entry in entries
                for instruction, is_used in (
                    ("meter", entry.meter_id is not None),
                    ("apply_actions", bool(entry.actions)),
                    ("goto_table", entry.goto is not None),
                )
                if is_used
            ),
            frozenset(entry.goto for entry in entries if entry.goto is not None),
        )
        for table in sorted({entry.table for entry in state.flows.values()})
        for entries in [[entry for entry in state.flows.values() if entry.table == table]]
    }


def group_actions_of(groups: Iterable[GroupEntry]) -> frozenset[str]:
    """The kinds of actions in the buckets of groups."""
    names = {name for group in groups for bucket in group.buckets for name, _ in bucket.actions}
    return frozenset("set_field" if name.startswith("set_") else name for name in names)
