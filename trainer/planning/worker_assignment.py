"""Which worker of the cloud serves which edge, together with cuts, codecs and rates.

Workers are alike, so an assignment is a partition of the edges. Where there are few, each is planned exactly. Otherwise
edges are assigned in the order of their work, each to the worker with the least so far (longest processing time first),
for the cuts of a plan in which the work could be divided at will; the plan for that assignment gives new work, and so
on while the step gets shorter. That first plan is a lower bound: no worker can have less than the mean.
Source: Graham 1969, "Bounds on multiprocessing timing anomalies".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from trainer.planning.plan import EdgeForecast, Offer, RoundPlan
from trainer.planning.planner import plan_round

MAX_PARTITIONS = 300
"""Assignments that are all planned; more are searched."""
MAX_ROUNDS = 8
"""Assignments that a search tries."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The worker of every edge, in the order of the forecasts, and the plan for it; its `proven_s` is a lower bound of
    the step over all assignments.
    """

    workers: tuple[str, ...]
    plan: RoundPlan


def assign_workers(
    forecasts: Sequence[EdgeForecast], offer: Offer, micro_batches: int, workers: Sequence[str]
) -> Assignment:
    """Return the best assignment of edges to workers; exact with at most MAX_PARTITIONS of them.

    Raises: PlanError as `plan_round` does.
    """

    def plan(assigned: Sequence[str]) -> RoundPlan:
        served = [replace(forecast, worker=worker) for forecast, worker in zip(forecasts, assigned, strict=True)]
        return plan_round(served, offer, micro_batches)

    divided = plan_round([_divided(forecast, len(workers)) for forecast in forecasts], offer, micro_batches)
    partitions = _partitions(len(forecasts), len(workers), MAX_PARTITIONS)
    if partitions is not None:
        plans = [(blocks, plan([workers[block] for block in blocks])) for blocks in partitions]
        blocks, best = min(plans, key=lambda item: item[1].step_s)
        proven_s = max(divided.proven_s, min(each.proven_s for _, each in plans))
        return Assignment(tuple(workers[block] for block in blocks), replace(best, proven_s=proven_s))
    cuts: Mapping[str, tuple[int, str]] = {edge.edge: (edge.cut, edge.codec) for edge in divided.edges}
    found: Assignment | None = None
    for _ in range(MAX_ROUNDS):
        work_s = [next(option.cloud_s for option in forecast.options
                       if (option.cut, option.codec) == cuts[forecast.edge]) for forecast in forecasts]
        assigned = tuple(workers[block] for block in longest_first(work_s, len(workers)))
        tried = plan(assigned)
        if found is not None and tried.step_s >= found.plan.step_s * (1 - 1e-6):
            break
        found = Assignment(assigned, replace(tried, proven_s=divided.proven_s))
        cuts = {edge.edge: (edge.cut, edge.codec) for edge in tried.edges}
        if tried.step_s <= divided.proven_s * (1 + 1e-6):
            break
    assert found is not None
    return found


def longest_first(work_s: Sequence[float], workers: int) -> list[int]:
    """Return the worker of every item: each item, largest first, goes to the worker with the least work."""
    loads, assigned = [(0.0, 0)] * workers, [0] * len(work_s)
    for item in sorted(range(len(work_s)), key=lambda item: -work_s[item]):
        worker = min(range(workers), key=lambda number: loads[number])
        assigned[item] = worker
        loads[worker] = loads[worker][0] + work_s[item], loads[worker][1] + 1
    return assigned


def _divided(forecast: EdgeForecast, workers: int) -> EdgeForecast:
    return replace(forecast, options=tuple(replace(option, cloud_s=option.cloud_s / workers)
                                           for option in forecast.options))


def _partitions(items: int, blocks: int, limit: int) -> list[tuple[int, ...]] | None:
    """Return all partitions into at most so many blocks, as the block of every item; None if there are more than the
    limit.
    """
    if blocks == 1:
        return [(0,) * items]
    if 2 ** (items - 1) > limit:  # there are at least as many
        return None
    found = []
    for partition in _growing(items, blocks):
        found.append(partition)
        if len(found) > limit:
            return None
    return found


def _growing(items: int, blocks: int) -> Iterator[tuple[int, ...]]:
    """Yield every restricted growth string: a block is used only after those before it."""
    if not items:
        yield ()
        return
    for start in _growing(items - 1, blocks):
        for block in range(min(blocks, max(start, default=-1) + 2)):
            yield (*start, block)
