"""One reserved flow in a switch's tables: its label, and the entries that it is sent on by."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

from controller.dataplane.entries import Action, FlowEntry, FlowMatch
from controller.domain.network import DirectedLink, Network
from controller.domain.reservation import FIRST_METER_ID, Placement

RESERVED_DSCP = 46
LATE_DSCP = 34
"""Assured forwarding, class 4. Source: RFC 2597 §6."""
IPV4 = 0x0800

RESERVED_PRIORITY = 300

Laid = tuple[tuple[str, FlowEntry], ...]
"""(switch, entry)."""


def label(network: Network, placement: Placement) -> str:
    """The destination address that stands for a flow and a version of it: locally administered, like no host's.

    12 bits of first switch, 18 of meter, 16 of version.
    """
    switch = network.nodes[placement.switches[0]].datapath_id or 0
    version = placement.version & 0xFFFF
    bits = (version >> 10) << 42 | (switch & 0xFFF) << 28
    bits |= (placement.meter_id - FIRST_METER_ID & 0x3_FFFF) << 10 | version & 0x3FF
    return (bits | 0x02 << 40).to_bytes(6, "big").hex(":")


@lru_cache(maxsize=65_536)
def hops(network: Network, path: tuple[str, ...]) -> tuple[tuple[DirectedLink, DirectedLink], ...]:
    """At each switch of a path: the link in and the link out."""
    return tuple(pairwise(network.links_along(path)))


class Ways:
    """Makes the entries of one flow."""

    def __init__(self, network: Network, placement: Placement, cookie: int) -> None:
        self.network = network
        self.cookie = cookie
        self.label = label(network, placement)
        self.host_mac = network.nodes[placement.flow.destination].mac or ""

    def entry(
        self, switch: str, in_port: int, actions: tuple[Action, ...], table: int = 1, dscp: int | None = RESERVED_DSCP
    ) -> tuple[str, FlowEntry]:
        """What is done with the flow's packets that come in there, with that mark (None: any)."""
        match: FlowMatch = ("eth_dst", self.label), ("eth_type", IPV4), ("in_port", in_port)  # as match_of has them
        if dscp is not None:
            match = (*match, ("ip_dscp", dscp))
        return switch, FlowEntry(table, RESERVED_PRIORITY, match, self.cookie, actions=actions)

    def onward(self, link: DirectedLink) -> tuple[Action, ...]:
        """On to the next node; a host gets its own address back."""
        out: Action = ("output", link.source_port)
        return (out,) if self.network.nodes[link.destination].is_switch else (("set_eth_dst", self.host_mac), out)

    def forward(self, before: DirectedLink, link: DirectedLink) -> tuple[str, FlowEntry]:
        """From one link on to the next."""
        return self.entry(link.source, before.destination_port, self.onward(link))
