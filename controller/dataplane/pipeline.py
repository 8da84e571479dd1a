"""What each switch must hold, as plain data: meters and flow entries that follow from the network and reservations.

Table 0 classifies, table 1 forwards.

    table 0  LLDP from a switch            -> controller            (the wiring check)
             VLAN-tagged, from a host      -> dropped
             reserved flow, from its host  -> its meter, DSCP 46, its label, table 1
             the same outside its window   -> its meter, DSCP 34, table 1; on an optical network with its label
             other IP, from a host         -> DSCP 0, table 1       (nobody marks his own way in)
             ARP for a host, from a host   -> the port's ARP meter, answered on the spot
             anything from a switch        -> table 1
             anything else                 -> dropped: a host speaks under its own addresses only, and the egress
                                              classifier reads a fixed byte, so a frame that is not IP could spell out
                                              DSCP 46 there
    table 1  VLAN id of a lightpath        -> on in it, or at its end: untagged, table 2; see optical/switching.py
             label and DSCP 46             -> along the flow's path; see protection.py
             label and DSCP 46 or 34       -> into its lightpath; see optical/crossing.py
             to a host's MAC, DSCP 34      -> towards that host
             to a host's MAC               -> best-effort meter of the egress port, towards that host
    table 2  label                         -> what came out of a lightpath: into the flow's next, to its host, or
                                              turned back: into the one before, and at the first switch the backup's

The mark stays on to the host: the last port, too, has best effort to put behind it, and it knows the reserved frames
by their mark alone.

Best effort may use whatever no reserved flow uses at the moment: a backup's rate while the primary is up, a periodic
flow's rate outside its window. The queues put reserved frames first and drop only best effort, so a meter that shrinks
late costs no promise. While all its paths are broken a reserved flow is best effort itself.

Outside its window a periodic flow is *late*: behind everything reserved and before best effort, at its metered rate. A
transfer that overruns its window, or finds its gate not open yet, so loses a little time and not its place; behind a
flood in the best-effort queue its TCP connection would need many windows to recover. Who ignores his window harms
nobody who was promised something.

The first switch answers ARP itself: who has which address follows from the map. No host ever sees another's ARP, so
there is nothing to poison and nothing to flood, and addresses are resolved whatever links and controller do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from math import ceil

from controller.booking.gate_schedule import is_open
from controller.dataplane.contribution import Contribution, by_switch, lit
from controller.dataplane.entries import (
    ARP_METERS,
    BASE_COOKIE,
    BEST_EFFORT_METERS,
    CONTROLLER_PORT,
    IN_PORT,
    Action,
    Entry,
    EntryKey,
    FlowEntry,
    MatchValue,
    MeterEntry,
    SwitchState,
    cookie_of,
    match_of,
)
from controller.dataplane.fast_failover import active_path, failover_groups, laid
from controller.dataplane.flow_label import IPV4, LATE_DSCP, RESERVED_DSCP, hops, label
from controller.dataplane.groomed_flow import laid_in_light, light_of, traversals
from controller.dataplane.lightpath_entries import LightpathUse
from controller.domain.network import BEST_EFFORT_MIN_BPS, DirectedLink, Network, Node
from controller.domain.path import link_names
from controller.domain.reservation import Placement, Reservation
from controller.routing.candidates import next_hops

BEST_EFFORT_BURST_S = 0.2
BEST_EFFORT_BURST_MIN_KBIT = 600
BEST_EFFORT_BURST_MAX_KBIT = 8000
"""A long burst is kind to TCP but must fit the egress queue: the emulation's queues hold more than this."""

ARP_METER_MAX_KBPS = 100
ARP_METER_MIN_KBPS = 8
ARP_BURST_KBIT = 16

IPV6, ARP, LLDP = 0x86DD, 0x0806, 0x88CC
PROTOCOL_NUMBERS: Mapping[str, int] = {"tcp": 6, "udp": 17}
ANY_VLAN = (0x1000, 0x1000)


def contribution_of(
    network: Network, reservation: Reservation, down: frozenset[str] = frozenset(), now_us: int | None = None
) -> Contribution:
    """What one live reservation adds with these links down; it changes only when a link of its paths does.

    `now_us`: the moment of Unix time that says which windows are open; None: all of them.
    """
    entries: list[tuple[str, Entry]] = []
    taken_bps: dict[str, int] = {}
    light: set[LightpathUse] = set()
    for placement in reservation.carried:
        light.update(light_of(placement))
        for link in links_in_use(placement, down, now_us):
            if network.links[link].slots:
                continue  # best effort is kept off all of the lightpath
            taken_bps[link] = taken_bps.get(link, 0) + placement.reserved_bps
        entries.append((placement.switches[0], reservation_meter(placement)))
        entries += ((crossing.switch, crossing.group) for crossing in traversals(network, placement))
        cookie = cookie_of(reservation.number, placement.version)
        entries += wanted_entries(network, placement, cookie, down, now_us)
    return Contribution(by_switch(entries), taken_bps, frozenset(light))


@lru_cache(maxsize=64)
def base_states(network: Network, down: frozenset[str] = frozenset()) -> Mapping[str, SwitchState]:
    """What every switch holds whatever is reserved; the best-effort meters are not among it."""
    flows: dict[str, dict[EntryKey, FlowEntry]] = {
        switch.name: {entry.key: entry for entry in _classify(network, switch.name)} for switch in network.switches
    }
    for name, entry in _best_effort(network, down):
        flows[name][entry.key] = entry
    return {
        name: SwitchState(
            {meter.meter_id: meter for meter in _arp_meters(network, name)},
            flows[name],
            {group.group_id: group for group in failover_groups(network, name)} if network.grid is None else {},
        )
        for name in flows
    }


def wanted_states(
    network: Network,
    reservations: Iterable[Reservation],
    down: frozenset[str] = frozenset(),
    now_us: int | None = None,
) -> dict[str, SwitchState]:
    """What every switch must hold for these live reservations; `intended_state` keeps the same step by step."""
    parts = [contribution_of(network, reservation, down, now_us) for reservation in reservations if reservation.is_live]
    base = base_states(network, down)
    meters = {name: dict(state.meters) for name, state in base.items()}
    flows = {name: dict(state.flows) for name, state in base.items()}
    taken_bps = dict.fromkeys(network.links, 0)
    groups = {name: dict(state.groups) for name, state in base.items()}
    parts += [lit(network, light) for light in {each for part in parts for each in part.light}]
    for part in parts:
        for name, state in part.states.items():
            meters[name].update(state.meters)
            flows[name].update(state.flows)
            groups[name].update(state.groups)
        for link, rate_bps in part.taken_bps.items():
            taken_bps[link] += rate_bps
    for switch in network.switches:
        for port in network.links_from(switch.name):
            meter = best_effort_meter(port, taken_bps[port.name])
            meters[switch.name][meter.meter_id] = meter
    return {name: SwitchState(meters[name], flows[name], groups[name]) for name in meters}


def links_in_use(placement: Placement, down: frozenset[str], now_us: int | None) -> tuple[str, ...]:
    """The links on which a flow may send reserved packets at this moment."""
    path = active_path(placement, down) if _is_open(placement, now_us) else None
    return link_names(path) if path else ()


def wanted_entries(
    network: Network, placement: Placement, cookie: int, down: frozenset[str], now_us: int | None
) -> list[tuple[str, FlowEntry]]:
    """The entries of one reserved flow at this moment: (switch, entry), from its last switch back to its first."""
    on_backup = bool(down) and active_path(placement, down) == placement.backup_path
    lay = laid if network.grid is None else laid_in_light
    entries = list(lay(network, placement, cookie, on_backup))
    if active_path(placement, down) is not None:
        entries.append(classifier(network, placement, cookie, late=not _is_open(placement, now_us)))
    return entries


def reserved_entries(network: Network, placement: Placement, cookie: int) -> list[tuple[str, FlowEntry]]:
    """The entries of one reserved flow when its window is open and no link is down."""
    return wanted_entries(network, placement, cookie, frozenset(), None)


def _is_open(placement: Placement, now_us: int | None) -> bool:
    return now_us is None or placement.window is None or is_open(placement.window, now_us)


def best_effort_meter(link: DirectedLink, reserved_bps: int) -> MeterEntry:
    """The meter in front of an egress port: what reservations, or lightpaths, and the margin leave."""
    least_kbps = BEST_EFFORT_MIN_BPS // 1000 if link.slots else 1  # all of a fibre may be lit
    rate_kbps = max(least_kbps, (link.capacity_bps - reserved_bps - link.margin_bps) // 1000)
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


@lru_cache(maxsize=8192)
def classifier(network: Network, placement: Placement, cookie: int, late: bool) -> tuple[str, FlowEntry]:
    """The entry that lets a reserved flow in, at its first switch; `late`: outside its window."""
    flow = placement.flow
    source, destination = network.nodes[flow.source], network.nodes[flow.destination]
    match = match_of({
        "in_port": hops(network, placement.path)[0][0].destination_port,
        "eth_type": IPV4,
        "ip_proto": PROTOCOL_NUMBERS[flow.match.protocol],
        "ipv4_src": source.ip or "",
        "ipv4_dst": destination.ip or "",
        f"{flow.match.protocol}_src": flow.match.source_port,
        f"{flow.match.protocol}_dst": flow.match.destination_port,
    })  # fmt: skip
    mark: tuple[Action, ...] = (("set_ip_dscp", RESERVED_DSCP), ("set_eth_dst", label(network, placement)))
    if late:  # on an optical network in its lightpath all the same
        mark = (("set_ip_dscp", LATE_DSCP), *(mark[1:] if network.grid else ()))
    return placement.switches[0], FlowEntry(0, 300, match, cookie, placement.meter_id, mark, goto=1)


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
        port, neighbour = link.source_port, network.nodes[link.destination]
        if neighbour.is_switch:
            lldp = match_of({"in_port": port, "eth_type": LLDP})
            entries.append(FlowEntry(0, 500, lldp, BASE_COOKIE, actions=(("output", CONTROLLER_PORT),)))
            entries.append(FlowEntry(0, 100, match_of({"in_port": port}), BASE_COOKIE, goto=1))
        else:
            entries += _classify_host(port, neighbour)
            entries += [_answer_arp(port, neighbour, other) for other in network.hosts if other is not neighbour]
    return entries


def _answer_arp(port: int, asking: Node, sought: Node) -> FlowEntry:
    """The request of a host, under its own addresses, becomes its answer. Source: RFC 826."""
    ip, mac = asking.ip or "", asking.mac or ""
    own: dict[str, MatchValue] = {"in_port": port, "eth_src": mac, "eth_type": ARP}
    own |= {"arp_op": 1, "arp_sha": mac, "arp_spa": ip}
    its_ip, its_mac = sought.ip or "", sought.mac or ""
    actions = (
        ("set_arp_op", 2),
        *(("set_eth_src", its_mac), ("set_arp_sha", its_mac), ("set_arp_spa", its_ip)),
        *(("set_eth_dst", mac), ("set_arp_tha", mac), ("set_arp_tpa", ip)),
        ("output", IN_PORT),
    )
    return FlowEntry(0, 200, match_of({**own, "arp_tpa": its_ip}), BASE_COOKIE, ARP_METERS + port, actions)


def _classify_host(port: int, host: Node) -> list[FlowEntry]:
    """What a host may send: IP under its own addresses. Whatever else it says is not forwarded."""
    ip, mac = host.ip or "", host.mac or ""
    tagged = match_of({"in_port": port, "vlan_vid": ANY_VLAN})
    ipv4 = match_of({"in_port": port, "eth_src": mac, "eth_type": IPV4, "ipv4_src": ip})
    ipv6 = match_of({"in_port": port, "eth_src": mac, "eth_type": IPV6})
    unmark = (("set_ip_dscp", 0),)
    return [
        FlowEntry(0, 400, tagged, BASE_COOKIE),
        FlowEntry(0, 200, ipv4, BASE_COOKIE, actions=unmark, goto=1),
        FlowEntry(0, 200, ipv6, BASE_COOKIE, actions=unmark, goto=1),
    ]


def _best_effort(network: Network, down: frozenset[str]) -> list[tuple[str, FlowEntry]]:
    entries = []
    for host in network.hosts:
        anything = match_of({"eth_dst": host.mac or ""})
        late = match_of({"eth_dst": host.mac or "", "eth_type": IPV4, "ip_dscp": LATE_DSCP})
        for switch, link in next_hops(network, host.name, down).items():
            out = (("output", link.source_port),)
            meter_id = BEST_EFFORT_METERS + link.source_port
            entries.append((switch, FlowEntry(1, 205, late, BASE_COOKIE, actions=out)))
            entries.append((switch, FlowEntry(1, 200, anything, BASE_COOKIE, meter_id, out)))
    return entries
