"""Predictions + network offer -> cuts, codecs, rates, beat and the delays. Exact: `trainer.planning.branch_and_bound`.

The rates are in proportion to the bytes, so that all segments take the same transmission delay: the longest that any
link needs for the sum of what crosses it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.errors import PlanError
from trainer.planning.branch_and_bound import Choice, Mask, Problem, Search
from trainer.planning.pipeline_model import Links, Stages
from trainer.planning.plan import Alternative, EdgeForecast, EdgePlan, Offer, Option, RoundPlan

KEEP_SHARE = 0.05
"""A new plan must be better by this much, or the cuts stay: predictions are not better than that."""

PAYBACK_ROUNDS = 3
"""Moving layers must have paid for itself after this many rounds."""


def plan_round(
    forecasts: Sequence[EdgeForecast],
    offer: Offer,
    micros: int,
    current: Sequence[int] | None = None,
    steps: int = 1,
) -> RoundPlan:
    """The best options; `current` cuts stay unless a change pays.

    It pays if a step gets shorter by KEEP_SHARE and, with `steps` a round, moving the layers is paid back within
    PAYBACK_ROUNDS. An edge whose change gains nothing of that stays.

    Raises: PlanError if the network cannot even give every flow its floor.
    """
    planning = _Planning(forecasts, offer, micros)
    found = Search(planning.problem).run()
    choice = found.choice
    if current is not None and (staying := planning.only(current)) is not None:
        choice = planning.settle(choice, Search(planning.problem, staying).run().choice, current, steps)
    return planning.plan(planning.spare(choice), found.proven_s)


def alternatives(
    forecasts: Sequence[EdgeForecast], offer: Offer, micros: int, plan: RoundPlan
) -> list[Alternative]:
    """For every edge, its next-best cut: what a step would take if it could not have the cut of the plan.

    Source: that is the second-best solution per decision, Murty 1968, "An algorithm for ranking all the assignments".
    """
    planning = _Planning(forecasts, offer, micros)
    others = []
    for row, (forecast, edge) in enumerate(zip(forecasts, plan.edges, strict=True)):
        allowed = planning.allowed.copy()
        for column, option in enumerate(forecast.options):
            allowed[row, column] &= option.cut != edge.cut
        if allowed[row].any():
            found = Search(planning.problem, allowed).run()
            option = forecast.options[found.choice[row]]
            others.append(Alternative(edge.edge, option.cut, option.codec, found.step_s))
    return others


class _Planning:
    """The options of all edges as one problem, and plans made from choices."""

    def __init__(self, forecasts: Sequence[EdgeForecast], offer: Offer, micros: int) -> None:
        self.forecasts = forecasts
        _check_floors(forecasts, offer)
        names = [forecast.edge for forecast in forecasts]
        most = max(len(forecast.options) for forecast in forecasts)
        table = np.full((len(forecasts), most, 5), np.inf)
        for row, forecast in enumerate(forecasts):
            table[row, : len(forecast.options)] = [
                (o.forward_s, o.backward_s, o.cloud_s, o.up_bits, o.down_bits) for o in forecast.options
            ]
        margins = np.array([forecast.margin for forecast in forecasts])[:, None]
        tails_s = np.array([forecast.tail_s for forecast in forecasts])[:, None]
        self.problem = Problem(
            forward_s=table[:, :, 0] * margins, backward_s=table[:, :, 1],
            busy_s=table[:, :, 0] + table[:, :, 1] + tails_s, cloud_s=table[:, :, 2],
            up_bits=table[:, :, 3], down_bits=table[:, :, 4],
            up=Links([offer.up_links[name] for name in names], offer.usable_bps, offer.floor_bps),
            down=Links([offer.down_links[name] for name in names], offer.usable_bps, offer.floor_bps),
            micros=micros, tail_s=float(tails_s.max()),
        )
        self.allowed: Mask = np.isfinite(self.problem.cloud_s)
        self._floor_bps = offer.floor_bps

    def only(self, cuts: Sequence[int]) -> Mask | None:
        """The options with these cuts; None if an edge has none."""
        allowed: Mask = np.zeros_like(self.allowed)
        for row, (forecast, cut) in enumerate(zip(self.forecasts, cuts, strict=True)):
            for column, option in enumerate(forecast.options):
                allowed[row, column] = option.cut == cut
        return allowed if allowed.any(axis=1).all() else None

    def settle(self, best: Choice, staying: Choice, current: Sequence[int], steps: int) -> Choice:
        """The better of moving and staying, each with what it costs; edges that gain nothing stay behind."""
        problem = self.problem
        stay_s = problem.step_s(staying)
        horizon = steps * PAYBACK_ROUNDS

        def charged_s(choice: Choice) -> float:
            return horizon * problem.step_s(choice) + self._moving_s(choice, current)

        moved, cost_s = best.copy(), charged_s(best)
        for row in np.flatnonzero(self._cuts(best) != np.asarray(current)):
            back = moved.copy()
            back[row] = staying[row]
            if (back_s := charged_s(back)) <= cost_s * (1 + 1e-9):
                moved, cost_s = back, back_s
        if stay_s - problem.step_s(moved) <= KEEP_SHARE * problem.step_s(moved) or horizon * stay_s <= cost_s:
            return staying
        return moved

    def spare(self, choice: Choice) -> Choice:
        """The same cuts and step, but for every edge the codec that loses least of those that cost nothing."""
        spared, step_s = choice.copy(), self.problem.step_s(choice)
        for row, forecast in enumerate(self.forecasts):
            mine = forecast.options[spared[row]]
            for column, option in enumerate(forecast.options):
                if option.cut != mine.cut or option.up_bits <= forecast.options[spared[row]].up_bits:
                    continue
                trial = spared.copy()
                trial[row] = column
                if self.problem.step_s(trial) <= step_s * (1 + 1e-9):
                    spared = trial
        return spared

    def plan(self, choice: Choice, proven_s: float) -> RoundPlan:
        """The choice with the rates and delays that follow from it."""
        stages: Stages = self.problem.stages(choice)
        edges = []
        for forecast, column in zip(self.forecasts, choice, strict=True):
            option = forecast.options[column]
            edges.append(EdgePlan(
                forecast.edge, option.cut, self._rate_bps(option.up_bits, stages.up_s),
                self._rate_bps(option.down_bits, stages.down_s), option.forward_s,
                forecast.margin * option.forward_s, option.backward_s, option.codec, forecast.tail_s,
                *_waits_s(stages, option),
            ))
        micros = self.problem.micros
        return RoundPlan(
            edges=tuple(edges), training_delay_s=stages.forward_s, transmission_delay_s=stages.up_s,
            return_delay_s=stages.down_s, cloud_s=stages.cloud_s, beat_s=stages.beat_s,
            step_s=stages.step_s(micros), bound_s=stages.bound_s(micros), micros=micros, proven_s=proven_s,
        )

    def _rate_bps(self, bits: float, time_s: float) -> int:
        return int(max(bits / time_s if time_s > 0 else 0.0, self._floor_bps))

    def _cuts(self, choice: Choice) -> Choice:
        return np.array([f.options[column].cut for f, column in zip(self.forecasts, choice, strict=True)])

    def _moving_s(self, choice: Choice, current: Sequence[int]) -> float:
        """Seconds until the layers that change sides have moved, at the rates of this choice."""
        stages = self.problem.stages(choice)
        times = [0.0]
        for forecast, column, old in zip(self.forecasts, choice, current, strict=True):
            option = forecast.options[column]
            bits = forecast.state_bits[option.cut] - forecast.state_bits[old]
            rate_bps = (self._rate_bps(option.down_bits, stages.down_s) if bits > 0
                        else self._rate_bps(option.up_bits, stages.up_s))
            times.append(abs(bits) / rate_bps)
        return max(times)


def _waits_s(stages: Stages, option: Option) -> tuple[float, float]:
    """`up_wait_s` and `down_wait_s` of an edge plan; in the cloud a backward pass takes as long as two forward ones."""
    if not option.tail_down_bits:
        return 0.0, 0.0
    return (
        stages.cloud_s / 3 + stages.down_s * option.tail_down_bits / option.down_bits + stages.tail_s,
        stages.tail_s + stages.up_s * option.tail_up_bits / option.up_bits + 2 * stages.cloud_s / 3,
    )


def _check_floors(forecasts: Sequence[EdgeForecast], offer: Offer) -> None:
    flows: dict[str, int] = {}
    for forecast in forecasts:
        for link in (*offer.up_links[forecast.edge], *offer.down_links[forecast.edge]):
            flows[link] = flows.get(link, 0) + 1
    for link, count in flows.items():
        if offer.usable_bps[link] < count * offer.floor_bps * (1 - 1e-9):
            raise PlanError(
                f"Link {link} has {offer.usable_bps[link] / 1e6:.2f} Mb/s for {count} flows; each needs "
                f"at least {offer.floor_bps / 1e6:g} Mb/s."
            )
