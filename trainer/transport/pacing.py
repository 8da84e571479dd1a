"""How fast a sender may go on a reserved flow, and what that promises about its transfers.

All constants of the way from bytes to reserved bits live here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OVERHEAD_BYTES = 66
"""Per packet, L2: Ethernet 14 + IPv4 20 + TCP 20 + timestamp option 12. Preamble and FCS are not counted."""

PACE_SHARE = 0.985
"""The part of its reserved rate a sender uses: the meter behind it must never see more than it was told."""

BURST_BYTES = 45_000
"""What a paced sender may put out at once: the kernel paces in bursts of two jumbo frames; two more for timer
slack, one for what is left of the burst before."""

HEAD_START_PACKETS = 2
"""So many packets the kernel sends at once when a transfer begins (`net.ipv4.tcp_min_tso_segs`)."""

DEFAULT_MSS = 1448

TLS_RECORD_BYTES = 16_384
"""The most a record carries (RFC 8446, section 5.1)."""

TLS_OVERHEAD_BYTES = 22
"""Per record: header 5, content type 1, tag 16; the same for all cipher suites of TLS 1.3 in use."""


@dataclass(frozen=True, slots=True)
class SentFrame:
    """When a frame was handed to the kernel, and its size. Times are seconds of one clock, the sender's."""

    send_s: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """One transfer: from its first byte handed over to its last byte received, in seconds.

    `ideal_s` is what the reserved (or, unreserved, the planned) rate implies; `bound_s` the promise, None where
    nothing was promised; `kept` likewise.
    """

    measured_s: float
    ideal_s: float
    bound_s: float | None

    @property
    def kept(self) -> bool | None:
        """Whether the transfer met its bound."""
        return None if self.bound_s is None else self.measured_s <= self.bound_s


def pace_bytes_per_s(reserved_bps: float, mss_bytes: int) -> float:
    """The rate to give the kernel (SO_MAX_PACING_RATE counts payload bytes) for a reserved L2 rate."""
    return PACE_SHARE * reserved_bps / 8 * mss_bytes / (mss_bytes + OVERHEAD_BYTES)


def tls_bytes(payload_bytes: int) -> int:
    """The bytes that carry a payload in TLS records, all full but the last."""
    return payload_bytes + TLS_OVERHEAD_BYTES * -(-payload_bytes // TLS_RECORD_BYTES)


def mss_within_tls_bytes(mss_bytes: int) -> int:
    """The packet payload with which plain TCP would need as many bits as TLS does with `mss_bytes`."""
    ratio = (1 + TLS_OVERHEAD_BYTES / TLS_RECORD_BYTES) * (mss_bytes + OVERHEAD_BYTES) / mss_bytes
    return int(OVERHEAD_BYTES / (ratio - 1))


def l2_bits(payload_bytes: float, mss_bytes: int) -> float:
    """A payload with its headers, as reserved rates count it."""
    return payload_bytes * 8 * (mss_bytes + OVERHEAD_BYTES) / mss_bytes


def wire_bits(payload_bytes: float, mss_bytes: int) -> float:
    """The reserved bits that carry a payload: at a reserved rate of `wire_bits / T` it takes T seconds."""
    return l2_bits(payload_bytes, mss_bytes) / PACE_SHARE


def transfer_bits(payload_bytes: float, mss_bytes: int) -> float:
    """The reserved bits of a transfer on a paced connection: at a rate of `transfer_bits / T` it has arrived after T.

    Fewer than `wire_bits`, because the pace holds only from the third packet on.
    """
    return wire_bits(payload_bytes - min(HEAD_START_PACKETS * mss_bytes, payload_bytes / 4), mss_bytes)


def virtual_finish_s(frames: Sequence[SentFrame], bytes_per_s: float) -> float:
    """When a server that guarantees this rate has finished the last frame at the latest.

    F(j) = max(send(j), F(j-1)) + size(j) / rate.
    Source: Goyal, Lam & Vin 1995, "Determining end-to-end delay bounds in heterogeneous networks", eq. 1.
    """
    finish = 0.0
    for frame in frames:
        finish = max(frame.send_s, finish) + frame.size_bytes / bytes_per_s
    return finish


def judge(
    frames: Sequence[SentFrame],
    arrival_s: float,
    rate_bps: float,
    mss_bytes: int,
    network_latency_us: float | None,
) -> Judgement:
    """Compare a transfer with what its rate implies and with what was promised.

    `arrival_s` is on the sender's clock; `network_latency_us` is the controller's `accumulated_latency_us`,
    None without a reservation.
    """
    start = frames[0].send_s
    bound = None
    if network_latency_us is not None:
        finish = virtual_finish_s(frames, pace_bytes_per_s(rate_bps, mss_bytes))
        bound = finish - start + network_latency_us / 1e6
    return Judgement(arrival_s - start, virtual_finish_s(frames, rate_bps / 8) - start, bound)
