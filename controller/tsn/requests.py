"""A stream as requested in terms of IEEE 802.1Qcc, and what it is to admission and to the scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from controller.domain.network import ETHERNET_HEADER_BYTES
from controller.domain.reservation import Flow, Match, Requirement
from controller.tsn.network import NS_PER_S, OVERHEAD_BYTES
from controller.tsn.streams import ScheduledFrame, TsnStream

MIN_FRAME_BYTES = 60
"""The least L2 frame, which a smaller payload is padded to."""

EMERGENCY_RANK, USUAL_RANK = 0, 128
"""Ranks of reservations for StreamRank 0 and 1. Source: IEEE 802.1Q-2022 §46.2.3.2."""


@dataclass(frozen=True, slots=True)
class TimeAware:
    """When the talker can send, after the begin of each interval. Source: IEEE 802.1Q-2022 §46.2.3.5.5."""

    earliest_ns: int
    latest_ns: int
    jitter_ns: int


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """A stream: talker and listener by host, its traffic, and what is required. `max_latency_ns` 0: no limit.

    `payload_bytes` is the MaxFrameSize of the standard: without header, tag and FCS. `rank`: 0 for emergencies, else 1.
    `trees`: 2 for two disjoint paths at the same time.
    """

    stream_id: str
    talker: str
    listener: str
    match: Match
    interval_ns: int
    frames: int
    payload_bytes: int
    rank: int
    max_latency_ns: int
    time_aware: TimeAware | None = None
    trees: int = 1

    @property
    def flow(self) -> Flow:
        """The flow to reserve: its token bucket holds all frames of an interval.

        A scheduled stream has its latency from the schedule; its flow is the fallback and has no limit.
        """
        frame_bytes = max(MIN_FRAME_BYTES, self.payload_bytes + ETHERNET_HEADER_BYTES)
        bits = self.frames * frame_bytes * 8
        limit_us = self.max_latency_ns / 1000 if self.max_latency_ns and self.time_aware is None else None
        requirement = Requirement(
            min_bandwidth_bps=max(1000, ceil(bits * NS_PER_S / self.interval_ns)),
            burst_bytes=self.frames * frame_bytes,
            max_latency_us=limit_us,
            max_frame_bytes=frame_bytes,
            rank=USUAL_RANK if self.rank else EMERGENCY_RANK,
            protection="link_disjoint" if self.trees == 2 else "none",
            backup="seamless" if self.trees == 2 else "shared",
        )
        return Flow(self.stream_id, self.talker, self.listener, self.match, requirement)

    def scheduled(self, time_aware: TimeAware) -> TsnStream:
        """The stream to schedule; without a limit a frame may take ten intervals."""
        return TsnStream(
            self.stream_id,
            self.talker,
            (self.listener,),
            max(MIN_FRAME_BYTES, self.payload_bytes + ETHERNET_HEADER_BYTES) + OVERHEAD_BYTES - ETHERNET_HEADER_BYTES,
            self.interval_ns,
            self.max_latency_ns or 10 * self.interval_ns,
            self.frames,
            time_aware.earliest_ns,
            time_aware.latest_ns,
            time_aware.jitter_ns,
        )


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """An admitted stream with its reservation and, if it is time-aware, its frames and their worst latency."""

    request: StreamRequest
    reservation_id: str
    links: tuple[str, ...]
    frames: tuple[ScheduledFrame, ...] = ()
    latency_ns: int | None = None
