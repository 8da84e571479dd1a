"""What the planner is asked in a round: forecasts, each edge's allowed cuts, and the cuts of the last round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from trainer.cloud.edge_replica import EdgeReplica
from trainer.config.settings import RunSettings
from trainer.planning.custom_policy import CustomPolicy
from trainer.planning.forecasts import StepForecaster
from trainer.planning.plan import Offer, RoundPlan
from trainer.planning.planner import plan_round


def draft_plan(
    number: int, offer: Offer, settings: RunSettings, apprentices: Mapping[str, EdgeReplica], outlook: StepForecaster,
    layers: int, policy: CustomPolicy | None = None, keep_cuts: bool = True,
) -> RoundPlan:
    """The plan of a round for what the network offers; fixed cuts or the user's policy if the settings say so.

    Without `keep_cuts` the planner does as if there had been no round before.

    Raises: PlanError, UsageError if the policy chooses what cannot be.
    """
    present = list(apprentices.values())
    mss_bytes = {one.name: one.member.planning_mss_bytes for one in present}
    cuts = {one.name: _allowed(number, settings, one, layers) for one in present}
    current = [one.cut for one in present] if number > 1 else None
    micros = max(one.micros for one in present)
    forecasts = outlook.forecasts(mss_bytes, cuts)
    if policy is None:
        plan = plan_round(forecasts, offer, micros, current if keep_cuts else None, settings.steps)
    else:
        plan = policy.plan(number, forecasts, offer, micros, current)
    if not settings.protect_labels:
        return plan
    same = [
        replace(forecast, options=tuple(one for one in forecast.options if one.codec == edge.codec))
        for forecast, edge in zip(outlook.forecasts(mss_bytes, {edge.edge: [edge.cut] for edge in plan.edges},
                                                    unprotected=True), plan.edges, strict=True)
    ]
    return replace(plan, unprotected_step_s=plan_round(same, offer, micros).step_s)



def _allowed(number: int, settings: RunSettings, one: EdgeReplica, layers: int) -> range:
    if settings.cuts:
        row = settings.cuts[min(number, len(settings.cuts)) - 1]
        cut = row[settings.edges.index(one.name)]
        return range(cut, cut + 1)
    before_tail = layers - settings.tail_layers if settings.protect_labels else layers
    last = before_tail - 1 if settings.max_cut is None else settings.max_cut
    if one.cap is not None:
        last = max(settings.min_cut, min(last, one.cap))
    return range(settings.min_cut, last + 1)
