"""Which worker of the cloud serves which edge, together with cuts, codecs and rates.

Workers of one node are alike; those of different nodes are reached over different links. Where there are few
assignments, each is planned exactly. Otherwise edges are assigned in the order of their work, each to the worker with
which the step is shortest so far (on one node: longest processing time first), for the cuts of a plan in which work and
paths could be divided at will; the plan for that assignment gives new cuts, and so on while the step gets shorter. That
first plan is a lower bound: no worker can have less than the mean, and no edge avoids the links that all its paths
share.
Source: Graham 1969, "Bounds on multiprocessing timing anomalies".
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from trainer.errors import PlanError
from trainer.planning.node_offers import common_offer, offer_for
from trainer.planning.pipeline_model import StageTimes
from trainer.planning.plan import EdgeForecast, Offer, Option, RoundPlan
from trainer.planning.planner import plan_round

MAX_PARTITIONS = 300
"""Assignments that are all planned; more are searched."""
MAX_ROUNDS = 8
"""Assignments that a search tries."""

PlanFor = Callable[[Sequence[str]], RoundPlan]
"""Plans for the worker of every edge."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The worker of every edge, in the order of the forecasts, and the plan for it; its `proven_s` is a lower bound of
    the step over all assignments.
    """

    workers: tuple[str, ...]
    plan: RoundPlan


def assign_workers(
    forecasts: Sequence[EdgeForecast], offers: Mapping[str, Offer], micro_batches: int, workers: Mapping[str, str]
) -> Assignment:
    """Return the best assignment of edges to workers; exact with at most MAX_PARTITIONS of them.

    `workers`: the node of every worker; `offers`: what the network offers to all edges towards every node.

    Raises: PlanError as `plan_round` does.
    """
    offers = {node: offers[node] for node in dict.fromkeys(workers.values())}

    def plan(assigned: Sequence[str]) -> RoundPlan:
        served = [replace(forecast, worker=worker) for forecast, worker in zip(forecasts, assigned, strict=True)]
        nodes = {forecast.edge: workers[worker] for forecast, worker in zip(forecasts, assigned, strict=True)}
        return plan_round(served, offer_for(nodes, offers), micro_batches)

    divided = plan_round([_divided(forecast, len(workers)) for forecast in forecasts],
                         common_offer([forecast.edge for forecast in forecasts], offers), micro_batches)
    if (partitions := _partitions(len(forecasts), workers, MAX_PARTITIONS)) is not None:
        return _best_of(partitions, plan, divided.proven_s)
    return _searched(forecasts, offers, micro_batches, workers, plan, divided)


def _best_of(partitions: Sequence[tuple[str, ...]], plan: PlanFor, least_s: float) -> Assignment:
    """Return the best of all assignments; `least_s`: a lower bound of each."""
    found: list[Assignment] = []
    refusal: PlanError | None = None
    for assigned in partitions:
        try:
            found.append(Assignment(assigned, plan(assigned)))
        except PlanError as error:  # the links to a node cannot carry the floors of so many
            refusal = error
    if not found:
        assert refusal is not None
        raise refusal
    best = min(found, key=lambda assignment: assignment.plan.step_s)
    proven_s = max(least_s, min(assignment.plan.proven_s for assignment in found))
    return Assignment(best.workers, replace(best.plan, proven_s=proven_s))


def _searched(
    forecasts: Sequence[EdgeForecast], offers: Mapping[str, Offer], micro_batches: int, workers: Mapping[str, str],
    plan: PlanFor, divided: RoundPlan,
) -> Assignment:
    """Return the best assignment of a search that begins with the cuts of `divided`."""
    cuts: Mapping[str, tuple[int, str]] = {edge.edge: (edge.cut, edge.codec) for edge in divided.edges}
    found: Assignment | None = None
    for _ in range(MAX_ROUNDS):
        options = [next(option for option in forecast.options if (option.cut, option.codec) == cuts[forecast.edge])
                   for forecast in forecasts]
        assigned = tuple(assigned_in_turn(forecasts, options, offers, micro_batches, workers))
        try:
            tried = plan(assigned)
        except PlanError:
            if found is None:
                raise
            break
        if found is not None and tried.step_s >= found.plan.step_s * (1 - 1e-6):
            break
        found = Assignment(assigned, replace(tried, proven_s=divided.proven_s))
        cuts = {edge.edge: (edge.cut, edge.codec) for edge in tried.edges}
        if tried.step_s <= divided.proven_s * (1 + 1e-6):
            break
    assert found is not None
    return found


def assigned_in_turn(
    forecasts: Sequence[EdgeForecast], options: Sequence[Option], offers: Mapping[str, Offer], micro_batches: int,
    workers: Mapping[str, str],
) -> list[str]:
    """Return the worker of every edge with these options: each edge, that with most work first, goes where the step of
    all so far is shortest, and among such workers to the one with the least work.
    """
    idle: dict[str, list[tuple[float, int, int]]] = {}
    names = list(workers)
    for number, node in enumerate(workers.values()):
        idle.setdefault(node, []).append((0.0, 0, number))
    usable_bps = {link: rate_bps for offer in offers.values() for link, rate_bps in offer.usable_bps.items()}
    floor_bps = max(offer.floor_bps for offer in offers.values())
    up, down = _Links(usable_bps, floor_bps), _Links(usable_bps, floor_bps)
    so_far = StageTimes(
        max(forecast.margin * option.forward_s for forecast, option in zip(forecasts, options, strict=True)),
        max(option.backward_s for option in options),
        max(option.forward_s + option.backward_s + forecast.tail_s
            for forecast, option in zip(forecasts, options, strict=True)),
        0.0, 0.0, 0.0, max(forecast.tail_s for forecast in forecasts))
    assigned = [""] * len(forecasts)
    for number in sorted(range(len(forecasts)), key=lambda number: -options[number].cloud_s):
        edge, option = forecasts[number].edge, options[number]

        tried = []
        for node, waiting in idle.items():
            load_s, served, worker = waiting[0]
            stages = replace(so_far, cloud_s=max(so_far.cloud_s, load_s + option.cloud_s),
                             up_s=up.time_with_s(offers[node].up_links[edge], option.up_bits),
                             down_s=down.time_with_s(offers[node].down_links[edge], option.down_bits))
            tried.append((stages.step_s(micro_batches), load_s, served, worker, node, stages))
        _, load_s, served, worker, node, so_far = min(tried, key=lambda each: each[:4])
        assigned[number] = names[worker]
        heapq.heapreplace(idle[node], (load_s + option.cloud_s, served + 1, worker))
        up.add(offers[node].up_links[edge], option.up_bits)
        down.add(offers[node].down_links[edge], option.down_bits)
    return assigned


@dataclass
class _Links:
    """Bits and flows that are on every link so far; `longest_s`: until the last link has carried them."""

    usable_bps: Mapping[str, float]
    floor_bps: float
    longest_s: float = 0.0
    _bits: dict[str, float] = field(default_factory=dict)
    _flows: dict[str, int] = field(default_factory=dict)

    def time_with_s(self, links: Sequence[str], bits: float) -> float:
        """Return the time with a further flow; infinite if its floor does not fit."""
        if bits <= 0:
            return self.longest_s
        longest_s = self.longest_s
        for link in links:
            if (self._flows.get(link, 0) + 1) * self.floor_bps > self.usable_bps[link] * (1 + 1e-9):
                return float("inf")
            longest_s = max(longest_s, (self._bits.get(link, 0.0) + bits) / self.usable_bps[link])
        return longest_s

    def add(self, links: Sequence[str], bits: float) -> None:
        """Add a flow."""
        self.longest_s = self.time_with_s(links, bits)
        for link in links if bits > 0 else ():
            self._bits[link] = self._bits.get(link, 0.0) + bits
            self._flows[link] = self._flows.get(link, 0) + 1


def _divided(forecast: EdgeForecast, workers: int) -> EdgeForecast:
    return replace(forecast, options=tuple(replace(option, cloud_s=option.cloud_s / workers)
                                           for option in forecast.options))


def _partitions(edges: int, workers: Mapping[str, str], limit: int) -> list[tuple[str, ...]] | None:
    """Return all assignments that differ by more than the names of workers of one node; None if there are more than the
    limit.
    """
    if len(workers) == 1:
        return [tuple(workers) * edges]
    if 2 ** (edges - 1) > limit:  # there are at least as many
        return None
    found = []
    for assigned in _growing(edges, workers):
        found.append(assigned)
        if len(found) > limit:
            return None
    return found


def _growing(edges: int, workers: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """Yield every restricted growth string: of a node, a worker is used only after those before it."""
    if not edges:
        yield ()
        return
    for start in _growing(edges - 1, workers):
        unused: set[str] = set()
        for worker, node in workers.items():
            if worker in start:
                yield (*start, worker)
            elif node not in unused:
                unused.add(node)
                yield (*start, worker)
