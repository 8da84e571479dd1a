"""Gate control lists of all ports from a schedule. Source: IEEE 802.1Q-2022 §8.6.8.4, §8.6.9, Table 12-30."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import lcm

from controller.tsn.network import TsnLink, TsnNetwork
from controller.tsn.placement import SCHEDULED_QUEUES
from controller.tsn.streams import Schedule

MAX_INTERVAL_NS = 2**32 - 1
"""The longest entry of a list: a 32-bit number of ns."""

OTHER_GATES = 0xFF & ~sum(1 << queue for queue in SCHEDULED_QUEUES)
"""The gates of all queues without scheduled frames; they open together."""


@dataclass(frozen=True, slots=True)
class GateEntry:
    """The gates for `interval_ns`: bit n of `gate_states` is that of queue n, 1 is open."""

    interval_ns: int
    gate_states: int


@dataclass(frozen=True, slots=True)
class GateList:
    """The list of one egress port; its entries fill `cycle_ns`, and cycles begin at multiples of it."""

    link: TsnLink
    cycle_ns: int
    entries: tuple[GateEntry, ...]


def gate_lists(network: TsnNetwork, schedule: Schedule) -> dict[str, GateList]:
    """Return the list of every port that scheduled frames cross, by the name of its link.

    Before a window, all gates are closed for as long as the largest other frame takes (guard band): one that began just
    before is through when the window opens, even if the port does not hold back what would not end in time.
    """
    windows: dict[str, list[tuple[int, int, int, int]]] = {}
    for frame in schedule.frames:
        for hop in frame.hops:
            window = hop.start_ns, hop.duration_ns, frame.interval_ns, hop.queue
            windows.setdefault(hop.link.name, []).append(window)
    return {name: _gate_list(network, network.links[name], taken) for name, taken in sorted(windows.items())}


def _gate_list(network: TsnNetwork, link: TsnLink, taken: list[tuple[int, int, int, int]]) -> GateList:
    cycle_ns = lcm(*(interval_ns for _, _, interval_ns, _ in taken))
    opens = sorted(
        ((start + number * interval_ns) % cycle_ns, duration, queue)
        for start, duration, interval_ns, queue in taken
        for number in range(cycle_ns // interval_ns)
    )
    guard_ns = link.transmission_ns(network.best_effort_bytes)
    changes = dict(_changes(opens, cycle_ns, guard_ns))
    states = sorted(changes.items())
    if states[0][0] > 0:
        states.insert(0, (0, states[-1][1]))
    return GateList(link, cycle_ns, tuple(_entries(states, cycle_ns)))


def _changes(opens: list[tuple[int, int, int]], cycle_ns: int, guard_ns: int) -> Iterator[tuple[int, int]]:
    """Yield when the gates change and to what, later ones at the same time last."""
    for number, (start, duration, queue) in enumerate(opens):
        end = start + duration
        following = opens[number + 1][0] if number + 1 < len(opens) else opens[0][0] + cycle_ns
        yield start, 1 << queue
        if following - end > guard_ns:
            yield end % cycle_ns, OTHER_GATES
            yield (following - guard_ns) % cycle_ns, 0
        elif following > end:
            yield end % cycle_ns, 0


def _entries(states: list[tuple[int, int]], cycle_ns: int) -> Iterator[GateEntry]:
    merged: list[tuple[int, int]] = []
    for start, state in states:
        if not merged or merged[-1][1] != state:
            merged.append((start, state))
    for number, (start, state) in enumerate(merged):
        left = (merged[number + 1][0] if number + 1 < len(merged) else cycle_ns) - start
        while left > 0:
            yield GateEntry(min(left, MAX_INTERVAL_NS), state)
            left -= min(left, MAX_INTERVAL_NS)


def longest_list(lists: Mapping[str, GateList]) -> int:
    """Return the most entries of a port: what its bridge must support (supported-list-max)."""
    return max((len(found.entries) for found in lists.values()), default=0)
