"""Replays the log of a lightpath simulation and checks every step, without the code that made it.

One cell is one slot of one direction of one span. A lightpath must have a route of existing spans without a repeated
node between its request's ends, adjacent slots, the same on every span, and as many as its rate needs over this length;
a cell has at most one lightpath. A moved lightpath occupies its new cells while it still has the old ones (make before
break), and keeps its ends and rate. Plain dictionaries: no bit sets, no tables of routes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from math import ceil
from typing import Literal, NamedTuple

SLOT_GHZ, SLOTS, GUARD_SLOTS = 12.5, 100, 1
BITS_BY_REACH_KM = ((625.0, 4), (1250.0, 3), (2500.0, 2))
"""Bits per symbol up to a length; 1 beyond."""

Cell = tuple[str, str, int]


class LogEntry(NamedTuple):
    """One step: lightpath `number` is lit, moved or released while `request` is served; after it, where it is."""

    step: Literal["light", "move", "release"]
    request: int
    number: int
    nodes: tuple[str, ...] = ()
    first_slot: int = 0
    width: int = 0


class ReplayError(Exception):
    """A step of the log is impossible; the sentence says which."""


def replay(
    spans: Mapping[tuple[str, str], float],
    ends_and_rate: Mapping[int, tuple[str, str, float]],
    log: Iterable[LogEntry],
    max_moves: int,
    pinned: frozenset[int] = frozenset(),
) -> Counter[str]:
    """Check all steps of a log; returns how many there are of each kind.

    `ends_and_rate`: source, destination and Gb/s of each lightpath's request; `pinned`: lightpaths that never move.

    Raises: ReplayError at the first step that is impossible.
    """
    length_km = {ends: km for (a, b), km in spans.items() for ends, km in (((a, b), km), ((b, a), km))}
    occupants: dict[Cell, int] = {}
    cells_of: dict[int, list[Cell]] = {}
    steps: Counter[str] = Counter()
    moves_for: Counter[int] = Counter()
    for entry in log:
        steps[entry.step] += 1
        number = entry.number
        if (entry.step == "light") == (number in cells_of):
            raise ReplayError(f"{entry}: lightpath {number} is {'lit already' if number in cells_of else 'not lit'}")
        if entry.step != "release":
            _require_sound(entry, length_km, *ends_and_rate[number])
            cells = [
                (*ends, slot)
                for ends in pairwise(entry.nodes)
                for slot in range(entry.first_slot, entry.first_slot + entry.width)
            ]
            for cell in cells:
                if cell in occupants:
                    raise ReplayError(f"{entry}: {cell} is occupied by lightpath {occupants[cell]}")
                occupants[cell] = number
        if entry.step != "light":
            for cell in cells_of.pop(number):
                del occupants[cell]
        if entry.step != "release":
            cells_of[number] = cells
        if entry.step == "move":
            moves_for[entry.request] += 1
            if number in pinned or moves_for[entry.request] > max_moves:
                raise ReplayError(f"{entry}: pinned, or more than {max_moves} moves for request {entry.request}")
    return steps


def _require_sound(
    entry: LogEntry, length_km: Mapping[tuple[str, str], float], source: str, destination: str, rate_gbps: float
) -> None:
    """Raises: ReplayError if the route or the number of slots does not serve the request."""
    nodes = entry.nodes
    if (nodes[0], nodes[-1]) != (source, destination) or len(set(nodes)) < len(nodes):
        raise ReplayError(f"{entry}: not a route from {source} to {destination}")
    if any(ends not in length_km for ends in pairwise(nodes)):
        raise ReplayError(f"{entry}: a span of the route does not exist")
    total_km = sum(length_km[ends] for ends in pairwise(nodes))
    bits = next((bits for reach_km, bits in BITS_BY_REACH_KM if total_km <= reach_km), 1)
    needed = ceil(rate_gbps / (SLOT_GHZ * bits)) + GUARD_SLOTS
    if entry.width != needed or entry.first_slot < 0 or entry.first_slot + entry.width > SLOTS:
        raise ReplayError(f"{entry}: {rate_gbps} Gb/s over {total_km} km need {needed} of the slots 0 to {SLOTS - 1}")
