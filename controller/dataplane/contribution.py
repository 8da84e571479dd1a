"""The contribution of one reservation, or one lightpath, to the intended state of the switches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from controller.caches import MIB, bounded_cache
from controller.dataplane.entries import (
    Entries,
    Entry,
    EntryKey,
    FlowEntry,
    GroupEntry,
    MeterEntry,
    SwitchState,
    key_of,
)
from controller.dataplane.lightpath_entries import LightpathUse, crankback_entries, lightpath_entries
from controller.domain.frozen import frozen
from controller.domain.network import Network


@frozen
class Contribution:
    """The entries of one reservation by switch, and the rate that it uses of each directed link at this moment.

    No two live reservations have an entry of the same key, but they may share groups and entries that count fragments,
    whose keys determine their content. `lightpath_uses`: the lightpaths
    it needs, which others may share. The link rates of lightpaths are not in `reserved_bps`.
    """

    entries: Mapping[str, Entries]
    reserved_bps: dict[str, int]
    lightpath_uses: frozenset[LightpathUse] = frozenset()

    @property
    def states(self) -> Mapping[str, SwitchState]:
        """The entries as switch states."""
        return {name: _state(entries.values()) for name, entries in self.entries.items()}


NO_CONTRIBUTION = Contribution({}, {})


@bounded_cache(4 * MIB, entry_bytes=4096)
def lightpath_contribution(network: Network, use: LightpathUse) -> Contribution:
    """The contribution of a lit lightpath: its entries, and its whole rate on each of its links.

    Its crankback direction adds entries and groups but no rate: the rate there belongs to the flows.
    """
    lightpath = use.lightpath
    if use.with_crankback:
        return Contribution(by_switch(crankback_entries(network, lightpath)), {})
    return Contribution(
        by_switch(lightpath_entries(network, lightpath)), dict.fromkeys(lightpath.links, lightpath.rate_bps)
    )


def by_switch(entries: Iterable[tuple[str, Entry]]) -> Mapping[str, Entries]:
    """Entries by switch and key."""
    grouped: dict[str, Entries] = {}
    for name, entry in entries:
        grouped.setdefault(name, {})[key_of(entry)] = entry
    return grouped


def _state(entries: Iterable[Entry]) -> SwitchState:
    meters: dict[int, MeterEntry] = {}
    flows: dict[EntryKey, FlowEntry] = {}
    groups: dict[int, GroupEntry] = {}
    for entry in entries:
        if isinstance(entry, FlowEntry):
            flows[entry.key] = entry
        elif isinstance(entry, MeterEntry):
            meters[entry.meter_id] = entry
        else:
            groups[entry.group_id] = entry
    return SwitchState(meters, flows, groups)
