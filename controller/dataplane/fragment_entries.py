"""The entries that count IP fragments between two hosts with a reservation.

No fragment has ports to a match, not even the first one (fragment handling "normal"), so fragments of a reserved flow
pass its classifier, its meter and its mark. A host's fragments travel as best effort; an entry at the first switch
counts those of each pair of hosts and protocol that has a reservation. Reservations of the same pair share it.

NXM_NX_IP_FRAG is an extension of Open vSwitch. Source: ovs-fields(7), "IP Fragment Field"; ovs-ofctl(8), "set-frags".
"""

from __future__ import annotations

from collections.abc import Mapping

from controller.caches import MIB, bounded_cache
from controller.dataplane.entries import FlowEntry, Key, cookie_of, match_of
from controller.dataplane.flow_label import IPV4, PROTOCOL_NUMBERS, hops
from controller.domain.network import ETHERNET_HEADER_BYTES, Network
from controller.domain.reservation import Flow, Placement, Protocol

FRAGMENT_PRIORITY = 250
"""Between a host's other IP packets and the classifiers of reserved flows; used for nothing else in table 0."""
FRAGMENT_COOKIE = cookie_of(0, 1)
"""The cookie of all entries that count fragments, by which a switch is asked for their counters."""
IS_FRAGMENT = (1, 1)
"""NX_IP_FRAG_ANY: value and mask; the first fragment, and later ones."""


def fragment_entry(network: Network, placement: Placement) -> tuple[str, FlowEntry]:
    """The first switch of a flow, and the entry there that counts fragments of its hosts and protocol."""
    ingress, _ = hops(network, placement.path)[0]
    flow = placement.flow
    return placement.switches[0], _entry(
        network, ingress.destination_port, flow.source, flow.destination, flow.match.protocol
    )


@bounded_cache(4 * MIB, entry_bytes=2048)
def _entry(network: Network, in_port: int, source: str, destination: str, protocol: Protocol) -> FlowEntry:
    host = network.nodes[source]
    match = match_of({
        "in_port": in_port,
        "eth_src": host.mac or "",
        "eth_type": IPV4,
        "ip_proto": PROTOCOL_NUMBERS[protocol],
        "ipv4_src": host.ip or "",
        "ipv4_dst": network.nodes[destination].ip or "",
        "ip_frag": IS_FRAGMENT,
    })  # fmt: skip
    return FlowEntry(0, FRAGMENT_PRIORITY, match, FRAGMENT_COOKIE, actions=(("set_ip_dscp", 0),), goto=1)


def counts_fragments(key: Key) -> bool:
    """Whether this is the key of an entry that counts fragments."""
    return key[0] == "flow" and key[1][1] == FRAGMENT_PRIORITY and key[1][0] == 0


IPV4_HEADER_BYTES = 20
TRANSPORT_HEADER_BYTES: Mapping[Protocol, int] = {"tcp": 20, "udp": 8}


def max_datagram_bytes(mtu_bytes: int, flow: Flow) -> int:
    """The largest payload of a UDP datagram, or of a TCP segment without options, that fits in one frame of the flow.

    Source: RFC 791 §3.1, RFC 768, RFC 9293 §3.7.1.
    """
    frame_bytes = flow.requirement.frame_bytes(mtu_bytes + ETHERNET_HEADER_BYTES)
    headers_bytes = ETHERNET_HEADER_BYTES + IPV4_HEADER_BYTES + TRANSPORT_HEADER_BYTES[flow.match.protocol]
    return max(0, frame_bytes - headers_bytes)
