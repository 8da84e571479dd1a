"""Pacing of reserved flows: conversion between payload bytes and reserved bits, and latency bounds of transfers.

Contains all constants of that conversion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

OVERHEAD_BYTES = 66
"""Per packet, L2: Ethernet 14 + IPv4 20 + TCP 20 + timestamp option 12. Preamble and FCS are not counted."""

PACE_SHARE = 0.985
"""Share of the reserved rate that a sender uses, so that it never exceeds the rate of the meter on its path."""

BURST_BYTES = 45_000
"""Largest burst of a paced sender up to 48 Mb/s: the kernel paces in bursts of two jumbo frames; two more for timer
slack, one for the rest of the previous burst."""

SLACK_BYTES = 27_000
BURST_S = 0.003
"""Above that: the kernel paces in bursts of a millisecond of the rate (`sk_pacing_shift`); and a meter that refills
each millisecond passes up to two milliseconds of the rate less than its burst (docs/guarantees.md, "Meters"). Measured
on Open vSwitch, of 2,260 packets at 100 and 250 Mb/s none was dropped; with 45 kB 2 and 5."""

HEAD_START_PACKETS = 2
"""Packets that the kernel sends unpaced at the start of a transfer (`net.ipv4.tcp_min_tso_segs`)."""

DEFAULT_MSS = 1448

TLS_RECORD_BYTES = 16_384
"""Largest payload of a record (RFC 8446, section 5.1)."""

TLS_OVERHEAD_BYTES = 22
"""Per record: header 5, content type 1, tag 16; the same for all cipher suites of TLS 1.3 in use."""


@dataclass(frozen=True, slots=True)
class SentFrame:
    """When a frame was passed to the kernel (seconds, the sender's clock), and its size."""

    send_s: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TransferVerdict:
    """The frames of a transfer compared with their latency bounds (seconds).

    `measured_s`: the time in which at least one frame was on its way, from its first byte passed to the kernel to its
    last byte received; waiting between frames does not count. `ideal_s`, `bound_s`: the same at the reserved (or,
    unreserved, the planned) rate, and if every frame arrived at its bound. `margin_s`: by how much the frame nearest to
    its bound arrived before it, negative if after. `span_s`: from the first byte of all to the last. Without a
    reservation `bound_s`, `margin_s` and `kept` are None; `ideal_s` is None if the planned rate is only assumed.
    """

    measured_s: float
    ideal_s: float | None
    bound_s: float | None
    margin_s: float | None
    span_s: float

    @property
    def kept(self) -> bool | None:
        """Whether every frame arrived within its latency bound."""
        return None if self.margin_s is None else self.margin_s >= 0


def burst_bytes(reserved_bps: int) -> int:
    """Return the burst to reserve so that the meter of this rate passes everything a paced sender sends."""
    return max(BURST_BYTES, SLACK_BYTES + round(BURST_S * reserved_bps / 8))


def pace_bytes_per_s(reserved_bps: float, mss_bytes: int) -> float:
    """Return the SO_MAX_PACING_RATE (payload bytes/s) for a reserved L2 rate."""
    return PACE_SHARE * reserved_bps / 8 * mss_bytes / (mss_bytes + OVERHEAD_BYTES)


def tls_bytes(payload_bytes: int) -> int:
    """Return the bytes that carry a payload in TLS records, all full but the last."""
    return payload_bytes + TLS_OVERHEAD_BYTES * -(-payload_bytes // TLS_RECORD_BYTES)


def mss_within_tls_bytes(mss_bytes: int) -> int:
    """Return the MSS with which plain TCP would need as many bits as TLS does with `mss_bytes`."""
    ratio = (1 + TLS_OVERHEAD_BYTES / TLS_RECORD_BYTES) * (mss_bytes + OVERHEAD_BYTES) / mss_bytes
    return int(OVERHEAD_BYTES / (ratio - 1))


def l2_bits(payload_bytes: float, mss_bytes: int) -> float:
    """Return the L2 bits of a payload with its headers, as reserved rates count them."""
    return payload_bytes * 8 * (mss_bytes + OVERHEAD_BYTES) / mss_bytes


def wire_bits(payload_bytes: float, mss_bytes: int) -> float:
    """Return the reserved bits of a payload: at a reserved rate of `wire_bits / T` it takes T seconds."""
    return l2_bits(payload_bytes, mss_bytes) / PACE_SHARE


def transfer_bits(payload_bytes: float, mss_bytes: int) -> float:
    """Return the reserved bits of a transfer: at a reserved rate of `transfer_bits / T` it has arrived after T seconds.

    Fewer than `wire_bits`, because pacing starts with the third packet.
    """
    return wire_bits(payload_bytes - min(HEAD_START_PACKETS * mss_bytes, payload_bytes / 4), mss_bytes)


def virtual_finishes_s(frames: Sequence[SentFrame], bytes_per_s: float) -> list[float]:
    """Return the latest times at which a server that guarantees this rate has finished each frame.

    F(j) = max(send(j), F(j-1)) + size(j) / rate.
    Source: Goyal, Lam & Vin 1995, "Determining end-to-end delay bounds in heterogeneous networks", eq. 1.
    """
    finishes: list[float] = []
    for frame in frames:
        start = max(frame.send_s, finishes[-1]) if finishes else frame.send_s
        finishes.append(start + frame.size_bytes / bytes_per_s)
    return finishes


def assess_transfer(
    frames: Sequence[SentFrame],
    arrivals_s: Sequence[float],
    rate_bps: float,
    mss_bytes: int,
    network_latency_us: float | None,
    rate_is_assumed: bool = False,
) -> TransferVerdict:
    """Compare the frames of a transfer with their ideal times and their latency bounds.

    `arrivals_s`: of each frame, on the sender's clock; `network_latency_us` is the controller's
    `accumulated_latency_us`, None without a reservation.
    """
    bound = margin = None
    if network_latency_us is not None:
        finishes = virtual_finishes_s(frames, pace_bytes_per_s(rate_bps, mss_bytes))
        limits = [finish + network_latency_us / 1e6 for finish in finishes]
        bound = _on_the_way_s(frames, limits)
        margin = min(limit - arrival for limit, arrival in zip(limits, arrivals_s, strict=True))
    ideal = None if rate_is_assumed else _on_the_way_s(frames, virtual_finishes_s(frames, rate_bps / 8))
    return TransferVerdict(_on_the_way_s(frames, arrivals_s), ideal, bound, margin, arrivals_s[-1] - frames[0].send_s)


def _on_the_way_s(frames: Sequence[SentFrame], arrivals_s: Sequence[float]) -> float:
    """Return how long at least one frame was on its way; frames arrive in the order in which they are sent."""
    total = 0.0
    before = -math.inf
    for frame, arrival in zip(frames, arrivals_s, strict=True):
        total += max(0.0, arrival - max(frame.send_s, before))
        before = max(before, arrival)
    return total
