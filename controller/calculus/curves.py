"""Arrival and service curves: how long a server makes what comes in wait at most, and how long it can stay busy.

A server guarantees its rate after a latency (a rate-latency curve) and serves first come, first served. Streams that
come in over one line form a group, which is limited twice: by the sum of their token buckets and by the line,

    alpha_g(t) = min( sum b_i + t sum r_i,  at_once_g + t line_g ).

Nothing waits longer than the largest horizontal distance between arrivals and service,

    D = latency + max over t of sum_g alpha_g(t) / R - t,

and as the sum is concave with a corner for each group, the maximum is at a corner or at t = 0.

Source: Le Boudec and Thiran, "Network Calculus", §1.4 (horizontal deviation; first come, first served aggregates);
Mifdaoui and Leydier, "Beyond the accuracy-complexity tradeoffs of compositional analyses using network calculus for
complex networks", CRTS 2017 (line shaping of groups).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class InputLink:
    """What comes over a line in t seconds is at most `at_once_bits` + t `rate_bps`."""

    at_once_bits: float
    rate_bps: float


@dataclass(frozen=True, slots=True)
class Server:
    """A rate after a latency. Nothing passes quicker than `quickest_us`; behind it the way to the next server takes
    `transit_us` at the longest and `variation_us` less at the shortest, and what leaves is limited to `line` there.
    """

    rate_bps: float
    latency_us: float
    quickest_us: float = 0.0
    transit_us: float = 0.0
    variation_us: float = 0.0
    line: InputLink | None = None


Group = tuple[InputLink | None, float, float]
"""Streams that come in over one line (None: nothing but their buckets limits them): it, burst in bit, rate in bit/s."""


def longest_wait_us(server: Server, groups: Iterable[Group]) -> float:
    """The longest that anything waits at the server, its own service included; the rates must be below the server's.

    Until its corner a group comes as its line lets it, from there on as its buckets do; the sum rises faster than it is
    served until the corner at which the wait is longest. Nothing comes faster for ever than its line carries.
    """
    bits, rate_bps, corners = 0.0, 0.0, []
    for line, burst_bits, bucket_bps in groups:
        if line is None or burst_bits <= line.at_once_bits or bucket_bps >= line.rate_bps:
            bits += burst_bits
            rate_bps += bucket_bps
        else:
            slower_bps = line.rate_bps - bucket_bps
            bits += line.at_once_bits
            rate_bps += line.rate_bps
            corners.append(((burst_bits - line.at_once_bits) / slower_bps, slower_bps))
    now_s = 0.0
    if rate_bps > server.rate_bps:
        corners.sort()
        for corner_s, slower_bps in corners:
            bits += rate_bps * (corner_s - now_s)
            rate_bps -= slower_bps
            now_s = corner_s
            if rate_bps <= server.rate_bps:
                break
    return (bits / server.rate_bps - now_s) * 1e6 + server.latency_us


def longest_busy_us(server: Server, burst_bits: float, rate_bps: float) -> float:
    """The longest that the server has something to do without a pause; infinite if more comes than it serves."""
    if rate_bps >= server.rate_bps:
        return inf
    latency_bits = server.rate_bps * server.latency_us / 1e6
    return (burst_bits + latency_bits) / (server.rate_bps - rate_bps) * 1e6
