"""Moves lit lightpaths so that a blocked request fits: which ones, where to, in which order.

A window is a block of slots on a candidate route of the request; the lightpaths that occupy a slot of it on a link of
the route conflict with it. If no more than `MovePolicy.max_moves` conflict, each is moved to a block that is free
beside its old one, on its route or on another of its cheapest routes: both are lit while packets change over (make
before break), so a move never interrupts a lightpath. A later move may use what an earlier one freed. Fewest moves come
first, then the least spectrum in use afterwards (slots x links); ties go to the cheaper route of the request, then to
the lower window, so the result depends on the arguments alone.

Source: Takagi et al., "Disruption minimized spectrum defragmentation in elastic optical path networks that adopt
distance adaptive modulation", ECOC 2011 (make before break); Yin et al., "Spectral and spatial 2D fragmentation-aware
routing and spectrum assignment algorithms in elastic optical networks", J. Opt. Commun. Netw. 5(10) (2013) (gaps).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from operator import itemgetter
from typing import Final

from controller.optical.candidate_routes import CandidateRoute
from controller.optical.conflict_counter import starts_with
from controller.optical.lit_spectrum import LitLightpath, LitSpectrum, Move, RouteOption
from controller.optical.spectrum import Assignment, block_starts, covered_slots, overlapping_starts


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
    windows = [_Windows(spectrum, option) for option in options[: policy.request_routes]]
    for move_count in range(1, policy.max_moves + 1):
        found = search.best(windows, move_count)
        if found is not None:
            return found
    return None


class _Windows:
    """The windows of one route of the request, by the number of lightpaths that conflict with each."""

    def __init__(self, spectrum: LitSpectrum, option: RouteOption) -> None:
        self.cost, self.width, self.route = option
        self.links = self.route.link_set
        self._spectrum = spectrum
        self._lit: dict[int, LitLightpath] = {}
        self._counts, self._legal = b"", 0

    def least_growth(self) -> int:
        """Return a lower bound on how much any lightpath on the route grows in slots x links by a move."""
        return min(map(self._spectrum.least_growth.__getitem__, self._lit_ones()), default=0)

    def _lit_ones(self) -> dict[int, LitLightpath]:
        """Return the lightpaths on the route."""
        lit = self._lit
        if not lit:
            for link in self.route.links:
                lit.update(self._spectrum.lit_on[link])
        return lit

    def _starts(self, count: int) -> int:
        """Return the starts of windows with so many conflicts, without those that no move can free."""
        if not self._counts:
            blocks = [lightpath.assignment.block for lightpath in self._lit_ones().values()]
            self._counts = self._spectrum.conflicts.counts(blocks, self.width)
            movable = -1
            for link in self.route.links:
                movable &= self._spectrum.movable[link]
            self._legal = block_starts(movable, self.width) & self._spectrum.allowed_starts(self.width)
        return starts_with(self._counts, count) & self._legal

    def with_conflicts(self, count: int) -> Iterator[tuple[int, list[LitLightpath]]]:
        """Yield the windows, lowest first, that 1 to 3 lightpaths conflict with, and these."""
        starts = self._starts(count)
        if not starts:
            return
        width, slots = self.width, covered_slots(starts, self.width)
        in_the_way: dict[int, list[LitLightpath]] = {}
        for lightpath in self._lit.values():
            block = lightpath.assignment.block
            if not block & slots:
                continue
            blocked = overlapping_starts(block, width) & starts
            while blocked:
                start = blocked & -blocked
                blocked ^= start
                if start in in_the_way:
                    in_the_way[start].append(lightpath)
                else:
                    in_the_way[start] = [lightpath]
        for start in sorted(in_the_way):
            yield start, in_the_way[start]


_Destination = tuple[int, int, CandidateRoute, int]
"""A route that a lightpath may take, before any move: by how much it grows in slots x links, slots, route, and the
starts of blocks that are free on it.
"""


class _Search:
    """The search for one request: destinations of lightpaths, computed when first needed."""

    def __init__(self, spectrum: LitSpectrum, policy: MovePolicy) -> None:
        self._free, self._least_growth = spectrum.free, spectrum.least_growth
        self._allowed_starts = spectrum.allowed_starts
        self._policy = policy
        self._trials = policy.max_trials
        self._destinations: dict[int, tuple[list[_Destination], list[_Destination]]] = {}

    def best(self, windows: Sequence[_Windows], move_count: int) -> Reallocation | None:
        """Return the moves of so many lightpaths after which the least spectrum is in use."""
        best_score, best, least_growth = 0, None, self._least_growth
        for window in windows:
            if best is not None and move_count == 1:
                least = window.least_growth() if self._policy.may_reroute else 0
                if window.cost + least >= best_score:
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
        last = len(conflicting) == 1
        least = 0 if last else sum([self._least_growth[lightpath.number] for lightpath in conflicting])
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
        if lightpath.number not in self._destinations:
            self._destinations[lightpath.number] = self._destinations_of(lightpath)
        every, free_before = self._destinations[lightpath.number]
        for growth, width, route, starts in every if changed else free_before:
            if growth >= limit:
                return None
            if route.link_set & changed_links:
                starts = block_starts(self._common(route, changed), width) & self._allowed_starts(width)
            if starts and route.link_set & window_links:
                starts &= ~overlapping_starts(block, width)
            if starts:
                return growth, Assignment(route, (starts & -starts) * ((1 << width) - 1))
        return None

    def _common(self, route: CandidateRoute, changed: dict[int, int]) -> int:
        """Return the slots that are free on all links of a route."""
        common, free = -1, self._free
        for link in route.links:
            common &= changed[link] if link in changed else free[link]
        return common

    def _destinations_of(self, lightpath: LitLightpath) -> tuple[list[_Destination], list[_Destination]]:
        """Return the routes that a lightpath may take, cheapest first, its own before others of the same cost.

        Then those of them with a free block before any move.
        """
        free, own_cost = self._free, lightpath.cost
        destinations: list[_Destination] = []
        for cost, width, route in self._options_of(lightpath):
            common = -1
            for link in route.links:
                common &= free[link]
            starts = block_starts(common, width)
            if starts:
                starts &= self._allowed_starts(width)
            destinations.append((cost - own_cost, width, route, starts))
        return destinations, [destination for destination in destinations if destination[3]]

    def _options_of(self, lightpath: LitLightpath) -> list[RouteOption]:
        own = lightpath.assignment.route
        options = [(lightpath.cost, lightpath.assignment.width, own)]
        if self._policy.may_reroute:
            options += [each for each in lightpath.options[: self._policy.moved_routes] if each[2].links != own.links]
            options.sort(key=itemgetter(0))
        return options

    def _after(self, move: Move, changed: dict[int, int]) -> dict[int, int]:
        """Return the free slots of the changed links after one more move."""
        after, free = dict(changed), self._free
        for link in move.after.route.links:
            after[link] = after.get(link, free[link]) & ~move.after.block
        for link in move.before.assignment.route.links:
            after[link] = after.get(link, free[link]) | move.before.assignment.block
        return after
