"""A map as RFC 8345 topology with the attributes of RFC 8795, in the JSON encoding of RFC 7951.

The nodes are the switches, with a termination point for each span; hosts are left out, since what reads such a file
places its own. Lengths are told as delays, in whole microseconds. `topologies.readers.node_link` reads it back.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from topologies.maps import Map, MapLink
from topologies.readers.te_attributes import PROPAGATION_US_PER_KM

Json = dict[str, Any]


def topology_document(topology: Map) -> Json:
    """The networks of the document. Source: RFC 8345 §4, RFC 8795 §5."""
    srlgs = {duct: number for number, duct in enumerate(_ducts(topology), start=1)}
    names = {node.name for node in topology.switches}
    points: dict[str, list[str]] = {node.name: [] for node in topology.switches}
    links = []
    spans = zip(topology.span_names, topology.links, topology.link_ports, strict=True)
    for span, link, ports in spans:
        if not names.issuperset(link.ends):
            continue
        for near, far in (ports, ports[::-1]):
            points[near.node].append(near.interface)
            links.append({
                "link-id": f"{span}:{near.node}",
                "source": {"source-node": near.node, "source-tp": near.interface},
                "destination": {"dest-node": far.node, "dest-tp": far.interface},
                "ietf-te-topology:te": {"te-link-attributes": _attributes(link, srlgs)},
            })
    nodes = [
        {
            "node-id": node.name,
            "ietf-network-topology:termination-point": [{"tp-id": point} for point in points[node.name]],
            "ietf-te-topology:te-node-id": f"0.0.{number >> 8}.{number & 255}",
            "ietf-te-topology:te": {"te-node-attributes": {"name": node.label or node.name}},
        }
        for number, node in enumerate(topology.switches, start=1)
    ]
    network = {
        "network-id": topology.name,
        "network-types": {"ietf-te-topology:te-topology": {}},
        "node": nodes,
        "ietf-network-topology:link": links,
    }
    return {"ietf-network:networks": {"network": [network]}}


def _ducts(topology: Map) -> list[str]:
    return list(dict.fromkeys(link.duct for link in topology.links if link.duct is not None))


def _attributes(link: MapLink, srlgs: dict[str, int]) -> Json:
    attributes: Json = {
        "admin-status": "up",
        "max-link-bandwidth": {"te-bandwidth": {"generic": float32_text(link.rate_gbps * 1e9 / 8)}},
        "te-delay-metric": max(1, round(link.length_km * PROPAGATION_US_PER_KM)),
    }
    if link.duct is not None:
        attributes["te-srlgs"] = {"value": [srlgs[link.duct]]}
    return attributes


def float32_text(value: float) -> str:
    """A number above 0 as `bandwidth-ieee-float32`, such as 0x1.74876ep33. Source: RFC 8294 §3."""
    (rounded,) = struct.unpack(">f", struct.pack(">f", value))
    mantissa, exponent = math.frexp(rounded)
    digits = f"{round((mantissa * 2 - 1) * 2**24):06x}".rstrip("0")
    return f"0x1{'.' if digits else ''}{digits}p{exponent - 1}"
