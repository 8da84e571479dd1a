"""A round in the run record: its plan event, its row and its final event."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from trainer.cloud.step_timing import Direction, RoundBound, StepResult, StepTransfers, busiest_s
from trainer.planning.plan import EdgePlan, RoundPlan
from trainer.records.run_record import median_ms, milliseconds
from trainer.records.summary_file import Fields
from trainer.reservation.bandwidth import Grant
from trainer.transport.pacing import TransferVerdict


def plan_event(number: int, grant: Grant) -> Fields:
    """Return the fields of the event `plan`: cut, codec and rate of every edge, and the common delays."""
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
    """Return the fields of the event `round_done` from a round's row."""
    kept = [transfer["kept"] for transfer in row["transfers"] if transfer["kept"] is not None]
    return {
        **{name: row[name] for name in ("round", "duration_ms", "loss", "accuracy", "metric", "averaged", "spread_ms")},
        "cuts": {edge["edge"]: edge["cut"] for edge in row["edges"]},
        "promises": {"made": len(kept), "kept": sum(kept)},
        "training_ms": {edge["edge"]: edge["training_ms"] for edge in row["edges"]},
        "uplink_ms": {edge["edge"]: edge["uplink_ms"] for edge in row["edges"]},
    }


def _offer(grant: Grant) -> Fields | None:
    """Return the quotes requested for the plan; None without a controller."""
    if (stats := grant.quote_stats) is None:
        return None
    return {
        "quotes": stats.quotes,
        "quote_ms": milliseconds(stats.seconds),
        "transfer_ms": {"up": milliseconds(stats.up_s), "down": milliseconds(stats.down_s)},
        "bottleneck": {"up": stats.up_bottleneck, "down": stats.down_bottleneck},
    }


def round_row(
    number: int,
    grant: Grant,
    steps: Sequence[StepResult],
    sizes: Mapping[str, Mapping[str, int]],
    batches: Mapping[str, int],
    duration_s: float,
    metric: float | None,
    averaged: bool,
) -> Fields:
    """Return the row of a round for the edges in `batches`; `sizes` as `StepForecaster.sizes` returns them.

    The field names are documented in `trainer.records.run_record`.
    """
    plan = dataclasses.replace(grant.plan, edges=tuple(edge for edge in grant.plan.edges if edge.edge in batches))
    transfer_rows = [row for step in steps for row in _transfer_rows(step, grant.broken)]
    edges = [
        _edge_row(edge, grant, [step.edges[edge.edge] for step in steps], plan,
                  {"edge": edge.edge, "cut": edge.cut, "codec": edge.codec,
                   **({} if edge.rank is None else {"rank": edge.rank}), "samples": batches[edge.edge] * len(steps),
                   **sizes[edge.edge]})
        for edge in plan.edges
    ]
    bound, training_s = RoundBound.from_steps(steps), sum(step.duration_s for step in steps)
    bounds = [row["bound_ms"] for row in transfer_rows if row["bound_ms"] is not None and row["direction"] == "up"]
    return {
        "round": number,
        "duration_ms": milliseconds(duration_s),
        "averaged": averaged,
        "metric": metric,
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
            "measured": median_ms([busiest_s(step.edges.values()) for step in steps]),
        },
        "beat_ms": milliseconds(plan.period_s),
        "bound_ms": {"edge": milliseconds(bound.edge_s), "limit": milliseconds(bound.limit_s),
                     "link": None if grant.rates_are_assumed else milliseconds(bound.link_s),
                     "cloud": milliseconds(bound.cloud_s)},
        "round_over_bound": round(training_s / bound.largest_s, 4) if bound.largest_s else None,
        "training_spread_ms": {
            "predicted": milliseconds(plan.training_spread_s),
            "least": milliseconds(plan.least_spread_s),
            "measured": median_ms([step.training_spread_s(plan.micro_batches) for step in steps]),
        },
        "spread_ms": [milliseconds(step.spread_s) for step in steps],
        "spread_share": round(max(step.spread_s for step in steps) / training_s, 5),
        "loss": round(statistics.fmean([e["loss"] for e in edges], [e["samples"] for e in edges]), 5),
        "reservation": {"id": grant.reservation_id, "version": grant.reservation_version} if grant.reserved else None,
        "adaptations": list(grant.adaptations),
        "offer": _offer(grant),
        "edges": edges,
        "transfers": transfer_rows,
    }


def _edge_row(
    edge: EdgePlan, grant: Grant, step_transfers: list[StepTransfers], plan: RoundPlan, head: Fields
) -> Fields:
    done = [transfers.done for transfers in step_transfers if transfers.done is not None]
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
        "uplink_ms": _delay(step_transfers, "up", plan.micro_batches * edge.up_s),
        "downlink_ms": _delay(step_transfers, "down", plan.micro_batches * edge.down_s),
        "late_ms": milliseconds(max(d.late_s for d in done)),
        **({"saved_bytes": sum(transfers.saved_bytes for transfers in step_transfers)} if edge.keep else {}),
        "loss": round(statistics.fmean(transfers.loss for transfers in step_transfers), 5),
        "offset_ms": milliseconds(step_transfers[0].offset_s),
    }


def _delay(step_transfers: list[StepTransfers], direction: Direction, predicted_s: float) -> Fields:
    """Return the median of a direction's transfers, and the longest beside its own bound; all null if none is sent."""
    sent = [transfers.transfer(direction) for transfers in step_transfers]
    verdicts: list[TransferVerdict] = [transfer[1] for transfer in sent if transfer is not None]
    if not verdicts:
        return dict.fromkeys(("predicted", "measured", "worst", "bound"))
    longest = max(verdicts, key=lambda verdict: verdict.measured_s)
    return {
        "predicted": milliseconds(predicted_s),
        "measured": median_ms([verdict.measured_s for verdict in verdicts]),
        "worst": milliseconds(longest.measured_s),
        "bound": milliseconds(longest.bound_s),
    }


def _transfer_rows(step: StepResult, broken: bool) -> list[Fields]:
    rows = []
    directions: tuple[Direction, Direction] = ("up", "down")
    for name, transfers in step.edges.items():
        for direction in directions:
            if (sent := transfers.transfer(direction)) is None:
                continue
            size, verdict = sent
            sent_s = (transfers.sent_up[0].send_s - transfers.offset_s if direction == "up"
                      else transfers.sent_down[0].send_s)
            rows.append({
                "edge": name,
                "direction": direction,
                "step": step.step,
                "sent_at": round(sent_s, 4),
                "bytes": size,
                "ideal_ms": milliseconds(verdict.ideal_s),
                "bound_ms": milliseconds(verdict.bound_s),
                "measured_ms": milliseconds(verdict.measured_s),
                "margin_ms": milliseconds(verdict.margin_s),
                "span_ms": milliseconds(verdict.span_s),
                "kept": False if broken else verdict.kept,
            })
    return rows
