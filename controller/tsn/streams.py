"""Streams to schedule, where their frames lie in the cycle, and why a stream is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from controller.tsn.network import TsnLink


class FailureCode(IntEnum):
    """Failure codes of streams. Source: IEEE 802.1Q-2022 Table 46-15 (the numbers, openly: OPC 10000-22 §5.3.1.5)."""

    INSUFFICIENT_BANDWIDTH = 1
    INSUFFICIENT_BRIDGE_RESOURCES = 2
    INSUFFICIENT_BANDWIDTH_FOR_TRAFFIC_CLASS = 3
    STREAM_ID_IN_USE = 4
    REPORTED_LATENCY_CHANGED = 7
    MAX_FRAME_SIZE_TOO_LARGE = 14
    MAX_LATENCY_EXCEEDED = 21
    CANNOT_BE_SUPPORTED = 25


@dataclass(frozen=True, slots=True)
class TsnStream:
    """A periodic stream: every `interval_ns`, `frames` frames of `frame_bytes` on the wire, to all listeners.

    `max_latency_ns`: from the first bit at the talker to the last bit at the listener. The talker may send a frame from
    `earliest_ns` to `latest_ns` after the begin of an interval (None: until its end) and keeps a given instant to
    within `jitter_ns`. Source: IEEE 802.1Q-2022 §46.2.3.5, TrafficSpecification and TSpecTimeAware.
    """

    name: str
    talker: str
    listeners: tuple[str, ...]
    frame_bytes: int
    interval_ns: int
    max_latency_ns: int
    frames: int = 1
    earliest_ns: int = 0
    latest_ns: int | None = None
    jitter_ns: int = 0


@dataclass(frozen=True, slots=True)
class Hop:
    """A frame at one egress port, in ns after the begin of its interval.

    It is there from `ready_ns` at the earliest; its gate opens at `start_ns` for `duration_ns`.
    """

    link: TsnLink
    ready_ns: int
    start_ns: int
    duration_ns: int
    queue: int


@dataclass(frozen=True, slots=True)
class ScheduledFrame:
    """The so-and-so-many-th frame of an interval of a stream: its hops, each after the one that it comes from."""

    stream: str
    number: int
    interval_ns: int
    hops: tuple[Hop, ...]

    @property
    def offset_ns(self) -> int:
        """When the talker sends it."""
        return self.hops[0].start_ns


@dataclass(frozen=True, slots=True)
class Refusal:
    """A stream that is not scheduled, and why, in a sentence."""

    stream: str
    code: FailureCode
    reason: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """All frames of all streams; latencies in ns by stream and listener, worst case. Empty if a stream was refused."""

    streams: Mapping[str, TsnStream] = field(default_factory=dict)
    frames: Sequence[ScheduledFrame] = ()
    latency_ns: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    refused: tuple[Refusal, ...] = ()
