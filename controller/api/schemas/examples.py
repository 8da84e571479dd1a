"""Examples in the OpenAPI document, all on one network."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

MATCH: Json = {"protocol": "tcp", "source_port": 7801, "destination_port": 7800}

RATE_FLOW: Json = {
    "name": "edge1-up",
    "source": "edge1",
    "destination": "cloud",
    "match": MATCH,
    "requirement": {"min_bandwidth_bps": 15_000_000, "burst_bytes": 40_000},
}

TRANSFER_FLOW: Json = {
    **RATE_FLOW,
    "requirement": {
        "transfer_bytes": 1_000_000,
        "deadline_ms": 200,
        "period_ms": 1000,
        "offset_ms": 250,
        "rank": 10,
        "protection": "link_disjoint",
    },
}

RESERVATION_REQUEST: Json = {"owner": "cloud", "lease_s": 60, "flows": [RATE_FLOW]}

RESERVATION_REQUESTS: Json = {
    "rate": {"summary": "A rate from now on", "value": RESERVATION_REQUEST},
    "transfer": {
        "summary": "A transfer of 1 MB every second, protected against one link failure",
        "value": {"owner": "cloud", "lease_s": 60, "flows": [TRANSFER_FLOW]},
    },
    "held": {
        "summary": "Held for ten seconds until committed",
        "value": {"owner": "cloud", "lease_s": 10, "hold": True, "flows": [RATE_FLOW]},
    },
    "scheduled": {
        "summary": "An hour in the future",
        "value": {
            "owner": "cloud",
            "lease_s": 86_400,
            "start_at": "2026-01-02T09:00:00Z",
            "end_at": "2026-01-02T10:00:00Z",
            "flows": [RATE_FLOW],
        },
    },
}

TRANSFERS_QUESTION: Json = {
    "transfers": [
        {"name": "edge1-up", "source": "edge1", "destination": "cloud", "transfer_bytes": 1_000_000},
        {"name": "edge2-up", "source": "edge2", "destination": "cloud", "transfer_bytes": 500_000},
    ]
}

QUOTE_REQUESTS: Json = {
    "reservation": {"summary": "Quote for a reservation", "value": RESERVATION_REQUEST},
    "transfers": {"summary": "Shortest common time of transfers", "value": TRANSFERS_QUESTION},
}

CHANGES: Json = {
    "renewal": {"summary": "Renew the lease", "value": {}},
    "flows": {"summary": "Change the rate", "value": {"lease_s": 60, "flows": [RATE_FLOW]}},
}

_REQUIREMENT: Json = {
    "min_bandwidth_bps": 15_000_000,
    "burst_bytes": 40_000,
    "max_frame_bytes": None,
    "max_latency_us": None,
    "max_latency_variation_us": None,
    "bound_slack": 0.25,
    "rank": 128,
    "protection": "none",
    "backup": "shared",
    "pinned": False,
    "analysis": "total_flow",
}

PLACED_FLOW: Json = {
    **RATE_FLOW,
    "requirement": _REQUIREMENT,
    "path": ["edge1", "s1", "s2", "cloud"],
    "reserved_bps": 15_000_000,
    "burst_bytes": 40_000,
    "accumulated_latency_us": 9000.0,
    "latency_variation_us": 8800.0,
    "latency_limit_us": 11250.0,
    "latency_variation_limit_us": 11000.0,
    "completion_ms": None,
    "window": None,
    "backup_path": None,
    "suspended": False,
    "lightpaths": [],
    "backup_lightpaths": [],
    "max_datagram_bytes": 8960,
}

LIGHTPATH: Json = {
    "id": "lp-766bdad9b6",
    "nodes": ["r1", "r2", "r3", "r4", "r5"],
    "links": ["r1->r2", "r2->r3", "r3->r4", "r4->r5"],
    "length_km": 320.0,
    "lit": True,
    "channel": 0,
    "slots": 1,
    "central_thz": 191.35,
    "width_ghz": 50.0,
    "vlan": 1,
    "rate_bps": 20_000_000,
    "reserved_bps": 9_000_000,
    "free_bps": 10_000_000,
    "modulation": "DP-QPSK",
    "gsnr_db": 22.21,
    "margin_db": 8.21,
    "flows": [{"reservation": "r-4f1c09ab", "flow": "edge1-up", "backup": False}],
}

RESERVATION: Json = {
    "id": "r-4f1c09ab",
    "version": 1,
    "state": "active",
    "owner": "cloud",
    "tenant": "public",
    "lease_s": 60.0,
    "created_at": "2026-01-01T00:00:00Z",
    "expires_at": "2026-01-01T00:01:00Z",
    "start_at": "2026-01-01T00:00:00Z",
    "end_at": None,
    "reason": None,
    "flows": [PLACED_FLOW],
}

DEFRAGMENTED: Json = {
    "moves": [
        {
            "nodes": ["r1", "r2"],
            "from_lightpath": "lp-0c2d94e1a7",
            "from_channel": 3,
            "to_lightpath": "lp-766bdad9b6",
            "to_channel": 0,
        }
    ]
}

COUNTERS: Json = {
    "meters": [
        {
            "switch": "s1",
            "meter_id": 110_000,
            "flow": "edge1-up",
            "rate_kbps": 15_000,
            "burst_kbit": 382,
            "packets": 3,
            "bytes": 3042,
            "dropped_packets": 0,
            "dropped_bytes": 0,
        }
    ],
    "entries": [
        {
            "switch": "s1",
            "table": 0,
            "priority": 300,
            "match": {"eth_type": 2048, "in_port": 2},
            "flow": "edge1-up",
            "cookie": "0x9ace4f1c09ab0001",
            "packets": 3,
            "bytes": 3042,
        }
    ],
    "fragments": [
        {
            "switch": "s1",
            "source": "edge1",
            "destination": "cloud",
            "protocol": "tcp",
            "flows": ["edge1-up"],
            "packets": 0,
            "bytes": 0,
        }
    ],
    "unavailable": [],
}

BOTTLENECK: Json = {
    "link": "s1->s2",
    "capacity_bps": 80_000_000,
    "reserved_bps": 15_000_000,
    "free_bps": 61_000_000,
    "asked_bps": 90_000_000,
}

NODES: list[Json] = [
    {"name": "s1", "kind": "switch", "up": True, "ip": None, "position_km": [0.0, 0.0]},
    {"name": "edge1", "kind": "edge", "up": True, "ip": "10.0.0.1", "position_km": [-2.0, 2.0]},
]

LINK: Json = {
    "link": "s1->s2",
    "source": "s1",
    "destination": "s2",
    "length_km": 20.0,
    "duct": None,
    "up": True,
    "in_service": True,
    "capacity_bps": 80_000_000,
    "reservable_bps": 76_000_000,
    "reserved_bps": 15_000_000,
    "free_bps": 61_000_000,
    "queue_bytes": 3_000_000,
    "idle_slope_bps": None,
    "slots": 0,
}

NETWORK: Json = {
    "map": "pair",
    "scale_mbps_per_gbps": 0.8,
    "mtu_bytes": 9000,
    "propagation_emulated": False,
    "ats": False,
    "nodes": NODES,
    "links": [LINK],
    "complaints": [],
}

CARRIED: Json = {
    "read_at": "2026-01-01T00:00:00Z",
    "links": [{"link": "s1->s2", "bytes": 48_213_560}],
    "unavailable": [],
}

PATHS: Json = {
    "source": "edge1",
    "destination": "cloud",
    "down": [],
    "paths": [
        {
            "nodes": ["edge1", "s1", "s2", "cloud"],
            "length_km": 24.0,
            "propagation_us": 117.6,
            "free_bps": 61_000_000,
            "links": [{"link": "s1->s2", "free_bps": 61_000_000}],
        }
    ],
}

TRANSFERS_ANSWER: Json = {
    "transfer_ms": 160.5,
    "exact": True,
    "gap": 0.0,
    "flows": [
        {
            "name": "edge1-up",
            "path": ["edge1", "s1", "s2", "cloud"],
            "rate_bps": 50_666_000,
            "transfer_ms": 160.5,
        }
    ],
    "links": [
        {"link": "edge1->s1", "free_bps": 76_000_000},
        {"link": "s1->s2", "free_bps": 50_666_000},
        {"link": "s2->cloud", "free_bps": 76_000_000},
    ],
    "bottleneck": "s1->s2",
}

QUOTES: Json = {
    "admitted": {"summary": "Admitted", "value": {"admitted": True, "flows": [PLACED_FLOW]}},
    "transfers": {"summary": "Shortest common time of the transfers", "value": TRANSFERS_ANSWER},
}

CONSISTENCY: Json = {
    "consistent": False,
    "switches": [
        {"switch": "s1", "state": "in_step", "missing": [], "wrong": ["meter 110000"], "foreign": []},
        {"switch": "s2", "state": "in_step", "missing": [], "wrong": [], "foreign": ["table 3 priority 7 udp"]},
    ],
}

SWITCH: Json = {
    "switch": "s1",
    "datapath_id": "0000000000000001",
    "holds": False,
    "checks": [
        {"subject": "tables", "needed": "2", "stated": "254", "verdict": "holds", "reason": ""},
        {
            "subject": "meters: bursts", "needed": "yes", "stated": "no", "verdict": "fails",
            "reason": "a sender loses what it sends at once, or gets more than was promised",
        },
    ],
    "description": {
        "manufacturer": "Nicira, Inc.", "hardware": "Open vSwitch", "software": "3.1.0", "serial_number": "None",
        "datapath": "s1",
    },
    "table_count": 254,
    "tables": [
        {
            "table": 0, "max_entries": 1_000_000, "matches": ["eth_type", "in_port"], "masks": [], "sets": ["ip_dscp"],
            "actions": ["output", "set_field"], "instructions": ["apply_actions", "goto_table", "meter"],
        }
    ],
    "meters": {
        "max_meters": 262_144, "max_bands": 8, "drop": True, "kbps": True, "burst": False, "statistics": True,
    },
    "groups": {"fast_failover": True, "max_groups": 4_294_967_040, "actions": ["group", "output", "set_field"]},
    "ports": [{"port": 1, "name": "s1-eth1", "up": True, "rate_bps": 10_000_000_000}],
}

AUDIT: Json = {
    "entries": [
        {
            "number": 17,
            "at": "2026-01-01T00:00:00Z",
            "tenant": "lab",
            "token": "lab-1",
            "client": "10.254.0.3",
            "method": "POST",
            "path": "/v1/reservations",
            "status": 409,
            "code": "no_capacity",
            "reservation": None,
            "request": '{"flows": []}',
        }
    ],
    "last": 17,
}

HEALTH: Json = {"status": "ok", "switches_up": 2, "switches_expected": 2, "audit": "ok", "ledger": "ok"}

MAINTAINED: Json = {"spans": ["s1-s2"], "in_service": False, "degraded": ["r-4f1c09ab"]}

EVENTS = """id: 6920e7a1-1
event: reservation
data: {"id": "r-4f1c09ab", "version": 1, "state": "active", "reason": null, "tenant": "public"}

id: 6920e7a1-2
event: link
data: {"link": "s1->s2", "up": false}

id: 6920e7a1-3
event: alarm
data: {"span": "s1-s2", "length_km": 20.0, "duct": null, "state": "dark", "text": "Span s1-s2 of 20 km is dark."}

"""
