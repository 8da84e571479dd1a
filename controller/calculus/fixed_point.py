"""Total-flow analysis (TFA): the delays of all servers as the least fixed point, computed from below.

The burst of a stream at a server is its burst at the source plus its rate times the jitter accumulated so far, which
follows from the delays of the servers before: D = F(D). Any D with F(D) <= D bounds the delays, because the delay of a
packet depends only on earlier packets, whose jitter D bounds by induction. The iteration from below converges to the
least such D; headroom is added until F(D) <= D is verified, which is the proof.

Source: Thomas, Le Boudec and Mifdaoui, "On cyclic dependencies and regulators in time-sensitive networks", RTSS 2019.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from controller.booking.peak_load import ALWAYS, Activity
from controller.calculus.busy_period import MAX_DELAY_US, CrossFlow, Unstable, considers_activities, server_delay
from controller.calculus.curves import Server
from controller.domain.frozen import frozen

ITERATIONS = 300
TOLERANCE = 1e-7
"""Relative; the iteration has converged when no delay grows by more."""
HEADROOMS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Relative; tried in this order."""

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@frozen
class Stream:
    """A token bucket that crosses servers in order; `jitter_us`: the jitter by which its burst has already grown."""

    servers: tuple[str, ...]
    rate_bps: float
    burst_bits: float
    jitter_us: float = 0.0
    activity: Activity = ALWAYS


class NoBound(Exception):  # noqa: N818 - a result of the analysis, not an error
    """The analysis found no finite bound; `link` is where the delay diverged."""

    def __init__(self, link: str) -> None:
        super().__init__(link)
        self.link = link


def fixed_point_delays(
    servers: Mapping[str, Server], streams: Collection[Stream], clock_us: float = 0.0
) -> dict[str, float]:
    """Return the delay bound in us of every server that a stream crosses.

    Raises: NoBound if a server is unstable or the iteration does not converge.
    """
    if not streams:
        return {}
    return _Iteration(servers, list(streams), clock_us).run()


class _Iteration:
    """The iteration on arrays: one row for each stream at each server (`hop`), each group, each corner of a group."""

    def __init__(self, servers: Mapping[str, Server], streams: Sequence[Stream], clock_us: float) -> None:
        self.clock_us = clock_us
        self.streams = streams
        numbers: dict[str, int] = {}
        groups: dict[tuple[str, str], int] = {}
        hop_server, hop_group = [], []
        for stream in streams:
            previous = ""
            for name in stream.servers:
                hop_server.append(numbers.setdefault(name, len(numbers)))
                hop_group.append(groups.setdefault((name, previous), len(groups)))
                previous = name
        self.names = list(numbers)
        self.servers = [servers[name] for name in self.names]
        self.groups = list(groups)
        self.hop_server: Indices = np.array(hop_server, np.intp)
        self.hop_group: Indices = np.array(hop_group, np.intp)
        hops = [len(stream.servers) for stream in streams]
        self.hop_stream: Indices = np.repeat(np.arange(len(streams)), hops)
        self.first_hop: Indices = np.repeat(np.cumsum([0, *hops[:-1]]), hops)
        self.hop_rate: Floats = np.array([stream.rate_bps for stream in streams], float)[self.hop_stream]
        bursts = [stream.burst_bits + stream.rate_bps * stream.jitter_us / 1e6 for stream in streams]
        self.hop_burst: Floats = np.array(bursts, float)[self.hop_stream]
        self.rate: Floats = np.array([server.rate_bps for server in self.servers])
        self.latency: Floats = np.array([server.latency_us for server in self.servers])
        self.min_delay: Floats = np.array([server.min_delay_us for server in self.servers])
        self.max_transit: Floats = np.array([server.max_transit_us for server in self.servers])
        self.transit_jitter: Floats = np.array([server.transit_jitter_us for server in self.servers])
        self._index_groups(servers, numbers)
        self._find_intermittent()

    def _index_groups(self, servers: Mapping[str, Server], numbers: Mapping[str, int]) -> None:
        self.shapings = [servers[previous].output_shaping if previous else None for _, previous in self.groups]
        self.group_rate: Floats = np.bincount(self.hop_group, self.hop_rate, len(self.groups)).astype(float)
        self.shaping_burst: Floats = np.array([curve.burst_bits if curve else np.inf for curve in self.shapings])
        self.shaping_rate: Floats = np.array([curve.rate_bps if curve else 0.0 for curve in self.shapings])
        is_limited = (self.shaping_rate > self.group_rate) & np.isfinite(self.shaping_burst)
        self.excess_rate: Floats = np.where(is_limited, self.shaping_rate - self.group_rate, np.inf)
        groups_by_server: list[list[int]] = [[] for _ in numbers]
        for group, (name, _) in enumerate(self.groups):
            groups_by_server[numbers[name]].append(group)
        # The corners of a server: t = 0 and one for each of its groups; at each, all its groups are evaluated.
        corner_group: list[int] = []
        corner_server: list[int] = []
        pair_corner: list[int] = []
        pair_group: list[int] = []
        for server, server_groups in enumerate(groups_by_server):
            for corner in (-1, *server_groups):
                pair_corner += [len(corner_group)] * len(server_groups)
                pair_group += server_groups
                corner_group.append(corner)
                corner_server.append(server)
        self.corner_group: Indices = np.array(corner_group, np.intp)
        self.corner_rate: Floats = self.rate[corner_server]
        self.pair_corner: Indices = np.array(pair_corner, np.intp)
        self.pair_group: Indices = np.array(pair_group, np.intp)
        self.first_corner: Indices = np.flatnonzero(np.diff(corner_server, prepend=-1))

    def _find_intermittent(self) -> None:
        """Find the servers whose intermittent streams are analysed by concurrent sets.

        Raises: NoBound if another server is unstable.
        """
        arrival_rate = np.bincount(self.hop_server, self.hop_rate, len(self.names))
        intermittent = [index for index, stream in enumerate(self.streams) if stream.activity != ALWAYS]
        intermittent_at_server = np.bincount(
            self.hop_server[np.isin(self.hop_stream, intermittent)], minlength=len(self.names)
        )
        by_sets = [
            server
            for server in np.flatnonzero(intermittent_at_server).tolist()
            if considers_activities(
                int(intermittent_at_server[server]), float(arrival_rate[server]), self.servers[server]
            )
        ]
        self.servers_by_sets = [(server, np.flatnonzero(self.hop_server == server).tolist()) for server in by_sets]
        is_unstable = arrival_rate >= self.rate
        is_unstable[[server for server, _ in self.servers_by_sets]] = False
        if is_unstable.any():
            raise NoBound(self.names[int(np.argmax(is_unstable))])

    def run(self) -> dict[str, float]:
        """Iterate to the fixed point and add headroom until the delays are verified."""
        delay = np.zeros(len(self.names))
        for headroom in HEADROOMS:
            delay = self._converged(delay)
            raised = delay * (1 + headroom)
            next_delay = self.step(raised)
            if (next_delay <= raised).all():
                return dict(zip(self.names, raised.tolist(), strict=True))
            delay = np.maximum(delay, next_delay)  # longer delays may make more streams concurrent
        raise NoBound(self.names[int(np.argmax(next_delay - raised))])

    def _converged(self, delay: Floats) -> Floats:
        """Iterate from these delays until they converge.

        Raises: NoBound
        """
        for _ in range(ITERATIONS):
            next_delay = self.step(delay)
            if (next_delay <= delay * (1 + TOLERANCE)).all():
                return delay
            delay = np.maximum(delay, next_delay)
            if delay.max() > MAX_DELAY_US:
                break
        raise NoBound(self.names[int(np.argmax(delay))])

    def step(self, delay: Floats) -> Floats:
        """F: return the delays that result from these delays."""
        jitter = self._sum_upstream(np.maximum(delay - self.min_delay, 0.0) + self.transit_jitter)
        burst = self.hop_burst + self.hop_rate * jitter / 1e6
        group_burst = np.bincount(self.hop_group, burst, len(self.groups))
        corner_s = np.append(np.maximum(group_burst - self.shaping_burst, 0.0) / self.excess_rate, 0.0)[
            self.corner_group
        ]
        time_s = corner_s[self.pair_corner]
        bits = group_burst[self.pair_group] + self.group_rate[self.pair_group] * time_s
        bits = np.minimum(bits, self.shaping_burst[self.pair_group] + self.shaping_rate[self.pair_group] * time_s)
        arrived = np.bincount(self.pair_corner, bits, len(self.corner_group))
        delay_us = (arrived / self.corner_rate - corner_s) * 1e6
        next_delay: Floats = np.maximum.reduceat(delay_us, self.first_corner) + self.latency
        if self.servers_by_sets:
            lateness = self._sum_upstream(delay + self.max_transit)
            for server, hops in self.servers_by_sets:
                next_delay[server] = self._delay_by_sets_us(server, hops, burst, lateness)
        return next_delay

    def _sum_upstream(self, at_servers: Floats) -> Floats:
        """For every stream at every server: return the sum over the servers before it."""
        at_hops = at_servers[self.hop_server]
        upstream: Floats = np.cumsum(at_hops) - at_hops
        return upstream - upstream[self.first_hop]

    def _delay_by_sets_us(self, server: int, hops: list[int], burst: Floats, lateness: Floats) -> float:
        flows = []
        for hop in hops:
            stream, group = self.streams[self.hop_stream[hop]], int(self.hop_group[hop])
            previous, shaping = self.groups[group][1], self.shapings[group]
            facts = (previous, shaping, float(burst[hop]), stream.rate_bps, float(lateness[hop]))
            flows.append(CrossFlow(stream.activity, *facts))
        try:
            return server_delay(self.servers[server], flows, self.clock_us).delay_us
        except Unstable:
            raise NoBound(self.names[server]) from None
