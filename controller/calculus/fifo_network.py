"""A network of first-come-first-served servers as the linear programmes see it: curves, transit times, packets.

Units: microseconds and kilobits, so that the coefficients of the programmes are near one. In seconds and bits a solver
drops coefficients of 1e-9 without notice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from controller.calculus.curves import Server
from controller.calculus.fixed_point import Stream

Key = TypeVar("Key")

KBIT = 1e3
KBIT_PER_US = 1e9
"""In bit/s."""


@dataclass(frozen=True, slots=True)
class RateLatency:
    """At least `rate` times the time since the start of a busy period minus `latency_us`."""

    rate: float
    """In kbit/us."""
    latency_us: float


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """At most `burst` plus t `rate` in any closed interval of length t."""

    burst: float
    """In kbit."""
    rate: float
    """In kbit/us."""


@dataclass(frozen=True, slots=True)
class FifoServer:
    """A server: the maximum of its rate-latency curves is guaranteed.

    `packet`: the largest packet in kbit, 0 for a fluid: whole packets leave, so that what has left may be this much
    less than what is served. `shaping`: limits what arrives at the next server over its link.
    """

    curves: tuple[RateLatency, ...]
    shaping: TokenBucket | None = None
    packet: float = 0.0
    min_delay_us: float = 0.0
    min_transit_us: float = 0.0
    max_transit_us: float = 0.0

    @staticmethod
    def of(server: Server, packet_bits: float = 0.0) -> FifoServer:
        """Return the server of the total-flow analysis, with packets of at most this size."""
        shaping = server.output_shaping
        return FifoServer(
            (RateLatency(server.rate_bps / KBIT_PER_US, server.latency_us),),
            TokenBucket(shaping.burst_bits / KBIT, shaping.rate_bps / KBIT_PER_US) if shaping else None,
            packet_bits / KBIT,
            min(server.min_delay_us, server.latency_us),
            server.max_transit_us - server.transit_jitter_us,
            server.max_transit_us,
        )


@dataclass(frozen=True, slots=True)
class FifoFlow:
    """A flow: the servers on its path, and the token buckets that all hold at its source.

    Behind a cut only the first bucket is considered; the servers must be stable with the first buckets of all flows.
    """

    servers: tuple[str, ...]
    buckets: tuple[TokenBucket, ...]

    @property
    def bucket(self) -> TokenBucket:
        """The first bucket."""
        return self.buckets[0]

    @staticmethod
    def of(stream: Stream) -> FifoFlow:
        """Return the stream of the total-flow analysis; it counts as active at all times."""
        burst_bits = stream.burst_bits + stream.rate_bps * stream.jitter_us / 1e6
        return FifoFlow(stream.servers, (TokenBucket(burst_bits / KBIT, stream.rate_bps / KBIT_PER_US),))


@dataclass(frozen=True, slots=True)
class FifoNetwork:
    """The servers that flows cross, in a fixed order, and the flows."""

    servers: Mapping[str, FifoServer]
    flows: tuple[FifoFlow, ...]

    @staticmethod
    def of(servers: Mapping[str, Server], streams: Mapping[Key, Stream], packet_bits: float = 0.0) -> FifoNetwork:
        """Return the network of the total-flow analysis, with packets of at most this size."""
        crossed = {name for stream in streams.values() for name in stream.servers}
        used = {name: FifoServer.of(server, packet_bits) for name, server in servers.items() if name in crossed}
        return FifoNetwork(used, tuple(FifoFlow.of(stream) for stream in streams.values()))
