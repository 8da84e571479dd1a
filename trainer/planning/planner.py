"""Plans a round: forecasts + network offer -> cuts, codecs, rates, period and delays.

Optimal within the budget of `trainer.planning.branch_and_bound`. Rates are proportional to bytes, so that all segments
have the same transmission delay: the longest that any link needs for its flows together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.errors import PlanError
from trainer.planning.branch_and_bound import BranchAndBound, Choice, Mask, PlanningProblem
from trainer.planning.pipeline_model import SharedLinks, StageTimes
from trainer.planning.plan import Alternative, EdgeForecast, EdgePlan, Offer, RoundPlan, least_spread_s

MIN_GAIN = 0.05
"""Relative gain below which the cuts stay: the accuracy of the predictions."""

PAYBACK_ROUNDS = 3
"""Rounds within which the time spent moving layers must be regained."""


def plan_round(
    forecasts: Sequence[EdgeForecast],
    offer: Offer,
    micro_batches: int,
    current: Sequence[int] | None = None,
    steps: int = 1,
) -> RoundPlan:
    """Return the best plan; the `current` cuts stay unless changing them is worthwhile.

    A change is worthwhile if it shortens the step by MIN_GAIN and, with `steps` per round, regains the time to move the
    layers within PAYBACK_ROUNDS. An edge whose own change does not contribute keeps its cut.

    Raises: PlanError if a link cannot carry the floors of its flows.
    """
    planner = _RoundPlanner(forecasts, offer, micro_batches)
    result = BranchAndBound(planner.problem).run()
    choice = result.choice
    if current is not None and (staying := planner.options_with_cuts(current)) is not None:
        choice = planner.move_if_worthwhile(
            choice, BranchAndBound(planner.problem, staying).run().choice, current, steps
        )
    choice = planner.with_greatest_ranks(planner.with_least_lossy_codecs(choice), steps)
    return planner.build_plan(choice, result.proven_s)


def alternatives(
    forecasts: Sequence[EdgeForecast], offer: Offer, micro_batches: int, plan: RoundPlan
) -> list[Alternative]:
    """Return every edge's next-best cut: the best plan in which the edge has another cut than in `plan`.

    Source: second-best solution per decision, Murty 1968, "An algorithm for ranking all the assignments".
    """
    planner = _RoundPlanner(forecasts, offer, micro_batches)
    next_best = []
    for row, (forecast, edge) in enumerate(zip(forecasts, plan.edges, strict=True)):
        allowed = planner.allowed.copy()
        for column, option in enumerate(forecast.options):
            allowed[row, column] &= option.cut != edge.cut
        if allowed[row].any():
            result = BranchAndBound(planner.problem, allowed).run()
            option = forecast.options[result.choice[row]]
            next_best.append(Alternative(edge.edge, option.cut, option.codec, result.step_s))
    return next_best


class _RoundPlanner:
    """Builds the planning problem of all edges, and plans from choices."""

    def __init__(self, forecasts: Sequence[EdgeForecast], offer: Offer, micro_batches: int) -> None:
        self.forecasts = forecasts
        _check_floors(forecasts, offer)
        names = [forecast.edge for forecast in forecasts]
        columns = max(len(forecast.options) for forecast in forecasts)
        table = np.full((len(forecasts), columns, 5), np.inf)
        for row, forecast in enumerate(forecasts):
            table[row, : len(forecast.options)] = [
                (o.forward_s, o.backward_s, o.cloud_s, o.up_bits, o.down_bits) for o in forecast.options
            ]
        margins = np.array([forecast.margin for forecast in forecasts])[:, None]
        tails_s = np.array([forecast.tail_s for forecast in forecasts])[:, None]
        self.problem = PlanningProblem(
            forward_s=table[:, :, 0] * margins, backward_s=table[:, :, 1],
            busy_s=table[:, :, 0] + table[:, :, 1] + tails_s, cloud_s=table[:, :, 2],
            up_bits=table[:, :, 3], down_bits=table[:, :, 4],
            up=SharedLinks([offer.up_links[name] for name in names], offer.usable_bps, offer.floor_bps),
            down=SharedLinks([offer.down_links[name] for name in names], offer.usable_bps, offer.floor_bps),
            micro_batches=micro_batches, tail_s=float(tails_s.max()), workers=_workers(forecasts),
        )
        self.allowed: Mask = np.isfinite(self.problem.cloud_s)
        self._floor_bps = offer.floor_bps

    def options_with_cuts(self, cuts: Sequence[int]) -> Mask | None:
        """Return the options with these cuts; None if an edge has no such option."""
        allowed: Mask = np.zeros_like(self.allowed)
        for row, (forecast, cut) in enumerate(zip(self.forecasts, cuts, strict=True)):
            for column, option in enumerate(forecast.options):
                allowed[row, column] = option.cut == cut
        return allowed if allowed.any(axis=1).all() else None

    def move_if_worthwhile(self, best: Choice, staying: Choice, current: Sequence[int], steps: int) -> Choice:
        """Return `best` or `staying`, with the cost of moving included; edges that do not gain from moving stay."""
        problem = self.problem
        stay_s = problem.step_s(staying)
        horizon = steps * PAYBACK_ROUNDS

        def total_s(choice: Choice) -> float:
            return horizon * problem.step_s(choice) + self._moving_s(choice, current)

        moved, cost_s = best.copy(), total_s(best)
        for row in np.flatnonzero(self._cuts(best) != np.asarray(current)):
            trial = moved.copy()
            trial[row] = staying[row]
            if (trial_s := total_s(trial)) <= cost_s * (1 + 1e-9):
                moved, cost_s = trial, trial_s
        if stay_s - problem.step_s(moved) <= MIN_GAIN * problem.step_s(moved) or horizon * stay_s <= cost_s:
            return staying
        return moved

    def with_least_lossy_codecs(self, choice: Choice) -> Choice:
        """Return the choice with the least lossy codec of every edge that does not lengthen the step."""
        changed, step_s = choice.copy(), self.problem.step_s(choice)
        for row, forecast in enumerate(self.forecasts):
            chosen = forecast.options[changed[row]]
            for column, option in enumerate(forecast.options):
                if (option.cut, option.rank) != (chosen.cut, chosen.rank) or (
                        option.up_bits <= forecast.options[changed[row]].up_bits):
                    continue
                trial = changed.copy()
                trial[row] = column
                if self.problem.step_s(trial) <= step_s * (1 + 1e-9):
                    changed = trial
        return changed

    def with_greatest_ranks(self, choice: Choice, steps: int) -> Choice:
        """Return the choice with greater ranks of adapters, the least first, as long as a round takes MIN_GAIN more.

        A round is its steps, and its part of sending the adapters of the slowest edge to an averaging.
        """
        changed, limit_s = choice.copy(), (1 + MIN_GAIN) * self._round_s(choice, steps)
        ranks = sorted({option.rank for forecast in self.forecasts for option in forecast.options
                        if option.rank is not None})
        for rank in ranks:
            for row, forecast in enumerate(self.forecasts):
                chosen = forecast.options[changed[row]]
                greater = [column for column, option in enumerate(forecast.options) if option.rank == rank
                           and (option.cut, option.codec, option.keep) == (chosen.cut, chosen.codec, chosen.keep)]
                if chosen.rank is None or rank <= chosen.rank or not greater:
                    continue
                trial = changed.copy()
                trial[row] = greater[0]
                if self._round_s(trial, steps) <= limit_s:
                    changed = trial
        return changed

    def _round_s(self, choice: Choice, steps: int) -> float:
        stages = self.problem.stages(choice)
        sending_s = [0.0]
        for forecast, column in zip(self.forecasts, choice, strict=True):
            option = forecast.options[column]
            if option.rank is not None and forecast.adapter_bits:
                rate_bps = self._rate_bps(option.up_bits, stages.up_s) or self._floor_bps
                sending_s.append(option.rank * forecast.adapter_bits[option.cut] / rate_bps)
        return steps * self.problem.step_s(choice) + max(sending_s)

    def build_plan(self, choice: Choice, proven_s: float) -> RoundPlan:
        """Return the plan of a choice with its rates and delays."""
        stages: StageTimes = self.problem.stages(choice)
        edges = []
        for forecast, column in zip(self.forecasts, choice, strict=True):
            option = forecast.options[column]
            up_bps = self._rate_bps(option.up_bits, stages.up_s)
            down_bps = self._rate_bps(option.down_bits, stages.down_s)
            edges.append(EdgePlan(
                forecast.edge, option.cut, up_bps, down_bps, option.forward_s, forecast.margin * option.forward_s,
                option.backward_s, option.codec, forecast.tail_s, option.up_bits / max(up_bps, 1),
                option.down_bits / max(down_bps, 1), option.keep, option.rank,
            ))
        micro_batches = self.problem.micro_batches
        return RoundPlan(
            edges=tuple(edges),
            training_delay_s=stages.forward_s,
            transmission_delay_s=stages.up_s,
            return_delay_s=stages.down_s,
            cloud_s=stages.cloud_s,
            period_s=stages.period_s,
            step_s=stages.step_s(micro_batches),
            bound_s=stages.bound_s(micro_batches),
            micro_batches=micro_batches,
            proven_s=proven_s,
            least_spread_s=least_spread_s(self.forecasts, max(edge.forward_s for edge in edges)),
        )

    def _rate_bps(self, bits: float, time_s: float) -> int:
        """Return the rate of a flow of these bits, at least the floor; 0 if nothing is sent."""
        return int(max(bits / time_s if time_s > 0 else 0.0, self._floor_bps)) if bits > 0 else 0

    def _cuts(self, choice: Choice) -> Choice:
        return np.array([f.options[column].cut for f, column in zip(self.forecasts, choice, strict=True)])

    def _moving_s(self, choice: Choice, current: Sequence[int]) -> float:
        """Return the time to move the layers that change sides at the rates of this choice."""
        stages = self.problem.stages(choice)
        times = [0.0]
        for forecast, column, old in zip(self.forecasts, choice, current, strict=True):
            option = forecast.options[column]
            bits = forecast.state_bits[option.cut] - forecast.state_bits[old]
            rate_bps = (self._rate_bps(option.down_bits, stages.down_s) if bits > 0
                        else self._rate_bps(option.up_bits, stages.up_s))
            times.append(abs(bits) / (rate_bps or self._floor_bps))
        return max(times)


def _workers(forecasts: Sequence[EdgeForecast]) -> SharedLinks | None:
    """Return the processes that compute in the cloud as links with a capacity of a second of work in a second."""
    workers = [forecast.worker or "" for forecast in forecasts]
    return SharedLinks([(worker,) for worker in workers], dict.fromkeys(workers, 1.0), 0.0) if any(workers) else None


def _check_floors(forecasts: Sequence[EdgeForecast], offer: Offer) -> None:
    flows: dict[str, int] = {}
    for forecast in forecasts:
        has_down = any(option.down_bits > 0 for option in forecast.options)
        for link in (*offer.up_links[forecast.edge], *(offer.down_links[forecast.edge] if has_down else ())):
            flows[link] = flows.get(link, 0) + 1
    for link, count in flows.items():
        if offer.usable_bps[link] < count * offer.floor_bps * (1 - 1e-9):
            raise PlanError(
                f"Link {link} has {offer.usable_bps[link] / 1e6:.2f} Mb/s for {count} flows; each needs "
                f"at least {offer.floor_bps / 1e6:g} Mb/s."
            )
