"""Plans a round in which all edges have the same cut, which is not below the last one: for secure aggregation.

A layer that only some edges have is in a sum of those alone, and one that returns to the cloud arrives there unmasked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from trainer.errors import PlanError, UsageError
from trainer.planning.plan import EdgeForecast, Offer, RoundPlan
from trainer.planning.planner import MIN_GAIN, plan_round


def plan_common_cut(
    forecasts: Sequence[EdgeForecast], offer: Offer, micro_batches: int, least: int = 0, current: int | None = None
) -> RoundPlan:
    """Return the best plan with one cut, at least `least`; the `current` one stays unless another gains MIN_GAIN.

    Raises: PlanError if the edges accept no common cut, or as `plan_round` does.
    """
    cuts = set.intersection(*({option.cut for option in forecast.options} for forecast in forecasts))
    cuts = {cut for cut in cuts if cut >= least}
    if not cuts:
        raise PlanError("The edges accept no common cut, which --secure-aggregation needs: "
                        + ", ".join(f"{forecast.edge} {_range(forecast)}" for forecast in forecasts)
                        + (f", and at least {least} after the last round." if least else "."))
    plans = {cut: plan_round([_restricted(forecast, cut) for forecast in forecasts], offer, micro_batches)
             for cut in sorted(cuts)}
    best = min(plans, key=lambda cut: plans[cut].step_s)
    proven_s = min(plan.proven_s for plan in plans.values())
    if current in plans and plans[current].step_s <= (1 + MIN_GAIN) * plans[best].step_s:
        best = current
    return dataclasses.replace(plans[best], proven_s=proven_s)


def check_common_cut(plan: RoundPlan, least: int) -> None:
    """Check that a user's policy chose one cut for all edges, at least `least`.

    Raises: UsageError.
    """
    if len(set(plan.cuts)) > 1 or plan.cuts[0] < least:
        raise UsageError(f"The policy chose the cuts {', '.join(map(str, plan.cuts))}; with --secure-aggregation all "
                         f"edges have the same cut, and after the last round at least {least}.")


def _restricted(forecast: EdgeForecast, cut: int) -> EdgeForecast:
    return dataclasses.replace(forecast, options=tuple(option for option in forecast.options if option.cut == cut))


def _range(forecast: EdgeForecast) -> str:
    cuts = sorted({option.cut for option in forecast.options})
    return f"{cuts[0]} to {cuts[-1]}"
