"""Planner input of a round: forecasts, allowed cuts of every edge, and the current cuts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from trainer.cloud.edge_replica import EdgeReplica
from trainer.config.settings import RunSettings
from trainer.planning.custom_policy import CustomPolicy
from trainer.planning.forecasts import StepForecaster
from trainer.planning.plan import Offer, RoundPlan
from trainer.planning.planner import plan_round


def plan_training_round(
    number: int, offer: Offer, settings: RunSettings, replicas: Mapping[str, EdgeReplica], forecaster: StepForecaster,
    layers: int, policy: CustomPolicy | None = None, keep_cuts: bool = True,
) -> RoundPlan:
    """Plan a round for the network's offer, with fixed cuts or the custom policy if configured.

    Without `keep_cuts` the planner ignores the current cuts.

    Raises: PlanError, UsageError if the choice of the policy is not possible.
    """
    present = list(replicas.values())
    mss_bytes = {replica.name: replica.session.planning_mss_bytes for replica in present}
    cuts = {replica.name: _allowed_cuts(number, settings, replica, layers) for replica in present}
    current = [replica.cut for replica in present] if number > 1 else None
    micro_batches = max(replica.micro_batches for replica in present)
    forecasts = forecaster.forecasts(mss_bytes, cuts)
    if policy is None:
        plan = plan_round(forecasts, offer, micro_batches, current if keep_cuts else None, settings.steps)
    else:
        plan = policy.plan(number, forecasts, offer, micro_batches, current)
    if not settings.protect_labels:
        return plan
    same = [
        replace(forecast, options=tuple(replica for replica in forecast.options if replica.codec == edge.codec))
        for forecast, edge in zip(forecaster.forecasts(mss_bytes, {edge.edge: [edge.cut] for edge in plan.edges},
                                                    unprotected=True), plan.edges, strict=True)
    ]
    return replace(plan, unprotected_step_s=plan_round(same, offer, micro_batches).step_s)


def _allowed_cuts(number: int, settings: RunSettings, replica: EdgeReplica, layers: int) -> range:
    if settings.cuts:
        row = settings.cuts[min(number, len(settings.cuts)) - 1]
        cut = row[settings.edges.index(replica.name)]
        return range(cut, cut + 1)
    before_tail = layers - settings.tail_layers if settings.protect_labels else layers
    last = before_tail - 1 if settings.max_cut is None else settings.max_cut
    if replica.max_cut is not None:
        last = max(settings.min_cut, min(last, replica.max_cut))
    return range(settings.min_cut, last + 1)
