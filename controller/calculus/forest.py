"""A network with cycles cut into a forest: every server keeps at most one successor, flows are cut on all other edges.

A *segment* is the part of a flow between two cuts: a path in a tree of the forest. Its burst is known where the flow
starts, and an unknown of the analysis elsewhere.

Source: Bouillard, "Trade-off between accuracy and tractability of network calculus in FIFO networks", Performance
Evaluation 153 (2022), §5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from controller.calculus.fifo_network import FifoNetwork

Successors = Mapping[str, str]
Edge = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Segment:
    """Flow number `flow` from its server number `first` on, over these servers."""

    flow: int
    first: int
    servers: tuple[str, ...]
    previous: str = ""
    """The server before the cut; empty where the flow starts."""


def segments_of(network: FifoNetwork, successors: Successors) -> list[Segment]:
    """Return all segments, those of a flow in the order of its path."""
    segments = []
    for number, flow in enumerate(network.flows):
        first = 0
        for hop in range(1, len(flow.servers) + 1):
            if hop == len(flow.servers) or successors.get(flow.servers[hop - 1]) != flow.servers[hop]:
                previous = flow.servers[first - 1] if first else ""
                segments.append(Segment(number, first, flow.servers[first:hop], previous))
                first = hop
    return segments


def forest_in_order(network: FifoNetwork) -> dict[str, str]:
    """Return the forest of the servers' own order: the nearest later successor of each."""
    position = {name: index for index, name in enumerate(network.servers)}
    successors: dict[str, str] = {}
    for before, after in _edges(network):
        kept = successors.get(before)
        if position[after] > position[before] and (kept is None or position[after] < position[kept]):
            successors[before] = after
    return successors


def forests(network: FifoNetwork, count: int) -> list[dict[str, str]]:
    """Return up to `count` different forests: the servers' own order, then each without a cut on the paths of flows
    that were cut most in those before.
    """
    chosen = [forest_in_order(network)]
    cuts: Counter[int] = Counter()
    load = _edges(network)
    for _ in range(4 * count):
        if len(chosen) >= count:
            break
        for segment in segments_of(network, chosen[-1]):
            cuts[segment.flow] += segment.first > 0
        if not cuts or not max(cuts.values()):
            break
        forest = _greedy_forest(network, sorted(range(len(network.flows)), key=lambda flow: -cuts[flow]), load)
        if forest not in chosen:
            chosen.append(forest)
        else:
            cuts[max(cuts, key=lambda flow: cuts[flow])] //= 2
    return chosen


def forest_along(network: FifoNetwork, path: Sequence[str]) -> dict[str, str]:
    """Return a forest that keeps this path whole."""
    return _completed(dict(pairwise(path)), _edges(network))


def _greedy_forest(network: FifoNetwork, order: Iterable[int], load: Mapping[Edge, float]) -> dict[str, str]:
    """Keep whole paths in this order of flows as long as they fit, then the most loaded edges."""
    successors: dict[str, str] = {}
    for flow in order:
        path = network.flows[flow].servers
        trial = dict(successors)
        if all(_keep(trial, edge) for edge in pairwise(path)):
            successors = trial
    return _completed(successors, load)


def _completed(successors: dict[str, str], load: Mapping[Edge, float]) -> dict[str, str]:
    for edge in sorted(load, key=lambda edge: (-load[edge], edge)):
        _keep(successors, edge)
    return successors


def _keep(successors: dict[str, str], edge: Edge) -> bool:
    """Add an edge if its server has no other successor and it closes no cycle; return whether it is kept."""
    before, after = edge
    if before in successors:
        return successors[before] == after
    server: str | None = after
    while server is not None:
        if server == before:
            return False
        server = successors.get(server)
    successors[before] = after
    return True


def _edges(network: FifoNetwork) -> dict[Edge, float]:
    """Return the rate on every edge."""
    load: dict[Edge, float] = {}
    for flow in network.flows:
        for edge in pairwise(flow.servers):
            load[edge] = load.get(edge, 0.0) + flow.bucket.rate
    return load
