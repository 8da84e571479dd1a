"""The intended state of every switch, computed from the network and the reservations: meters, groups, flow entries.

Table 0 classifies, table 1 forwards, table 2 forwards flows that leave a lightpath.

    table 0  LLDP from a switch             -> controller (wiring check)
             VLAN-tagged, from a host       -> drop
             reserved flow, from its host   -> its meter, DSCP 46, its label, table 1
             the same outside its window    -> its meter, DSCP 34, table 1; on an optical network with its label
             fragment, from a host to one
             to which it has a reservation  -> DSCP 0, table 1, counted; see fragment_entries.py
             other IP, from a host          -> DSCP 0, table 1 (hosts cannot mark their own packets)
             ARP for a host, from a host    -> the port's ARP meter, answered by the switch
             anything from a switch         -> table 1
             anything else                  -> drop: hosts use their own addresses only; and the egress classifier
                                               reads a fixed byte, where a frame that is not IP could imitate DSCP 46
    table 1  VLAN id of a lightpath         -> onward, or at its end untagged to table 2; see lightpath_entries.py
             label and DSCP 46              -> along the flow's path; see fast_failover.py
             label and DSCP 46 or 34        -> into its lightpath; see groomed_flow.py
             to a host's MAC, DSCP 34       -> towards that host
             to a host's MAC                -> best-effort meter of the egress port, towards that host
    table 2  label, out of a lightpath      -> into the flow's next lightpath, or to its host
             label, cranked back            -> into the previous lightpath, at the first switch into the backup

The DSCP is kept up to the host: the last port, too, must prefer reserved frames to best effort, and it recognizes them
by their DSCP only.

Best effort may use the rate that no reserved flow uses at the moment: a backup's rate while the working path is up, a
periodic flow's rate outside its window. The queues prefer reserved frames and drop only best effort, so a best-effort
meter that shrinks late breaks no guarantee. While all its paths are cut, a reserved flow is forwarded as best effort.

Outside its window a periodic flow is *late*: after all reserved and before best-effort traffic, at its metered rate. A
transfer that overruns its window, or starts before its gate opens, is thus delayed a little, while in the best-effort
queue behind a flood its TCP connection would need many windows to recover. Traffic outside its window does not affect
guaranteed flows.

The first switch answers ARP itself, from the addresses of the map. Hosts never receive ARP of other hosts, so there is
nothing to poison or to flood, and address resolution depends on neither links nor controller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import ceil

from controller.booking.gate_schedule import is_open
from controller.caches import MIB, bounded_cache
from controller.dataplane.contribution import Contribution, by_switch, lightpath_contribution
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
from controller.dataplane.fast_failover import active_path, failover_groups, forwarding_entries, is_broken
from controller.dataplane.flow_label import IPV4, LATE_DSCP, PROTOCOL_NUMBERS, RESERVED_DSCP, flow_label, hops
from controller.dataplane.fragment_entries import fragment_entry
from controller.dataplane.groomed_flow import groomed_forwarding_entries, lightpath_uses, traversals
from controller.dataplane.lightpath_entries import LightpathUse
from controller.domain.network import BEST_EFFORT_MIN_BPS, MAX_FRAME_BYTES, DirectedLink, Network, Node
from controller.domain.path import link_names
from controller.domain.ports import masked_ports
from controller.domain.reservation import Match, Placement, Reservation, least_burst_bytes
from controller.routing.candidates import next_hops

BEST_EFFORT_BURST_S = 0.2
BEST_EFFORT_BURST_MIN_KBIT = 600
BEST_EFFORT_BURST_MAX_KBIT = 8000
"""A long burst helps TCP but must fit the egress queue."""

ARP_METER_MAX_KBPS = 100
ARP_METER_MIN_KBPS = 8
ARP_BURST_KBIT = 16

IPV6, ARP, LLDP = 0x86DD, 0x0806, 0x88CC
ANY_VLAN = (0x1000, 0x1000)

NO_BURSTS: Mapping[str, int] = {}


def contribution_of(
    network: Network,
    reservation: Reservation,
    down: frozenset[str] = frozenset(),
    now_us: int | None = None,
    meter_bursts: Mapping[str, int] = NO_BURSTS,
) -> Contribution:
    """The contribution of one live reservation with these links down; only links of its paths affect it.

    `now_us`: Unix time, which determines the open windows; None: all are open. `meter_bursts`: the bursts of its meters
    in bytes by flow, where they differ from those of the flows.
    """
    entries: list[tuple[str, Entry]] = []
    reserved_bps: dict[str, int] = {}
    uses: set[LightpathUse] = set()
    for placement in reservation.carried_placements:
        uses.update(lightpath_uses(placement))
        for link in links_in_use(placement, down, now_us):
            if network.links[link].slot_count:
                continue  # the whole lightpath is reserved, see lightpath_contribution
            reserved_bps[link] = reserved_bps.get(link, 0) + placement.reserved_bps
        entries.append((placement.switches[0], reservation_meter(placement, meter_bursts.get(placement.flow.name))))
        entries.append(fragment_entry(network, placement))
        entries += ((traversal.switch, traversal.group) for traversal in traversals(network, placement))
        cookie = cookie_of(reservation.number, placement.version)
        entries += intended_entries(network, placement, cookie, down, now_us)
    return Contribution(by_switch(entries), reserved_bps, frozenset(uses))


@bounded_cache(8 * MIB, entry_bytes=MIB // 8)
def base_states(network: Network, down: frozenset[str] = frozenset()) -> Mapping[str, SwitchState]:
    """The entries of every switch that do not depend on reservations; without the best-effort meters."""
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


def intended_states(
    network: Network,
    reservations: Iterable[Reservation],
    down: frozenset[str] = frozenset(),
    now_us: int | None = None,
    meter_bursts: Mapping[str, Mapping[str, int]] | None = None,
) -> dict[str, SwitchState]:
    """The intended state of every switch for these live reservations; `IntendedState` maintains it incrementally.

    `meter_bursts`: as those of `contribution_of`, by reservation.
    """
    live, bursts = [reservation for reservation in reservations if reservation.is_live], meter_bursts or {}
    contributions = [contribution_of(network, each, down, now_us, bursts.get(each.id, NO_BURSTS)) for each in live]
    base = base_states(network, down)
    meters = {name: dict(state.meters) for name, state in base.items()}
    flows = {name: dict(state.flows) for name, state in base.items()}
    reserved_bps = dict.fromkeys(network.links, 0)
    groups = {name: dict(state.groups) for name, state in base.items()}
    uses = {use for contribution in contributions for use in contribution.lightpath_uses}
    contributions += [lightpath_contribution(network, use) for use in uses]
    for contribution in contributions:
        for name, state in contribution.states.items():
            meters[name].update(state.meters)
            flows[name].update(state.flows)
            groups[name].update(state.groups)
        for link, rate_bps in contribution.reserved_bps.items():
            reserved_bps[link] += rate_bps
    for switch in network.switches:
        for port in network.links_from(switch.name):
            meter = best_effort_meter(port, reserved_bps[port.name])
            meters[switch.name][meter.meter_id] = meter
    return {name: SwitchState(meters[name], flows[name], groups[name]) for name in meters}


def links_in_use(placement: Placement, down: frozenset[str], now_us: int | None) -> tuple[str, ...]:
    """The links that a flow's reserved packets use at this moment; one that two copies of a packet cross, twice."""
    if placement.is_seamless and placement.backup_path is not None and _is_open(placement, now_us):
        whole = [path for path in (placement.path, placement.backup_path) if not is_broken(path, down)]
        paths = [path if number == 0 else path[1:] for number, path in enumerate(whole)]
        return tuple(link for path in paths for link in link_names(path))
    path = active_path(placement, down) if _is_open(placement, now_us) else None
    return link_names(path) if path else ()


def intended_entries(
    network: Network, placement: Placement, cookie: int, down: frozenset[str], now_us: int | None
) -> list[tuple[str, FlowEntry]]:
    """The entries of one reserved flow at this moment: (switch, entry), from its last switch back to its first."""
    on_backup = bool(down) and active_path(placement, down) == placement.backup_path
    forwarding = forwarding_entries if network.grid is None else groomed_forwarding_entries
    entries = list(forwarding(network, placement, cookie, on_backup))
    if active_path(placement, down) is not None:
        entries += classifiers(network, placement, cookie, late=not _is_open(placement, now_us))
    return entries


def reserved_entries(network: Network, placement: Placement, cookie: int) -> list[tuple[str, FlowEntry]]:
    """The entries of one reserved flow when its window is open and no link is down."""
    return intended_entries(network, placement, cookie, frozenset(), None)


def _is_open(placement: Placement, now_us: int | None) -> bool:
    return now_us is None or placement.window is None or is_open(placement.window, now_us)


def best_effort_meter(link: DirectedLink, reserved_bps: int) -> MeterEntry:
    """The best-effort meter of an egress port: capacity minus reservations or lightpaths, and minus the margin."""
    least_kbps = BEST_EFFORT_MIN_BPS // 1000 if link.slot_count else 1  # the whole spectrum of a fibre may be lit
    rate_kbps = max(least_kbps, (link.capacity_bps - reserved_bps - link.margin_bps) // 1000)
    burst_kbit = _best_effort_burst_kbit(rate_kbps, link.queue_bytes)
    return MeterEntry(BEST_EFFORT_METERS + link.source_port, rate_kbps, burst_kbit)


@bounded_cache(MIB // 4, entry_bytes=256)
def _best_effort_burst_kbit(rate_kbps: int, queue_bytes: int) -> int:
    """The burst at that rate; cached, as ports of equal capacity on a path have equal rates."""
    burst_kbit = round(rate_kbps * BEST_EFFORT_BURST_S)
    burst_kbit = min(max(burst_kbit, BEST_EFFORT_BURST_MIN_KBIT), BEST_EFFORT_BURST_MAX_KBIT)
    burst_kbit = min(burst_kbit, queue_bytes * 8 // 1000)
    return max(burst_kbit, ceil(least_burst_bytes(rate_kbps * 1000, MAX_FRAME_BYTES) * 8 / 1000))


def reservation_meter(placement: Placement, burst_bytes: int | None = None) -> MeterEntry:
    """The meter of a reserved flow, on its first switch; `burst_bytes`: None: that of the flow."""
    burst_kbit = ceil((placement.burst_bytes if burst_bytes is None else burst_bytes) * 8 / 1000)
    return MeterEntry(placement.meter_id, placement.reserved_bps // 1000, burst_kbit)


def arp_meter_kbps(network: Network) -> int:
    """The ARP rate of one host: all hosts together stay within the smallest margin."""
    margin_bps = min(link.margin_bps for link in network.links.values())
    share_kbps = margin_bps // (1000 * max(1, len(network.hosts)))
    return min(max(share_kbps, ARP_METER_MIN_KBPS), ARP_METER_MAX_KBPS)


def classifiers(
    network: Network, placement: Placement, cookie: int, late: bool
) -> tuple[tuple[str, FlowEntry], ...]:
    """The entries that admit a reserved flow at its first switch; `late`: outside its window."""
    mark: tuple[Action, ...] = (("set_ip_dscp", RESERVED_DSCP), ("set_eth_dst", flow_label(network, placement)))
    if late:  # on an optical network late packets use the lightpath too
        mark = (("set_ip_dscp", LATE_DSCP), *(mark[1:] if network.grid else ()))
    flow, (ingress, _) = placement.flow, hops(network, placement.path)[0]
    hosts, meter_id = (flow.source, flow.destination), placement.meter_id
    entries = _classifiers(network, ingress.destination_port, hosts, flow.match, cookie, meter_id, mark)
    return tuple([(ingress.destination, entry) for entry in entries])


@bounded_cache(4 * MIB, entry_bytes=2048)
def _classifiers(
    network: Network, in_port: int, hosts: tuple[str, str], ports: Match, cookie: int, meter_id: int,
    mark: tuple[Action, ...],
) -> tuple[FlowEntry, ...]:  # fmt: skip
    """One entry where each port is one or any; a range of ports takes several, with masks. All have the one meter."""
    source, destination = (network.nodes[name] for name in hosts)
    addresses: dict[str, MatchValue] = {
        "in_port": in_port,
        "eth_type": IPV4,
        "ip_proto": PROTOCOL_NUMBERS[ports.protocol],
        "ipv4_src": source.ip or "",
        "ipv4_dst": destination.ip or "",
    }
    matches = (match_of(addresses | fields) for fields in _port_fields(ports))
    return tuple([FlowEntry(0, 300, match, cookie, meter_id, mark, goto=1) for match in matches])


def _port_fields(match: Match) -> Iterator[dict[str, MatchValue]]:
    """The port fields of each classifier entry; a field that is left out matches any port."""
    for source in masked_ports(match.source_port):
        for destination in masked_ports(match.destination_port):
            fields = {f"{match.protocol}_src": source, f"{match.protocol}_dst": destination}
            yield {name: value for name, value in fields.items() if value is not None}


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


def _answer_arp(port: int, requester: Node, target: Node) -> FlowEntry:
    """The entry that turns a host's ARP request, from its own addresses, into the reply. Source: RFC 826."""
    ip, mac = requester.ip or "", requester.mac or ""
    request: dict[str, MatchValue] = {"in_port": port, "eth_src": mac, "eth_type": ARP}
    request |= {"arp_op": 1, "arp_sha": mac, "arp_spa": ip}
    target_ip, target_mac = target.ip or "", target.mac or ""
    actions = (
        ("set_arp_op", 2),
        *(("set_eth_src", target_mac), ("set_arp_sha", target_mac), ("set_arp_spa", target_ip)),
        *(("set_eth_dst", mac), ("set_arp_tha", mac), ("set_arp_tpa", ip)),
        ("output", IN_PORT),
    )
    return FlowEntry(0, 200, match_of({**request, "arp_tpa": target_ip}), BASE_COOKIE, ARP_METERS + port, actions)


def _classify_host(port: int, host: Node) -> list[FlowEntry]:
    """The entries that admit IP from a host's own addresses; other frames are dropped."""
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
