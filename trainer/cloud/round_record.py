"""A round as the record tells it: its plan, its row, and the event when it is done."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from trainer.cloud.step_timing import Direction, RoundBound, StepResult, StepTransfers
from trainer.planning.plan import EdgePlan, RoundPlan
from trainer.records.run_record import Fields, median_ms, milliseconds
from trainer.reservation.bandwidth import Grant
from trainer.transport.pacing import Judgement


def plan_event(number: int, grant: Grant) -> Fields:
    """What the event `plan` tells: every edge's cut, codec and rate, and the common delays."""
    plan = grant.plan
    return {
        "round": number,
        "cuts": {edge.edge: edge.cut for edge in plan.edges},
        "training_delay_ms": milliseconds(plan.last_departure_s),
        "beat_ms": milliseconds(plan.period_s),
        "transmission_delay_ms": milliseconds(plan.uplink_s),
        "step_ms": milliseconds(plan.step_s),
        "codecs": {edge.edge: edge.codec for edge in plan.edges},
        "rates_bps": {edge.edge: grant.up[edge.edge].rate_bps for edge in plan.edges},
        "reservation": grant.reservation_id,
        "reserved": grant.reserved,
        "adaptations": list(grant.adaptations),
        "offer": _offer(grant),
    }


def round_event(row: Fields) -> Fields:
    """What the event `round_done` tells of a round's row."""
    judged = [transfer["kept"] for transfer in row["transfers"] if transfer["kept"] is not None]
    return {
        **{name: row[name] for name in ("round", "duration_ms", "loss", "accuracy", "averaged", "spread_ms")},
        "cuts": {edge["edge"]: edge["cut"] for edge in row["edges"]},
        "promises": {"made": len(judged), "kept": sum(judged)},
        "training_ms": {edge["edge"]: edge["training_ms"] for edge in row["edges"]},
        "uplink_ms": {edge["edge"]: edge["uplink_ms"] for edge in row["edges"]},
    }


def _offer(grant: Grant) -> Fields | None:
    """What the controller was asked before the plan; None if it was not."""
    if (asked := grant.quote_stats) is None:
        return None
    return {
        "quotes": asked.quotes,
        "quote_ms": milliseconds(asked.seconds),
        "transfer_ms": {"up": milliseconds(asked.up_s), "down": milliseconds(asked.down_s)},
        "bottleneck": {"up": asked.up_bottleneck, "down": asked.down_bottleneck},
    }


def round_row(
    number: int,
    grant: Grant,
    steps: Sequence[StepResult],
    sizes: Mapping[str, Mapping[str, int]],
    batches: Mapping[str, int],
    duration_s: float,
    accuracy: float | None,
    averaged: bool,
) -> Fields:
    """The row of a round, with the edges in `batches`; `sizes` as `Outlook.sizes`, names as in `run_record`."""
    plan = dataclasses.replace(grant.plan, edges=tuple(edge for edge in grant.plan.edges if edge.edge in batches))
    transfers = [row for step in steps for row in _transfers(step, grant.broken)]
    edges = [
        _edge_row(edge, grant, [step.edges[edge.edge] for step in steps], plan,
                  {"edge": edge.edge, "cut": edge.cut, "codec": edge.codec, "samples": batches[edge.edge] * len(steps),
                   **sizes[edge.edge]})
        for edge in plan.edges
    ]
    bound, training_s = RoundBound.of(steps), sum(step.duration_s for step in steps)
    bounds = [row["bound_ms"] for row in transfers if row["bound_ms"] is not None and row["direction"] == "up"]
    return {
        "round": number,
        "duration_ms": milliseconds(duration_s),
        "averaged": averaged,
        "accuracy": accuracy,
        "training_delay_ms": {"target": milliseconds(plan.last_departure_s)},
        "transmission_delay_ms": {
            "target": milliseconds(plan.uplink_s),
            "bound": max(bounds) if bounds else None,
        },
        "step_ms": {
            "predicted": milliseconds(plan.step_s),
            **({} if plan.unprotected_step_s is None else {"unprotected": milliseconds(plan.unprotected_step_s)}),
            "measured": [milliseconds(s.duration_s) for s in steps],
        },
        "cloud_ms": {
            "predicted": milliseconds(plan.micro_batches * plan.cloud_s),
            "measured": median_ms([sum(e.cloud_s for e in step.edges.values()) for step in steps]),
        },
        "beat_ms": milliseconds(plan.period_s),
        "bound_ms": {"edge": milliseconds(bound.edge_s), "limit": milliseconds(bound.limit_s),
                     "link": milliseconds(bound.link_s), "cloud": milliseconds(bound.cloud_s)},
        "round_over_bound": round(training_s / bound.largest_s, 4) if bound.largest_s else None,
        "spread_ms": [milliseconds(step.spread_s) for step in steps],
        "spread_share": round(max(step.spread_s for step in steps) / training_s, 5),
        "loss": round(statistics.fmean(e["loss"] for e in edges), 5),
        "reservation": {"id": grant.reservation_id, "version": grant.reservation_version} if grant.reserved else None,
        "adaptations": list(grant.adaptations),
        "offer": _offer(grant),
        "edges": edges,
        "transfers": transfers,
    }


def _edge_row(edge: EdgePlan, grant: Grant, exchanges: list[StepTransfers], plan: RoundPlan, head: Fields) -> Fields:
    done = [exchange.done for exchange in exchanges if exchange.done is not None]
    up, down = grant.up[edge.edge], grant.down[edge.edge]
    return {
        **head,
        "reserved_bps": up.rate_bps if grant.reserved else None,
        "reserved_down_bps": down.rate_bps if grant.reserved else None,
        "planned_bps": edge.up_bps,
        "training_ms": {
            "predicted": milliseconds(plan.micro_batches * edge.forward_s),
            "measured": median_ms([d.forward_s for d in done]),
        },
        "backward_ms": {
            "predicted": milliseconds(plan.micro_batches * edge.backward_s),
            "measured": median_ms([d.backward_s for d in done]),
        },
        **({} if not edge.tail_s else {"tail_ms": {
            "predicted": milliseconds(plan.micro_batches * edge.tail_s),
            "measured": median_ms([d.tail_s for d in done]),
        }}),
        "uplink_ms": _delay(exchanges, "up", plan.uplink_s + edge.up_wait_s),
        "downlink_ms": _delay(exchanges, "down", plan.downlink_s + edge.down_wait_s),
        "late_ms": milliseconds(max(d.late_s for d in done)),
        "loss": round(statistics.fmean(exchange.loss for exchange in exchanges), 5),
        "offset_ms": milliseconds(exchanges[0].offset_s),
    }


def _delay(exchanges: list[StepTransfers], direction: Direction, predicted_s: float) -> Fields:
    judged: list[Judgement] = [exchange.transfer(direction)[1] for exchange in exchanges]
    bounds = [one.bound_s for one in judged if one.bound_s is not None]
    measured = [one.measured_s for one in judged]
    return {
        "predicted": milliseconds(predicted_s),
        "bound": milliseconds(min(bounds)) if bounds else None,
        "measured": median_ms(measured),
        "worst": milliseconds(max(measured)),
    }


def _transfers(step: StepResult, broken: bool) -> list[Fields]:
    rows = []
    directions: tuple[Direction, Direction] = ("up", "down")
    for name, exchange in step.edges.items():
        for direction in directions:
            size, judgement = exchange.transfer(direction)
            sent_up_s = exchange.sent_up[0].send_s - exchange.offset_s
            sent_s = sent_up_s if direction == "up" else exchange.sent_down[0].send_s
            rows.append({
                "edge": name,
                "direction": direction,
                "step": step.step,
                "sent_at": round(sent_s, 4),
                "bytes": size,
                "ideal_ms": milliseconds(judgement.ideal_s),
                "bound_ms": milliseconds(judgement.bound_s),
                "measured_ms": milliseconds(judgement.measured_s),
                "kept": False if broken else judgement.kept,
            })
    return rows
