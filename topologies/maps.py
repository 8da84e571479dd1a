"""A map: the network as planned. Frozen data and what is derived from it, no I/O.

Identifiers are those that the file states, as for a network that exists, or follow its order, so the emulation, the
controller and the trainer derive the same ones independently: the first switch has datapath id 1, port n of a node is
the n-th link that names it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from itertools import count
from math import ceil
from typing import Literal

Kind = Literal["switch", "edge", "cloud", "host"]
Grid = Literal["fixed", "flexible"]
Band = Literal["C", "C+L"]
FibreType = Literal["SSMF", "NZDF", "LOF"]
"""As in GNPy's equipment library: standard, non-zero dispersion shifted, large effective area."""

USUAL_LOSS_DB_PER_KM, LEAST_LOSS_DB_PER_KM, MOST_LOSS_DB_PER_KM = 0.2, 0.05, 20.0

SLOTS_PER_CHANNEL = {"fixed": 1, "flexible": 3}
"""Spectrum slots per channel: one of 50 GHz, or three of 12.5 GHz, the minimum for a 32 GBd signal."""

MAX_CHANNELS = {"fixed": 96, "flexible": 128}
"""Channels that fit into the C band, 4.8 THz."""

C_BAND_SLOTS = {"fixed": 96, "flexible": 384}
"""Slots of the C band; those of the L band follow. No lightpath is in both."""

L_BAND_CHANNELS = {"fixed": 69, "flexible": 92}
"""Channels that fit into the L band, 186.575 to 190.025 THz; they follow those of the C band."""

MAX_FIBRES = {"C": 64, "C+L": 32}
"""Fibres at one switch of an optical map: a group id has 13 bits for fibre and channel (`lightpath_entries`)."""

MAX_EMULATED_MBPS = 1000.0
"""Mininet's TCIntf silently ignores rates above this, so the loader rejects them."""

DEFAULT_QUEUE_BYTES = 3_000_000
"""A port's queue for reserved frames where the map names none, up to 1 Gb/s; of faster links in proportion."""

MIN_QUEUE_BYTES = 75_000
"""The least burst of a best-effort meter, 600 kbit, which the port's queue must hold."""

MANAGEMENT_GATEWAY = "10.254.0.1"
"""The controller's address on the management network."""

MANAGEMENT_NETWORK = "10.254.0.0/16"

MAX_PORT_NUMBER = 4095
"""Group ids have twelve bits for a port (`fast_failover`)."""


def most_channels(grid: Grid, band: Band) -> int:
    """The channels of a fibre."""
    return MAX_CHANNELS[grid] + (L_BAND_CHANNELS[grid] if band == "C+L" else 0)


def least_queue_bytes(rate_bps: float) -> int:
    """The least queue of a port of that rate: a meter that passes it needs a frame and up to 2 ms of it as burst."""
    return max(MIN_QUEUE_BYTES, ceil(9014 + 0.002 * rate_bps / 8))


@dataclass(frozen=True, slots=True)
class MapNode:
    """A switch or a host; `cpu_share` is in cores (0.25 = a quarter of one), None: not limited.

    `label`: name of the site for display. `datapath_id` of a switch, `ip` and `mac` of a host: as they are in a network
    that exists; None: assigned by the map.
    """

    name: str
    kind: Kind
    position_km: tuple[float, float]
    cpu_share: float | None = None
    label: str | None = None
    datapath_id: int | None = None
    ip: str | None = None
    mac: str | None = None


@dataclass(frozen=True, slots=True)
class MapLink:
    """A fibre span; its real rate is `channels` x `channel_rate_gbps` in each direction.

    Spans with the same `duct` form a shared-risk group: they fail together. `queue_bytes`: the queue of each of its two
    ports; None: as the map says. `ports`: the OpenFlow port numbers of its ends, in their order; None: assigned by the
    map. `loss_db_per_km`: with all losses along it but two connectors of 0.5 dB spread over its length.
    `idle_slope_gbps`: the real idle slope of the credit-based shapers of its ports; None: they have none.
    """

    ends: tuple[str, str]
    length_km: float
    channels: int
    channel_rate_gbps: float
    duct: str | None = None
    queue_bytes: int | None = None
    ports: tuple[int | None, int | None] = (None, None)
    loss_db_per_km: float = USUAL_LOSS_DB_PER_KM
    fibre_type: FibreType = "SSMF"
    idle_slope_gbps: float | None = None

    @property
    def rate_gbps(self) -> float:
        """The real rate of one direction."""
        return self.channels * self.channel_rate_gbps


@dataclass(frozen=True, slots=True)
class Port:
    """One end of a link: port `number` of `node` faces `peer`; `index`: it is the node's so-and-so-many-th, from 1.

    `span_number`: the link is the so-and-so-many-th between the two, from 1.
    """

    node: str
    number: int
    peer: str
    index: int
    span_number: int = 1

    @property
    def interface(self) -> str:
        """The name of its network interface in the emulation."""
        return f"{self.node}-eth{self.index}"


@dataclass(frozen=True, slots=True)
class CrossTraffic:
    """Source and sink of the unreserved load, and the link that it fills."""

    source: str
    sink: str
    bottleneck: tuple[str, str]


@dataclass(frozen=True)
class Map:
    """A map. `scale_mbps_per_gbps`: emulated Mb/s per real Gb/s; `source`: the publication it is taken from.

    `grid`: the map is optical and reservations travel in lightpaths; None: packet links only. `regenerators`: the
    switches at which a flow may change from one lightpath to the next; None: all. `band`: with C+L every
    fibre's amplifiers and spectrum are those of both bands. `queue_bytes`: the queue
    for reserved frames of every port; None: by the rate of its link. `notes`: what was estimated or left out when the
    map was made of a published network. `ats`: every port of a switch shapes asynchronously (IEEE 802.1Qcr).
    """

    name: str
    description: str
    scale_mbps_per_gbps: float
    mtu_bytes: int
    nodes: tuple[MapNode, ...]
    links: tuple[MapLink, ...]
    cross_traffic: CrossTraffic | None = None
    source: str = ""
    grid: Grid | None = None
    queue_bytes: int | None = None
    notes: tuple[str, ...] = ()
    regenerators: tuple[str, ...] | None = None
    band: Band = "C"
    ats: bool = False

    @cached_property
    def switches(self) -> tuple[MapNode, ...]:
        """The switches, in the order of the file."""
        return tuple(node for node in self.nodes if node.kind == "switch")

    @cached_property
    def hosts(self) -> tuple[MapNode, ...]:
        """Everything that is not a switch, in the order of the file."""
        return tuple(node for node in self.nodes if node.kind != "switch")

    @cached_property
    def edges(self) -> tuple[MapNode, ...]:
        """The edge devices."""
        return tuple(node for node in self.nodes if node.kind == "edge")

    @cached_property
    def clouds(self) -> tuple[MapNode, ...]:
        """The nodes of the cloud, in the order of the file."""
        return tuple(node for node in self.nodes if node.kind == "cloud")

    @cached_property
    def cloud(self) -> MapNode | None:
        """The first cloud node, if the map has one: the training loop runs there; further ones have workers only."""
        return next(iter(self.clouds), None)

    @cached_property
    def ports(self) -> tuple[Port, ...]:
        """Every port of every node."""
        return tuple(port for ports in self.link_ports for port in ports)

    @cached_property
    def link_ports(self) -> tuple[tuple[Port, Port], ...]:
        """The ports of every link, in the order of its ends."""
        taken: dict[str, set[int]] = {node.name: set() for node in self.nodes}
        for link in self.links:
            for node, number in zip(link.ends, link.ports, strict=True):
                if number is not None:
                    taken[node].add(number)
        indices, spans = dict.fromkeys(taken, 0), Counter[frozenset[str]]()
        pairs = []
        for link in self.links:
            spans[frozenset(link.ends)] += 1
            pair = []
            for (node, peer), stated in zip((link.ends, link.ends[::-1]), link.ports, strict=True):
                indices[node] += 1
                number = _assigned(stated, indices[node], taken[node])
                pair.append(Port(node, number, peer, indices[node], spans[frozenset(link.ends)]))
            pairs.append((pair[0], pair[1]))
        return tuple(pairs)

    @cached_property
    def span_names(self) -> tuple[str, ...]:
        """The name of every link: its ends as the file has them, and its number from the second between them on."""
        numbers = (near.span_number for near, _ in self.link_ports)
        return tuple(
            "-".join(link.ends) + (f".{number}" if number > 1 else "")
            for link, number in zip(self.links, numbers, strict=True)
        )

    def link_index(self, span: str) -> int:
        """The position of the link of that name, `a-b` or `b-a`, with `.2` for the second between the two.

        Raises: KeyError if there is none.
        """
        ends, _, number = span.partition(".")
        return self._link_indices[frozenset(ends.split("-")), number or "1"]

    @cached_property
    def _link_indices(self) -> dict[tuple[frozenset[str], str], int]:
        return {
            (frozenset(link.ends), str(near.span_number)): index
            for index, (link, (near, _)) in enumerate(zip(self.links, self.link_ports, strict=True))
        }

    @cached_property
    def _datapath_ids(self) -> dict[str, int]:
        taken = {node.datapath_id for node in self.switches if node.datapath_id is not None}
        return {
            node.name: _assigned(node.datapath_id, number, taken) for number, node in enumerate(self.switches, start=1)
        }

    @cached_property
    def _host_numbers(self) -> dict[str, int]:
        return {node.name: number for number, node in enumerate(self.hosts, start=1)}

    @cached_property
    def _ips(self) -> dict[str, str]:
        taken = {int(IPv4Address(node.ip)) for node in self.hosts if node.ip is not None}
        first = int(IPv4Address("10.0.0.0"))
        return {
            node.name: node.ip or str(IPv4Address(_assigned(None, first + number, taken)))
            for number, node in enumerate(self.hosts, start=1)
        }

    @cached_property
    def _macs(self) -> dict[str, str]:
        taken = {int(node.mac.replace(":", ""), 16) for node in self.hosts if node.mac is not None}
        first = 0x02 << 40
        return {
            node.name: node.mac or _assigned(None, first + number, taken).to_bytes(6, "big").hex(":")
            for number, node in enumerate(self.hosts, start=1)
        }

    @cached_property
    def _by_name(self) -> dict[str, MapNode]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _port_towards(self) -> dict[tuple[str, str], Port]:
        return {(port.node, port.peer): port for port in reversed(self.ports)}

    @cached_property
    def _opposite(self) -> dict[Port, Port]:
        return {near: far for pair in self.link_ports for near, far in (pair, pair[::-1])}

    def node(self, name: str) -> MapNode:
        """The node of that name.

        Raises: KeyError if there is none.
        """
        return self._by_name[name]

    def port(self, node: str, peer: str) -> Port:
        """The port of `node` that faces `peer`; of several, that of the first link.

        Raises: KeyError if they are not neighbours.
        """
        return self._port_towards[node, peer]

    def opposite(self, port: Port) -> Port:
        """The port at the other end of its link."""
        return self._opposite[port]

    def datapath_id(self, switch: str) -> int:
        """The OpenFlow datapath id of a switch."""
        return self._datapath_ids[switch]

    def ip(self, host: str) -> str:
        """The address of a host on the data network."""
        return self._ips[host]

    def mac(self, host: str) -> str:
        """The hardware address of a host; an assigned one is locally administered, with the host's number."""
        return self._macs[host]

    @cached_property
    def data_network(self) -> IPv4Network:
        """The smallest network with the addresses of all hosts, at least a /16: all of them are neighbours in it."""
        addresses = [int(IPv4Address(ip)) for ip in self._ips.values()] or [int(IPv4Address("10.0.0.0"))]
        differing = (min(addresses) ^ max(addresses)).bit_length()
        return IPv4Network((min(addresses), min(16, 32 - differing)), strict=False)

    def management_ip(self, host: str) -> str:
        """The address of a host on the out-of-band management network, 10.254.0.0/16."""
        number = self._host_numbers[host] + 1
        return f"10.254.{number >> 8}.{number & 255}"

    def rate_bps(self, link: MapLink) -> int:
        """The emulated rate of one direction of a link, in L2 bits per second."""
        return round(link.rate_gbps * self.scale_mbps_per_gbps * 1e6)

    def idle_slope_bps(self, link: MapLink) -> int | None:
        """The emulated idle slope of the shapers of a link's ports."""
        return None if link.idle_slope_gbps is None else round(link.idle_slope_gbps * self.scale_mbps_per_gbps * 1e6)

    @property
    def shapers(self) -> str | None:
        """What its ports have beside strict priority, for a sentence; None: nothing."""
        shaped = [name for name, link in zip(self.span_names, self.links, strict=True) if link.idle_slope_gbps]
        cbs = f"credit-based shapers on {', '.join(shaped[:3])}{'…' if len(shaped) > 3 else ''}" if shaped else ""
        return " and ".join(text for text in (cbs, "asynchronous traffic shaping" if self.ats else "") if text) or None

    def queue_bytes_of(self, link: MapLink) -> int:
        """The queue for reserved frames of each port of a link; best effort has another of the same size."""
        stated_bytes = link.queue_bytes or self.queue_bytes
        return stated_bytes or max(DEFAULT_QUEUE_BYTES, round(DEFAULT_QUEUE_BYTES * self.rate_bps(link) / 1e9))

    def slots(self, link: MapLink) -> int:
        """Number of spectrum slots of a span; 0 on a packet link and on a host's access link."""
        if self.grid is None or any(self.node(end).kind != "switch" for end in link.ends):
            return 0
        return link.channels * SLOTS_PER_CHANNEL[self.grid]


def _assigned(stated: int | None, number: int, taken: set[int]) -> int:
    """The stated number; else this one, or the next that is not taken, which is taken then."""
    if stated is not None:
        return stated
    free = next(each for each in count(number) if each not in taken)
    taken.add(free)
    return free
