"""A schedule as others read it: JSON with the names of IEEE's YANG modules, and lines for Linux' tc.

The gates are under the names of ieee802-dot1q-sched and ieee802-dot1q-sched-bridge (IEEE 802.1Q-2022 §48), in JSON as
RFC 7951 has it, the interfaces by node; the link that a port feeds is the interface's description.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from shlex import quote
from typing import Any

from controller.tsn.gate_lists import GateList
from controller.tsn.network import NS_PER_S
from controller.tsn.streams import Schedule, ScheduledFrame, TsnStream

QUEUES = 8


def schedule_document(schedule: Schedule, lists: Mapping[str, GateList]) -> dict[str, Any]:
    """Return the whole schedule: streams with their instants and queues, and the gates of every node's ports."""
    frames: dict[str, list[ScheduledFrame]] = {}
    for frame in schedule.frames:
        frames.setdefault(frame.stream, []).append(frame)
    nodes: dict[str, list[dict[str, Any]]] = {}
    for found in lists.values():
        nodes.setdefault(found.link.source, []).append(_interface(found))
    return {
        "streams": [
            _stream(stream, frames[name], schedule.latency_ns[name]) for name, stream in schedule.streams.items()
        ],
        "nodes": {node: {"ietf-interfaces:interfaces": {"interface": found}} for node, found in sorted(nodes.items())},
    }


def _stream(stream: TsnStream, frames: Iterable[ScheduledFrame], latency_ns: Mapping[str, int]) -> dict[str, Any]:
    return {
        "stream": stream.name,
        "talker": stream.talker,
        "listeners": list(stream.listeners),
        "frame_bytes": stream.frame_bytes,
        "interval_ns": stream.interval_ns,
        "max_latency_ns": stream.max_latency_ns,
        "jitter_ns": stream.jitter_ns,
        "latency_ns": dict(latency_ns),
        "frames": [
            {
                "time_aware_offset_ns": frame.offset_ns + stream.jitter_ns,
                "queues": {hop.link.name: hop.queue for hop in frame.hops},
            }
            for frame in frames
        ],
    }


def _interface(found: GateList) -> dict[str, Any]:
    table = {
        "gate-enabled": True,
        "admin-gate-states": 255,
        "admin-control-list": {
            "gate-control-entry": [
                {
                    "index": index,
                    "operation-name": "ieee802-dot1q-sched:set-gate-states",
                    "time-interval-value": entry.interval_ns,
                    "gate-states-value": entry.gate_states,
                }
                for index, entry in enumerate(found.entries)
            ]
        },
        "admin-cycle-time": {"numerator": found.cycle_ns, "denominator": NS_PER_S},
        "admin-cycle-time-extension": 0,
        "admin-base-time": {"seconds": "0", "nanoseconds": 0},
        "config-change": True,
    }
    return {
        "name": found.link.port,
        "description": found.link.name,
        "type": "iana-if-type:ethernetCsmacd",
        "ieee802-dot1q-bridge:bridge-port": {"ieee802-dot1q-sched-bridge:gate-parameter-table": table},
    }


def taprio_lines(lists: Mapping[str, GateList]) -> list[str]:
    """Return a tc command for every port: eight traffic classes, one for each priority, one queue each.

    Source: tc-taprio(8). Intervals are 1 to 2^32 - 1 ns, their sum is the cycle, and `S` is the only command.
    """
    classes = " ".join(map(str, (*range(QUEUES), *[0] * QUEUES)))
    queues = " ".join(f"1@{queue}" for queue in range(QUEUES))
    return [
        f"tc qdisc replace dev {quote(found.link.port)} parent root handle 100 taprio num_tc {QUEUES} "
        f"map {classes} queues {queues} base-time 0 "
        + " ".join(f"sched-entry S {entry.gate_states:02x} {entry.interval_ns}" for entry in found.entries)
        + f" cycle-time {found.cycle_ns} clockid CLOCK_TAI"
        for found in lists.values()
    ]
