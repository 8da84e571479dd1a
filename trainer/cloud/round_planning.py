"""Planner input of a round: forecasts, allowed cuts of every edge, and the current cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from trainer.cloud.edge_replica import EdgeReplica
from trainer.cloud.keeping import Keeping
from trainer.config.settings import RunSettings
from trainer.errors import ProtocolError
from trainer.planning.common_cut import check_common_cut, plan_common_cut
from trainer.planning.custom_policy import CustomPolicy
from trainer.planning.forecasts import StepForecaster
from trainer.planning.plan import EdgeForecast, Offer, RoundPlan
from trainer.planning.planner import plan_round
from trainer.planning.worker_assignment import assign_workers
from trainer.protocol.messages import JoinRequest


def plan_training_round(
    number: int, offer: Offer, settings: RunSettings, replicas: Mapping[str, EdgeReplica], forecaster: StepForecaster,
    layers: int, policy: CustomPolicy | None = None, keep_cuts: bool = True, keeping: Keeping | None = None,
) -> RoundPlan:
    """Plan a round for the network's offer, with fixed cuts or the custom policy if configured.

    Without `keep_cuts` the planner ignores the current cuts. With `keeping` cuts and codecs are chosen for the mean
    step of all further rounds, in which a sample of a frozen part is sent once; rates and delays are of this round.

    Raises: PlanError, UsageError if the choice of the policy is not possible.
    """
    present = list(replicas.values())
    mss_bytes = {replica.name: replica.session.planning_mss_bytes for replica in present}
    cuts = {
        replica.name: allowed_cuts(number, settings, replica.name, layers, replica.session.request.min_cut,
                                   replica.max_cut)
        for replica in present
    }
    current = [replica.cut for replica in present] if number > 1 else None
    micro_batches = max(replica.micro_batches for replica in present)
    forecasts = _served(forecaster.forecasts(mss_bytes, cuts), replicas)
    if keeping is not None:
        forecasts = [keeping.over_all_rounds(forecast, replica, number)
                     for forecast, replica in zip(forecasts, present, strict=True)]
    least = max(current or [0])
    if policy is not None:
        plan = policy.plan(number, forecasts, offer, micro_batches, current)
        if settings.secure_aggregation:
            check_common_cut(plan, least)
    elif settings.secure_aggregation:
        plan = plan_common_cut(forecasts, offer, micro_batches, least, least if current and keep_cuts else None)
    else:
        plan = plan_round(forecasts, offer, micro_batches, current if keep_cuts else None, settings.steps)
    if keeping is not None and any(edge.keep for edge in plan.edges):
        chosen = [keeping.in_this_round(forecast, edge, replica, number, mss_bytes[replica.name])
                  for forecast, edge, replica in zip(forecasts, plan.edges, present, strict=True)]
        plan = replace(plan_round(chosen, offer, micro_batches), proven_s=plan.proven_s)
    if not settings.protect_labels:
        return plan
    same = [
        replace(forecast, options=tuple(replica for replica in forecast.options if replica.codec == edge.codec))
        for forecast, edge in zip(forecaster.forecasts(mss_bytes, {edge.edge: [edge.cut] for edge in plan.edges},
                                                    unprotected=True), plan.edges, strict=True)
    ]
    same = _served(same, replicas)
    return replace(plan, unprotected_step_s=plan_round(same, offer, micro_batches).step_s)


def _served(forecasts: Sequence[EdgeForecast], replicas: Mapping[str, EdgeReplica]) -> list[EdgeForecast]:
    """Return the forecasts with the workers that serve the edges."""
    return [replace(forecast, worker=replicas[forecast.edge].session.worker) for forecast in forecasts]


def place_on_workers(
    settings: RunSettings, replicas: Mapping[str, EdgeReplica], forecaster: StepForecaster, layers: int,
    workers: Mapping[str, str], offers: Mapping[str, Offer],
) -> dict[str, str]:
    """Return the worker of every edge that is best for the first round.

    `workers`: the node of the cloud on which each is; `offers`: of the network towards these nodes.

    Raises: PlanError.
    """
    reached = {worker: node for worker, node in workers.items() if node in offers}
    allowed = {replica.name: allowed_cuts(1, settings, replica.name, layers, replica.session.request.min_cut, None)
               for replica in replicas.values()}
    names = [name for name, cuts in allowed.items() if cuts]  # the others will be excluded
    places = dict.fromkeys(allowed, next(iter(reached)))
    if names:
        mss_bytes = {name: replicas[name].session.planning_mss_bytes for name in names}
        forecasts = forecaster.forecasts(mss_bytes, {name: allowed[name] for name in names})
        assignment = assign_workers(forecasts, offers, max(replicas[name].micro_batches for name in names), reached)
        places.update(zip(names, assignment.workers, strict=True))
    return places


def allowed_cuts(
    number: int, settings: RunSettings, edge: str, layers: int, min_cut: int, max_cut: int | None
) -> range:
    """Return the cuts of an edge in a round; `min_cut`: the least it accepts, `max_cut`: its limit after being late."""
    if settings.cuts:
        cut = settings.cuts[min(number, len(settings.cuts)) - 1][settings.edges.index(edge)]
        return range(cut, cut + 1)
    least, last = max(settings.min_cut, min_cut), largest_cut(settings, layers)
    if max_cut is not None:
        last = max(least, min(last, max_cut))
    return range(least, last + 1)


def largest_cut(settings: RunSettings, layers: int) -> int:
    """Return the largest cut that the planner may choose for a model of that many layers."""
    before_tail = layers - settings.tail_layers if settings.protect_labels else layers
    return before_tail - 1 if settings.max_cut is None else settings.max_cut


def check_min_cut(request: JoinRequest, settings: RunSettings, layers: int) -> None:
    """Check that cuts which an edge accepts can be planned.

    Raises: ProtocolError that says what the edge requires.
    """
    planned = largest_cut(settings, layers)
    if settings.cuts:
        planned = min(row[settings.edges.index(request.edge)] for row in settings.cuts)
    if request.min_cut > planned:
        how = f"--cuts assigns it {planned}" if settings.cuts else f"the largest possible one is {planned}"
        raise ProtocolError(f"{request.edge} accepts cuts from {request.min_cut} on, and {how}; start it with "
                            f"--min-cut {planned}, if it may send that.")
