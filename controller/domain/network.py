"""The network as a frozen value: nodes and directed links, built from a map.

Link state is not part of it: functions take the names of the links that are down as an argument.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from controller.domain.path import Path, link_name, link_names, node_positions, span_name
from controller.domain.route import DUCT_PREFIX, SrlgBySpan
from topologies.maps import DEFAULT_QUEUE_BYTES, USUAL_LOSS_DB_PER_KM, Band, FibreType, Grid, Kind, Map

PROPAGATION_US_PER_KM = 4.9
"""Group delay of standard single-mode fibre (n about 1.468). Source: ITU-T G.652."""

ETHERNET_HEADER_BYTES = 14
"""Rates count L2 bytes: with the Ethernet header, without preamble and FCS."""

MAX_FRAME_BYTES = 9000 + ETHERNET_HEADER_BYTES
"""The largest frame on any map."""

RESERVABLE_SHARE = 0.95
"""The remainder is kept for ARP, control traffic and best effort."""

MARGIN_SHARE = 0.01
MARGIN_MIN_BPS = 200_000
"""Kept unreserved on every link, so that rounding differences between meters and shapers never fill a queue."""

BEST_EFFORT_MIN_BPS = 64_000
"""Guaranteed to best effort on every link, regardless of its capacity."""


@dataclass(frozen=True, slots=True)
class Node:
    """A switch (has a `datapath_id`) or a host (has `ip` and `mac`); its position is that on the map."""

    name: str
    kind: Kind
    datapath_id: int | None
    ip: str | None
    mac: str | None
    position_km: tuple[float, float] = (0.0, 0.0)

    @property
    def is_switch(self) -> bool:
        """Whether the node forwards; hosts only send and receive."""
        return self.kind == "switch"


@dataclass(frozen=True)
class DirectedLink:
    """One direction of a span; `name` is `source->destination`, with the number of the span from the second on
    (`controller.domain.path`). Port numbers are those of the respective node.

    `duct`: the duct of the span, if the map names one; spans in the same duct are cut together. `slot_count`: size of
    its spectrum, for lightpaths; 0: not optical. `channel_gbps`: the real rate of one channel. `queue_bytes`: what the
    port's queue for reserved frames holds. `idle_slope_bps`: of the credit-based shaper of its port; None: strict
    priority alone.
    """

    name: str
    source: str
    destination: str
    source_port: int
    destination_port: int
    length_km: float
    capacity_bps: int
    duct: str | None = None
    slot_count: int = 0
    channel_gbps: float = 0.0
    queue_bytes: int = DEFAULT_QUEUE_BYTES
    number: int = 1
    loss_db_per_km: float = USUAL_LOSS_DB_PER_KM
    fibre_type: FibreType = "SSMF"
    idle_slope_bps: int | None = None

    @cached_property
    def span(self) -> str:
        """The name of the span, `a-b`, the same for both directions; `a-b.2` is the second between the same nodes."""
        return span_name(self.source, self.destination, self.number)

    @cached_property
    def path(self) -> Path:
        """The path of this link alone."""
        return (self.source, self.destination) if self.number == 1 else (self.source, self.span, self.destination)

    @cached_property
    def margin_bps(self) -> int:
        """Bandwidth that is never allocated."""
        return max(MARGIN_MIN_BPS, round(self.capacity_bps * MARGIN_SHARE))

    @cached_property
    def reservable_bps(self) -> int:
        """The maximum total of all reservations."""
        left = self.capacity_bps - self.margin_bps - BEST_EFFORT_MIN_BPS
        if self.idle_slope_bps is not None:
            left = min(left, self.idle_slope_bps - self.margin_bps)
        return max(0, min(round(self.capacity_bps * RESERVABLE_SHARE), left))

    @cached_property
    def propagation_us(self) -> float:
        """Propagation delay."""
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
    """The spectrum grid of an optical network."""
    band: Band = "C"
    regenerators: frozenset[str] | None = None
    """The switches at which a flow may change from one lightpath to the next; None: all."""
    is_regulated: bool = False
    """Whether every port of a switch shapes asynchronously (IEEE 802.1Qcr): regulators before its queue."""

    @cached_property
    def max_frame_bytes(self) -> int:
        """The largest L2 frame."""
        return self.mtu_bytes + ETHERNET_HEADER_BYTES

    @cached_property
    def has_shapers(self) -> bool:
        """Whether any port selects frames otherwise than by strict priority alone."""
        return self.is_regulated or any(link.idle_slope_bps is not None for link in self.links.values())

    @cached_property
    def switches(self) -> tuple[Node, ...]:
        """The switches, in the order of the map."""
        return tuple(node for node in self.nodes.values() if node.is_switch)

    @cached_property
    def hosts(self) -> tuple[Node, ...]:
        """The hosts, in the order of the map."""
        return tuple(node for node in self.nodes.values() if not node.is_switch)

    @cached_property
    def switch_by_datapath_id(self) -> Mapping[int, Node]:
        """The switches by OpenFlow datapath id."""
        return {node.datapath_id: node for node in self.switches if node.datapath_id is not None}

    @cached_property
    def _switch_numbers(self) -> Mapping[str, int]:
        return {node.name: number for number, node in enumerate(self.switches, start=1)}

    def switch_number(self, name: str) -> int:
        """The place of a switch in the order of the map, from 1."""
        return self._switch_numbers[name]

    @cached_property
    def _links_from(self) -> Mapping[str, tuple[DirectedLink, ...]]:
        links_by_source: dict[str, list[DirectedLink]] = {name: [] for name in self.nodes}
        for link in self.links.values():
            links_by_source[link.source].append(link)
        return {name: tuple(links) for name, links in links_by_source.items()}

    @cached_property
    def spans(self) -> Mapping[str, DirectedLink]:
        """Every span by name, as the direction that the map lists first."""
        return {link.span: link for link in reversed(tuple(self.links.values()))}

    @cached_property
    def srlg_by_span(self) -> SrlgBySpan:
        """The SRLG of every span that shares a duct with another span between switches: `duct:` and the duct's name."""
        duct_by_span = {
            link.span: link.duct
            for link in self.links.values()
            if link.duct and self.nodes[link.source].is_switch and self.nodes[link.destination].is_switch
        }
        span_counts = Counter(duct_by_span.values())
        return {span: f"{DUCT_PREFIX}{duct}" for span, duct in duct_by_span.items() if span_counts[duct] > 1}

    def lightpath_ends(self, nodes: Path) -> tuple[int, ...]:
        """Return the positions in a path between switches at which a lightpath may begin or end."""
        positions = node_positions(nodes)
        if self.regenerators is None:
            return positions
        inner = (position for position in positions[1:-1] if nodes[position] in self.regenerators)
        return (*positions[:1], *inner, *positions[1:][-1:])

    def transparent_segments(self, nodes: Path) -> list[Path]:
        """Return the parts of a path between switches that one lightpath each has to cross at least."""
        return [nodes[start : end + 1] for start, end in pairwise(self.lightpath_ends(nodes))]

    def links_from(self, node: str) -> tuple[DirectedLink, ...]:
        """Return the links that leave a node, one for each of its ports."""
        return self._links_from[node]

    def links_along(self, path: tuple[str, ...]) -> tuple[DirectedLink, ...]:
        """Return the links of a path.

        Raises: KeyError if two consecutive nodes are not adjacent.
        """
        return tuple(self.links[name] for name in link_names(path))


def network_from_map(map_: Map) -> Network:
    """Build the network that a map describes."""
    nodes = {
        node.name: Node(node.name, node.kind, map_.datapath_id(node.name), None, None, node.position_km)
        if node.kind == "switch"
        else Node(node.name, node.kind, None, map_.ip(node.name), map_.mac(node.name), node.position_km)
        for node in map_.nodes
    }
    links = {}
    for span, ports in zip(map_.links, map_.link_ports, strict=True):
        for near, far in (ports, ports[::-1]):
            name = link_name(near.node, far.node, near.span_number)
            links[name] = DirectedLink(
                name, near.node, far.node, near.number, far.number, span.length_km, map_.rate_bps(span), span.duct,
                map_.slots(span), span.channel_rate_gbps, map_.queue_bytes_of(span), near.span_number,
                span.loss_db_per_km, span.fibre_type, map_.idle_slope_bps(span),
            )  # fmt: skip
    regenerators = None if map_.regenerators is None else frozenset(map_.regenerators)
    emulation = map_.name, map_.scale_mbps_per_gbps, map_.mtu_bytes
    return Network(*emulation, nodes, links, map_.grid, map_.band, regenerators, map_.ats)
