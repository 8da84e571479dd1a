"""Branch and bound for the best option of every edge; exact if it finishes within its budget.

The step time depends on two kinds of terms:
- *maxima* over the edges of the forward, backward and total time; a limit on a maximum removes options edge by edge;
- *sums* over the edges of the work of each process in the cloud and of the bits on each link; Lagrange multipliers
  (prices) decouple the edges, and for any prices the cheapest options give a lower bound.
A second lower bound minimizes each stage by itself. It is exact once the limits leave every edge one best option, which
the Lagrangean bound only approaches. A node holds the open options of every edge and lower limits of the maxima; it is
split at a time limit while the maxima vary, then edge by edge.
Source: Geoffrion 1974, "Lagrangean relaxation for integer programming"; Land & Doig 1960 for the search.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from trainer.planning.pipeline_model import SharedLinks, StageTimes, Vector

Table = NDArray[np.float64]
Mask = NDArray[np.bool_]
Choice = NDArray[np.intp]

TOLERANCE_S = 1e-7
"""Step times that differ by less count as equal."""

MAX_PRICED_OPTIONS = 25_000_000
"""Budget of option evaluations: about one second."""

PRICING_OVERHEAD = 3000
"""Fixed cost of one pricing iteration, in option evaluations."""

ROOT_ITERATIONS, NODE_ITERATIONS = 24, 5
"""Updates of the multipliers at the root and at every other node."""


@dataclass(frozen=True, slots=True)
class PlanningProblem:
    """Seconds and bits of every edge's options, (edges, options) each; `inf` where an edge has fewer options.

    `tail_s` is the tail of the slowest edge, the same for all options; `busy_s` includes each edge's own tail.
    `workers`: the processes that compute in the cloud, as links: each carries the seconds of work of its edges; None:
    one process serves all.
    """

    forward_s: Table
    backward_s: Table
    busy_s: Table
    cloud_s: Table
    up_bits: Table
    down_bits: Table
    up: SharedLinks
    down: SharedLinks
    micro_batches: int
    tail_s: float = 0.0
    workers: SharedLinks | None = None

    def cloud_time_s(self, work_s: Vector) -> float:
        """Return how long the cloud takes for this work of every edge."""
        return float(work_s.sum()) if self.workers is None else self.workers.time_s(work_s)

    def stages(self, choice: Choice) -> StageTimes:
        """Return the stage times if every edge uses its option of `choice`."""
        rows = np.arange(len(choice))
        return StageTimes(
            forward_s=float(self.forward_s[rows, choice].max()),
            backward_s=float(self.backward_s[rows, choice].max()),
            busy_s=float(self.busy_s[rows, choice].max()),
            cloud_s=self.cloud_time_s(self.cloud_s[rows, choice]),
            up_s=self.up.time_s(self.up_bits[rows, choice]),
            down_s=self.down.time_s(self.down_bits[rows, choice]),
            tail_s=self.tail_s,
        )

    def step_s(self, choice: Choice) -> float:
        """Return the step time if every edge uses its option of `choice`."""
        return self.stages(choice).step_s(self.micro_batches)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The best choice found, and a proven lower bound of the step time over all choices."""

    choice: Choice
    step_s: float
    proven_s: float


@dataclass(frozen=True, slots=True)
class _DualPrices:
    """Logarithms of the dual weights of the stages (edges, cloud, up, down), of every worker and of every link."""

    stages: Vector
    cloud: Vector
    up: Vector
    down: Vector


@dataclass(frozen=True, slots=True)
class _Node:
    """The open options and lower limits of the largest forward, backward and busy time."""

    open_options: Mask
    least_s: tuple[float, float, float]
    prices: _DualPrices


class BranchAndBound:
    """A search over the options in `allowed`."""

    def __init__(self, problem: PlanningProblem, allowed: Mask | None = None) -> None:
        self._problem = problem
        self._limited = (problem.forward_s, problem.backward_s, problem.busy_s)
        self._workers = problem.workers or SharedLinks([("cloud",)] * len(problem.cloud_s), {"cloud": 1.0}, 0.0)
        self._rows = np.arange(len(problem.cloud_s))
        self._best: Choice | None = None
        self._best_s = float("inf")
        self._priced = 0
        self._allowed = np.isfinite(problem.cloud_s) if allowed is None else allowed & np.isfinite(problem.cloud_s)

    def run(self, budget: int = MAX_PRICED_OPTIONS) -> SearchResult:
        """Search until the best choice is proven optimal or the budget is spent."""
        order = count()
        prices = _DualPrices(np.zeros(4), np.zeros(len(self._workers.capacity_bps)),
                             np.zeros(len(self._problem.up.capacity_bps)),
                             np.zeros(len(self._problem.down.capacity_bps)))
        bound_s, root = self._bound(
            _without_dominated(self._problem, self._allowed), (0.0, 0.0, 0.0), prices, ROOT_ITERATIONS
        )
        heap = [(bound_s, next(order), root)]
        proven_s = bound_s
        while heap:
            proven_s, _, node = heapq.heappop(heap)
            if proven_s >= self._best_s - TOLERANCE_S:
                proven_s = self._best_s
                break
            if self._priced >= budget:
                break
            for open_options, least_s in self._split(node):
                bound_s, child = self._bound(open_options, least_s, node.prices, NODE_ITERATIONS)
                if bound_s < self._best_s - TOLERANCE_S:
                    heapq.heappush(heap, (bound_s, next(order), child))
        else:
            proven_s = self._best_s
        assert self._best is not None
        return SearchResult(self._best, self._best_s, proven_s)

    def _bound(
        self, open_options: Mask, least_s: tuple[float, float, float], prices: _DualPrices, iterations: int
    ) -> tuple[float, _Node]:
        """Return a lower bound over these options and the node; record every choice evaluated on the way."""
        problem = self._problem
        unavoidable_s = [float(np.where(open_options, table, np.inf).min(axis=1).max()) for table in self._limited]
        forward_s, backward_s, busy_s = (max(a, b) for a, b in zip(unavoidable_s, least_s, strict=True))
        at_edge_s = max(forward_s, backward_s, problem.tail_s)
        bound_s = self._stagewise_bound_s(open_options, forward_s, backward_s, busy_s)
        once_s = forward_s + backward_s + problem.tail_s
        stages, cloud = prices.stages.copy(), prices.cloud.copy()
        up, down = prices.up.copy(), prices.down.copy()
        for iteration in range(iterations):
            self._priced += PRICING_OVERHEAD + int(open_options.size)
            weights, up_weights, down_weights = _normalized(stages), _normalized(up), _normalized(down)
            factors = 1 + (problem.micro_batches - 1) * weights
            cloud_price = self._workers.per_flow(_normalized(cloud) / self._workers.capacity_bps) * factors[1]
            up_price = problem.up.per_flow(up_weights / problem.up.capacity_bps) * factors[2]
            down_price = problem.down.per_flow(down_weights / problem.down.capacity_bps) * factors[3]
            cost = np.where(
                open_options,
                cloud_price[:, None] * problem.cloud_s + up_price[:, None] * problem.up_bits
                + down_price[:, None] * problem.down_bits,
                np.inf,
            )
            choice = cost.argmin(axis=1)
            fixed_s = once_s + (problem.micro_batches - 1) * weights[0] * at_edge_s
            dual_s = fixed_s + float(cost[self._rows, choice].sum())
            bound_s = max(bound_s, dual_s, problem.micro_batches * busy_s)
            self._record(choice)
            if bound_s >= self._best_s - TOLERANCE_S:
                break
            step_size = 2.0 / (1 + iteration / 4)
            up_loads = problem.up.per_link(problem.up_bits[self._rows, choice]) / problem.up.capacity_bps
            down_loads = problem.down.per_link(problem.down_bits[self._rows, choice]) / problem.down.capacity_bps
            cloud_loads = self._workers.per_link(problem.cloud_s[self._rows, choice]) / self._workers.capacity_bps
            sums = np.array([
                at_edge_s, cloud_loads.max(initial=0.0), up_loads.max(initial=0.0),
                down_loads.max(initial=0.0),
            ])
            stages = _exponentiated_gradient(stages, sums, step_size)
            cloud = _exponentiated_gradient(cloud, cloud_loads, step_size)
            up, down = (
                _exponentiated_gradient(up, up_loads, step_size),
                _exponentiated_gradient(down, down_loads, step_size),
            )
        return bound_s, _Node(open_options, (forward_s, backward_s, busy_s), _DualPrices(stages, cloud, up, down))

    def _stagewise_bound_s(self, open_options: Mask, forward_s: float, backward_s: float, busy_s: float) -> float:
        """Return the step time with each stage minimized by itself; record the choice with the least cloud work."""
        problem = self._problem
        cloud, up, down = (np.where(open_options, table, np.inf).argmin(axis=1)
                           for table in (problem.cloud_s, problem.up_bits, problem.down_bits))
        self._record(cloud)
        return StageTimes(
            forward_s, backward_s, busy_s, problem.cloud_time_s(problem.cloud_s[self._rows, cloud]),
            problem.up.time_s(problem.up_bits[self._rows, up]),
            problem.down.time_s(problem.down_bits[self._rows, down]), problem.tail_s,
        ).step_s(problem.micro_batches)

    def _record(self, choice: Choice) -> None:
        step_s = self._problem.step_s(choice)
        if step_s < self._best_s:
            self._best, self._best_s = choice.copy(), step_s

    def _split(self, node: _Node) -> list[tuple[Mask, tuple[float, float, float]]]:
        """Partition the choices of a node in two; empty if only one choice is left."""
        widest_s, widest_table, limit_s = 0.0, -1, 0.0
        for number, table in enumerate(self._limited):
            values = table[node.open_options]
            above = values[values > node.least_s[number] + TOLERANCE_S]
            if not len(above):
                continue
            spread_s = float(above.max()) - node.least_s[number]
            if spread_s > widest_s:
                widest_s, widest_table, limit_s = spread_s, number, _split_limit_s(above, node.least_s[number])
        if widest_table >= 0:
            table = self._limited[widest_table]
            over = node.open_options & (table > limit_s)
            beyond_s = float(table[over].min())
            raised = tuple(beyond_s if number == widest_table else least for number, least in enumerate(node.least_s))
            assert len(raised) == 3
            return [(node.open_options & (table <= limit_s), node.least_s), (node.open_options, raised)]
        return self._split_edge(node)

    def _split_edge(self, node: _Node) -> list[tuple[Mask, tuple[float, float, float]]]:
        """Halve the options of the edge whose options differ most, ordered by the cloud's work."""
        cloud_s = np.where(node.open_options, self._problem.cloud_s, np.nan)
        undecided = node.open_options.sum(axis=1) > 1
        if not undecided.any():
            return []
        bits = np.where(node.open_options, self._problem.up_bits + self._problem.down_bits, np.nan)
        weight = np.zeros(len(undecided))
        for table in (cloud_s, bits):
            span = np.nanmax(table, axis=1) - np.nanmin(table, axis=1)
            weight += span / max(float(span.max()), 1e-300)
        row = int(np.where(undecided, weight, -1.0).argmax())
        options = np.flatnonzero(node.open_options[row])
        options = options[np.lexsort((options, self._problem.cloud_s[row, options]))]
        halves = []
        for half in (options[: len(options) // 2], options[len(options) // 2 :]):
            open_options = node.open_options.copy()
            open_options[row] = False
            open_options[row, half] = True
            halves.append((open_options, node.least_s))
        return halves


def _split_limit_s(values: Vector, least_s: float) -> float:
    """Return the largest value not above the middle of the range: a limit that excludes at least the largest value."""
    limit_s = (float(values.max()) + least_s) / 2
    below = values[values <= limit_s]
    return float(below.max()) if len(below) else least_s


def _normalized(logarithms: Vector) -> Vector:
    if not len(logarithms):
        return logarithms
    values: Vector = np.exp(logarithms - logarithms.max())
    return values / float(values.sum())


def _exponentiated_gradient(logarithms: Vector, loads: Vector, step_size: float) -> Vector:
    """Raise the weights in proportion to the loads. Source: Kivinen & Warmuth 1997, exponentiated gradient."""
    largest = float(loads.max(initial=0.0))
    return logarithms + step_size * loads / largest if largest > 0 else logarithms


def _without_dominated(problem: PlanningProblem, allowed: Mask) -> Mask:
    """Remove the options dominated by another option of the same edge."""
    tables = (problem.forward_s, problem.backward_s, problem.busy_s, problem.cloud_s, problem.up_bits,
              problem.down_bits)
    kept = allowed.copy()
    for option in range(allowed.shape[1]):
        no_worse = allowed.copy()
        better = np.zeros_like(allowed)
        for table in tables:
            values = table[:, option : option + 1]
            with np.errstate(invalid="ignore"):
                no_worse &= table <= values
                better |= table < values
        earlier = np.arange(allowed.shape[1])[None, :] < option
        dominated = (no_worse & kept & (better | earlier)).any(axis=1)
        kept[:, option] &= ~dominated
    return kept


