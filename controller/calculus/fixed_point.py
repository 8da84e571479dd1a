"""The delays of all servers at once: the smallest fixed point of a total-flow analysis, found from below.

A stream's burst at a server is its burst at its source plus its rate times the jitter so far, and the jitter follows
from the delays of the servers before: D = F(D). Any D with F(D) <= D bounds the delays, because every packet's delay
at a server depends only on what came before it, whose jitter D bounds by induction. The iteration from below ends
near the smallest such D; a little headroom is added until F(D) <= D is seen to hold, which is the proof.

Source: Thomas, Le Boudec and Mifdaoui, "On cyclic dependencies and regulators in time-sensitive networks", RTSS 2019.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from controller.booking.peak_load import ALWAYS, Activity
from controller.calculus.busy_period import HOPELESS_US, CrossFlow, Overbooked, tells_apart, waiting
from controller.calculus.curves import Server
from controller.domain.frozen import frozen

ITERATIONS = 300
TOLERANCE = 1e-7
"""Relative; the iteration has come to rest when no delay grows by more."""
HEADROOMS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)

Numbers = NDArray[np.float64]
Indices = NDArray[np.intp]


@frozen
class Stream:
    """A token bucket that crosses servers in order; `jitter_us` is what its burst has already grown by."""

    servers: tuple[str, ...]
    rate_bps: float
    burst_bits: float
    jitter_us: float = 0.0
    activity: Activity = ALWAYS


class NoBound(Exception):  # noqa: N818 - an answer, not an error
    """The analysis found no finite bound; `link` is where the delay grew without end."""

    def __init__(self, link: str) -> None:
        super().__init__(link)
        self.link = link


def delays_of(
    servers: Mapping[str, Server], streams: Collection[Stream], clock_us: float = 0.0
) -> dict[str, float]:
    """The bound of the delay in us at every server that a stream crosses.

    Raises: NoBound if more can come to a server than it serves, or no fixed point is within reach.
    """
    if not streams:
        return {}
    return _Iteration(servers, list(streams), clock_us).run()


class _Iteration:
    """Everything in arrays: one row for each stream at each server (`hop`), each group, each corner of a group."""

    def __init__(self, servers: Mapping[str, Server], streams: Sequence[Stream], clock_us: float) -> None:
        self.clock_us = clock_us
        self.streams = streams
        numbers: dict[str, int] = {}
        groups: dict[tuple[str, str], int] = {}
        hop_server, hop_group = [], []
        for stream in streams:
            before = ""
            for name in stream.servers:
                hop_server.append(numbers.setdefault(name, len(numbers)))
                hop_group.append(groups.setdefault((name, before), len(groups)))
                before = name
        self.names = list(numbers)
        self.servers = [servers[name] for name in self.names]
        self.groups = list(groups)
        self.hop_server: Indices = np.array(hop_server, np.intp)
        self.hop_group: Indices = np.array(hop_group, np.intp)
        hops = [len(stream.servers) for stream in streams]
        self.hop_stream: Indices = np.repeat(np.arange(len(streams)), hops)
        self.first_hop: Indices = np.repeat(np.cumsum([0, *hops[:-1]]), hops)
        self.hop_rate: Numbers = np.array([stream.rate_bps for stream in streams], float)[self.hop_stream]
        bursts = [stream.burst_bits + stream.rate_bps * stream.jitter_us / 1e6 for stream in streams]
        self.hop_burst: Numbers = np.array(bursts, float)[self.hop_stream]
        self.rate: Numbers = np.array([server.rate_bps for server in self.servers])
        self.latency: Numbers = np.array([server.latency_us for server in self.servers])
        self.quickest: Numbers = np.array([server.quickest_us for server in self.servers])
        self.transit: Numbers = np.array([server.transit_us for server in self.servers])
        self.variation: Numbers = np.array([server.variation_us for server in self.servers])
        self._lay_out_groups(servers, numbers)
        self._find_mixed()

    def _lay_out_groups(self, servers: Mapping[str, Server], numbers: Mapping[str, int]) -> None:
        self.lines = [servers[before].line if before else None for _, before in self.groups]
        self.group_rate: Numbers = np.bincount(self.hop_group, self.hop_rate, len(self.groups)).astype(float)
        self.at_once: Numbers = np.array([line.at_once_bits if line else np.inf for line in self.lines])
        self.line_rate: Numbers = np.array([line.rate_bps if line else 0.0 for line in self.lines])
        limited = (self.line_rate > self.group_rate) & np.isfinite(self.at_once)
        self.catch_up: Numbers = np.where(limited, self.line_rate - self.group_rate, np.inf)
        members: list[list[int]] = [[] for _ in numbers]
        for group, (name, _) in enumerate(self.groups):
            members[numbers[name]].append(group)
        # The corners of a server: t = 0 and one for each of its groups; at each, all its groups are looked at.
        corner_group: list[int] = []
        corner_server: list[int] = []
        at_corner: list[int] = []
        at_group: list[int] = []
        for server, own in enumerate(members):
            for corner in (-1, *own):
                at_corner += [len(corner_group)] * len(own)
                at_group += own
                corner_group.append(corner)
                corner_server.append(server)
        self.corner_group: Indices = np.array(corner_group, np.intp)
        self.corner_rate: Numbers = self.rate[corner_server]
        self.at_corner: Indices = np.array(at_corner, np.intp)
        self.at_group: Indices = np.array(at_group, np.intp)
        self.first_corner: Indices = np.flatnonzero(np.diff(corner_server, prepend=-1))

    def _find_mixed(self) -> None:
        """Servers where not everybody is there at all times are looked at one by one, if it pays."""
        total = np.bincount(self.hop_server, self.hop_rate, len(self.names))
        mixed = [index for index, stream in enumerate(self.streams) if stream.activity != ALWAYS]
        counts = np.bincount(self.hop_server[np.isin(self.hop_stream, mixed)], minlength=len(self.names))
        crossed = [
            server
            for server in np.flatnonzero(counts).tolist()
            if tells_apart(int(counts[server]), float(total[server]), self.servers[server])
        ]
        self.mixed = [(server, np.flatnonzero(self.hop_server == server).tolist()) for server in crossed]
        over = total >= self.rate
        over[[server for server, _ in self.mixed]] = False
        if over.any():
            raise NoBound(self.names[int(np.argmax(over))])

    def run(self) -> dict[str, float]:
        """Iterate until it stands still and add headroom until the delays are proven."""
        delay = np.zeros(len(self.names))
        for headroom in HEADROOMS:
            delay = self._at_rest(delay)
            roomy = delay * (1 + headroom)
            following = self.step(roomy)
            if (following <= roomy).all():
                return dict(zip(self.names, roomy.tolist(), strict=True))
            delay = np.maximum(delay, following)  # with a little more, others meet who did not before
        raise NoBound(self.names[int(np.argmax(following - roomy))])

    def _at_rest(self, delay: Numbers) -> Numbers:
        for _ in range(ITERATIONS):
            following = self.step(delay)
            if (following <= delay * (1 + TOLERANCE)).all():
                return delay
            delay = np.maximum(delay, following)
            if delay.max() > HOPELESS_US:
                break
        raise NoBound(self.names[int(np.argmax(delay))])

    def step(self, delay: Numbers) -> Numbers:
        """F: the delays that follow if these were the delays."""
        jitter = self._before(np.maximum(delay - self.quickest, 0.0) + self.variation)
        burst = self.hop_burst + self.hop_rate * jitter / 1e6
        group_burst = np.bincount(self.hop_group, burst, len(self.groups))
        corner_s = np.append(np.maximum(group_burst - self.at_once, 0.0) / self.catch_up, 0.0)[self.corner_group]
        moment_s = corner_s[self.at_corner]
        bits = group_burst[self.at_group] + self.group_rate[self.at_group] * moment_s
        bits = np.minimum(bits, self.at_once[self.at_group] + self.line_rate[self.at_group] * moment_s)
        arrived = np.bincount(self.at_corner, bits, len(self.corner_group))
        wait_us = (arrived / self.corner_rate - corner_s) * 1e6
        following: Numbers = np.maximum.reduceat(wait_us, self.first_corner) + self.latency
        if self.mixed:
            lateness = self._before(delay + self.transit)
            for server, hops in self.mixed:
                following[server] = self._mixed_wait_us(server, hops, burst, lateness)
        return following

    def _before(self, at_servers: Numbers) -> Numbers:
        """For every stream at every server: the sum over the servers before it."""
        at_hops = at_servers[self.hop_server]
        before: Numbers = np.cumsum(at_hops) - at_hops
        return before - before[self.first_hop]

    def _mixed_wait_us(self, server: int, hops: list[int], burst: Numbers, lateness: Numbers) -> float:
        crossings = []
        for hop in hops:
            stream, group = self.streams[self.hop_stream[hop]], int(self.hop_group[hop])
            before, line = self.groups[group][1], self.lines[group]
            where = (before, line, float(burst[hop]), stream.rate_bps, float(lateness[hop]))
            crossings.append(CrossFlow(stream.activity, *where))
        try:
            return waiting(self.servers[server], crossings, self.clock_us).wait_us
        except Overbooked:
            raise NoBound(self.names[server]) from None
