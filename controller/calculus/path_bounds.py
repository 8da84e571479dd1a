"""Delay bounds of whole paths by linear programmes on several forests, each result improving the next.

Every forest cuts other flows, so each gives other bounds, all of them proven: of bursts at its cuts, of the delays of
single servers, and of parts of paths. The bursts and the delays of servers enter the programmes of the next forest as
known limits; the bound of a flow is the least sum over the divisions of its path into parts with known bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isfinite

from controller.calculus.cut_bursts import Clock, CutAnalysis, Hop, no_limit
from controller.calculus.fifo_network import FifoNetwork
from controller.calculus.fixed_point import NoBound
from controller.calculus.forest import forest_along, forests
from controller.calculus.linear_program import Unsolved

FORESTS = 4
ROUNDS = 1


class PathBounds:
    """Proven bounds of a network; each call of an analysis adds to them or leaves them."""

    def __init__(self, network: FifoNetwork, delays_us: Mapping[str, float], remaining_s: Clock = no_limit) -> None:
        """`delays_us`: delay bounds of servers by total-flow analysis, empty where it has none. `remaining_s`: time
        that is left; what is proven when it is over stays.
        """
        self.network = network
        self.remaining_s = remaining_s
        self.delays_us: dict[str, float] = dict(delays_us)
        """For each server with a bound."""
        self.bursts: dict[Hop, float] = self._bursts_of_delays()
        """In kbit, at the inputs of servers."""
        self._parts_us: dict[tuple[str, ...], float] = {}
        """From the arrival at the first server of a part of a path to the departure from its last."""
        self._analyses: dict[tuple[tuple[str, str], ...], CutAnalysis] = {}

    def analyse(self, forests_count: int = FORESTS, rounds: int = ROUNDS) -> bool:
        """Analyse all flows on this many forests; return whether it was finished in time.

        Raises: NoBound if no forest gives a bound and the total-flow analysis has none.
        """
        chosen = forests(self.network, forests_count)
        try:
            for _ in range(rounds):
                for successors in chosen:
                    self._analyse_forest(successors)
        except Unsolved:
            return False
        return True

    def bound_us(self, flow: int) -> float:
        """Return the bound of a flow from its arrival at the first server to its departure from the last.

        Raises: NoBound if there is none yet.
        """
        path = self.network.flows[flow].servers
        least_us = [0.0, *[inf] * len(path)]
        for end in range(1, len(path) + 1):
            for start in range(end):
                transit_us = self.network.servers[path[start - 1]].max_transit_us if start else 0.0
                part_us = self._part_us(path[start:end])
                least_us[end] = min(least_us[end], least_us[start] + transit_us + part_us)
        if least_us[-1] == inf:
            raise NoBound(next(path[end - 1] for end in range(1, len(path) + 1) if least_us[end] == inf))
        return least_us[-1]

    def flow_bound_us(self, flow: int) -> float:
        """Return the bound of one flow, the first on a forest that leaves its path whole, later ones on the forests
        that are there.

        Raises: NoBound; Unsolved if the time is over.
        """
        if not self._analyses:
            path = self.network.flows[flow].servers
            analysis = CutAnalysis(self.network, forest_along(self.network, path), self.delays_us)
            analysis.solve_for(path, self.bursts, self.remaining_s)
            self._keep(analysis)
        parts = [[segment.servers for segment in analysis.segments if segment.flow == flow]
                 for analysis in self._analyses.values()]  # fmt: skip
        analysis, servers = min(zip(self._analyses.values(), parts, strict=True), key=lambda pair: len(pair[1]))
        for part in servers:
            delay_us = analysis.delay_us(part[0], part[-1], self.remaining_s)
            self._parts_us[part] = min(delay_us, self._parts_us.get(part, inf))
        return self.bound_us(flow)

    def _part_us(self, part: tuple[str, ...]) -> float:
        known_us = self._parts_us.get(part, inf)
        return min(known_us, self.delays_us.get(part[0], inf)) if len(part) == 1 else known_us

    def _analyse_forest(self, successors: Mapping[str, str]) -> None:
        analysis = self._solved(successors)
        if isfinite(self.remaining_s()):
            self._bound_parts(analysis)  # should the time be over before all servers have their delays
        for name in self.network.servers:
            delay_us = analysis.delay_us(name, name, self.remaining_s)
            self.delays_us[name] = min(delay_us, self.delays_us.get(name, inf))
        analysis.improve(self.delays_us)
        self._bound_parts(analysis)

    def _bound_parts(self, analysis: CutAnalysis) -> None:
        for servers in dict.fromkeys(segment.servers for segment in analysis.segments):
            delay_us = analysis.delay_us(servers[0], servers[-1], self.remaining_s)
            self._parts_us[servers] = min(delay_us, self._parts_us.get(servers, inf))

    def _solved(self, successors: Mapping[str, str]) -> CutAnalysis:
        """Return the analysis of a forest with the bursts at its cuts."""
        analysis = self._analyses.get(_key(successors))
        if analysis is None:
            analysis = CutAnalysis(self.network, successors, self.delays_us)
        else:
            analysis.improve(self.delays_us)
        analysis.solve(self.bursts, self.remaining_s)
        self._keep(analysis)
        return analysis

    def _keep(self, analysis: CutAnalysis) -> None:
        """Keep a forest whose bursts are proven."""
        self._analyses[_key(analysis.successors)] = analysis
        for segment, burst in zip(analysis.cuts, analysis.bursts.tolist(), strict=True):
            hop = segment.flow, segment.first
            self.bursts[hop] = min(burst, self.bursts.get(hop, inf))

    def _bursts_of_delays(self) -> dict[Hop, float]:
        """Return the bursts that follow from the delays of servers: rate times jitter."""
        bursts: dict[Hop, float] = {}
        for number, flow in enumerate(self.network.flows):
            bucket, jitter_us = flow.bucket, 0.0
            for hop, name in enumerate(flow.servers):
                if jitter_us < inf:
                    bursts[number, hop] = bucket.burst + bucket.rate * jitter_us
                server = self.network.servers[name]
                jitter_us += self.delays_us.get(name, inf) - server.min_delay_us
                jitter_us += server.max_transit_us - server.min_transit_us
        return bursts


def _key(successors: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(successors.items()))
