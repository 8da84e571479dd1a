"""What one reservation, or one lightpath, adds to the switches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

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
from controller.dataplane.lightpath_entries import LightpathUse, switched, switched_with_way_back
from controller.domain.frozen import frozen
from controller.domain.network import Network


@frozen
class Contribution:
    """What one reservation adds to its switches, and what it takes of each directed link at this moment.

    Two live reservations never add an entry of the same key, but maybe the same group. `light`: what must be lit for
    it; others may travel in that, too. What lightpaths take of their links is not in `taken_bps`.
    """

    entries: Mapping[str, Entries]
    taken_bps: dict[str, int]
    light: frozenset[LightpathUse] = frozenset()

    @property
    def states(self) -> Mapping[str, SwitchState]:
        """The entries in another form."""
        return {name: _state(entries.values()) for name, entries in self.entries.items()}


NO_PART = Contribution({}, {})


@lru_cache(maxsize=4096)
def lit(network: Network, light: LightpathUse) -> Contribution:
    """What a lightpath adds while it is lit: entries on its switches, and all of its rate on each of its links.

    Its way back adds entries and groups and takes nothing: the rate on the way back is the flows' own.
    """
    lightpath = light.lightpath
    if light.with_way_back:
        return Contribution(by_switch(switched_with_way_back(network, lightpath)), {})
    return Contribution(by_switch(switched(network, lightpath)), dict.fromkeys(lightpath.links, lightpath.rate_bps))


def by_switch(entries: Iterable[tuple[str, Entry]]) -> Mapping[str, Entries]:
    """(switch, entry), by switch and key."""
    found: dict[str, Entries] = {}
    for name, entry in entries:
        found.setdefault(name, {})[key_of(entry)] = entry
    return found


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
