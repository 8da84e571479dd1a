"""The label of a reserved flow, and its forwarding entries."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from controller.caches import MIB, bounded_cache
from controller.dataplane.entries import Action, FlowEntry, FlowMatch
from controller.domain.network import DirectedLink, Network
from controller.domain.reservation import FIRST_METER_ID, Placement

RESERVED_DSCP = 46
LATE_DSCP = 34
"""Assured forwarding, class 4. Source: RFC 2597 §6."""
IPV4 = 0x0800
PROTOCOL_NUMBERS: Mapping[str, int] = {"tcp": 6, "udp": 17}

RESERVED_PRIORITY = 300

PlacedEntries = tuple[tuple[str, FlowEntry], ...]
"""(switch, entry)."""


def flow_label(network: Network, placement: Placement) -> str:
    """The locally administered MAC address that identifies a flow and its version.

    12 bits of first switch, 18 of meter, 16 of version. No host has such an address.
    """
    switch = network.switch_number(placement.switches[0])
    version = placement.version & 0xFFFF
    bits = (version >> 10) << 42 | (switch & 0xFFF) << 28
    bits |= (placement.meter_id - FIRST_METER_ID & 0x3_FFFF) << 10 | version & 0x3FF
    return (bits | 0x02 << 40).to_bytes(6, "big").hex(":")


@bounded_cache(6 * MIB, entry_bytes=1024)
def hops(network: Network, path: tuple[str, ...]) -> tuple[tuple[DirectedLink, DirectedLink], ...]:
    """For each switch of a path: ingress link and egress link."""
    return tuple(pairwise(network.links_along(path)))


class FlowEntryFactory:
    """Makes the flow entries of one reserved flow."""

    def __init__(self, network: Network, label: str, destination: str, cookie: int) -> None:
        """`label`: see `flow_label`. `destination`: the host to which the flow is sent."""
        self.network = network
        self.cookie = cookie
        self.label = label
        self.host = destination
        self.host_mac = network.nodes[destination].mac or ""

    def entry(
        self, switch: str, in_port: int, actions: tuple[Action, ...], table: int = 1, dscp: int | None = RESERVED_DSCP
    ) -> tuple[str, FlowEntry]:
        """The entry for the flow's packets that enter a switch at a port, with that DSCP (None: any)."""
        match: FlowMatch = ("eth_dst", self.label), ("eth_type", IPV4), ("in_port", in_port)  # sorted as by match_of
        if dscp is not None:
            match = (*match, ("ip_dscp", dscp))
        return switch, FlowEntry(table, RESERVED_PRIORITY, match, self.cookie, actions=actions)

    def output(self, link: DirectedLink) -> tuple[Action, ...]:
        """The actions that send to the next node; the host's address is restored before a host."""
        out: Action = ("output", link.source_port)
        return (out,) if link.destination != self.host else (("set_eth_dst", self.host_mac), out)

    def forward(self, ingress: DirectedLink, egress: DirectedLink) -> tuple[str, FlowEntry]:
        """The entry that forwards from one link to the next."""
        return self.entry(egress.source, ingress.destination_port, self.output(egress))
