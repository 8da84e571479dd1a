"""Predictions + network offer -> cuts, rates and the two delays. Exact: branch and bound, no heuristic.

A step is a pipeline: all edges compute for the training delay, then micro-batches flow uplink -> cloud ->
downlink -> edge. With M equal micro-batches a pipeline of stages s takes sum(s)/M + (M-1)/M x max(s)
(permutation flow shop with identical jobs). The rates are in proportion to the bytes, so that all segments take
the same transmission delay: the longest that any link needs for the sum of what crosses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.errors import PlanError

KEEP_SHARE = 0.05
"""A new plan must be better by this much, or the cuts stay: predictions are not better than that."""

PAYBACK_ROUNDS = 3
"""Moving layers must have paid for itself after this many rounds."""

TRAINING_MARGIN = 1.05
"""The training delay is this much longer than the slowest prediction, so that noise does not delay the start."""


@dataclass(frozen=True, slots=True)
class EdgeForecast:
    """What one edge would need for one step, for every cut 0..L (index = cut).

    `up_bits`, `down_bits`: reserved bits that carry the segment and its gradient. `cloud_s`: the cloud's work
    for this edge. `state_bits`: the layers [0, cut) with their optimiser state, as they move.
    """

    edge: str
    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    cloud_s: tuple[float, ...]
    up_bits: tuple[float, ...]
    down_bits: tuple[float, ...]
    state_bits: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Offer:
    """What the network has: the links each flow crosses, and the rate (bps) that may be used on each.

    `floor_bps` is what every flow gets at least: it carries control frames and moving layers too.
    """

    up_links: Mapping[str, tuple[str, ...]]
    down_links: Mapping[str, tuple[str, ...]]
    usable_bps: Mapping[str, float]
    floor_bps: float


@dataclass(frozen=True, slots=True)
class EdgePlan:
    """One edge's part of a round."""

    edge: str
    cut: int
    up_bps: int
    down_bps: int
    forward_s: float
    backward_s: float


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """A whole round: every edge's cut and rates, and the delays common to all."""

    edges: tuple[EdgePlan, ...]
    training_delay_s: float
    transmission_delay_s: float
    cloud_s: float
    step_s: float

    @property
    def cuts(self) -> tuple[int, ...]:
        """The cut of every edge."""
        return tuple(edge.cut for edge in self.edges)


@dataclass(frozen=True, slots=True, order=True)
class _Score:
    """Less is better: the step first; where it does not matter, the cloud's load, then the bits sent."""

    step_us: int
    cloud_us: int
    kilobits: int


def plan_round(
    forecasts: Sequence[EdgeForecast],
    offer: Offer,
    micros: int,
    choices: Sequence[Sequence[int]],
    current: Sequence[int] | None = None,
    steps: int = 1,
) -> RoundPlan:
    """The best cuts among each edge's `choices`; `current` cuts stay unless a change pays.

    It pays if a step gets shorter by KEEP_SHARE and, with `steps` a round, moving the layers is paid back within
    PAYBACK_ROUNDS.

    Raises: PlanError if the network cannot even give every flow its floor.
    """
    problem = _Problem(forecasts, offer, micros)
    search = _Search(problem, [_undominated(f, c) for f, c in zip(forecasts, choices, strict=True)])
    best = search.best()
    if current is not None and all(cut in allowed for cut, allowed in zip(current, choices, strict=True)):
        better = problem.plan(best)
        gain_s = problem.step_s(current) - better.step_s
        moving_s = problem.moving_s(current, better)
        if gain_s <= KEEP_SHARE * better.step_s or gain_s * steps * PAYBACK_ROUNDS <= moving_s:
            best = tuple(current)
    return problem.plan(best)


class _Problem:
    """The objective and its parts, for a full choice of cuts."""

    def __init__(self, forecasts: Sequence[EdgeForecast], offer: Offer, micros: int) -> None:
        self.forecasts = forecasts
        self.offer = offer
        self.micros = micros
        self._links: dict[str, list[tuple[int, bool]]] = {}
        for number, forecast in enumerate(forecasts):
            for links, is_up in ((offer.up_links, True), (offer.down_links, False)):
                for link in links[forecast.edge]:
                    self._links.setdefault(link, []).append((number, is_up))
        for link, flows in self._links.items():
            if offer.usable_bps[link] < len(flows) * offer.floor_bps * (1 - 1e-9):
                raise PlanError(
                    f"Link {link} has {offer.usable_bps[link] / 1e6:.2f} Mb/s for {len(flows)} flows; each needs "
                    f"at least {offer.floor_bps / 1e6:g} Mb/s."
                )

    def transmission_s(self, up_bits: Sequence[float], down_bits: Sequence[float]) -> float:
        """The common transmission delay: every link must carry its flows within it, none below its floor."""
        return max(
            (
                shared_time_s(
                    [up_bits[number] if is_up else down_bits[number] for number, is_up in flows],
                    self.offer.usable_bps[link],
                    self.offer.floor_bps,
                )
                for link, flows in self._links.items()
            ),
            default=0.0,
        )

    def combine(self, forward_s: float, transmission_s: float, cloud_s: float, backward_s: float) -> float:
        """Seconds for a step; grows with each argument."""
        stages = (transmission_s, cloud_s, transmission_s, backward_s)
        pipeline = (sum(stages) + (self.micros - 1) * max(stages)) / self.micros
        return TRAINING_MARGIN * forward_s + pipeline

    def step_s(self, cuts: Sequence[int]) -> float:
        """Seconds for a step with these cuts."""
        pairs = list(zip(self.forecasts, cuts, strict=True))
        return self.combine(
            max(f.forward_s[cut] for f, cut in pairs),
            self.transmission_s([f.up_bits[cut] for f, cut in pairs], [f.down_bits[cut] for f, cut in pairs]),
            sum(f.cloud_s[cut] for f, cut in pairs),
            max(f.backward_s[cut] for f, cut in pairs),
        )

    def moving_s(self, current: Sequence[int], plan: RoundPlan) -> float:
        """Seconds until the layers that change sides have moved, at the rates of the new plan."""
        times = [0.0]
        for forecast, old, edge in zip(self.forecasts, current, plan.edges, strict=True):
            bits = forecast.state_bits[edge.cut] - forecast.state_bits[old]
            times.append(bits / edge.down_bps if bits > 0 else -bits / edge.up_bps)
        return max(times)

    def plan(self, cuts: Sequence[int]) -> RoundPlan:
        """The cuts with the rates and delays that follow from them."""
        pairs = list(zip(self.forecasts, cuts, strict=True))
        transmission_s = self.transmission_s(
            [f.up_bits[cut] for f, cut in pairs], [f.down_bits[cut] for f, cut in pairs]
        )

        def rate_bps(bits: float) -> int:
            return int(max(bits / transmission_s if transmission_s > 0 else 0.0, self.offer.floor_bps))

        return RoundPlan(
            edges=tuple(
                EdgePlan(f.edge, cut, rate_bps(f.up_bits[cut]), rate_bps(f.down_bits[cut]), f.forward_s[cut],
                         f.backward_s[cut])
                for f, cut in pairs
            ),
            training_delay_s=TRAINING_MARGIN * max(f.forward_s[cut] for f, cut in pairs),
            transmission_delay_s=transmission_s,
            cloud_s=sum(f.cloud_s[cut] for f, cut in pairs),
            step_s=self.step_s(cuts),
        )


class _Search:
    """Depth first over the edges; a branch dies when even its most optimistic completion is no better."""

    def __init__(self, problem: _Problem, choices: Sequence[Sequence[int]]) -> None:
        self._problem = problem
        self._choices = choices
        self._least = [_Least.of(f, c) for f, c in zip(problem.forecasts, choices, strict=True)]
        self._best_cuts = tuple(choice[-1] for choice in choices)
        self._best_score = self._bound(self._best_cuts)

    def best(self) -> tuple[int, ...]:
        """The best cuts."""
        self._descend(())
        return self._best_cuts

    def _descend(self, cuts: tuple[int, ...]) -> None:
        branches = sorted(
            (self._bound((*cuts, cut)), cut) for cut in self._choices[len(cuts)]
        )
        for score, cut in branches:
            if score >= self._best_score:
                return
            if len(cuts) + 1 == len(self._choices):
                self._best_score, self._best_cuts = score, (*cuts, cut)
                return
            self._descend((*cuts, cut))

    def _bound(self, cuts: tuple[int, ...]) -> _Score:
        """A score that no completion of `cuts` can beat; for complete cuts, their score."""
        chosen = [_Least.at(f, cut) for f, cut in zip(self._problem.forecasts, cuts, strict=False)]
        parts = [*chosen, *self._least[len(cuts) :]]
        up_bits, down_bits = [part.up_bits for part in parts], [part.down_bits for part in parts]
        cloud_s = sum(part.cloud_s for part in parts)
        step_s = self._problem.combine(
            max(part.forward_s for part in parts),
            self._problem.transmission_s(up_bits, down_bits),
            cloud_s,
            max(part.backward_s for part in parts),
        )
        kilobits = sum(up_bits) + sum(down_bits)
        return _Score(round(step_s * 1e6), round(cloud_s * 1e6), round(kilobits / 1e3))


@dataclass(frozen=True, slots=True)
class _Least:
    """The least an edge can contribute to each part of the objective."""

    forward_s: float
    backward_s: float
    cloud_s: float
    up_bits: float
    down_bits: float

    @staticmethod
    def at(forecast: EdgeForecast, cut: int) -> _Least:
        return _Least(forecast.forward_s[cut], forecast.backward_s[cut], forecast.cloud_s[cut],
                      forecast.up_bits[cut], forecast.down_bits[cut])

    @staticmethod
    def of(forecast: EdgeForecast, cuts: Sequence[int]) -> _Least:
        parts = [_Least.at(forecast, cut) for cut in cuts]
        return _Least(*(min(values) for values in zip(*(_numbers(part) for part in parts), strict=True)))


def _numbers(part: _Least) -> tuple[float, ...]:
    return part.forward_s, part.backward_s, part.cloud_s, part.up_bits, part.down_bits


def _undominated(forecast: EdgeForecast, cuts: Sequence[int]) -> list[int]:
    """The cuts for which no other is at least as good in every part."""
    kept: list[int] = []
    for cut in sorted(cuts, key=lambda cut: (*_numbers(_Least.at(forecast, cut)), cut)):
        mine = _numbers(_Least.at(forecast, cut))
        if not any(all(a <= b for a, b in zip(_numbers(_Least.at(forecast, other)), mine, strict=True))
                   for other in kept):
            kept.append(cut)
    return sorted(kept)


def shared_time_s(bits: Sequence[float], usable_bps: float, floor_bps: float) -> float:
    """The shortest time in which a link carries all `bits` together when no flow goes below its floor.

    Flows are at max(bits / time, floor) and their sum is what is usable. Those at the floor leave the sharing,
    largest last, until the rest all get more than the floor.
    """
    remaining = sorted(bits)
    left_bps = usable_bps
    while remaining:
        time_s = sum(remaining) / left_bps if left_bps > 0 else float("inf")
        if remaining[0] >= floor_bps * time_s * (1 - 1e-12):
            return time_s
        remaining.pop(0)
        left_bps -= floor_bps
    return 0.0
