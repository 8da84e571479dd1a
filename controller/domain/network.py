"""The network the controller decides about: nodes and directed links, frozen, built from a map.

Whether a link is up is not a fact of the network but of the moment: it is passed beside it as a set of names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from controller.domain.path import link_name, link_names, span_name
from controller.domain.route import DUCT, Ducts
from topologies.maps import Grid, Kind, Map

PROPAGATION_US_PER_KM = 4.9
"""Group delay of standard single-mode fibre (n about 1.468). Source: ITU-T G.652."""

ETHERNET_HEADER_BYTES = 14
"""A rate counts L2 bytes: the Ethernet header is in, preamble and FCS are not."""

RESERVABLE_SHARE = 0.95
"""The rest always remains for ARP, control and best effort."""

MARGIN_SHARE = 0.01
MARGIN_MIN_BPS = 200_000
"""Kept free on every link, so that meters and shapers that round differently never fill a queue."""

BEST_EFFORT_MIN_BPS = 64_000
"""Best effort keeps at least this on every link, however small the link."""


@dataclass(frozen=True, slots=True)
class Node:
    """A switch (has a `datapath_id`) or a host (has `ip` and `mac`)."""

    name: str
    kind: Kind
    datapath_id: int | None
    ip: str | None
    mac: str | None

    @property
    def is_switch(self) -> bool:
        """Whether it forwards; everything else only sends and receives."""
        return self.kind == "switch"


@dataclass(frozen=True)
class DirectedLink:
    """One direction of a span; `name` is `source->destination`. A port number belongs to its node.

    `duct`: what it lies in, if the map says so; spans with the same duct are cut together.
    `slots`: of its spectrum, for lightpaths; 0: a plain line. `channel_gbps`: the real rate of one channel.
    """

    name: str
    source: str
    destination: str
    source_port: int
    destination_port: int
    length_km: float
    capacity_bps: int
    duct: str | None = None
    slots: int = 0
    channel_gbps: float = 0.0

    @cached_property
    def span(self) -> str:
        """The name of the span, `a-b`, whichever direction this is."""
        return span_name(self.source, self.destination)

    @cached_property
    def margin_bps(self) -> int:
        """Never given to anybody."""
        return max(MARGIN_MIN_BPS, round(self.capacity_bps * MARGIN_SHARE))

    @cached_property
    def reservable_bps(self) -> int:
        """The most that reservations may take together."""
        left = self.capacity_bps - self.margin_bps - BEST_EFFORT_MIN_BPS
        return max(0, min(round(self.capacity_bps * RESERVABLE_SHARE), left))

    @cached_property
    def propagation_us(self) -> float:
        """How long light takes."""
        return self.length_km * PROPAGATION_US_PER_KM


@dataclass(frozen=True, eq=False)
class Network:
    """All nodes and directed links by name; compared by identity, so that it can key a cache."""

    name: str
    scale_mbps_per_gbps: float
    mtu_bytes: int
    nodes: Mapping[str, Node]
    links: Mapping[str, DirectedLink]
    grid: Grid | None = None
    """If it is optical: how its fibres' spectrum is cut."""

    @property
    def frame_bytes(self) -> int:
        """The largest L2 frame."""
        return self.mtu_bytes + ETHERNET_HEADER_BYTES

    @cached_property
    def switches(self) -> tuple[Node, ...]:
        """The switches, in the order of the map."""
        return tuple(node for node in self.nodes.values() if node.is_switch)

    @cached_property
    def hosts(self) -> tuple[Node, ...]:
        """Everything that is not a switch, in the order of the map."""
        return tuple(node for node in self.nodes.values() if not node.is_switch)

    @cached_property
    def switch_by_datapath_id(self) -> Mapping[int, Node]:
        """The switches by the number they introduce themselves with."""
        return {node.datapath_id: node for node in self.switches if node.datapath_id is not None}

    @cached_property
    def _links_from(self) -> Mapping[str, tuple[DirectedLink, ...]]:
        found: dict[str, list[DirectedLink]] = {name: [] for name in self.nodes}
        for link in self.links.values():
            found[link.source].append(link)
        return {name: tuple(links) for name, links in found.items()}

    @cached_property
    def spans(self) -> Mapping[str, DirectedLink]:
        """Every span by name, as the direction that the map names first."""
        return {link.span: link for link in reversed(tuple(self.links.values()))}

    @cached_property
    def ducts(self) -> Ducts:
        """The ducts in which several spans between switches lie, by span; `duct:` goes before their names."""
        lying = {
            link.span: link.duct
            for link in self.links.values()
            if link.duct and self.nodes[link.source].is_switch and self.nodes[link.destination].is_switch
        }
        held = Counter(lying.values())
        return {span: f"{DUCT}{duct}" for span, duct in lying.items() if held[duct] > 1}

    def links_from(self, node: str) -> tuple[DirectedLink, ...]:
        """The links that leave a node, one for each of its ports."""
        return self._links_from[node]

    def links_along(self, path: tuple[str, ...]) -> tuple[DirectedLink, ...]:
        """The links of a path given as nodes.

        Raises: KeyError if two nodes in a row are not neighbours.
        """
        return tuple(self.links[name] for name in link_names(path))


def network_from_map(plan: Map) -> Network:
    """The network a map describes."""
    nodes = {
        node.name: Node(node.name, node.kind, plan.datapath_id(node.name), None, None)
        if node.kind == "switch"
        else Node(node.name, node.kind, None, plan.ip(node.name), plan.mac(node.name))
        for node in plan.nodes
    }
    links = {}
    for span in plan.links:
        for a, b in (span.ends, span.ends[::-1]):
            name = link_name(a, b)
            ports = plan.port(a, b).number, plan.port(b, a).number
            links[name] = DirectedLink(
                name, a, b, *ports, span.length_km, plan.rate_bps(span), span.duct,
                plan.slots(span), span.channel_rate_gbps,
            )  # fmt: skip
    return Network(plan.name, plan.scale_mbps_per_gbps, plan.mtu_bytes, nodes, links, plan.grid)
