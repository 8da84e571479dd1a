"""Candidate routes of lightpaths: the k best between two sites of a network of fibres, with links and modulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, pairwise
from math import inf

import networkx as nx

from controller.optical.spectrum_grid import DISTANCE_ADAPTIVE, FLEXIBLE, Modulation, SpectrumGrid, modulation_for


@dataclass(frozen=True, slots=True)
class CandidateRoute:
    """A route through the fibres; `links` are the indices of its directed links in `CandidateRoutes`.

    `adjacent`: the links that lead into one of these or on from one, without them and their opposite directions.
    """

    nodes: tuple[str, ...]
    links: tuple[int, ...]
    length_km: float
    modulation: Modulation
    adjacent: tuple[int, ...] = ()
    link_set: int = field(init=False, repr=False, compare=False)
    """The links as bits."""
    adjacent_set: int = field(init=False, repr=False, compare=False)
    """The adjacent links as bits."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "link_set", sum(1 << link for link in self.links))
        object.__setattr__(self, "adjacent_set", sum(1 << link for link in self.adjacent))


BoundedCandidate = tuple[float, int, int, int, CandidateRoute]
"""The least that any later candidate can cost, slots x links, slots, links, route."""


class CandidateRoutes:
    """The k shortest routes between all pairs of a fibre plant, and for each rate the order in which to try them.

    `spans`: length in km by pair of ends; each has two directed links. Routes beyond the reach of every modulation are
    omitted. Source: Yen, "Finding the K shortest loopless paths in a network", Management Science 17 (1971).
    """

    def __init__(
        self,
        spans: Mapping[tuple[str, str], float],
        k: int,
        grid: SpectrumGrid = FLEXIBLE,
        by: str = "length",
        table: Sequence[Modulation] = DISTANCE_ADAPTIVE,
    ) -> None:
        """`by`: length, hops, or hops/efficiency (the k shortest by length, sorted by links per bit of a symbol).

        Raises: ValueError if `by` is something else.
        Source: Doherty et al., J. Opt. Commun. Netw. 17(9) (2025) (hops/efficiency).
        """
        if by not in ("length", "hops", "hops/efficiency"):
            raise ValueError(f"routes are sorted by length, hops or hops/efficiency, not by {by!r}")
        self.grid = grid
        self.k = k
        self._by = by
        self._table = table
        self._graph: nx.Graph[str] = nx.Graph()
        self.link_names: tuple[str, ...] = tuple(f"{x}->{y}" for a, b in spans for x, y in ((a, b), (b, a)))
        self._number_of = {name: number for number, name in enumerate(self.link_names)}
        for (a, b), length_km in spans.items():
            self._graph.add_edge(a, b, km=length_km)
        self._between: dict[tuple[str, str], tuple[CandidateRoute, ...]] = {}
        self._tries: dict[tuple[str, str, int], tuple[tuple[int, int, CandidateRoute], ...]] = {}
        self._bounded: dict[tuple[str, str, int, float], tuple[BoundedCandidate, ...]] = {}
        self._size_of: dict[float, int] = {}
        self.all_free = (grid.all_free,) * len(self.link_names)
        self._sizes: dict[tuple[int, ...], int] = {}

    def between(self, source: str, destination: str) -> tuple[CandidateRoute, ...]:
        """Return the candidate routes in order of preference; empty if the two nodes are not connected."""
        pair = source, destination
        if pair not in self._between:
            self._between[pair] = tuple(self._shortest(source, destination))
        return self._between[pair]

    def adopt(self, others: CandidateRoutes) -> None:
        """Take over the routes that others, of the same fibres, k and weight, have computed."""
        self._between |= {pair: tuple(self._in_order(routes)) for pair, routes in others._between.items()}

    def candidates(
        self, source: str, destination: str, rate_gbps: float
    ) -> tuple[tuple[int, int, CandidateRoute], ...]:
        """Return (slots x links, slots, route) for each candidate at that rate, cheapest first."""
        size_class = self._size_of.get(rate_gbps)
        if size_class is None:
            size_class = self._size_class(rate_gbps)
        key = source, destination, size_class
        candidates = self._tries.get(key)
        if candidates is None:
            routes = self.between(source, destination)
            widths = tuple(self.grid.slots_for(rate_gbps, route.modulation.bits_per_symbol) for route in routes)
            costs = [width * len(route.links) for width, route in zip(widths, routes, strict=True)]
            candidates = tuple(sorted(zip(costs, widths, routes, strict=True), key=lambda candidate: candidate[0]))
            self._tries[key] = candidates
        return candidates

    def bounded_candidates(
        self, source: str, destination: str, rate_gbps: float, filled: float
    ) -> tuple[BoundedCandidate, ...]:
        """Return the candidates with what the later ones cost at least if each link saves `filled`."""
        size_class = self._size_of.get(rate_gbps)
        if size_class is None:
            size_class = self._size_class(rate_gbps)
        key = source, destination, size_class, filled
        bounded = self._bounded.get(key)
        if bounded is None:
            least, backwards = inf, []
            for cost, width, route in reversed(self.candidates(source, destination, rate_gbps)):
                link_count = len(route.links)
                least = min(least, cost - filled * link_count)
                backwards.append((least, cost, width, link_count, route))
            bounded = self._bounded[key] = tuple(reversed(backwards))
        return bounded

    def _size_class(self, rate_gbps: float) -> int:
        """Return the number of the rates that need equally many slots in every format: they share cached orders."""
        widths = tuple(self.grid.slots_for(rate_gbps, modulation.bits_per_symbol) for modulation in self._table)
        size_class = self._size_of[rate_gbps] = self._sizes.setdefault(widths, len(self._sizes))
        return size_class

    def _shortest(self, source: str, destination: str) -> list[CandidateRoute]:
        try:
            paths = islice(nx.shortest_simple_paths(self._graph, source, destination, self._weight), self.k)
            routes = [self._route(tuple(path)) for path in paths]
        except nx.NetworkXNoPath:
            return []
        return self._in_order([route for route in routes if route is not None])

    def _in_order(self, routes: Sequence[CandidateRoute]) -> list[CandidateRoute]:
        if self._by != "hops/efficiency":
            return list(routes)
        return sorted(routes, key=lambda route: len(route.links) / route.modulation.bits_per_symbol)

    @cached_property
    def _weight(self) -> str | None:
        return None if self._by == "hops" else "km"

    def _route(self, nodes: tuple[str, ...]) -> CandidateRoute | None:
        length_km = sum(float(self._graph.edges[a, b]["km"]) for a, b in pairwise(nodes))
        modulation = modulation_for(length_km, self._table)
        if modulation is None:
            return None
        links = tuple(self._number_of[f"{a}->{b}"] for a, b in pairwise(nodes))
        return CandidateRoute(nodes, links, length_km, modulation, self._adjacent(nodes))

    def _adjacent(self, nodes: Sequence[str]) -> tuple[int, ...]:
        hops = list(pairwise(nodes))
        others = dict.fromkeys((x, a) for a, _ in hops for x in self._graph[a])
        others |= dict.fromkeys((b, x) for _, b in hops for x in self._graph[b])
        return tuple(self._number_of[f"{a}->{b}"] for a, b in others if (a, b) not in hops and (b, a) not in hops)
