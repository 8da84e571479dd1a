"""What every switch should hold, kept up to date one reservation at a time.

The same as `pipeline.wanted_states`, at a cost that depends on what has changed and not on what stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from controller.dataplane.contribution import NO_PART, Contribution, lit
from controller.dataplane.entries import Entries, Entry, Key, entries_of
from controller.dataplane.lightpath_entries import LightpathUse
from controller.dataplane.pipeline import base_states, best_effort_meter
from controller.domain.network import Network

ChangedKeys = dict[str, set[Key]]
"""By switch: the keys at which something has changed."""

_NONE: Entries = {}


class IntendedState:
    """What every switch should hold. Not thread-safe."""

    def __init__(self, network: Network) -> None:
        self.entries: dict[str, Entries] = {switch.name: {} for switch in network.switches}
        self._network = network
        self._base: dict[str, Entries] = {name: {} for name in self.entries}
        self._parts: dict[str, Contribution] = {}
        self._lit: Counter[LightpathUse] = Counter()
        self._users: Counter[tuple[str, Key]] = Counter()
        """Of every group, by switch: a group says by its number what it does, and whoever needs that shares it."""
        self._taken_bps = dict.fromkeys(network.links, 0)
        self._set_port_meters(network.links, {})
        self.set_base(frozenset())

    def set_base(self, down: frozenset[str]) -> ChangedKeys:
        """Lay the ways of best effort around links that are down."""
        touched: ChangedKeys = {}
        for name, state in base_states(self._network, down).items():
            fresh = entries_of(state)
            self._exchange(name, self._base[name], fresh, touched)
            self._base[name] = fresh
        return touched

    def put(self, reservation_id: str, part: Contribution | None) -> ChangedKeys:
        """Let a reservation add this in place of what it added before; None: nothing."""
        touched: ChangedKeys = {}
        before = self._parts.pop(reservation_id, None)
        if part is not None:
            self._parts[reservation_id] = part
        self._swap(before, part, touched)
        for light in part.light if part else ():
            count = self._lit[light] = self._lit[light] + 1
            if count == 1:
                self._swap(None, lit(self._network, light), touched)
        for light in before.light if before else ():
            count = self._lit[light] = self._lit[light] - 1
            if not count:
                del self._lit[light]
                self._swap(lit(self._network, light), None, touched)
        return touched

    def _swap(self, before: Contribution | None, part: Contribution | None, touched: ChangedKeys) -> None:
        """Put one part in place of another."""
        old, new = before or NO_PART, part or NO_PART
        for name, entries in new.entries.items():
            self._exchange(name, old.entries.get(name, _NONE), entries, touched)
        for name, entries in old.entries.items():
            if name not in new.entries:
                self._exchange(name, entries, _NONE, touched)
        for link, rate_bps in old.taken_bps.items():
            self._taken_bps[link] -= rate_bps
        for link, rate_bps in new.taken_bps.items():
            self._taken_bps[link] += rate_bps
        if old.taken_bps or new.taken_bps:
            self._set_port_meters(old.taken_bps | new.taken_bps, touched)

    def _exchange(self, switch: str, old: Mapping[Key, Entry], new: Mapping[Key, Entry], touched: ChangedKeys) -> None:
        held, changed = self.entries[switch], set()
        for key, entry in new.items():
            if key[0] == "group":
                self._users[switch, key] += 1
            if held.get(key) != entry:
                held[key] = entry
                changed.add(key)
        for key, entry in old.items():
            if key[0] == "group":
                self._users[switch, key] -= 1
                if self._users[switch, key]:
                    continue
                del self._users[switch, key]
            # Somebody else may have taken over the key since.
            if key not in new and held.get(key) == entry:
                del held[key]
                changed.add(key)
        if changed:
            known = touched.get(switch)
            if known is None:
                touched[switch] = changed
            else:
                known |= changed

    def _set_port_meters(self, links: Iterable[str], touched: ChangedKeys) -> None:
        for name in links:
            link = self._network.links[name]
            held = self.entries.get(link.source)
            if held is None:
                continue
            meter = best_effort_meter(link, self._taken_bps[name])
            key: Key = "meter", meter.meter_id
            if held.get(key) != meter:
                held[key] = meter
                touched.setdefault(link.source, set()).add(key)


def merged(*changes: ChangedKeys) -> ChangedKeys:
    """All of these together."""
    together: ChangedKeys = {}
    for touched in changes:
        for switch, keys in touched.items():
            together.setdefault(switch, set()).update(keys)
    return together
