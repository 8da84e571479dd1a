"""Which order suits a map: lightpaths come and go at random in each of many orders, and the one that blocks least wins.

The demands are those of the literature: Poisson arrivals between two random sites, 25 to 100 Gb/s, exponential holding
times cut at twice their mean. The load is chosen so that first fit over five routes blocks `BLOCKED_SHARE`; there the
orders differ and chance does not hide it. First fit itself runs to the end, so what is chosen is never worse than it on
the demands it was chosen on.

Source: the recipe of Chen et al., "DeepRMSA", Journal of Lightwave Technology 37 (2019); Jamieson and Talwalkar,
"Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016 (halving).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import sqrt
from statistics import mean, stdev

from controller.optical.route_order import Candidate, Spans
from controller.optical.rsa import (
    FIRST_FIT,
    FLEXIBLE,
    MOST_USED,
    Assignment,
    CandidateRoutes,
    Grid,
    Order,
    Spectrum,
    assign,
)

RATES_GBPS = (25, 100)
BLOCKED_SHARE = 0.05
"""Of the requests, by first fit, at the load at which orders are compared."""

POSITIONS = (0.0, 0.01, 0.03, 0.1, 0.3)
LOADS = (0.0, 0.1, 0.3, 1.0, 3.0)
FINALISTS = 6
"""Orders that are compared on all seeds."""
SAME = 2.4
"""Orders that differ by less than this many standard errors, seed by seed, are not told apart."""



@dataclass(frozen=True, slots=True)
class Demand:
    """A lightpath that is wanted from `arrives` to `leaves`; the unit of time is free."""

    arrives: float
    leaves: float
    source: str
    destination: str
    rate_gbps: int




@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and the blocking of all that were compared to the end, the least first.

    `erlang`: the load, in lightpaths wanted at once.
    """

    chosen: Candidate
    blocking: tuple[tuple[Candidate, float], ...]
    erlang: float


def demands(
    sites: Sequence[str], arrival_rate: float, mean_holding: float, seed: int, count: int
) -> Iterator[Demand]:
    """So many demands; one seed always gives the same."""
    chance, now = random.Random(seed), 0.0
    for _ in range(count):
        now += chance.expovariate(arrival_rate)
        source, destination = chance.sample(sites, 2)
        rate_gbps = chance.randint(*RATES_GBPS)
        holding = 0.0
        while not 0 < holding < 2 * mean_holding:
            holding = chance.expovariate(1 / mean_holding)
        yield Demand(now, now + holding, source, destination, rate_gbps)


def refused(routes: CandidateRoutes, order: Order, wanted: Sequence[Demand]) -> list[int]:
    """The numbers of the demands that find no room when each is decided as it comes."""
    spectrum = Spectrum(routes)
    blocked: list[int] = []
    leaving: list[tuple[float, int, Assignment]] = []
    for number, demand in enumerate(wanted):
        while leaving and leaving[0][0] <= demand.arrives:
            spectrum.give(heapq.heappop(leaving)[2])
        found = assign(spectrum, routes, demand.source, demand.destination, demand.rate_gbps, order)
        if found is None:
            blocked.append(number)
        else:
            spectrum.take(found)
            heapq.heappush(leaving, (demand.leaves, number, found))
    return blocked


class Trial:
    """A map on which candidates are compared, each on the same demands."""

    def __init__(self, spans: Spans, seeds: Sequence[int], count: int, grid: Grid = FLEXIBLE, most_routes: int = 50):
        """`count`: demands of each seed, the first quarter of which only fills the network.

        Raises: ValueError if there are fewer than two sites or no seed.
        """
        self.sites = sorted({end for ends in spans for end in ends})
        if len(self.sites) < 2 or not seeds:
            raise ValueError(f"{len(self.sites)} sites, {len(seeds)} seeds: two and one are the least to compare on")
        self.spans, self.seeds, self.count = spans, tuple(seeds), count
        self.grid, self.most_routes = grid, most_routes
        self._routes: dict[tuple[int, str], CandidateRoutes] = {}
        self._wanted: dict[tuple[int, float], list[Demand]] = {}

    def blocked(self, candidate: Candidate, erlang: float, seeds: Sequence[int] | None = None) -> list[float]:
        """The share of the demands that is blocked at this load, for each of the seeds (None: all)."""
        routes = self._routes_of(candidate)
        warm_up = self.count // 4
        shares = []
        for seed in self.seeds if seeds is None else seeds:
            numbers = refused(routes, candidate.order, self._demands(seed, erlang))
            shares.append(sum(number >= warm_up for number in numbers) / (self.count - warm_up))
        return shares

    def yardsticks(self) -> list[Candidate]:
        """The classical orders: first fit and most used, over few or many routes."""
        ways = dict.fromkeys([(min(5, self.most_routes), "length"), (min(5, self.most_routes), "hops")])
        ways[self.most_routes, "length"] = None
        return [Candidate(order, k, by) for order in (FIRST_FIT, MOST_USED) for k, by in ways]

    def scored(self) -> list[Candidate]:
        """Orders that weigh cost, place and load, over all routes."""
        return [Candidate(Order(*weights), self.most_routes) for weights in product(POSITIONS, LOADS)]

    def load(self) -> float:
        """The erlang at which first fit blocks BLOCKED_SHARE, to some hundredths."""
        first_fit, low, high = self.yardsticks()[0], 0.0, 16.0
        while self.blocked(first_fit, high, self.seeds[:1])[0] < BLOCKED_SHARE:
            low, high = high, 2 * high
        for _ in range(6):
            middle = (low + high) / 2
            if self.blocked(first_fit, middle, self.seeds[:1])[0] < BLOCKED_SHARE:
                low = middle
            else:
                high = middle
        return high

    def _routes_of(self, candidate: Candidate) -> CandidateRoutes:
        key = candidate.k, candidate.by
        if key not in self._routes:
            self._routes[key] = CandidateRoutes(self.spans, candidate.k, self.grid, candidate.by)
        return self._routes[key]

    def _demands(self, seed: int, erlang: float) -> list[Demand]:
        key = seed, erlang
        if key not in self._wanted:
            self._wanted[key] = list(demands(self.sites, 1.0, erlang, seed, self.count))
        return self._wanted[key]


def tune(trial: Trial) -> Choice:
    """The order for a map. All are tried on one seed, the better half on twice as many, and so on; the classical ones
    are never dropped.
    """
    erlang, rest, tried = trial.load(), trial.scored(), 1
    while tried < len(trial.seeds) and len(rest) > FINALISTS:
        seeds = trial.seeds[:tried]
        rest.sort(key=lambda each: mean(trial.blocked(each, erlang, seeds)))
        rest, tried = rest[: max(FINALISTS, len(rest) // 2)], 2 * tried
    shares = {each: trial.blocked(each, erlang) for each in (*trial.yardsticks(), *rest)}
    judged = sorted(((each, mean(blocked)) for each, blocked in shares.items()), key=lambda each: each[1])
    best = judged[0][0]
    limit = min(share for each, share in judged if each.order.in_turn)
    as_good = [each for each, share in judged if share <= limit and _is_as_good(shares[each], shares[best])]
    return Choice(min(as_good, key=_effort), tuple(judged), erlang)


def _is_as_good(blocked: Sequence[float], best: Sequence[float]) -> bool:
    """Whether the seeds do not tell it from the best."""
    worse = [mine - its for mine, its in zip(blocked, best, strict=True)]
    if len(worse) < 2:
        return mean(worse) <= 0
    return mean(worse) <= SAME * stdev(worse) / sqrt(len(worse))


def _effort(candidate: Candidate) -> tuple[bool, bool, float, float, int]:
    """The less, the fewer routes are looked at: the first that fits, the first that costs least; the load last."""
    order = candidate.order
    return not order.in_turn, order.most_used, order.load, order.position, candidate.k
