"""Tunes the route order for a map: many orders serve the same random lightpath demands; the lowest blocking wins.

The demands follow the literature: Poisson arrivals between two random sites, 25 to 100 Gb/s, exponential holding
times truncated at twice their mean. The load is set so that first fit over five routes blocks `BLOCKED_SHARE`; there
the orders differ by more than the noise. First fit is always among the finalists, so the result is never worse than it
on the training demands.

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

from controller.optical.candidate_routes import CandidateRoutes
from controller.optical.route_order import RouteSelection, SpanLengths
from controller.optical.rsa import FIRST_FIT, MOST_USED, RouteOrder, assign
from controller.optical.spectrum import Assignment, Spectrum
from controller.optical.spectrum_grid import FLEXIBLE, SpectrumGrid

RATES_GBPS = (25, 100)
BLOCKED_SHARE = 0.05
"""Blocking of first fit at the load at which orders are compared."""

POSITIONS = (0.0, 0.01, 0.03, 0.1, 0.3)
LOADS = (0.0, 0.1, 0.3, 1.0, 3.0)
FINALISTS = 6
"""Number of orders compared on all seeds."""
MAX_STANDARD_ERRORS = 2.4
"""Orders whose paired difference is below this many standard errors count as equal."""



@dataclass(frozen=True, slots=True)
class Demand:
    """A lightpath demand from `arrives` to `leaves`, in any time unit."""

    arrives: float
    leaves: float
    source: str
    destination: str
    rate_gbps: int




@dataclass(frozen=True, slots=True)
class TuningResult:
    """The chosen order, and the blocking of all finalists, lowest first.

    `erlang`: the offered load, in concurrent lightpaths.
    """

    chosen: RouteSelection
    blocking: tuple[tuple[RouteSelection, float], ...]
    erlang: float


def demands(
    sites: Sequence[str], arrival_rate: float, mean_holding: float, seed: int, count: int
) -> Iterator[Demand]:
    """Generate `count` demands; deterministic for each seed."""
    chance, now = random.Random(seed), 0.0
    for _ in range(count):
        now += chance.expovariate(arrival_rate)
        source, destination = chance.sample(sites, 2)
        rate_gbps = chance.randint(*RATES_GBPS)
        holding = 0.0
        while not 0 < holding < 2 * mean_holding:
            holding = chance.expovariate(1 / mean_holding)
        yield Demand(now, now + holding, source, destination, rate_gbps)


def blocked_demands(routes: CandidateRoutes, order: RouteOrder, wanted: Sequence[Demand]) -> list[int]:
    """Indices of the demands that are blocked when they are served in order of arrival."""
    spectrum = Spectrum(routes.grid, routes.all_free)
    blocked: list[int] = []
    leaving: list[tuple[float, int, Assignment]] = []
    for number, demand in enumerate(wanted):
        while leaving and leaving[0][0] <= demand.arrives:
            spectrum.release(heapq.heappop(leaving)[2])
        found = assign(spectrum, routes, demand.source, demand.destination, demand.rate_gbps, order)
        if found is None:
            blocked.append(number)
        else:
            spectrum.occupy(found)
            heapq.heappush(leaving, (demand.leaves, number, found))
    return blocked


class OrderTrial:
    """A map on which candidate orders are compared on the same demands."""

    def __init__(
        self, spans: SpanLengths, seeds: Sequence[int], count: int, grid: SpectrumGrid = FLEXIBLE, most_routes: int = 50
    ):
        """`count`: demands per seed; the first quarter is the warm-up.

        Raises: ValueError if there are fewer than two sites or no seed.
        """
        self.sites = sorted({end for ends in spans for end in ends})
        if len(self.sites) < 2 or not seeds:
            raise ValueError(f"{len(self.sites)} sites, {len(seeds)} seeds: two and one are the least to compare on")
        self.spans, self.seeds, self.count = spans, tuple(seeds), count
        self.grid, self.most_routes = grid, most_routes
        self._routes: dict[tuple[int, str], CandidateRoutes] = {}
        self._wanted: dict[tuple[int, float], list[Demand]] = {}

    def blocked(self, candidate: RouteSelection, erlang: float, seeds: Sequence[int] | None = None) -> list[float]:
        """Blocking probability at this load, for each of the seeds (None: all)."""
        routes = self._routes_of(candidate)
        warm_up = self.count // 4
        shares = []
        for seed in self.seeds if seeds is None else seeds:
            numbers = blocked_demands(routes, candidate.order, self._demands(seed, erlang))
            shares.append(sum(number >= warm_up for number in numbers) / (self.count - warm_up))
        return shares

    def baselines(self) -> list[RouteSelection]:
        """The baselines: first fit and most used, over few or many routes."""
        ways = dict.fromkeys([(min(5, self.most_routes), "length"), (min(5, self.most_routes), "hops")])
        ways[self.most_routes, "length"] = None
        return [RouteSelection(order, k, by) for order in (FIRST_FIT, MOST_USED) for k, by in ways]

    def weighted(self) -> list[RouteSelection]:
        """Orders that weigh cost, position and load, over all routes."""
        return [RouteSelection(RouteOrder(*weights), self.most_routes) for weights in product(POSITIONS, LOADS)]

    def calibrated_load(self) -> float:
        """The load in erlang at which first fit blocks BLOCKED_SHARE, by bisection."""
        first_fit, low, high = self.baselines()[0], 0.0, 16.0
        while self.blocked(first_fit, high, self.seeds[:1])[0] < BLOCKED_SHARE:
            low, high = high, 2 * high
        for _ in range(6):
            middle = (low + high) / 2
            if self.blocked(first_fit, middle, self.seeds[:1])[0] < BLOCKED_SHARE:
                low = middle
            else:
                high = middle
        return high

    def _routes_of(self, candidate: RouteSelection) -> CandidateRoutes:
        key = candidate.k, candidate.by
        if key not in self._routes:
            self._routes[key] = CandidateRoutes(self.spans, candidate.k, self.grid, candidate.by)
        return self._routes[key]

    def _demands(self, seed: int, erlang: float) -> list[Demand]:
        key = seed, erlang
        if key not in self._wanted:
            self._wanted[key] = list(demands(self.sites, 1.0, erlang, seed, self.count))
        return self._wanted[key]


def tune(trial: OrderTrial) -> TuningResult:
    """Choose the order for a map by successive halving: all on one seed, the better half on twice as many, and so on.

    The baselines are always among the finalists.
    """
    erlang, rest, tried = trial.calibrated_load(), trial.weighted(), 1
    while tried < len(trial.seeds) and len(rest) > FINALISTS:
        seeds = trial.seeds[:tried]
        rest.sort(key=lambda each: mean(trial.blocked(each, erlang, seeds)))
        rest, tried = rest[: max(FINALISTS, len(rest) // 2)], 2 * tried
    shares = {each: trial.blocked(each, erlang) for each in (*trial.baselines(), *rest)}
    judged = sorted(((each, mean(blocked)) for each, blocked in shares.items()), key=lambda each: each[1])
    best = judged[0][0]
    limit = min(share for each, share in judged if each.order.is_sequential)
    as_good = [each for each, share in judged if share <= limit and _is_as_good(shares[each], shares[best])]
    return TuningResult(min(as_good, key=_effort), tuple(judged), erlang)


def _is_as_good(blocked: Sequence[float], best: Sequence[float]) -> bool:
    """Whether it is statistically equal to the best, by paired differences over the seeds."""
    worse = [mine - its for mine, its in zip(blocked, best, strict=True)]
    if len(worse) < 2:
        return mean(worse) <= 0
    return mean(worse) <= MAX_STANDARD_ERRORS * stdev(worse) / sqrt(len(worse))


def _effort(candidate: RouteSelection) -> tuple[bool, bool, float, float, int]:
    """Sort key: orders that examine fewer routes first."""
    order = candidate.order
    return not order.is_sequential, order.most_used, order.load, order.position, candidate.k
