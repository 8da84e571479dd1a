"""The network as a scheduler sees it: directed links with rate, propagation and processing delay, in nanoseconds."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil

from controller.domain.network import Network

NS_PER_S = 1_000_000_000
OVERHEAD_BYTES = 42
"""Around the payload of a frame on the wire: preamble 8, Ethernet header 14, VLAN tag 4, FCS 4, gap 12."""

MAX_FRAME_BYTES = 9000 + OVERHEAD_BYTES
"""The largest frame on the wire of any stream."""


@dataclass(frozen=True, slots=True)
class TsnLink:
    """One direction of a link, and the egress port that feeds it.

    `processing_ns`: from the last bit received at `destination` until the frame may leave it again. `interface`: the
    name of the port at `source`, where it has one.
    """

    name: str
    source: str
    destination: str
    rate_bps: int
    propagation_ns: int = 0
    processing_ns: int = 0
    interface: str | None = None

    @property
    def port(self) -> str:
        """The name of the port that feeds the link."""
        return self.interface or self.name

    def transmission_ns(self, frame_bytes: int) -> int:
        """Time on the wire of a frame, all its overhead included, rounded up."""
        return -(-frame_bytes * 8 * NS_PER_S // self.rate_bps)


@dataclass(frozen=True, eq=False)
class TsnNetwork:
    """Links by name, and the nodes that forward; the clocks of all nodes are within `sync_error_ns` of the true time.

    `best_effort_bytes`: the largest other frame on the wire, which a guard band must let pass.
    """

    name: str
    links: Mapping[str, TsnLink]
    bridges: frozenset[str]
    sync_error_ns: int = 0
    best_effort_bytes: int = 1500 + OVERHEAD_BYTES

    @cached_property
    def nodes(self) -> frozenset[str]:
        """All nodes."""
        return frozenset(node for link in self.links.values() for node in (link.source, link.destination))

    @cached_property
    def outgoing(self) -> Mapping[str, tuple[TsnLink, ...]]:
        """The links that leave each node."""
        links: dict[str, list[TsnLink]] = {node: [] for node in self.nodes}
        for link in self.links.values():
            links[link.source].append(link)
        return {node: tuple(found) for node, found in links.items()}

    def only(self, names: Iterable[str]) -> TsnNetwork:
        """Return the network with these links alone."""
        links = {name: self.links[name] for name in names}
        return TsnNetwork(self.name, links, self.bridges, self.sync_error_ns, self.best_effort_bytes)

    def hops_to(self, destination: str) -> Mapping[str, int]:
        """Return for every node that reaches `destination` over bridges its least number of links."""
        if destination not in self._hops:
            self._hops[destination] = self._distances(destination)
        return self._hops[destination]

    @cached_property
    def _hops(self) -> dict[str, dict[str, int]]:
        return {}

    @cached_property
    def _incoming(self) -> Mapping[str, tuple[str, ...]]:
        sources: dict[str, list[str]] = {node: [] for node in self.nodes}
        for link in self.links.values():
            sources[link.destination].append(link.source)
        return {node: tuple(found) for node, found in sources.items()}

    def _distances(self, destination: str) -> dict[str, int]:
        hops, queue = {destination: 0}, deque([destination])
        while queue:
            node = queue.popleft()
            if node != destination and node not in self.bridges:
                continue
            for source in self._incoming.get(node, ()):
                if source not in hops:
                    hops[source] = hops[node] + 1
                    queue.append(source)
        return hops

    def paths(self, source: str, destination: str, extra_hops: int = 0) -> Iterator[tuple[TsnLink, ...]]:
        """Yield the loopless paths with exactly `extra_hops` links more than the shortest ones."""
        hops = self.hops_to(destination)
        if source in hops and source != destination:
            yield from self._extend((), source, destination, hops[source] + extra_hops, {source})

    def _extend(
        self, path: tuple[TsnLink, ...], node: str, destination: str, left: int, seen: set[str]
    ) -> Iterator[tuple[TsnLink, ...]]:
        if node == destination:
            if left == 0:
                yield path
            return
        if path and node not in self.bridges:
            return
        hops = self.hops_to(destination)
        for link in self.outgoing[node]:
            after = link.destination
            if after not in seen and hops.get(after, left) < left:
                seen.add(after)
                yield from self._extend((*path, link), after, destination, left - 1, seen)
                seen.remove(after)


def tsn_network(
    name: str, links: Iterable[TsnLink], sync_error_ns: int = 0, best_effort_bytes: int = 1500 + OVERHEAD_BYTES
) -> TsnNetwork:
    """Return the network of these links; nodes with more than one outgoing link forward."""
    by_name = {link.name: link for link in links}
    ports = Counter(link.source for link in by_name.values())
    bridges = frozenset(node for node, count in ports.items() if count > 1)
    return TsnNetwork(name, by_name, bridges, sync_error_ns, best_effort_bytes)


def tsn_network_from_map(network: Network, processing_ns: int, sync_error_ns: int = 0) -> TsnNetwork:
    """Return the network of a map at the rates of its links as they are reserved; hosts do not forward."""
    links = {
        link.name: TsnLink(
            link.name,
            link.source,
            link.destination,
            link.capacity_bps,
            ceil(link.propagation_us * 1000),
            processing_ns if network.nodes[link.destination].is_switch else 0,
            f"{link.source}-eth{link.source_port}",
        )
        for link in network.links.values()
    }
    bridges = frozenset(switch.name for switch in network.switches)
    return TsnNetwork(network.name, links, bridges, sync_error_ns, network.mtu_bytes + OVERHEAD_BYTES)
