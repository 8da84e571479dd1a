"""Live reservations as a document of RFC 9633: a traffic profile, an app-flow and a service for each flow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from controller.domain.network import ETHERNET_HEADER_BYTES, Network
from controller.domain.ports import PortRange, Ports
from controller.domain.reservation import Placement, Reservation, State

Json = dict[str, Any]

PROTOCOL_NUMBERS = {"tcp": 6, "udp": 17}
MOST_NS = 2**32 - 1
STATUS = {State.ACTIVE: "ietf-detnet:ready", State.DEGRADED: "ietf-detnet:failed"}

EXAMPLE: Json = {
    "ietf-detnet:detnet": {
        "traffic-profile": [
            {
                "name": "control",
                "traffic-requirements": {"min-bandwidth": "125000", "max-latency": 40_000_000},
                "traffic-spec": {"interval": 20_000_000, "max-pkts-per-interval": 2, "max-payload-size": 1000},
            }
        ],
        "app-flows": {
            "app-flow": [
                {
                    "name": "camera",
                    "traffic-profile": "control",
                    "ingress": {
                        "ip-app-flow": {
                            "src-ip-prefix": "10.0.0.1/32",
                            "dest-ip-prefix": "10.0.0.2/32",
                            "protocol-next-header": 17,
                            "source-port": {"port": 7811},
                            "destination-port": {"port": 7810},
                        }
                    },
                }
            ]
        },
        "service": {
            "sub-layer": [
                {
                    "name": "camera",
                    "service-rank": 64,
                    "traffic-profile": "control",
                    "incoming": {"app-flow": {"flow": ["camera"]}},
                }
            ]
        },
    }
}



def detnet_document(network: Network, reservations: Iterable[Reservation]) -> Json:
    """The container `detnet`. Names are RESERVATION/FLOW. Source: RFC 9633 §7, RFC 7951 §6."""
    profiles, flows, services = [], [], []
    for reservation in reservations:
        for placement in reservation.placements:
            name = f"{reservation.id}/{placement.flow.name}"
            profiles.append(_profile(network, name, placement))
            flows.append(_app_flow(network, name, reservation.state, placement))
            services.append(_service(name, placement))
    document: Json = {"traffic-profile": profiles, "app-flows": {"app-flow": flows}, "service": {"sub-layer": services}}
    return document


def _profile(network: Network, name: str, placement: Placement) -> Json:
    requirement = placement.flow.requirement
    needs: Json = {"min-bandwidth": str(-(-placement.reserved_bps // 8))}
    limits = requirement.max_latency_us, requirement.max_latency_variation_us
    for leaf, limit_us in zip(("max-latency", "max-latency-variation"), limits, strict=True):
        if limit_us is not None:
            needs[leaf] = min(MOST_NS, int(limit_us * 1000))
    return {
        "name": name,
        "traffic-requirements": needs,
        "traffic-spec": _spec(network, placement),
        "member-app-flow": [name],
        "member-svc-sublayer": [name],
    }


def _spec(network: Network, placement: Placement) -> Json:
    """As many of the largest frames as the burst holds, in the time that the rate takes for them."""
    frame_bytes = min(placement.flow.requirement.frame_bytes(network.max_frame_bytes), placement.burst_bytes)
    packets = max(1, placement.burst_bytes // frame_bytes)
    interval_ns = -(-packets * frame_bytes * 8 * 1_000_000_000 // placement.reserved_bps)
    return {
        "interval": max(1000, min(MOST_NS, interval_ns)),
        "max-pkts-per-interval": packets,
        "max-payload-size": frame_bytes - ETHERNET_HEADER_BYTES,
    }


def _app_flow(network: Network, name: str, state: State, placement: Placement) -> Json:
    flow = placement.flow
    header: Json = {
        "src-ip-prefix": f"{network.nodes[flow.source].ip}/32",
        "dest-ip-prefix": f"{network.nodes[flow.destination].ip}/32",
        "protocol-next-header": PROTOCOL_NUMBERS[flow.match.protocol],
    }
    for leaf, ports in (("source-port", flow.match.source_port), ("destination-port", flow.match.destination_port)):
        if ports is not None:
            header[leaf] = _ports(ports)
    return {
        "name": name,
        "outgoing-service": name,
        "traffic-profile": name,
        "ingress": {"app-flow-status": STATUS.get(state, "ietf-detnet:none"), "ip-app-flow": header},
    }


def _ports(ports: Ports) -> Json:
    if isinstance(ports, PortRange):
        return {"lower-port": ports.lower, "upper-port": ports.upper}
    return {"port": ports}


def _service(name: str, placement: Placement) -> Json:
    requirement = placement.flow.requirement
    protection = "replication" if requirement.backup == "seamless" and requirement.protection != "none" else "none"
    return {
        "name": name,
        "service-rank": requirement.rank,
        "traffic-profile": name,
        "service-protection": {"protection": protection},
        "incoming": {"app-flow": {"flow": [name]}},
    }
