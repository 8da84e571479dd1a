"""Simulates an exported schedule, event by event: what arrives when, beside best effort that fills every port.

It reads the document of `export` and nothing of the scheduler. Every port sends, whenever it is idle, the first frame
of the highest queue whose gate is open and stays open for the whole frame (IEEE 802.1Q-2022 §8.6.8.4). Best effort has
always a frame waiting, of any size up to the largest, and begins it while its gate is open, even if it ends later.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import accumulate, count
from math import lcm
from typing import Any

from controller.tsn.network import TsnLink, TsnNetwork

MIN_FRAME_BYTES = 84
"""The least frame on the wire, with preamble and gap."""

QUEUES = 8

MAX_FRAMES = 1_000_000


@dataclass(slots=True)
class Reception:
    """What a listener got of one frame of every interval: latencies, and arrivals after the interval's begin, in ns."""

    sent: int = 0
    latencies_ns: list[int] = field(default_factory=list)
    phases_ns: list[int] = field(default_factory=list)

    @property
    def jitter_ns(self) -> int:
        """How much earlier or later in its interval a frame arrives than another."""
        return max(self.phases_ns) - min(self.phases_ns) if self.phases_ns else 0


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """Receptions by stream, frame and listener, and the largest latencies that were asked for, in ns by stream."""

    receptions: Mapping[tuple[str, int, str], Reception]
    limits_ns: Mapping[str, int]
    best_effort_frames: int

    @property
    def lost(self) -> int:
        """Frames that did not arrive until long after they were due."""
        return sum(found.sent - len(found.latencies_ns) for found in self.receptions.values())

    @property
    def late(self) -> int:
        """Frames that took longer than they may."""
        return sum(
            latency_ns > self.limits_ns[stream]
            for (stream, _, _), found in self.receptions.items()
            for latency_ns in found.latencies_ns
        )

    @property
    def jitter_ns(self) -> int:
        """The largest jitter of all frames."""
        return max((found.jitter_ns for found in self.receptions.values()), default=0)


@dataclass(frozen=True, slots=True)
class _Frame:
    stream: str
    number: int
    size_bytes: int
    interval: int
    sent_ns: int


class _Port:
    """An egress port: queues, gates, and until when it is sending. Its clock is `error_ns` late."""

    def __init__(self, link: TsnLink, table: Mapping[str, Any] | None, error_ns: int) -> None:
        self.link = link
        self.queues: list[deque[_Frame]] = [deque() for _ in range(QUEUES)]
        self.busy_until_ns = 0
        self.wake_at_ns = -1
        entries = table["admin-control-list"]["gate-control-entry"] if table else []
        self._error_ns = error_ns
        self._states = [entry["gate-states-value"] for entry in entries] or [255]
        self._ends = list(accumulate(entry["time-interval-value"] for entry in entries)) or [1]
        self._cycle_ns = table["admin-cycle-time"]["numerator"] if table else 1
        if self._ends[-1] != self._cycle_ns:
            raise ValueError(f"{link.name}: the entries last {self._ends[-1]} ns, the cycle {self._cycle_ns} ns")

    def gates(self, now_ns: int) -> tuple[int, int, int]:
        """Return the gates now, the number of the entry, and the ns that it still lasts."""
        into_ns = (now_ns - self._error_ns) % self._cycle_ns
        number = bisect_right(self._ends, into_ns)
        return self._states[number], number, self._ends[number] - into_ns

    def stays_open(self, queue: int, number: int, left_ns: int, needed_ns: int) -> bool:
        """Return whether a gate that is open stays so for the time needed."""
        for ahead in range(1, len(self._states) + 1):
            if left_ns >= needed_ns:
                return True
            following = (number + ahead) % len(self._states)
            if not self._states[following] >> queue & 1:
                return False
            left_ns += self._ends[following] - (self._ends[following - 1] if following else 0)
        return True


class _Simulation:
    """Ports, receptions, and events in the order of time."""

    def __init__(
        self, network: TsnNetwork, document: Mapping[str, Any], clocks_ns: Mapping[str, int], seed: int
    ) -> None:
        tables = {
            interface["description"]: interface["ieee802-dot1q-bridge:bridge-port"][
                "ieee802-dot1q-sched-bridge:gate-parameter-table"
            ]
            for node in document["nodes"].values()
            for interface in node["ietf-interfaces:interfaces"]["interface"]
        }
        used = {name for stream in document["streams"] for frame in stream["frames"] for name in frame["queues"]}
        self.ports = {
            name: _Port(network.links[name], tables.get(name), clocks_ns.get(network.links[name].source, 0))
            for name in sorted(used)
        }
        self.streams = {stream["stream"]: stream for stream in document["streams"]}
        self.receptions = {
            (name, number, listener): Reception()
            for name, stream in self.streams.items()
            for number in range(len(stream["frames"]))
            for listener in stream["listeners"]
        }
        self.best_effort_frames = 0
        self._largest_bytes = network.best_effort_bytes
        self._rng = random.Random(seed)
        self._order = count()
        self._events: list[tuple[int, int, str, _Frame | None]] = []

    def at(self, time_ns: int, link: str, frame: _Frame | None = None) -> None:
        """Plan an event: a frame is in the queue of a port, or (None) the port may begin another."""
        heappush(self._events, (time_ns, next(self._order), link, frame))

    def send(self, stream: Mapping[str, Any], number: int, interval: int, at_ns: int) -> None:
        """Plan a frame of a talker."""
        frame = _Frame(stream["stream"], number, stream["frame_bytes"], interval, at_ns)
        for listener in stream["listeners"]:
            self.receptions[(frame.stream, number, listener)].sent += 1
        self._forward(stream["talker"], frame, at_ns)

    def _forward(self, node: str, frame: _Frame, ready_ns: int) -> None:
        for name in self.streams[frame.stream]["frames"][frame.number]["queues"]:
            if self.ports[name].link.source == node:
                self.at(ready_ns, name, frame)

    def run(self, end_ns: int, best_effort_until_ns: int) -> None:
        """Handle all events until a time; best effort stops earlier."""
        while self._events and self._events[0][0] <= end_ns:
            now_ns, _, name, frame = heappop(self._events)
            port = self.ports[name]
            if frame is not None:
                port.queues[self.streams[frame.stream]["frames"][frame.number]["queues"][name]].append(frame)
            if now_ns >= port.busy_until_ns:
                self._begin(now_ns, port, now_ns < best_effort_until_ns)

    def _begin(self, now_ns: int, port: _Port, best_effort: bool) -> None:
        """Begin the frame that is next at an idle port, or look again when its gates change."""
        states, number, left_ns = port.gates(now_ns)
        for queue in reversed(range(QUEUES)):
            if not (port.queues[queue] and states >> queue & 1):
                continue
            needed_ns = port.link.transmission_ns(port.queues[queue][0].size_bytes)
            if port.stays_open(queue, number, left_ns, needed_ns):
                self._transmit(now_ns, port, port.queues[queue].popleft(), needed_ns)
                return
        if best_effort and states & 1:
            self.best_effort_frames += 1
            size_bytes = self._rng.randint(MIN_FRAME_BYTES, self._largest_bytes)
            port.busy_until_ns = now_ns + port.link.transmission_ns(size_bytes)
            self.at(port.busy_until_ns, port.link.name)
        elif (best_effort or any(port.queues)) and port.wake_at_ns <= now_ns:
            port.wake_at_ns = now_ns + left_ns
            self.at(port.wake_at_ns, port.link.name)

    def _transmit(self, now_ns: int, port: _Port, frame: _Frame, needed_ns: int) -> None:
        port.busy_until_ns = now_ns + needed_ns
        self.at(port.busy_until_ns, port.link.name)
        link, stream = port.link, self.streams[frame.stream]
        received_ns = port.busy_until_ns + link.propagation_ns
        if link.destination in stream["listeners"]:
            found = self.receptions[(frame.stream, frame.number, link.destination)]
            found.latencies_ns.append(received_ns - frame.sent_ns)
            found.phases_ns.append(received_ns - frame.interval * stream["interval_ns"])
        self._forward(link.destination, frame, received_ns + link.processing_ns)


def simulate(
    network: TsnNetwork,
    document: Mapping[str, Any],
    cycles: int = 2,
    best_effort: bool = True,
    clocks_ns: Mapping[str, int] | None = None,
    late_ns: Mapping[str, int] | None = None,
    seed: int = 0,
) -> SimulationResult:
    """Return what the listeners get in so many hyperperiods of all streams, and until everything is through.

    `clocks_ns`: how late the clock of a node is. `late_ns`: how much later than planned the talker of a stream sends;
    besides, each frame is up to the stream's jitter early or late.

    Raises: ValueError if a list does not fill its cycle, or there are more than MAX_FRAMES frames.
    """
    clocks_ns, late_ns = clocks_ns or {}, late_ns or {}
    run = _Simulation(network, document, clocks_ns, seed)
    rng = random.Random(seed)
    streams = document["streams"]
    # The first intervals are left out: clocks that are early would need times before the begin.
    begin_ns = max((stream["interval_ns"] for stream in streams), default=0)
    duration_ns = cycles * lcm(*(stream["interval_ns"] for stream in streams))
    frames = sum(duration_ns // stream["interval_ns"] * len(stream["frames"]) for stream in streams)
    if frames > MAX_FRAMES:
        raise ValueError(f"the intervals repeat together only after {frames} frames; {MAX_FRAMES} can be simulated")
    end_ns = begin_ns + duration_ns
    for stream in streams:
        interval_ns, jitter_ns = stream["interval_ns"], stream["jitter_ns"]
        off_ns = clocks_ns.get(stream["talker"], 0) + late_ns.get(stream["stream"], 0)
        for interval in range(begin_ns // interval_ns, end_ns // interval_ns):
            for number, frame in enumerate(stream["frames"]):
                due_ns = interval * interval_ns + frame["time_aware_offset_ns"] + off_ns
                run.send(stream, number, interval, due_ns + rng.randint(-jitter_ns, jitter_ns))
    if best_effort:
        for name in run.ports:
            run.at(0, name)
    longest_ns = max((stream["interval_ns"] + stream["max_latency_ns"] for stream in streams), default=0)
    run.run(end_ns + 2 * longest_ns, end_ns + longest_ns if best_effort else 0)
    limits_ns = {stream["stream"]: stream["max_latency_ns"] for stream in streams}
    return SimulationResult(run.receptions, limits_ns, run.best_effort_frames)
