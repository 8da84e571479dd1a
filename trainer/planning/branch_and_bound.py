"""The search for the best option of every edge: branch and bound, exact where its budget lets it finish.

What makes a step long is of two kinds. The *largest* of the edges' times forward, backward and both: for a given limit
each edge simply keeps the options within it. And *sums* over the edges, of the cloud's work and of the bits on each
link: with a price on each the edges no longer depend on one another, and for any prices (they come from the dual of
the objective) the cheapest options give a bound that no choice can beat. Another is the step with the least of each
stage by itself: exact as soon as the limits leave every edge one best option, while prices only come close. So a node
of the search is, for every edge, the options still open, and how large the largest times are at least; it is split at a
time limit while those matter, then edge by edge.
Source: Geoffrion 1974, "Lagrangean relaxation for integer programming"; Land & Doig 1960 for the search.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from trainer.planning.pipeline_model import Links, Stages, Vector

Table = NDArray[np.float64]
Mask = NDArray[np.bool_]
Choice = NDArray[np.intp]

TOLERANCE_S = 1e-7
"""Differences in a step below this are none."""

BUDGET = 25_000_000
"""How many options may be priced in all: about a second's work."""

PRICING = 3000
"""What pricing takes however few options there are: as much as so many options more."""

FIRST_TURNS, LATER_TURNS = 24, 5
"""How often the prices are improved at the root and at every other node."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Seconds and bits of every edge's options, (edges, options) each; `inf` where an edge has fewer options.

    `tail_s`: of the slowest edge's tail, which no option changes; `busy_s` has each edge's own in it.
    """

    forward_s: Table
    backward_s: Table
    busy_s: Table
    cloud_s: Table
    up_bits: Table
    down_bits: Table
    up: Links
    down: Links
    micros: int
    tail_s: float = 0.0

    def stages(self, choice: Choice) -> Stages:
        """What the pipeline's stages take when every edge has this option."""
        rows = np.arange(len(choice))
        return Stages(
            forward_s=float(self.forward_s[rows, choice].max()),
            backward_s=float(self.backward_s[rows, choice].max()),
            busy_s=float(self.busy_s[rows, choice].max()),
            cloud_s=float(self.cloud_s[rows, choice].sum()),
            up_s=self.up.time_s(self.up_bits[rows, choice]),
            down_s=self.down.time_s(self.down_bits[rows, choice]),
            tail_s=self.tail_s,
        )

    def step_s(self, choice: Choice) -> float:
        """Seconds for a step when every edge has this option."""
        return self.stages(choice).step_s(self.micros)


@dataclass(frozen=True, slots=True)
class Found:
    """The best choice found, and what no choice can beat."""

    choice: Choice
    step_s: float
    proven_s: float


@dataclass(frozen=True, slots=True)
class _Prices:
    """Logarithms of the dual's weights: of the stages (at the edges, cloud, up, down) and of every link."""

    stages: Vector
    up: Vector
    down: Vector


@dataclass(frozen=True, slots=True)
class _Node:
    """Options still open, and what the largest forward, backward and busy times are at least."""

    open: Mask
    least_s: tuple[float, float, float]
    prices: _Prices


class Search:
    """One search, over the options in `allowed`."""

    def __init__(self, problem: Problem, allowed: Mask | None = None) -> None:
        self._problem = problem
        self._limited = (problem.forward_s, problem.backward_s, problem.busy_s)
        self._rows = np.arange(len(problem.cloud_s))
        self._best: Choice | None = None
        self._best_s = float("inf")
        self._spent = 0
        self._start = np.isfinite(problem.cloud_s) if allowed is None else allowed & np.isfinite(problem.cloud_s)

    def run(self, budget: int = BUDGET) -> Found:
        """Search until nothing better can be left, or the budget is spent."""
        order = count()
        prices = _Prices(np.zeros(4), np.zeros(len(self._problem.up.capacity_bps)),
                         np.zeros(len(self._problem.down.capacity_bps)))
        bound_s, root = self._bound(_undominated(self._problem, self._start), (0.0, 0.0, 0.0), prices, FIRST_TURNS)
        heap = [(bound_s, next(order), root)]
        proven_s = bound_s
        while heap:
            proven_s, _, node = heapq.heappop(heap)
            if proven_s >= self._best_s - TOLERANCE_S:
                proven_s = self._best_s
                break
            if self._spent >= budget:
                break
            for open_options, least_s in self._split(node):
                bound_s, child = self._bound(open_options, least_s, node.prices, LATER_TURNS)
                if bound_s < self._best_s - TOLERANCE_S:
                    heapq.heappush(heap, (bound_s, next(order), child))
        else:
            proven_s = self._best_s
        assert self._best is not None
        return Found(self._best, self._best_s, proven_s)

    def _bound(
        self, open_options: Mask, least_s: tuple[float, float, float], prices: _Prices, turns: int
    ) -> tuple[float, _Node]:
        """What no choice among these options can beat; notes every choice it meets on the way."""
        problem = self._problem
        forced = [float(np.where(open_options, table, np.inf).min(axis=1).max()) for table in self._limited]
        forward_s, backward_s, busy_s = (max(a, b) for a, b in zip(forced, least_s, strict=True))
        at_edge_s = max(forward_s, backward_s, problem.tail_s)
        bound_s = self._each_alone(open_options, forward_s, backward_s, busy_s)
        once_s = forward_s + backward_s + problem.tail_s
        stages, up, down = prices.stages.copy(), prices.up.copy(), prices.down.copy()
        for turn in range(turns):
            self._spent += PRICING + int(open_options.size)
            weights, up_weights, down_weights = _shares(stages), _shares(up), _shares(down)
            factors = 1 + (problem.micros - 1) * weights
            up_price = problem.up.per_flow(up_weights / problem.up.capacity_bps) * factors[2]
            down_price = problem.down.per_flow(down_weights / problem.down.capacity_bps) * factors[3]
            cost = np.where(
                open_options,
                factors[1] * problem.cloud_s + up_price[:, None] * problem.up_bits
                + down_price[:, None] * problem.down_bits,
                np.inf,
            )
            choice = cost.argmin(axis=1)
            fixed_s = once_s + (problem.micros - 1) * weights[0] * at_edge_s
            dual_s = fixed_s + float(cost[self._rows, choice].sum())
            bound_s = max(bound_s, dual_s, problem.micros * busy_s)
            self._note(choice)
            if bound_s >= self._best_s - TOLERANCE_S:
                break
            pace = 2.0 / (1 + turn / 4)
            up_loads = problem.up.per_link(problem.up_bits[self._rows, choice]) / problem.up.capacity_bps
            down_loads = problem.down.per_link(problem.down_bits[self._rows, choice]) / problem.down.capacity_bps
            sums = np.array([
                at_edge_s, problem.cloud_s[self._rows, choice].sum(), up_loads.max(initial=0.0),
                down_loads.max(initial=0.0),
            ])
            stages = _reprice(stages, sums, pace)
            up, down = _reprice(up, up_loads, pace), _reprice(down, down_loads, pace)
        return bound_s, _Node(open_options, (forward_s, backward_s, busy_s), _Prices(stages, up, down))

    def _each_alone(self, open_options: Mask, forward_s: float, backward_s: float, busy_s: float) -> float:
        """What a step takes when each stage takes the least it can; notes the choice with the least for the cloud."""
        problem = self._problem
        cloud, up, down = (np.where(open_options, table, np.inf).argmin(axis=1)
                           for table in (problem.cloud_s, problem.up_bits, problem.down_bits))
        self._note(cloud)
        return Stages(
            forward_s, backward_s, busy_s, float(problem.cloud_s[self._rows, cloud].sum()),
            problem.up.time_s(problem.up_bits[self._rows, up]),
            problem.down.time_s(problem.down_bits[self._rows, down]), problem.tail_s,
        ).step_s(problem.micros)

    def _note(self, choice: Choice) -> None:
        step_s = self._problem.step_s(choice)
        if step_s < self._best_s:
            self._best, self._best_s = choice.copy(), step_s

    def _split(self, node: _Node) -> list[tuple[Mask, tuple[float, float, float]]]:
        """Two nodes that have all choices of this one between them, or none if only one choice is left."""
        widest, at, limit_s = 0.0, -1, 0.0
        for number, table in enumerate(self._limited):
            values = table[node.open]
            above = values[values > node.least_s[number] + TOLERANCE_S]
            if not len(above):
                continue
            spread_s = float(above.max()) - node.least_s[number]
            if spread_s > widest:
                widest, at, limit_s = spread_s, number, _middle(above, node.least_s[number])
        if at >= 0:
            table = self._limited[at]
            over = node.open & (table > limit_s)
            beyond_s = float(table[over].min())
            raised = tuple(beyond_s if number == at else least for number, least in enumerate(node.least_s))
            assert len(raised) == 3
            return [(node.open & (table <= limit_s), node.least_s), (node.open, raised)]
        return self._split_an_edge(node)

    def _split_an_edge(self, node: _Node) -> list[tuple[Mask, tuple[float, float, float]]]:
        """Halve the options of the edge whose options differ most, in the order of the cloud's work."""
        cloud_s = np.where(node.open, self._problem.cloud_s, np.nan)
        several = node.open.sum(axis=1) > 1
        if not several.any():
            return []
        bits = np.where(node.open, self._problem.up_bits + self._problem.down_bits, np.nan)
        weight = np.zeros(len(several))
        for table in (cloud_s, bits):
            span = np.nanmax(table, axis=1) - np.nanmin(table, axis=1)
            weight += span / max(float(span.max()), 1e-300)
        row = int(np.where(several, weight, -1.0).argmax())
        options = np.flatnonzero(node.open[row])
        options = options[np.lexsort((options, self._problem.cloud_s[row, options]))]
        halves = []
        for part in (options[: len(options) // 2], options[len(options) // 2 :]):
            open_options = node.open.copy()
            open_options[row] = False
            open_options[row, part] = True
            halves.append((open_options, node.least_s))
        return halves


def _middle(values: Vector, least_s: float) -> float:
    """Where to split: at the value nearest the middle from below, and below the largest in any case."""
    limit_s = (float(values.max()) + least_s) / 2
    below = values[values <= limit_s]
    return float(below.max()) if len(below) else least_s


def _shares(logarithms: Vector) -> Vector:
    if not len(logarithms):
        return logarithms
    values: Vector = np.exp(logarithms - logarithms.max())
    return values / float(values.sum())


def _reprice(logarithms: Vector, loads: Vector, pace: float) -> Vector:
    """Exponentiated gradient: dearer what is loaded more. Source: Kivinen & Warmuth 1997."""
    largest = float(loads.max(initial=0.0))
    return logarithms + pace * loads / largest if largest > 0 else logarithms


def _undominated(problem: Problem, allowed: Mask) -> Mask:
    """Without the options for which another of the same edge is at least as good in every part."""
    tables = (problem.forward_s, problem.backward_s, problem.busy_s, problem.cloud_s, problem.up_bits,
              problem.down_bits)
    kept = allowed.copy()
    for option in range(allowed.shape[1]):
        as_good = allowed.copy()
        better = np.zeros_like(allowed)
        for table in tables:
            mine = table[:, option : option + 1]
            with np.errstate(invalid="ignore"):
                as_good &= table <= mine
                better |= table < mine
        earlier = np.arange(allowed.shape[1])[None, :] < option
        beaten = (as_good & kept & (better | earlier)).any(axis=1)
        kept[:, option] &= ~beaten
    return kept


