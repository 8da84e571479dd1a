"""The search for paths: which path for each flow of a group, so that all of them fit at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import ceil

from controller.bookings import Bookings
from controller.errors import NoCapacity, NoPath
from controller.network import Network
from controller.paths import Path, candidate_paths
from controller.reservation import Flow, Placement, Reservation, default_burst_bytes

SEARCH_STEPS = 4000
"""Placements tried before a group counts as not fitting."""


def metered_bps(flow: Flow) -> int:
    """The rate that is booked: what was asked, rounded up to the kbit/s a meter can count."""
    return ceil((flow.requirement.min_bandwidth_bps or 0) / 1000) * 1000


def metered_burst_bytes(flow: Flow, network: Network) -> int:
    """The burst that is granted: what was asked or the default, and one whole frame at least."""
    asked = flow.requirement.burst_bytes
    if asked is None:
        return default_burst_bytes(metered_bps(flow), network.frame_bytes)
    return max(asked, network.frame_bytes)


class PathSearch:
    """A depth-first search over candidate paths, biggest flow first, that remembers how far it came."""

    def __init__(
        self,
        network: Network,
        bookings: Bookings,
        flows: Sequence[Flow],
        replaced: Reservation | None,
        now_s: float,
        down: frozenset[str],
    ) -> None:
        self.network = network
        self.flows = sorted(flows, key=metered_bps, reverse=True)
        self.candidates = {flow.name: _candidates(network, flow, replaced, down) for flow in flows}
        names = {link for paths in self.candidates.values() for path in paths for link in link_names(path)}
        self.reserved_bps = {name: bookings.reserved_bps(name, now_s) for name in names}
        self.free_bps = {
            name: network.links[name].reservable_bps - reserved for name, reserved in self.reserved_bps.items()
        }
        self.steps = 0
        self.deepest: tuple[int, dict[str, Path]] = (-1, {})

    def assignments(self) -> Iterator[dict[str, Path]]:
        """Every assignment of paths that fits, best first, until SEARCH_STEPS are spent."""
        return self._place(0, dict(self.free_bps), {})

    def _place(self, depth: int, free: dict[str, int], chosen: dict[str, Path]) -> Iterator[dict[str, Path]]:
        if depth == len(self.flows):
            yield dict(chosen)
            return
        flow = self.flows[depth]
        rate_bps = metered_bps(flow)
        for path in self.candidates[flow.name]:
            self.steps += 1
            if self.steps > SEARCH_STEPS:
                break
            links = link_names(path)
            if any(free[link] < rate_bps for link in links):
                continue
            for link in links:
                free[link] -= rate_bps
            chosen[flow.name] = path
            yield from self._place(depth + 1, free, chosen)
            del chosen[flow.name]
            for link in links:
                free[link] += rate_bps
        if depth > self.deepest[0]:
            self.deepest = (depth, dict(chosen))

    def no_capacity(self) -> NoCapacity:
        """Why it did not fit: the flow that got stuck, and the tightest link of the path that came closest."""
        depth, placed = self.deepest
        flow = self.flows[depth]
        rates = {other.name: metered_bps(other) for other in self.flows}
        wanted = dict.fromkeys(self.free_bps, 0)
        waiting = {other.name: self.candidates[other.name][0] for other in self.flows[depth + 1 :]}
        for name, path in (placed | waiting).items():
            for link in link_names(path):
                wanted[link] += rates[name]

        def short_bps(link: str) -> int:
            return wanted[link] + rates[flow.name] - self.free_bps[link]

        paths = self.candidates[flow.name]
        tightest = [max(link_names(path), key=short_bps) for path in paths]
        link = min(tightest, key=short_bps)
        if short_bps(link) <= 0:  # it fits by itself and the search gave up or went another way round
            link = max(tightest, key=short_bps)
        asked_bps = wanted[link] + rates[flow.name]
        return _no_capacity(self.network, flow, link, len(paths), self.reserved_bps[link], asked_bps)


def _no_capacity(
    network: Network, flow: Flow, link: str, paths: int, reserved_bps: int, asked_bps: int
) -> NoCapacity:
    facts = network.links[link]
    free_bps = facts.reservable_bps - reserved_bps
    rate_bps = metered_bps(flow)
    whole = "" if asked_bps == rate_bps else f" and the whole request {_mbps(asked_bps)} of {link}"
    of = "its only path" if paths == 1 else f"the best of {paths} paths"
    return NoCapacity(
        f"{flow.name} needs {_mbps(rate_bps)}{whole}; {link} has {_mbps(free_bps)} free on {of}.",
        flow=flow.name,
        bottleneck={
            "link": link,
            "capacity_bps": facts.capacity_bps,
            "reserved_bps": reserved_bps,
            "free_bps": free_bps,
            "asked_bps": asked_bps,
        },
    )


def _mbps(rate_bps: int) -> str:
    return f"{rate_bps / 1e6:.6g} Mb/s"


def link_names(path: Path) -> tuple[str, ...]:
    """The directed links along a path of nodes."""
    return tuple(f"{a}->{b}" for a, b in pairwise(path))


def _candidates(
    network: Network, flow: Flow, replaced: Reservation | None, down: frozenset[str]
) -> tuple[Path, ...]:
    """The candidate paths, with the one the flow has now in front if it is up."""
    paths = candidate_paths(network, flow.source, flow.destination, down)
    if not paths:
        raise NoPath(f"{flow.name}: no path from {flow.source} to {flow.destination} is up.", flow=flow.name)
    held = held_placement(replaced, flow)
    if held is None or down & set(held.link_names):
        return paths
    return (held.path, *(path for path in paths if path != held.path))


def held_placement(replaced: Reservation | None, flow: Flow) -> Placement | None:
    """What a reservation that is being modified holds now for this flow."""
    placements = replaced.placements if replaced else ()
    return next((p for p in placements if p.flow.five_tuple == flow.five_tuple), None)
