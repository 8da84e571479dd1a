"""Coflow completion: the least time in which given volumes can be transferred if all start and end together.

Each transfer takes one of its candidate paths. If the transfers that cross link l have B_l bits in total and l has F_l
bit/s free, the completion time is at least max over l of B_l / F_l, and rates in proportion to the volumes achieve it;
so the paths are chosen to minimise it (`controller.routing.min_max_load`). Where many volumes are similar and have many
paths, the proof is given up after a fixed effort: the answer is then the best choice found, with a proven bound on how
much shorter any other could be.

On an optical network a transfer is carried in one lightpath, which limits its rate, too. The assignment of spectrum is
not considered: the result may be a little shorter than what admission accepts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import itemgetter

from controller.booking.calendar import Calendar
from controller.domain.network import Network
from controller.domain.path import Path, link_names
from controller.domain.route import with_reverse_links
from controller.errors import NoCapacity, UnknownHost
from controller.optical.lightpath_design import design_lightpath, reservable_bps
from controller.routing.candidates import candidate_paths
from controller.routing.min_max_load import TOLERANCE, choose_paths
from controller.routing.partition import no_path

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

    `least_ms`: the completion time before rounding, the minimum over the candidate paths if `is_exact`; else the best
    found: no choice of paths is shorter by more than the part `gap` of it. `bottleneck`: the link that determines it.
    `free_bps`: the free bandwidth of the links on the paths. `work`: the effort of the search, in links looked at.
    """

    transfer_ms: float
    quotes: tuple[TransferQuote, ...]
    bottleneck: str
    least_ms: float
    is_exact: bool
    gap: float
    work: int
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
    links = [[link_names(path) for path in paths] for paths in usable_paths]
    choice = choose_paths([volume.transfer_bytes * 8 for volume in volumes], links, free_bps)
    paths = [paths[number] for paths, number in zip(usable_paths, choice.chosen, strict=True)]
    times = _link_time(volumes, paths, free_bps), *_lightpath_times(network, volumes, paths)
    time_s, bottleneck = max(times, key=itemgetter(0))
    bound_s = choice.bound_s
    if time_s > choice.time_s * (1 + TOLERANCE):  # a lightpath limits it: no path of its transfer may be quicker
        bound_s = max(bound_s, _least_lightpath_time(network, volumes, usable_paths))
    is_exact = bound_s >= float(time_s) * (1 - TOLERANCE)
    quotes = []
    for volume, path in zip(volumes, paths, strict=True):
        rate_bps = max(RATE_STEP_BPS, int(volume.transfer_bytes * 8 / time_s) // RATE_STEP_BPS * RATE_STEP_BPS)
        quotes.append(TransferQuote(volume.name, path, rate_bps, volume.transfer_bytes * 8e3 / rate_bps))
    transfer_ms = max(quote.transfer_ms for quote in quotes)
    free = {link: free_bps[link] for path in paths for link in link_names(path)}
    effort = is_exact, 0.0 if is_exact else 1 - bound_s / float(time_s), choice.work
    return CoflowQuote(transfer_ms, tuple(quotes), bottleneck, float(time_s * 1000), *effort, free)


def _link_time(
    volumes: Sequence[Volume], paths: Sequence[Path], free_bps: Mapping[str, int]
) -> tuple[Fraction, str]:
    """The completion time on these paths, and the first link that determines it."""
    load: dict[str, int] = {}
    for volume, path in zip(volumes, paths, strict=True):
        for link in link_names(path):
            load[link] = load.get(link, 0) + volume.transfer_bytes * 8
    bottleneck = max(load, key=lambda link: Fraction(load[link], free_bps[link]))
    return Fraction(load[bottleneck], free_bps[bottleneck]), bottleneck


def _lightpath_times(
    network: Network, volumes: Sequence[Volume], paths: Sequence[Path]
) -> Iterator[tuple[Fraction, str]]:
    """Yield the time of each transfer at the full rate of one lightpath, and the link that limits it."""
    for volume, path in zip(volumes, paths, strict=True):
        segments = network.transparent_segments(path[1:-1]) if network.grid is not None else ()
        for segment in segments:
            rate_bps = reservable_bps(design_lightpath(network, segment).rate_bps)
            yield Fraction(volume.transfer_bytes * 8, rate_bps), link_names(segment)[0]


def _least_lightpath_time(
    network: Network, volumes: Sequence[Volume], usable_paths: Sequence[Sequence[Path]]
) -> float:
    """The time of the slowest transfer if each took the path with the fastest lightpaths."""
    return max(
        min(
            float(max((time for time, _ in _lightpath_times(network, [volume], [path])), default=Fraction(0)))
            for path in paths
        )
        for volume, paths in zip(volumes, usable_paths, strict=True)
    )


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
        raise no_path(network, volume.name, volume.source, volume.destination, down)
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
