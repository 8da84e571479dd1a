"""Moves lit lightpaths so that a blocked request fits: which ones, where to, in which order.

A window is a block of slots on a candidate route of the request; the lightpaths that occupy a slot of it on a link of
the route conflict with it. If no more than `MovePolicy.max_moves` conflict, each is moved to a block that is free
beside its old one, on its route or on another of its cheapest routes: both are lit while packets change over (make
before break), so a move never interrupts a lightpath. A later move may use what an earlier one freed. Fewest moves come
first, then the least spectrum in use afterwards (slots x links); ties go to the cheaper route of the request, then to
the lower window, so the result depends on the arguments alone.

The number of conflicts of every window of a route is found at once: one saturating counter per slot, as three integers.

Source: Takagi et al., "Disruption minimized spectrum defragmentation in elastic optical path networks that adopt
distance adaptive modulation", ECOC 2011 (make before break); Yin et al., "Spectral and spatial 2D fragmentation-aware
routing and spectrum assignment algorithms in elastic optical networks", J. Opt. Commun. Netw. 5(10) (2013) (gaps).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Final

from controller.optical.candidate_routes import CandidateRoute
from controller.optical.lit_spectrum import LitLightpath, LitSpectrum, Move, RouteOption
from controller.optical.spectrum import Assignment, block_starts


@dataclass(frozen=True, slots=True)
class MovePolicy:
    """How many lightpaths may be moved for one request, and how far the search goes.

    `may_reroute`: a moved lightpath may take another route; otherwise only other slots. `request_routes`,
    `moved_routes`: the cheapest routes considered for the request and for each moved lightpath. `max_trials`: the
    number of destinations computed for one request, after which the best found so far is taken.

    Raises: ValueError if `max_moves` is not 1 to 3.
    """

    max_moves: int = 3
    may_reroute: bool = True
    request_routes: int = 15
    moved_routes: int = 6
    max_trials: int = 600

    def __post_init__(self) -> None:
        if not 1 <= self.max_moves <= 3:
            raise ValueError(f"a request may move 1 to 3 lightpaths, not {self.max_moves}")


MOVE_FEW: Final = MovePolicy()


@dataclass(frozen=True, slots=True)
class Reallocation:
    """A request's assignment, and the moves after which its block is free, in order."""

    assignment: Assignment
    moves: tuple[Move, ...]


def reallocate(
    spectrum: LitSpectrum, options: Sequence[RouteOption], policy: MovePolicy = MOVE_FEW
) -> Reallocation | None:
    """Return the fewest moves after which a request with these options fits; None if the policy allows none.

    `options`: the request's routes, cheapest first. The spectrum is not changed.
    """
    search = _Search(spectrum, policy)
    windows = [_Windows(spectrum, option, policy) for option in options[: policy.request_routes]]
    for move_count in range(1, policy.max_moves + 1):
        found = search.best(windows, move_count)
        if found is not None:
            return found
    return None


class _Windows:
    """The windows of one route of the request, by the number of lightpaths that conflict with each."""

    def __init__(self, spectrum: LitSpectrum, option: RouteOption, policy: MovePolicy) -> None:
        self.cost, self.width, self.route = option
        self.links = self.route.link_set
        self._spectrum, self._may_reroute = spectrum, policy.may_reroute

    @cached_property
    def _lit(self) -> dict[int, LitLightpath]:
        """The lightpaths on the route."""
        lit: dict[int, LitLightpath] = {}
        for link in self.route.links:
            lit.update(self._spectrum.lit_on[link])
        return lit

    @cached_property
    def least_cost(self) -> int:
        """A lower bound on the growth of the spectrum in use, in slots x links, with one move."""
        if not self._may_reroute:
            return self.cost
        least_growth = self._spectrum.least_growth
        return self.cost + min([least_growth[number] for number in self._lit], default=0)

    @cached_property
    def _counted(self) -> tuple[tuple[int, int, int], list[tuple[int, LitLightpath]]]:
        """The starts of windows with 1, 2 and 3 conflicts, and the starts that each lightpath conflicts with."""
        ones = twos = more = 0  # the bits of a counter per start; more: above three, or a pinned lightpath
        conflicts: list[tuple[int, LitLightpath]] = []
        further, edges = self.width - 1, self._spectrum.edges
        for number, lightpath in self._lit.items():
            above, first = edges[number]
            starts = (above << further) - first >> further
            if lightpath.is_pinned:
                more |= starts
                continue
            conflicts.append((starts, lightpath))
            carry = ones & starts
            ones ^= starts
            more |= twos & carry
            twos ^= carry
        available = -1
        for link in self.route.links:
            available &= self._spectrum.available[link]
        legal = block_starts(available, self.width) & self._spectrum.allowed_starts(self.width) & ~more
        return (ones & ~twos & legal, twos & ~ones & legal, ones & twos & legal), conflicts

    def with_conflicts(self, count: int) -> Iterator[tuple[int, list[LitLightpath]]]:
        """Yield the windows, lowest first, that 1 to 3 lightpaths conflict with, and these."""
        by_count, conflicts = self._counted
        starts = by_count[count - 1]
        if not starts:
            return
        in_the_way: dict[int, list[LitLightpath]] = {}
        for blocked, lightpath in conflicts:
            blocked &= starts
            while blocked:
                start = blocked & -blocked
                blocked ^= start
                if start in in_the_way:
                    in_the_way[start].append(lightpath)
                else:
                    in_the_way[start] = [lightpath]
        for start in sorted(in_the_way):
            yield start, in_the_way[start]


_Destination = tuple[int, int, CandidateRoute, int, int, int]
"""A route that a lightpath may take, before any move: by how much it grows in slots x links, slots, route, links as
bits, the slots that are free on all of them, and the starts of blocks that fit.
"""


class _Search:
    """The search for one request: destinations of lightpaths, computed when first needed."""

    def __init__(self, spectrum: LitSpectrum, policy: MovePolicy) -> None:
        self._free, self._least_growth = spectrum.free, spectrum.least_growth
        self._allowed_starts = spectrum.allowed_starts
        self._policy = policy
        self._trials = policy.max_trials
        self._destinations: dict[int, tuple[list[_Destination], Iterator[RouteOption]]] = {}

    def best(self, windows: Sequence[_Windows], move_count: int) -> Reallocation | None:
        """Return the moves of so many lightpaths after which the least spectrum is in use."""
        best_score, best, least_growth = 0, None, self._least_growth
        for window in windows:
            if best is not None and move_count == 1 and window.least_cost >= best_score:
                continue
            slots = (1 << window.width) - 1
            for start, conflicting in window.with_conflicts(move_count):
                if self._trials <= 0:
                    return best
                if best is not None:
                    least = sum([least_growth[lightpath.number] for lightpath in conflicting])
                    if window.cost + least >= best_score:
                        continue
                block = start * slots
                limit = inf if best is None else best_score - window.cost
                found = self._moves_out(window.links, block, conflicting, {}, 0, limit)
                if found is not None and found[0] < limit:
                    growth, moves = found
                    best_score = window.cost + growth
                    best = Reallocation(Assignment(window.route, block), moves)
        return best

    def _moves_out(
        self,
        window_links: int,
        block: int,
        conflicting: Sequence[LitLightpath],
        changed: dict[int, int],
        changed_links: int,
        limit: float,
    ) -> tuple[int, tuple[Move, ...]] | None:
        """Return the moves of these lightpaths, and by how much they grow in slots x links; None if there are none.

        `changed`: the free slots of links after the moves so far; `changed_links`: these links as bits. `limit`: moves
        that grow by so much or more are of no use, and may be returned or not. It bounds the last move only: the number
        of trials, and thus what is found, does not depend on it.
        """
        best: tuple[int, tuple[Move, ...]] | None = None
        least = sum([self._least_growth[lightpath.number] for lightpath in conflicting])
        last = len(conflicting) == 1
        for lightpath in conflicting:
            destination = self._destination(
                lightpath, window_links, block, changed, changed_links, limit if last else inf
            )
            if destination is None:
                continue
            growth, after = destination
            move = Move(lightpath, after)
            if last:
                return growth, (move,)
            rest = [other for other in conflicting if other is not lightpath]
            links = changed_links | lightpath.assignment.route.link_set | after.route.link_set
            rest_limit = min(limit, inf if best is None else best[0]) - growth if len(rest) == 1 else inf
            found = self._moves_out(window_links, block, rest, self._after(move, changed), links, rest_limit)
            if found is not None and (best is None or growth + found[0] < best[0]):
                best = growth + found[0], (move, *found[1])
                if best[0] <= least:
                    break
        return best

    def _destination(
        self,
        lightpath: LitLightpath,
        window_links: int,
        block: int,
        changed: dict[int, int],
        changed_links: int,
        limit: float,
    ) -> tuple[int, Assignment] | None:
        """Return the cheapest free block outside the window, and by how much the lightpath grows in slots x links.

        None if it would grow by `limit` or more.
        """
        self._trials -= 1
        for growth, width, route, links, free, starts in self._destinations_of(lightpath):
            if growth >= limit:
                return None
            if links & changed_links:
                free = self._common(route, changed)
                starts = block_starts(free, width) & self._allowed_starts(width)
            if starts and links & window_links:
                starts = block_starts(free & ~block, width) & self._allowed_starts(width)
            if starts:
                return growth, Assignment(route, (starts & -starts) * ((1 << width) - 1))
        return None

    def _common(self, route: CandidateRoute, changed: dict[int, int]) -> int:
        """Return the slots that are free on all links of a route."""
        common, free = -1, self._free
        for link in route.links:
            common &= changed[link] if link in changed else free[link]
        return common

    def _destinations_of(self, lightpath: LitLightpath) -> Iterator[_Destination]:
        """Yield the routes that a lightpath may take, cheapest first, its own before others of the same cost."""
        if lightpath.number not in self._destinations:
            self._destinations[lightpath.number] = [], iter(self._options_of(lightpath))
        known, others = self._destinations[lightpath.number]
        yield from known
        own_cost = lightpath.cost
        for cost, width, route in others:
            free = self._common(route, {})
            starts = block_starts(free, width) & self._allowed_starts(width)
            known.append((cost - own_cost, width, route, route.link_set, free, starts))
            yield known[-1]

    def _options_of(self, lightpath: LitLightpath) -> list[RouteOption]:
        own = lightpath.assignment.route
        options = [(lightpath.cost, lightpath.assignment.width, own)]
        if self._policy.may_reroute:
            options += [each for each in lightpath.options[: self._policy.moved_routes] if each[2].links != own.links]
            options.sort(key=lambda option: option[0])
        return options

    def _after(self, move: Move, changed: dict[int, int]) -> dict[int, int]:
        """Return the free slots of the changed links after one more move."""
        after, free = dict(changed), self._free
        for link in move.after.route.links:
            after[link] = after.get(link, free[link]) & ~move.after.block
        for link in move.before.assignment.route.links:
            after[link] = after.get(link, free[link]) | move.before.assignment.block
        return after
