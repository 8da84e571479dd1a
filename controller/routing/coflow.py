"""Coflow completion: the least time in which given volumes can be transferred if all start and end together.

Each transfer takes one of its candidate paths. If the transfers that cross link l have B_l bits in total and l has F_l
bit/s free, the completion time is at least max over l of B_l / F_l, and rates in proportion to the volumes achieve it;
so the paths are chosen to minimise it. The search over all choices is branch and bound. Its lower bound: links that a
transfer crosses on every one of its paths carry it in any case.

On an optical network a transfer is carried in one lightpath, which limits its rate, too. The assignment of spectrum is
not considered: the result may be a little shorter than what admission accepts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import inf
from operator import itemgetter

from controller.booking.calendar import Calendar
from controller.domain.network import Network
from controller.domain.path import Path, link_names
from controller.domain.route import with_reverse_links
from controller.errors import NoCapacity, NoPath, UnknownHost
from controller.optical.lightpath_design import design_lightpath, reservable_bps
from controller.routing.candidates import candidate_paths

SEARCH_STEPS = 200_000
"""The maximum number of partial choices examined; more are needed only for many transfers with similar volumes and many
paths."""

RATE_STEP_BPS = 1000


@dataclass(frozen=True, slots=True)
class Volume:
    """A number of bytes (L2) from one host to another."""

    name: str
    source: str
    destination: str
    transfer_bytes: int


@dataclass(frozen=True, slots=True)
class TransferQuote:
    """The path and the rate of one transfer; `transfer_ms`: its bits over this rate, without latency."""

    name: str
    path: Path
    rate_bps: int
    transfer_ms: float


@dataclass(frozen=True, slots=True)
class CoflowQuote:
    """The quotes of all transfers. Rates are rounded down to the resolution of meters; `transfer_ms`: of the slowest.

    `least_ms`: the completion time before rounding, the minimum over the candidate paths if `is_exact`; else the search
    was cut off and it is the best found. `bottleneck`: the link that determines it. `free_bps`: the free bandwidth of
    the links on the paths.
    """

    transfer_ms: float
    quotes: tuple[TransferQuote, ...]
    bottleneck: str
    least_ms: float
    is_exact: bool
    free_bps: Mapping[str, int]


def shortest_coflow_completion(
    network: Network,
    bookings: Calendar,
    volumes: Sequence[Volume],
    now_s: float,
    down: frozenset[str] = frozenset(),
) -> CoflowQuote:
    """Return the quote for the bandwidth that is free from `now_s` on, given all bookings, including future ones.

    Raises: UnknownHost, NoPath, or NoCapacity if a transfer has no path with free bandwidth.
    """
    free_bps: dict[str, int] = {}
    usable_paths = [
        _usable_paths(network, bookings, volume, now_s, with_reverse_links(down), free_bps) for volume in volumes
    ]
    search = _BranchAndBound([volume.transfer_bytes * 8 for volume in volumes], usable_paths, free_bps)
    chosen = search.run()
    paths = [paths[choice] for paths, choice in zip(usable_paths, chosen, strict=True)]
    time_s, bottleneck = max((search.time_of(chosen), *_lightpath_times(network, volumes, paths)), key=itemgetter(0))
    quotes = []
    for volume, path in zip(volumes, paths, strict=True):
        rate_bps = max(RATE_STEP_BPS, int(volume.transfer_bytes * 8 / time_s) // RATE_STEP_BPS * RATE_STEP_BPS)
        quotes.append(TransferQuote(volume.name, path, rate_bps, volume.transfer_bytes * 8e3 / rate_bps))
    transfer_ms = max(quote.transfer_ms for quote in quotes)
    free = {link: free_bps[link] for path in paths for link in link_names(path)}
    return CoflowQuote(transfer_ms, tuple(quotes), bottleneck, float(time_s * 1000), search.is_exact, free)


def _lightpath_times(
    network: Network, volumes: Sequence[Volume], paths: Sequence[Path]
) -> Iterator[tuple[Fraction, str]]:
    """Yield the time of each transfer at the full rate of one lightpath, and the link that limits it."""
    for volume, path in zip(volumes, paths, strict=True):
        hops = pairwise(path[1:-1]) if network.grid is not None else ()
        for hop in hops:
            rate_bps = reservable_bps(design_lightpath(network, hop).rate_bps)
            yield Fraction(volume.transfer_bytes * 8, rate_bps), f"{hop[0]}->{hop[1]}"


def _usable_paths(
    network: Network,
    bookings: Calendar,
    volume: Volume,
    now_s: float,
    down: frozenset[str],
    free_bps: dict[str, int],
) -> tuple[Path, ...]:
    """Return the candidate paths with free bandwidth, best first; adds the free bandwidth of their links to `free_bps`.
    """
    for host_name in (volume.source, volume.destination):
        node = network.nodes.get(host_name)
        if node is None or node.is_switch:
            names = ", ".join(host.name for host in network.hosts)
            sentence = f"{volume.name}: there is no host {host_name!r} on map {network.name}; its hosts are {names}."
            raise UnknownHost(sentence, flow=volume.name, host=host_name)
    paths = candidate_paths(network, volume.source, volume.destination, down)
    if not paths:
        sentence = f"{volume.name}: no path from {volume.source} to {volume.destination} is up."
        raise NoPath(sentence, flow=volume.name)
    for link in {link for path in paths for link in link_names(path)} - free_bps.keys():
        free_bps[link] = network.links[link].reservable_bps - bookings.reserved_bps(link, now_s)
    usable = tuple(path for path in paths if all(free_bps[link] >= RATE_STEP_BPS for link in link_names(path)))
    if not usable:
        fullest = min(link_names(paths[0]), key=lambda link: free_bps[link])
        full_link = network.links[fullest]
        bottleneck = {
            "link": fullest,
            "capacity_bps": full_link.capacity_bps,
            "reserved_bps": full_link.reservable_bps - free_bps[fullest],
            "free_bps": free_bps[fullest],
            "asked_bps": RATE_STEP_BPS,
        }
        sentence = f"{volume.name}: {fullest} has no free bandwidth."
        raise NoCapacity(sentence, flow=volume.name, bottleneck=bottleneck)
    return usable


class _BranchAndBound:
    """Branch and bound over one path per transfer, largest transfer first. Times are exact fractions of a second."""

    def __init__(
        self, bits: Sequence[int], choices: Sequence[tuple[Path, ...]], free_bps: Mapping[str, int]
    ) -> None:
        self.bits = bits
        self.free_bps = free_bps
        self.links = [[link_names(path) for path in paths] for paths in choices]
        common_links = [
            frozenset.intersection(*(frozenset(links) for links in path_links)) for path_links in self.links
        ]
        self.rest = [
            [[link for link in links if link not in common] for links in path_links]
            for path_links, common in zip(self.links, common_links, strict=True)
        ]
        self.fixed_bits: dict[str, int] = {}
        for size, common in zip(bits, common_links, strict=True):
            for link in common:
                self.fixed_bits[link] = self.fixed_bits.get(link, 0) + size
        self.floor_s = max((self._time_s(link, load) for link, load in self.fixed_bits.items()), default=Fraction(0))
        self.order = sorted(range(len(bits)), key=lambda index: (-bits[index], self.links[index], index))
        self.is_exact = True
        self._steps = 0
        self._best: list[int] = []
        self._best_s: Fraction | float = inf

    def run(self) -> list[int]:
        """Return the index of the path of each transfer."""
        chosen = [0] * len(self.bits)
        self._place(0, dict(self.fixed_bits), self.floor_s, chosen)
        return self._best

    def time_of(self, chosen: Sequence[int]) -> tuple[Fraction, str]:
        """Return the completion time of a choice of paths, and the first link that determines it."""
        load: dict[str, int] = {}
        for size, links, choice in zip(self.bits, self.links, chosen, strict=True):
            for link in links[choice]:
                load[link] = load.get(link, 0) + size
        bottleneck = max(load, key=lambda link: self._time_s(link, load[link]))
        return self._time_s(bottleneck, load[bottleneck]), bottleneck

    def _time_s(self, link: str, load_bits: int) -> Fraction:
        return Fraction(load_bits, self.free_bps[link])

    def _place(self, depth: int, load: dict[str, int], time_s: Fraction, chosen: list[int]) -> None:
        """Extend a partial choice by the next transfer."""
        if depth == len(self.order):
            self._best, self._best_s = list(chosen), time_s
            return
        index = self.order[depth]
        options = []
        for choice in range(self._first_choice(depth, chosen), len(self.links[index])):
            after_s = max(
                (self._time_s(link, load.get(link, 0) + self.bits[index]) for link in self.rest[index][choice]),
                default=Fraction(0),
            )
            options.append((max(time_s, after_s), choice))
        for after_s, choice in sorted(options):
            self._steps += 1
            if after_s >= self._best_s or self._best_s == self.floor_s:
                return
            if self._steps > SEARCH_STEPS and self._best:
                self.is_exact = False
                return
            for link in self.rest[index][choice]:
                load[link] = load.get(link, 0) + self.bits[index]
            chosen[index] = choice
            self._place(depth + 1, load, after_s, chosen)
            for link in self.rest[index][choice]:
                load[link] -= self.bits[index]

    def _first_choice(self, depth: int, chosen: Sequence[int]) -> int:
        """Return the first path to try: transfers that differ only by name need not be permuted."""
        if depth == 0:
            return 0
        index, before = self.order[depth], self.order[depth - 1]
        same = self.bits[index] == self.bits[before] and self.links[index] == self.links[before]
        return chosen[before] if same else 0
