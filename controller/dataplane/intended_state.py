"""The intended state of every switch (RFC 8342), updated one reservation at a time.

The same as `pipeline.intended_states`, at a cost that depends on the change and not on the number of reservations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from controller.dataplane.contribution import NO_CONTRIBUTION, Contribution, lightpath_contribution
from controller.dataplane.entries import Entries, Entry, Key, MeterEntry, entries_of, key_of
from controller.dataplane.fragment_entries import FRAGMENT_PRIORITY, counts_fragments
from controller.dataplane.lightpath_entries import LightpathUse
from controller.dataplane.pipeline import base_states, best_effort_meter
from controller.domain.network import Network

ChangedKeys = dict[str, set[Key]]
"""By switch: the keys of changed entries."""

_NONE: Entries = {}


class IntendedState:
    """The intended entries of every switch. Not thread-safe."""

    def __init__(self, network: Network) -> None:
        self.entries: dict[str, Entries] = {switch.name: {} for switch in network.switches}
        self._network = network
        self._base: dict[str, Entries] = {name: {} for name in self.entries}
        self._contributions: dict[str, Contribution] = {}
        self._lightpath_users: Counter[LightpathUse] = Counter()
        self._users: Counter[tuple[str, Key]] = Counter()
        """Number of users of every entry that contributions may share, by switch."""
        self._reserved_bps = dict.fromkeys(network.links, 0)
        self._set_port_meters(network.links, {})
        self.set_base(frozenset())

    def set_base(self, down: frozenset[str]) -> ChangedKeys:
        """Route best effort around links that are down."""
        changed: ChangedKeys = {}
        for name, state in base_states(self._network, down).items():
            entries = entries_of(state)
            self._replace_entries(name, self._base[name], entries, changed)
            self._base[name] = entries
        return changed

    def set_contribution(self, reservation_id: str, contribution: Contribution | None) -> ChangedKeys:
        """Replace the contribution of a reservation; None: remove it."""
        changed: ChangedKeys = {}
        before = self._contributions.pop(reservation_id, None)
        if contribution is not None:
            self._contributions[reservation_id] = contribution
        self._replace(before, contribution, changed)
        for use in contribution.lightpath_uses if contribution else ():
            count = self._lightpath_users[use] = self._lightpath_users[use] + 1
            if count == 1:
                self._replace(None, lightpath_contribution(self._network, use), changed)
        for use in before.lightpath_uses if before else ():
            count = self._lightpath_users[use] = self._lightpath_users[use] - 1
            if not count:
                del self._lightpath_users[use]
                self._replace(lightpath_contribution(self._network, use), None, changed)
        return changed

    def set_meter(self, reservation_id: str, switch: str, meter: MeterEntry, changed: ChangedKeys) -> None:
        """Replace one meter in the contribution of a reservation, and add its key to `changed` if it differs."""
        contribution, intended, key = self._contributions[reservation_id], self.entries[switch], key_of(meter)
        if intended.get(key) != meter:
            entries = {**contribution.entries, switch: {**contribution.entries[switch], key: meter}}
            self._contributions[reservation_id] = replace(contribution, entries=entries)
            intended[key] = meter
            changed.setdefault(switch, set()).add(key)

    def _replace(self, before: Contribution | None, after: Contribution | None, changed: ChangedKeys) -> None:
        """Replace one contribution by another."""
        old, new = before or NO_CONTRIBUTION, after or NO_CONTRIBUTION
        for name, entries in new.entries.items():
            self._replace_entries(name, old.entries.get(name, _NONE), entries, changed)
        for name, entries in old.entries.items():
            if name not in new.entries:
                self._replace_entries(name, entries, _NONE, changed)
        for link, rate_bps in old.reserved_bps.items():
            self._reserved_bps[link] -= rate_bps
        for link, rate_bps in new.reserved_bps.items():
            self._reserved_bps[link] += rate_bps
        if old.reserved_bps or new.reserved_bps:
            self._set_port_meters(old.reserved_bps | new.reserved_bps, changed)

    def _replace_entries(
        self, switch: str, old: Mapping[Key, Entry], new: Mapping[Key, Entry], changed: ChangedKeys
    ) -> None:
        intended, keys = self.entries[switch], set()
        for key, entry in new.items():
            if _is_shared(key):
                self._users[switch, key] += 1
                if key not in old:
                    keys.add(key)  # the update that first intended it may fail before it is sent
            if intended.get(key) != entry:
                intended[key] = entry
                keys.add(key)
        for key, entry in old.items():
            if _is_shared(key):
                self._users[switch, key] -= 1
                if self._users[switch, key]:
                    continue
                del self._users[switch, key]
            # Another contribution may use the key by now.
            if key not in new and intended.get(key) == entry:
                del intended[key]
                keys.add(key)
        if keys:
            known = changed.get(switch)
            if known is None:
                changed[switch] = keys
            else:
                known |= keys

    def _set_port_meters(self, links: Iterable[str], changed: ChangedKeys) -> None:
        for name in links:
            link = self._network.links[name]
            intended = self.entries.get(link.source)
            if intended is None:
                continue  # the port of a host
            meter = best_effort_meter(link, self._reserved_bps[name])
            key: Key = "meter", meter.meter_id
            if intended.get(key) != meter:
                intended[key] = meter
                changed.setdefault(link.source, set()).add(key)


def _is_shared(key: Key) -> bool:
    """Whether several contributions may have an entry of this key; the key then determines its content."""
    if key[0] == "flow":
        return key[1][1] == FRAGMENT_PRIORITY and counts_fragments(key)
    return key[0] == "group"


def merge_keys(*changes: ChangedKeys) -> ChangedKeys:
    """The union of these changes."""
    merged: ChangedKeys = {}
    for changed in changes:
        for switch, keys in changed.items():
            merged.setdefault(switch, set()).update(keys)
    return merged
