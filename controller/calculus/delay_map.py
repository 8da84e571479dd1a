"""F: the delays of all servers that result from given delays, on arrays, and its derivative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from controller.booking.peak_load import ALWAYS
from controller.calculus.busy_period import CrossFlow, Unstable, considers_activities, server_delay
from controller.calculus.curves import Server
from controller.calculus.streams import NoBound, Stream

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


class DelayMap:
    """F on arrays: one row for each stream at each server (`hop`), each group, each corner of a group."""

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
        bursts = [stream.shaped_bits(hop) for stream in streams for hop in range(len(stream.servers))]
        self.hop_burst: Floats = np.array(bursts, float)
        self.is_before_meter: NDArray[np.bool_] = np.zeros(len(hop_server), bool)
        self.is_before_meter[self.first_hop] = np.array([stream.last_metered(1) == 1 for stream in streams])[
            self.hop_stream
        ]
        self.is_regulated: NDArray[np.bool_] = np.array([stream.is_regulated for stream in streams], bool)[
            self.hop_stream
        ]
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
        self.group_server: Indices = np.array([numbers[name] for name, _ in self.groups], np.intp)
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
        self.corner_server: Indices = np.array(corner_server, np.intp)
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
        self.hops_by_sets = {server: np.flatnonzero(self.hop_server == server).tolist() for server in by_sets}
        is_unstable = arrival_rate >= self.rate
        is_unstable[by_sets] = False
        if is_unstable.any():
            raise NoBound(self.names[int(np.argmax(is_unstable))])

    def step(self, delay: Floats) -> Floats:
        """Return F of these delays.

        Raises: NoBound if a server is unstable.
        """
        next_delay = self.always_active_step(delay)
        if self.hops_by_sets:
            burst = self._bursts(delay)
            lateness = self._sum_upstream(delay, is_shaped=True) + self._sum_upstream(self.max_transit, is_shaped=False)
            for server, hops in self.hops_by_sets.items():
                next_delay[server] = self._delay_by_sets_us(server, hops, burst, lateness)
        return next_delay

    def always_active_step(self, delay: Floats) -> Floats:
        """Return F of these delays if all streams are always active."""
        _, _, delay_us = self._at_corners(self._bursts(delay))
        next_delay: Floats = np.maximum.reduceat(delay_us, self.first_corner) + self.latency
        return next_delay

    def _bursts(self, delay: Floats) -> Floats:
        """Return the burst of every stream at every server, in bit."""
        jitter = self._sum_upstream(np.maximum(delay - self.min_delay, 0.0) + self.transit_jitter, is_shaped=True)
        bursts: Floats = self.hop_burst + self.hop_rate * np.where(self.is_regulated, 0.0, jitter) / 1e6
        return bursts

    def _at_corners(self, burst: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the burst of every group, and for every corner its time in s and the delay there in us."""
        group_burst: Floats = np.bincount(self.hop_group, burst, len(self.groups)).astype(float)
        corner_s = np.append(np.maximum(group_burst - self.shaping_burst, 0.0) / self.excess_rate, 0.0)[
            self.corner_group
        ]
        time_s = corner_s[self.pair_corner]
        bits = group_burst[self.pair_group] + self.group_rate[self.pair_group] * time_s
        bits = np.minimum(bits, self.shaping_burst[self.pair_group] + self.shaping_rate[self.pair_group] * time_s)
        arrived = np.bincount(self.pair_corner, bits, len(self.corner_group))
        return group_burst, corner_s, (arrived / self.corner_rate - corner_s) * 1e6

    def _sum_upstream(self, at_servers: Floats, *, is_shaped: bool) -> Floats:
        """For every stream at every server: return the sum over the servers before it.

        `is_shaped`: without those before its meter.
        """
        at_hops = at_servers[self.hop_server]
        if is_shaped:
            at_hops = np.where(self.is_before_meter, 0.0, at_hops)
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

    def gains(self, delay: Floats, among: Indices) -> Floats:
        """Return the derivative of F among these servers at these delays: of the row's F by the column's delay."""
        count = len(self.names)
        weight = self._group_weights(delay)
        later, earlier = self._hop_pairs
        number = np.full(count, -1)
        number[among] = np.arange(len(among))
        row, column = number[self.hop_server[later]], number[self.hop_server[earlier]]
        is_among = (row >= 0) & (column >= 0)
        gain = self.hop_rate[later] * weight[self.hop_group[later]] / self.rate[self.hop_server[later]]
        cells = (row * len(among) + column)[is_among]
        gains: Floats = np.bincount(cells, gain[is_among], len(among) ** 2).astype(float)
        return gains.reshape(len(among), len(among))

    @cached_property
    def _hop_pairs(self) -> tuple[Indices, Indices]:
        """All pairs of a hop and an earlier hop of the same stream, not before its meter."""
        position = np.arange(len(self.hop_server)) - self.first_hop
        later = np.repeat(np.arange(len(self.hop_server)), position)
        starts = np.repeat(np.cumsum(position) - position, position)
        earlier = self.first_hop[later] + np.arange(len(later)) - starts
        is_pair = ~(self.is_before_meter[earlier] | self.is_regulated[later])
        return later[is_pair], earlier[is_pair]

    def _group_weights(self, delay: Floats) -> Floats:
        """Return by how much of an added burst of each group the backlog at the decisive corner of its server grows.

        1 if the group has reached its token buckets there, 0 if it still arrives at the rate of its link, and between
        where its own corner is the decisive one.
        """
        group_burst, corner_s, delay_us = self._at_corners(self._bursts(delay))
        largest = np.maximum.reduceat(delay_us, self.first_corner)
        is_decisive = delay_us >= largest[self.corner_server]
        decisive_s = np.full(len(self.names), np.inf)
        np.minimum.at(decisive_s, self.corner_server[is_decisive], corner_s[is_decisive])
        server_s = decisive_s[self.group_server]
        group_s = np.maximum(group_burst - self.shaping_burst, 0.0) / self.excess_rate
        is_before, is_at = group_s < server_s, group_s == server_s
        rate = np.where(is_before | (is_at & (group_s == 0)), self.group_rate, self.shaping_rate)
        arriving = np.bincount(self.group_server, rate, len(self.names))
        turns = is_at & (group_s > 0)
        turning = np.bincount(self.group_server, np.where(turns, self.excess_rate, 0.0), len(self.names))
        share = np.clip((arriving - self.rate) / np.where(turning > 0, turning, np.inf), 0.0, 1.0)
        weights: Floats = np.where(turns, share[self.group_server], (is_before | is_at).astype(float))
        return weights
