"""A tree of a forest: the servers whose traffic can reach its sink, the segments on them, and how far back in time a
trajectory can matter there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from controller.calculus.fifo_network import FifoNetwork, FifoServer, TokenBucket
from controller.calculus.fixed_point import NoBound
from controller.calculus.forest import Segment, Successors
from controller.calculus.linear_program import NO_BURST, Floats

UNKNOWN_BURST = 0.0


@dataclass(frozen=True, slots=True)
class TreeSegment:
    """A segment within a tree: cut off behind the sink; `burst`: the index of its unknown burst, or NO_BURST."""

    segment: Segment
    servers: tuple[str, ...]
    burst: int
    buckets: tuple[TokenBucket, ...]
    """With bursts of zero where the burst is unknown."""

    @property
    def bucket(self) -> TokenBucket:
        """The bucket that also holds behind the sink, with the burst there."""
        return self.buckets[0]


@dataclass(slots=True)
class Tree:
    """The servers whose traffic can reach the sink, from the sink on, and the segments on them."""

    sink: str
    successors: dict[str, str]
    depth: dict[str, int]
    segments: list[TreeSegment]
    crossing: dict[str, list[int]] = field(default_factory=dict)
    """The segments at each server."""


def tree_of(
    network: FifoNetwork, successors: Successors, sink: str, segments: Sequence[Segment], bursts: Mapping[Segment, int]
) -> Tree:
    """Return the tree of a sink; servers whose traffic does not reach the sink are left out."""
    used = {edge for segment in segments for edge in pairwise(segment.servers)}
    depth = {sink: 0}
    predecessors: dict[str, list[str]] = {}
    for before, after in successors.items():
        if (before, after) in used:
            predecessors.setdefault(after, []).append(before)
    queue = [sink]
    for server in queue:
        for before in predecessors.get(server, ()):
            depth[before] = depth[server] + 1
            queue.append(before)
    tree = Tree(sink, {name: successors[name] for name in depth if name != sink}, depth, [], {n: [] for n in depth})
    for segment in segments:
        servers = tuple(name for name in segment.servers if name in depth)
        if servers:
            index = bursts.get(segment, NO_BURST)
            flow = network.flows[segment.flow]
            buckets = flow.buckets if index == NO_BURST else (TokenBucket(UNKNOWN_BURST, flow.bucket.rate),)
            for name in servers:
                tree.crossing[name].append(len(tree.segments))
            tree.segments.append(TreeSegment(segment, servers, index, buckets))
    return tree


def reach(network: FifoNetwork, tree: Tree, bursts: int) -> tuple[Floats, Floats]:
    """Return linear forms in the bursts (constant first) that no instant and no level of a trajectory exceeds.

    By total-flow analysis from the leaves to the sink: delays and busy periods of a server are at most linear in the
    bursts of its flows, which grow by rate times delay.

    Raises: NoBound if a server is unstable.
    """
    at_server: list[Floats] = []
    for segment in tree.segments:
        form = np.zeros(1 + bursts)
        form[0] = segment.bucket.burst
        if segment.burst != NO_BURST:
            form[1 + segment.burst] = 1.0
        at_server.append(form)
    sources = [form.copy() for form in at_server]
    rates = [segment.bucket.rate for segment in tree.segments]
    span_us: dict[str, Floats] = {}
    for name in sorted(tree.depth, key=lambda name: -tree.depth[name]):
        span_us[name] = _span(network.servers[name], name, at_server, rates, tree.crossing[name])
        for number in tree.crossing[name]:
            at_server[number] = at_server[number] + rates[number] * span_us[name]
    total: dict[str, Floats] = {}
    for name in tree.depth:
        behind = total[tree.successors[name]] if name != tree.sink else np.zeros(1 + bursts)
        total[name] = behind + span_us[name]
    time_us: Floats = np.maximum.reduce(list(total.values()))
    levels = [2 * (source + rate * time_us) for source, rate in zip(sources, rates, strict=True)]
    return time_us, np.maximum.reduce(levels)


def _span(
    server: FifoServer, name: str, forms: Sequence[Floats], rates: Sequence[float], flows: Sequence[int]
) -> Floats:
    """Return a bound on the delay, busy period and transit of a server together."""
    curve = max(server.curves, key=lambda curve: curve.rate)
    spare = curve.rate - sum(rates[flow] for flow in flows)
    if spare <= 0:
        raise NoBound(name)
    work: Floats = np.sum([forms[flow] for flow in flows], axis=0)
    work[0] += curve.rate * curve.latency_us + server.packet
    busy_us: Floats = work / spare + work / curve.rate
    busy_us[0] += server.max_transit_us
    return busy_us
