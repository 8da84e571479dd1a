"""What each switch must hold, as plain data: meters and flow entries that follow from the network and reservations.

Table 0 classifies, table 1 forwards.

    table 0  LLDP from a switch            -> controller            (the wiring check)
             VLAN-tagged, from a host      -> dropped
             reserved flow, from its host  -> its meter, DSCP 46, table 1
             other IP, from a host         -> DSCP 0, table 1       (nobody marks his own way in)
             ARP, from a host              -> the port's ARP meter, table 1
             anything from a switch        -> table 1
             anything else                 -> dropped: the egress classifier reads a fixed byte, so a frame that is
                                              not IP could spell out DSCP 46 there
    table 1  reserved flow with DSCP 46    -> next hop
             ARP request for a host        -> towards that host     (no flooding, no packet-in)
             to a host's MAC, ARP          -> towards that host
             to a host's MAC               -> best-effort meter of the egress port, towards that host

The mark stays on to the host: the last port, too, has best effort to put behind it, and it knows the reserved frames
by their mark alone.

ARP has meters of its own at the edge, so tight that all hosts together stay within a link's margin: it gets through
however full the best-effort meters are, and cannot fill a queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil

from controller.network import DirectedLink, Network
from controller.paths import next_hops
from controller.reservation import Placement, Reservation

COOKIE_TAG = 0x9ACE
"""The first 16 bits of every cookie of ours; then 32 bits of reservation number (0: none) and 16 of version."""
COOKIE_TAG_MASK = 0xFFFF << 48
COOKIE_RESERVATION_MASK = 0xFFFF_FFFF_FFFF << 16

BEST_EFFORT_METERS = 100_000
ARP_METERS = 105_000
OUR_METERS = range(100_000, 262_144)
"""The meter ids that are ours: best effort and ARP + port number, reservations from 110000 up."""

RESERVED_DSCP = 46
CONTROLLER_PORT = 0xFFFF_FFFD

BEST_EFFORT_BURST_S = 0.2
BEST_EFFORT_BURST_MIN_KBIT = 600
BEST_EFFORT_BURST_MAX_KBIT = 8000
"""A long burst is kind to TCP but must fit the egress queue: the emulation's queues hold more than this."""

ARP_METER_MAX_KBPS = 100
ARP_METER_MIN_KBPS = 8
ARP_BURST_KBIT = 16

IPV4, IPV6, ARP, LLDP = 0x0800, 0x86DD, 0x0806, 0x88CC
PROTOCOL_NUMBERS: Mapping[str, int] = {"tcp": 6, "udp": 17}
ANY_VLAN = (0x1000, 0x1000)

MatchValue = int | str | tuple[int, int]
FlowMatch = tuple[tuple[str, MatchValue], ...]
Action = tuple[str, int]
EntryKey = tuple[int, int, FlowMatch]


@dataclass(frozen=True, slots=True)
class MeterEntry:
    """A meter with one drop band."""

    meter_id: int
    rate_kbps: int
    burst_kbit: int


@dataclass(frozen=True, slots=True)
class FlowEntry:
    """A flow entry; `match` is sorted by field, a pair as value is (value, mask).

    Order of work: meter, then actions, then the next table. Actions: ("set_ip_dscp", n), ("output", port).
    """

    table: int
    priority: int
    match: FlowMatch
    cookie: int
    meter_id: int | None = None
    actions: tuple[Action, ...] = ()
    goto: int | None = None

    @property
    def key(self) -> EntryKey:
        """What makes it one entry: a switch holds at most one of each key."""
        return self.table, self.priority, self.match


@dataclass(frozen=True, slots=True)
class SwitchState:
    """Everything of ours that one switch holds."""

    meters: Mapping[int, MeterEntry] = field(default_factory=dict)
    flows: Mapping[EntryKey, FlowEntry] = field(default_factory=dict)


def cookie_of(number: int, version: int) -> int:
    """The cookie of a reservation's entries."""
    return COOKIE_TAG << 48 | (number & 0xFFFF_FFFF) << 16 | version & 0xFFFF


BASE_COOKIE = cookie_of(0, 0)


@dataclass(frozen=True, slots=True)
class Part:
    """What one reservation adds to its switches, and what it takes of each directed link at this moment.

    Two live reservations never add an entry of the same key.
    """

    states: Mapping[str, SwitchState]
    taken_bps: Mapping[str, int]


def part_of(network: Network, reservation: Reservation) -> Part:
    """What one live reservation adds."""
    meters: dict[str, dict[int, MeterEntry]] = {}
    flows: dict[str, dict[EntryKey, FlowEntry]] = {}
    taken_bps: dict[str, int] = {}
    for placement in reservation.placements:
        for link in placement.link_names:
            taken_bps[link] = taken_bps.get(link, 0) + placement.reserved_bps
        meters.setdefault(placement.switches[0], {})[placement.meter_id] = reservation_meter(placement)
        for name, entry in reserved_entries(network, placement, cookie_of(reservation.number, placement.version)):
            flows.setdefault(name, {})[entry.key] = entry
    return Part({name: SwitchState(meters.get(name, {}), flows[name]) for name in flows}, taken_bps)


def base_states(network: Network, down: frozenset[str] = frozenset()) -> dict[str, SwitchState]:
    """What every switch holds whatever is reserved; the best-effort meters are not among it."""
    flows = {switch.name: _classify(network, switch.name) for switch in network.switches}
    for name, entry in _best_effort(network, down):
        flows[name].append(entry)
    return {
        name: SwitchState(
            {meter.meter_id: meter for meter in _arp_meters(network, name)}, {flow.key: flow for flow in flows[name]}
        )
        for name in flows
    }


def wanted_states(
    network: Network, reservations: Iterable[Reservation], down: frozenset[str] = frozenset()
) -> dict[str, SwitchState]:
    """What every switch must hold for these live reservations; controller.target keeps the same step by step."""
    parts = [part_of(network, reservation) for reservation in reservations if reservation.is_live]
    base = base_states(network, down)
    meters = {name: dict(state.meters) for name, state in base.items()}
    flows = {name: dict(state.flows) for name, state in base.items()}
    taken_bps = dict.fromkeys(network.links, 0)
    for part in parts:
        for name, state in part.states.items():
            meters[name].update(state.meters)
            flows[name].update(state.flows)
        for link, rate_bps in part.taken_bps.items():
            taken_bps[link] += rate_bps
    for switch in network.switches:
        for port in network.links_from(switch.name):
            meter = best_effort_meter(port, taken_bps[port.name])
            meters[switch.name][meter.meter_id] = meter
    return {name: SwitchState(meters[name], flows[name]) for name in meters}


def best_effort_meter(link: DirectedLink, reserved_bps: int) -> MeterEntry:
    """The meter in front of an egress port: what reservations and the margin leave."""
    rate_kbps = max(1, (link.capacity_bps - reserved_bps - link.margin_bps) // 1000)
    burst_kbit = round(rate_kbps * BEST_EFFORT_BURST_S)
    burst_kbit = min(max(burst_kbit, BEST_EFFORT_BURST_MIN_KBIT), BEST_EFFORT_BURST_MAX_KBIT)
    return MeterEntry(BEST_EFFORT_METERS + link.source_port, rate_kbps, burst_kbit)


def reservation_meter(placement: Placement) -> MeterEntry:
    """The meter of a reserved flow, on its first switch."""
    return MeterEntry(placement.meter_id, placement.reserved_bps // 1000, ceil(placement.burst_bytes * 8 / 1000))


def arp_meter_kbps(network: Network) -> int:
    """What one host may send of ARP: all hosts together stay within the smallest margin."""
    margin_bps = min(link.margin_bps for link in network.links.values())
    share_kbps = margin_bps // (1000 * max(1, len(network.hosts)))
    return min(max(share_kbps, ARP_METER_MIN_KBPS), ARP_METER_MAX_KBPS)


def reserved_entries(network: Network, placement: Placement, cookie: int) -> list[tuple[str, FlowEntry]]:
    """The entries of one reserved flow: (switch, entry), from its last switch back to its first."""
    flow = placement.flow
    source, destination = network.nodes[flow.source], network.nodes[flow.destination]
    packets: dict[str, MatchValue] = {
        "eth_type": IPV4,
        "ip_proto": PROTOCOL_NUMBERS[flow.match.protocol],
        "ipv4_src": source.ip or "",
        "ipv4_dst": destination.ip or "",
        f"{flow.match.protocol}_src": flow.match.source_port,
        f"{flow.match.protocol}_dst": flow.match.destination_port,
    }
    links = network.links_along(placement.path)
    entries = []
    for link in reversed(links[1:]):
        match = _match({**packets, "ip_dscp": RESERVED_DSCP})
        entry = FlowEntry(1, 300, match, cookie, actions=(("output", link.source_port),))
        entries.append((link.source, entry))
    match = _match({**packets, "in_port": links[0].destination_port})
    mark = (("set_ip_dscp", RESERVED_DSCP),)
    entries.append((links[0].destination, FlowEntry(0, 300, match, cookie, placement.meter_id, mark, goto=1)))
    return entries


def _arp_meters(network: Network, switch: str) -> list[MeterEntry]:
    rate_kbps = arp_meter_kbps(network)
    return [
        MeterEntry(ARP_METERS + link.source_port, rate_kbps, ARP_BURST_KBIT)
        for link in network.links_from(switch)
        if not network.nodes[link.destination].is_switch
    ]


def _classify(network: Network, switch: str) -> list[FlowEntry]:
    entries = []
    for link in network.links_from(switch):
        port = link.source_port
        if network.nodes[link.destination].is_switch:
            lldp = _match({"in_port": port, "eth_type": LLDP})
            entries.append(FlowEntry(0, 500, lldp, BASE_COOKIE, actions=(("output", CONTROLLER_PORT),)))
            entries.append(FlowEntry(0, 100, _match({"in_port": port}), BASE_COOKIE, goto=1))
        else:
            entries += _classify_host(port)
    return entries


def _classify_host(port: int) -> list[FlowEntry]:
    tagged = _match({"in_port": port, "vlan_vid": ANY_VLAN})
    arp = _match({"in_port": port, "eth_type": ARP})
    unmark = (("set_ip_dscp", 0),)
    return [
        FlowEntry(0, 400, tagged, BASE_COOKIE),
        FlowEntry(0, 200, arp, BASE_COOKIE, meter_id=ARP_METERS + port, goto=1),
        *(
            FlowEntry(0, 200, _match({"in_port": port, "eth_type": ip}), BASE_COOKIE, actions=unmark, goto=1)
            for ip in (IPV4, IPV6)
        ),
    ]


def _best_effort(network: Network, down: frozenset[str]) -> list[tuple[str, FlowEntry]]:
    entries = []
    for host in network.hosts:
        ip, mac = host.ip or "", host.mac or ""
        arp_request = _match({"eth_type": ARP, "arp_op": 1, "arp_tpa": ip})
        arp_unicast = _match({"eth_type": ARP, "eth_dst": mac})
        anything = _match({"eth_dst": mac})
        for switch, link in next_hops(network, host.name, down).items():
            out = (("output", link.source_port),)
            meter_id = BEST_EFFORT_METERS + link.source_port
            entries.append((switch, FlowEntry(1, 210, arp_request, BASE_COOKIE, actions=out)))
            entries.append((switch, FlowEntry(1, 205, arp_unicast, BASE_COOKIE, actions=out)))
            entries.append((switch, FlowEntry(1, 200, anything, BASE_COOKIE, meter_id, out)))
    return entries


def _match(fields: Mapping[str, MatchValue]) -> FlowMatch:
    return tuple(sorted(fields.items(), key=lambda pair: pair[0]))
