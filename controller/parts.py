"""What one reservation, or one lightpath, adds to the switches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from controller.entries import Entry, EntryKey, FlowEntry, GroupEntry, MeterEntry, SwitchState
from controller.network import Network
from controller.optical.switching import Lit, switched, switched_with_way_back


@dataclass(frozen=True, slots=True)
class Part:
    """What one reservation adds to its switches, and what it takes of each directed link at this moment.

    Two live reservations never add an entry of the same key, but maybe the same group. `light`: what must be lit for
    it; others may travel in that, too. What lightpaths take of their links is not in `taken_bps`.
    """

    states: Mapping[str, SwitchState]
    taken_bps: Mapping[str, int]
    light: frozenset[Lit] = frozenset()


@lru_cache(maxsize=4096)
def lit(network: Network, light: Lit) -> Part:
    """What a lightpath adds while it is lit: entries on its switches, and all of its rate on each of its links.

    Its way back adds entries and groups and takes nothing: the rate on the way back is the flows' own.
    """
    lightpath = light.lightpath
    if light.with_way_back:
        return Part(states_of(switched_with_way_back(network, lightpath)), {})
    return Part(states_of(switched(network, lightpath)), dict.fromkeys(lightpath.links, lightpath.rate_bps))


def states_of(entries: Iterable[tuple[str, Entry]]) -> Mapping[str, SwitchState]:
    """(switch, entry), by switch."""
    meters: dict[str, dict[int, MeterEntry]] = {}
    flows: dict[str, dict[EntryKey, FlowEntry]] = {}
    groups: dict[str, dict[int, GroupEntry]] = {}
    switches: dict[str, None] = {}
    for name, entry in entries:
        switches[name] = None
        if isinstance(entry, FlowEntry):
            flows.setdefault(name, {})[entry.key] = entry
        elif isinstance(entry, MeterEntry):
            meters.setdefault(name, {})[entry.meter_id] = entry
        else:
            groups.setdefault(name, {})[entry.group_id] = entry
    return {name: SwitchState(meters.get(name, {}), flows.get(name, {}), groups.get(name, {})) for name in switches}
