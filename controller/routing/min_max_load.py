"""Choice of one path per volume such that the most loaded link takes the least time: min over choices, max over links.

Branch and bound, in two passes. The first, short one has as lower bound what links carry in any case: those that a
volume crosses on all of its paths. Most questions end there. Otherwise the linear relaxation, in which a volume may be
split, gives a weight w to every link, the weights summing up to 1; and for *any* such weights

    max_l B_l / F_l  >=  sum_l w_l B_l / F_l  >=  sum_v b_v min_p sum_{l in p} w_l / F_l

so the bound does not depend on the solver's accuracy. Few volumes are split in the relaxation: the largest share of
each is a good choice to start from. In the second pass every path costs its volume's excess over the minimum (its
reduced cost), and a partial choice is left where bound and excesses reach the best choice found.

Effort is counted in links looked at, not in seconds: an answer does not depend on the machine or its load.

Source: Fisher, "The Lagrangian relaxation method for solving integer programming problems", 1981.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

FIRST_PASS_WORK = 200_000
MAX_WORK = 3_000_000
"""Links looked at in both passes together. A million takes 0.2 to 0.4 s."""

POWERS = (4, 8, 16, 32, 64)
MAX_SWEEPS = 100
"""Of the improvement of a choice; it usually ends after a few sweeps over all volumes."""

TOLERANCE = 1e-9
"""Relative difference below which two times are equal: rounding of sums of weights."""


@dataclass(frozen=True, slots=True)
class PathChoice:
    """The index of a path for every volume; no choice takes less than `bound_s`, and `is_exact` if none is better."""

    chosen: tuple[int, ...]
    time_s: float
    bound_s: float
    work: int

    @property
    def is_exact(self) -> bool:
        """Whether no other choice takes less time."""
        return self.bound_s >= self.time_s * (1 - TOLERANCE)


def choose_paths(
    bits: Sequence[int], paths: Sequence[Sequence[Sequence[str]]], free_bps: Mapping[str, int], max_work: int = MAX_WORK
) -> PathChoice:
    """Choose a path for each volume. `paths`: for every volume its paths as lists of links; at least one each."""
    search = _Search(bits, paths, free_bps)
    if not search.run(min(FIRST_PASS_WORK, max_work)):
        search.improve(search.best)
        if search.best_s > search.floor_s:
            weights, shares = _relax(bits, search.paths, search.free_bps)
            search.set_weights(weights)
            search.improve([max(range(len(part)), key=part.__getitem__) for part in shares])
            search.run(max_work)
    return PathChoice(tuple(search.best), search.best_s, min(search.bound_s, search.best_s), search.work)


class _Search:
    """The state of the search; volumes are placed in the order of their size, largest first. Links are numbers."""

    def __init__(
        self, bits: Sequence[int], paths: Sequence[Sequence[Sequence[str]]], free_bps: Mapping[str, int]
    ) -> None:
        numbers = {link: number for number, link in enumerate(dict.fromkeys(_links_of(paths)))}
        self.bits = bits
        self.free_bps = [free_bps[link] for link in numbers]
        self.paths = [[tuple(numbers[link] for link in path) for path in choices] for choices in paths]
        common = [frozenset.intersection(*map(frozenset, choices)) for choices in self.paths]
        self.rest = [
            [tuple(link for link in path if link not in fixed) for path in choices]
            for choices, fixed in zip(self.paths, common, strict=True)
        ]
        self.fixed_bits = [0] * len(numbers)
        for size, fixed in zip(bits, common, strict=True):
            for link in fixed:
                self.fixed_bits[link] += size
        self.floor_s = max(map(_quotient, self.fixed_bits, self.free_bps), default=0.0)
        self.bound_s = self.floor_s
        self.order = sorted(range(len(bits)), key=lambda index: (-bits[index], self.paths[index], index))
        self.excess_s = [[0.0] * len(choices) for choices in self.paths]
        self.best: list[int] = []
        self.best_s = inf
        self.work = 0
        self._limit = 0

    def run(self, max_work: int) -> bool:
        """Search until the work done in all is `max_work`; returns whether the best choice is proven."""
        self._limit = max_work
        if self._place(0, list(self.fixed_bits), self.floor_s, 0.0, [0] * len(self.bits)):
            self.bound_s = self.best_s
        return self.bound_s >= self.best_s

    def set_weights(self, weights: Sequence[float]) -> None:
        """Raise the lower bound by these weights of links, and set the excess of every path."""
        costs = [weight / free for weight, free in zip(weights, self.free_bps, strict=True)]
        bound_s = 0.0
        for index, (size, choices) in enumerate(zip(self.bits, self.paths, strict=True)):
            path_costs = [size * sum(costs[link] for link in path) for path in choices]
            least = min(path_costs)
            bound_s += least
            self.excess_s[index] = [cost - least for cost in path_costs]
        self.bound_s = max(self.bound_s, bound_s * (1 - TOLERANCE))
        self._weighted_bound_s = bound_s * (1 - TOLERANCE)

    _weighted_bound_s = 0.0

    def improve(self, start: Sequence[int]) -> None:
        """Improve a choice of paths by local search; keep the best choice found.

        The sum over links of a high power of their times approaches the maximum, but tells also between choices of
        which the most loaded links are alike.
        """
        self._relieve(list(start))
        for power in POWERS:
            self._relieve(self._balanced(start, power))

    def _relieve(self, chosen: list[int]) -> None:
        """Move single volumes off the most loaded link while that shortens the time; keep the choice if it is best."""
        load = self._load_of(chosen)
        while (move := self._best_move(chosen, load)) is not None:
            index, choice = move
            _shift(load, self.paths[index][chosen[index]], -self.bits[index])
            _shift(load, self.paths[index][choice], self.bits[index])
            chosen[index] = choice
        time_s = max(map(_quotient, load, self.free_bps))
        if time_s < self.best_s:
            self.best, self.best_s = chosen, time_s

    def _best_move(self, chosen: Sequence[int], load: list[int]) -> tuple[int, int] | None:
        """The move of a volume to another of its paths that shortens the time most."""
        times = list(map(_quotient, load, self.free_bps))
        best_s, move = max(times), None
        worst = times.index(best_s)
        for index in self.order:
            before = self.paths[index][chosen[index]]
            if worst not in before:
                continue
            for choice, after in enumerate(self.paths[index]):
                if worst in after:
                    continue
                _shift(load, before, -self.bits[index])
                _shift(load, after, self.bits[index])
                self.work += len(load)
                time_s = max(map(_quotient, load, self.free_bps))
                _shift(load, after, -self.bits[index])
                _shift(load, before, self.bits[index])
                if time_s < best_s:
                    best_s, move = time_s, (index, choice)
        return move

    def _balanced(self, start: Sequence[int], power: int) -> list[int]:
        chosen, load = list(start), self._load_of(start)
        scale_s = max(map(_quotient, load, self.free_bps))
        moved = True
        for _ in range(MAX_SWEEPS):
            if not moved:
                break
            moved = False
            for index in self.order:
                size, paths = self.bits[index], self.paths[index]
                _shift(load, paths[chosen[index]], -size)
                costs = [self._added_cost(load, path, size, scale_s, power) for path in paths]
                better = min(range(len(paths)), key=costs.__getitem__)
                if costs[better] < costs[chosen[index]] * (1 - TOLERANCE):
                    chosen[index], moved = better, True
                _shift(load, paths[chosen[index]], size)
        return chosen

    def _load_of(self, chosen: Sequence[int]) -> list[int]:
        load = [0] * len(self.free_bps)
        for index, choice in enumerate(chosen):
            _shift(load, self.paths[index][choice], self.bits[index])
        return load

    def _added_cost(self, load: Sequence[int], path: Sequence[int], size: int, scale_s: float, power: int) -> float:
        """By how much a volume on this path raises the sum of powers."""
        self.work += len(path)
        cost = 0.0
        for link in path:
            free = self.free_bps[link] * scale_s
            cost += ((load[link] + size) / free) ** power - (load[link] / free) ** power
        return cost

    def _place(self, depth: int, load: list[int], time_s: float, excess_s: float, chosen: list[int]) -> bool:
        """Extend a partial choice by the next volume; returns whether all of its extensions have been considered."""
        if depth == len(self.order):
            self.best, self.best_s = list(chosen), time_s
            return True
        index = self.order[depth]
        size, free_bps = self.bits[index], self.free_bps
        options = []
        for choice in range(self._first_choice(depth, chosen), len(self.rest[index])):
            links = self.rest[index][choice]
            self.work += len(links) + 1
            after_s = time_s
            for link in links:
                link_s = (load[link] + size) / free_bps[link]
                if link_s > after_s:
                    after_s = link_s
            options.append((after_s, self.excess_s[index][choice], choice))
        options.sort()
        for after_s, more_s, choice in options:
            if self.best_s <= self.bound_s:
                return True
            if after_s >= self.best_s or self._weighted_bound_s + excess_s + more_s >= self.best_s:
                continue
            if self.work > self._limit and self.best:
                return False
            links = self.rest[index][choice]
            _shift(load, links, size)
            chosen[index] = choice
            is_complete = self._place(depth + 1, load, after_s, excess_s + more_s, chosen)
            _shift(load, links, -size)
            if not is_complete:
                return False
        return True

    def _first_choice(self, depth: int, chosen: Sequence[int]) -> int:
        """The first path to try: volumes that differ only by name need not be permuted."""
        if depth == 0:
            return 0
        index, before = self.order[depth], self.order[depth - 1]
        same = self.bits[index] == self.bits[before] and self.paths[index] == self.paths[before]
        return chosen[before] if same else 0


def _relax(
    bits: Sequence[int], paths: Sequence[Sequence[tuple[int, ...]]], free_bps: Sequence[int]
) -> tuple[list[float], list[list[float]]]:
    """The linear relaxation: weights of links, none negative, their sum 1 (dual), and the share of every path."""
    import numpy as np  # slow to import, and only needed here
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    unit_s = sum(bits) / max(free_bps)  # all coefficients near 1
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    volume_of = [index for index, choices in enumerate(paths) for _ in choices]
    for column, path in enumerate(path for choices in paths for path in choices):
        rows += path
        columns += [column] * len(path)
        values += [bits[volume_of[column]] / free_bps[link] / unit_s for link in path]
    variables = len(volume_of) + 1
    rows += range(len(free_bps))
    columns += [variables - 1] * len(free_bps)
    values += [-1.0] * len(free_bps)
    loads = csr_array((values, (rows, columns)), shape=(len(free_bps), variables))
    whole = csr_array(([1.0] * len(volume_of), (volume_of, range(len(volume_of)))), shape=(len(bits), variables))
    cost = np.zeros(variables)
    cost[-1] = 1.0
    solution = linprog(cost, loads, np.zeros(len(free_bps)), whole, np.ones(len(bits)), method="highs-ds")
    equal = [1 / len(free_bps)] * len(free_bps)
    if solution.status != 0:
        return equal, [[1.0] * len(choices) for choices in paths]  # any weights give a bound, any choice a time
    values_of_paths = iter(solution.x.tolist())
    shares = [[next(values_of_paths) for _ in choices] for choices in paths]
    weights = np.maximum(-solution.ineqlin.marginals, 0.0)
    total = float(weights.sum())
    return ([float(weight) / total for weight in weights] if total > 0 else equal), shares


def _links_of(paths: Sequence[Sequence[Sequence[str]]]) -> list[str]:
    return [link for choices in paths for path in choices for link in path]


def _quotient(bits: int, free_bps: int) -> float:
    return bits / free_bps


def _shift(load: list[int], links: Sequence[int], bits: int) -> None:
    for link in links:
        load[link] += bits
