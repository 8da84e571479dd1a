"""Candidate routes of a stream: paths, or trees to several listeners, with the times that a frame needs along them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import chain, islice

from controller.tsn.network import TsnLink, TsnNetwork
from controller.tsn.streams import TsnStream

MAX_ROUTES = 8
"""Routes tried of a stream, of each length."""

MAX_EXTRA_HOPS = 2
"""Most by which a route is longer than the shortest."""


@dataclass(frozen=True, slots=True)
class Step:
    """A frame at one port of its route, relative to `parent`, the step that it comes from (-1: none).

    It can start `after` ticks after it started there, is there up to `lead` ticks before that, and takes `length`.
    """

    link: TsnLink
    parent: int
    after: int
    lead: int
    length: int


@dataclass(frozen=True, slots=True)
class TimedRoute:
    """The steps of a frame, each after its parent; `latency_ns` by listener if it waits nowhere."""

    steps: tuple[Step, ...]
    starts: tuple[int, ...]
    latency_ns: dict[str, int]


def routes(network: TsnNetwork, stream: TsnStream) -> Iterator[tuple[TsnLink, ...]]:
    """Yield candidate routes, the shortest first: links in an order in which each comes after that it follows."""
    if len(stream.listeners) == 1:
        for extra in range(MAX_EXTRA_HOPS + 1):
            yield from islice(network.paths(stream.talker, stream.listeners[0], extra), MAX_ROUTES)
        return
    paths = [next(network.paths(stream.talker, listener), None) for listener in stream.listeners]
    if None not in paths:
        yield tuple(_tree(paths))


def _tree(paths: list[tuple[TsnLink, ...] | None]) -> list[TsnLink]:
    """Return the union of the paths without a second link into a node."""
    into: dict[str, TsnLink] = {}
    for link in chain.from_iterable(path or () for path in paths):
        into.setdefault(link.destination, link)
    return list(into.values())


def timed(network: TsnNetwork, stream: TsnStream, route: tuple[TsnLink, ...], tick_ns: int) -> TimedRoute:
    """Return the times of a frame of a stream along a route.

    A node's clock is off by up to the sync error, so between two nodes twice that is added: a frame is there when its
    gate opens. The first link is taken for as long as the talker's jitter makes a frame early or late.
    """
    place = {link.destination: number for number, link in enumerate(route)}
    slack_ns = 2 * network.sync_error_ns
    steps: list[Step] = []
    starts: list[int] = []
    latency_ns: dict[str, int] = {}
    for link in route:
        parent = place[link.source] if link.source != stream.talker else -1
        jitter_ns = 2 * stream.jitter_ns if parent == -1 else 0
        length = -(-(link.transmission_ns(stream.frame_bytes) + jitter_ns) // tick_ns)
        after, lead = _transfer(network, stream, route[parent], tick_ns) if parent >= 0 else (0, 0)
        starts.append(after + (starts[parent] if parent >= 0 else 0))
        steps.append(Step(link, parent, after, lead, length))
        if link.destination in stream.listeners:
            sent_ns = starts[-1] * tick_ns + jitter_ns + link.transmission_ns(stream.frame_bytes)
            latency_ns[link.destination] = sent_ns + link.propagation_ns + slack_ns
    return TimedRoute(tuple(steps), tuple(starts), latency_ns)


def timely(
    network: TsnNetwork, stream: TsnStream, paths: Iterable[tuple[TsnLink, ...]], tick_ns: int
) -> list[TimedRoute]:
    """Return the times along those routes on which a frame that waits nowhere is in time."""
    found = (timed(network, stream, path, tick_ns) for path in paths)
    return [route for route in found if max(route.latency_ns.values()) <= stream.max_latency_ns]


def _transfer(network: TsnNetwork, stream: TsnStream, link: TsnLink, tick_ns: int) -> tuple[int, int]:
    """Return the ticks from a start on a link until the frame may leave the next node, and how early it can be."""
    jitter_ns = 2 * stream.jitter_ns if link.source == stream.talker else 0
    transfer_ns = link.transmission_ns(stream.frame_bytes) + link.propagation_ns + link.processing_ns
    after = -(-(transfer_ns + jitter_ns + 2 * network.sync_error_ns) // tick_ns)
    return after, after - (transfer_ns - 2 * network.sync_error_ns) // tick_ns


def best_case_ns(network: TsnNetwork, stream: TsnStream, listener: str) -> int:
    """Return the least latency of a frame of a stream that is alone, in ns, over whatever path."""
    least = {stream.talker: 0}
    queue = [(0, stream.talker)]
    while queue:
        now_ns, node = heappop(queue)
        if node == listener:
            return now_ns + 2 * network.sync_error_ns
        if now_ns > least[node] or (node != stream.talker and node not in network.bridges):
            continue
        for link in network.outgoing[node]:
            hop_ns = link.transmission_ns(stream.frame_bytes) + link.propagation_ns
            hop_ns += 2 * stream.jitter_ns if node == stream.talker else 0
            if link.destination != listener:
                hop_ns += link.processing_ns + 2 * network.sync_error_ns
            if now_ns + hop_ns < least.get(link.destination, now_ns + hop_ns + 1):
                least[link.destination] = now_ns + hop_ns
                heappush(queue, (now_ns + hop_ns, link.destination))
    raise ValueError(f"no path to {listener}")
