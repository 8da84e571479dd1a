"""How fast given volumes can go together: the shortest time in which all of them can begin and end at once.

Each transfer takes one of its candidate paths. If those that cross link l have B_l bits together and l has F_l bit/s
free, no common time shorter than max over l of B_l / F_l will do, and with rates in proportion to the volumes that time
will: so the paths are chosen to make it least. That is a search over all choices (branch and bound). What prunes it:
the links that a transfer crosses on every one of its paths carry it in any case.

On an optical network a transfer travels in one lightpath, which bounds its rate, too. How lightpaths share the spectrum
is not looked at: the answer may be a little faster than what admission then finds room for.
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
"""Partial choices looked at; more are only needed for many transfers with much the same volumes and many paths."""

RATE_STEP_BPS = 1000


@dataclass(frozen=True, slots=True)
class Volume:
    """So many bytes (L2) from one host to another."""

    name: str
    source: str
    destination: str
    transfer_bytes: int


@dataclass(frozen=True, slots=True)
class TransferQuote:
    """The path and the rate of one of them; `transfer_ms`: its bits over this rate, without the latency."""

    name: str
    path: Path
    rate_bps: int
    transfer_ms: float


@dataclass(frozen=True, slots=True)
class CommonQuote:
    """All of them. Rates are rounded down to what meters count; `transfer_ms` is that of the slowest.

    `least_ms`: the time before rounding, the least possible over the candidate paths if `is_exact`; else the search was
    broken off and it is the least found. `bottleneck`: the link that sets it. `free_bps`: what the links on their
    paths have free.
    """

    transfer_ms: float
    quotes: tuple[TransferQuote, ...]
    bottleneck: str
    least_ms: float
    is_exact: bool
    free_bps: Mapping[str, int]


def shortest_common_transfer(
    network: Network,
    bookings: Calendar,
    volumes: Sequence[Volume],
    now_s: float,
    down: frozenset[str] = frozenset(),
) -> CommonQuote:
    """The answer with what is free from now on, whatever is booked for later counted too.

    Raises: UnknownHost, NoPath, or NoCapacity if a transfer has no path with anything free.
    """
    free_bps: dict[str, int] = {}
    choices = [_choices(network, bookings, volume, now_s, with_reverse_links(down), free_bps) for volume in volumes]
    search = _Search([volume.transfer_bytes * 8 for volume in volumes], choices, free_bps)
    chosen = search.run()
    paths = [paths[choice] for paths, choice in zip(choices, chosen, strict=True)]
    time_s, bottleneck = max((search.time_of(chosen), *_in_one_lightpath(network, volumes, paths)), key=itemgetter(0))
    quotes = []
    for volume, path in zip(volumes, paths, strict=True):
        rate_bps = max(RATE_STEP_BPS, int(volume.transfer_bytes * 8 / time_s) // RATE_STEP_BPS * RATE_STEP_BPS)
        quotes.append(TransferQuote(volume.name, path, rate_bps, volume.transfer_bytes * 8e3 / rate_bps))
    transfer_ms = max(quote.transfer_ms for quote in quotes)
    free = {link: free_bps[link] for path in paths for link in link_names(path)}
    return CommonQuote(transfer_ms, tuple(quotes), bottleneck, float(time_s * 1000), search.is_exact, free)


def _in_one_lightpath(
    network: Network, volumes: Sequence[Volume], paths: Sequence[Path]
) -> Iterator[tuple[Fraction, str]]:
    """How long each transfer takes with all that a lightpath carries, for it travels in one; on which link that is."""
    for volume, path in zip(volumes, paths, strict=True):
        hops = pairwise(path[1:-1]) if network.grid is not None else ()
        for hop in hops:
            rate_bps = reservable_bps(design_lightpath(network, hop).rate_bps)
            yield Fraction(volume.transfer_bytes * 8, rate_bps), f"{hop[0]}->{hop[1]}"


def _choices(
    network: Network,
    bookings: Calendar,
    volume: Volume,
    now_s: float,
    down: frozenset[str],
    free_bps: dict[str, int],
) -> tuple[Path, ...]:
    """The candidate paths that have something free, best first; what their links have free goes into `free_bps`."""
    for end in (volume.source, volume.destination):
        node = network.nodes.get(end)
        if node is None or node.is_switch:
            names = ", ".join(host.name for host in network.hosts)
            sentence = f"{volume.name}: there is no host {end!r} on map {network.name}; its hosts are {names}."
            raise UnknownHost(sentence, flow=volume.name, host=end)
    paths = candidate_paths(network, volume.source, volume.destination, down)
    if not paths:
        sentence = f"{volume.name}: no path from {volume.source} to {volume.destination} is up."
        raise NoPath(sentence, flow=volume.name)
    for link in {link for path in paths for link in link_names(path)} - free_bps.keys():
        free_bps[link] = network.links[link].reservable_bps - bookings.reserved_bps(link, now_s)
    usable = tuple(path for path in paths if all(free_bps[link] >= RATE_STEP_BPS for link in link_names(path)))
    if not usable:
        full = min(link_names(paths[0]), key=lambda link: free_bps[link])
        facts = network.links[full]
        bottleneck = {
            "link": full,
            "capacity_bps": facts.capacity_bps,
            "reserved_bps": facts.reservable_bps - free_bps[full],
            "free_bps": free_bps[full],
            "asked_bps": RATE_STEP_BPS,
        }
        sentence = f"{volume.name}: {full} has nothing free."
        raise NoCapacity(sentence, flow=volume.name, bottleneck=bottleneck)
    return usable


class _Search:
    """Branch and bound over one path for each transfer, the largest first. Times are exact fractions of a second."""

    def __init__(
        self, bits: Sequence[int], choices: Sequence[tuple[Path, ...]], free_bps: Mapping[str, int]
    ) -> None:
        self.bits = bits
        self.free_bps = free_bps
        self.links = [[link_names(path) for path in paths] for paths in choices]
        always = [frozenset.intersection(*(frozenset(links) for links in each)) for each in self.links]
        self.rest = [
            [[link for link in links if link not in fixed] for links in each]
            for each, fixed in zip(self.links, always, strict=True)
        ]
        self.fixed_bits: dict[str, int] = {}
        for size, fixed in zip(bits, always, strict=True):
            for link in fixed:
                self.fixed_bits[link] = self.fixed_bits.get(link, 0) + size
        self.floor_s = max((self._time_s(link, load) for link, load in self.fixed_bits.items()), default=Fraction(0))
        self.order = sorted(range(len(bits)), key=lambda index: (-bits[index], self.links[index], index))
        self.is_exact = True
        self._steps = 0
        self._best: list[int] = []
        self._best_s: Fraction | float = inf

    def run(self) -> list[int]:
        """The number of the path of each transfer."""
        chosen = [0] * len(self.bits)
        self._place(0, dict(self.fixed_bits), self.floor_s, chosen)
        return self._best

    def time_of(self, chosen: Sequence[int]) -> tuple[Fraction, str]:
        """The common time of a choice of paths, and the first link that sets it."""
        load: dict[str, int] = {}
        for size, links, choice in zip(self.bits, self.links, chosen, strict=True):
            for link in links[choice]:
                load[link] = load.get(link, 0) + size
        bottleneck = max(load, key=lambda link: self._time_s(link, load[link]))
        return self._time_s(bottleneck, load[bottleneck]), bottleneck

    def _time_s(self, link: str, load_bits: int) -> Fraction:
        return Fraction(load_bits, self.free_bps[link])

    def _place(self, depth: int, load: dict[str, int], time_s: Fraction, chosen: list[int]) -> None:
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
        """Transfers that are the same but for their names need not be tried the other way round."""
        if depth == 0:
            return 0
        index, before = self.order[depth], self.order[depth - 1]
        same = self.bits[index] == self.bits[before] and self.links[index] == self.links[before]
        return chosen[before] if same else 0
