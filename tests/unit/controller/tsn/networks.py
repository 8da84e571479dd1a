"""Networks and streams for tests of schedules."""

from __future__ import annotations

from controller.tsn.network import TsnLink, TsnNetwork, tsn_network
from controller.tsn.streams import TsnStream

GBPS = 1_000_000_000


def line(
    bridges: int, rate_bps: int = GBPS, propagation_ns: int = 0, processing_ns: int = 2000, sync_error_ns: int = 0
) -> TsnNetwork:
    """Bridges b0, b1, … in a line, each with one end station e0, e1, …"""
    ends = [(f"b{number}", f"b{number + 1}") for number in range(bridges - 1)]
    ends += [(f"e{number}", f"b{number}") for number in range(bridges)]
    links = [
        TsnLink(f"{a}->{b}", a, b, rate_bps, propagation_ns, processing_ns)
        for pair in ends
        for a, b in (pair, pair[::-1])
    ]
    return tsn_network("line", links, sync_error_ns)


def stream(name: str, talker: str, listener: str, interval_us: int = 100, frame_bytes: int = 500) -> TsnStream:
    """A stream whose frames may take an interval."""
    return TsnStream(name, talker, (listener,), frame_bytes, interval_us * 1000, interval_us * 1000)
