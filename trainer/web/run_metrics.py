"""Metrics of training for Prometheus: of the runs that go on, and of the last one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from trainer.web.run_store import LIVE, FollowedRun

STATUSES = ("running", "paused", "done", "failed", "stopped")
EDGE_STATES = ("training", "lost", "excluded")

GAUGES = {
    "paceline_run_round": "Finished rounds.",
    "paceline_run_step": "Step of the round that is under way, from 1; 0 between rounds.",
    "paceline_run_metric": "Last value of the metric of the global model.",
    "paceline_run_target": "Value of the metric that ends the run.",
    "paceline_run_loss": "Mean loss of the last finished round.",
    "paceline_run_round_seconds": "Duration of the last finished round.",
    "paceline_run_step_seconds": "Median time of a step of the last finished round.",
    "paceline_run_over_bound": "Step time of the last finished round over its lower bound.",
}
COUNTERS = {
    "paceline_run_bytes": "Bytes of segments and gradients sent.",
    "paceline_run_promises_made": "Transfers that had a bound.",
    "paceline_run_promises_kept": "Transfers that arrived within their bound.",
    "paceline_run_edges_lost": "Edges that left.",
}


def render_metrics(runs: list[FollowedRun]) -> str:
    """Return the metrics of live runs, and of the newest one, in the text format of Prometheus."""
    shown = [run for number, run in enumerate(runs) if number == 0 or run.status in LIVE]
    registry = CollectorRegistry()
    registry.register(_Runs(shown))
    return generate_latest(registry).decode()


class _Runs(Collector):
    def __init__(self, runs: list[FollowedRun]) -> None:
        self._values = {run.id: _values(run) for run in runs}
        self._runs = runs

    def collect(self) -> Iterator[Any]:
        """Yield all families."""
        status = GaugeMetricFamily(
            "paceline_run_status", "1 for the status that the run has.", labels=["run", "status"]
        )
        edges = GaugeMetricFamily(
            "paceline_run_edge", "1 for the state that the edge has.", labels=["run", "edge", "state"]
        )
        cuts = GaugeMetricFamily("paceline_run_edge_cut", "Layers on the edge.", labels=["run", "edge"])
        for run in self._runs:
            for name in STATUSES:
                status.add_metric([run.id, name], float(run.status == name))
            for edge, (state, cut) in _edges(run).items():
                for name in EDGE_STATES:
                    edges.add_metric([run.id, edge, name], float(state == name))
                if cut is not None:
                    cuts.add_metric([run.id, edge], cut)
        yield from (status, edges, cuts)
        for kind, texts in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
            for name, text in texts.items():
                family = kind(name, text, labels=["run"])
                for run_id, values in self._values.items():
                    if (value := values[name]) is not None:
                        family.add_metric([run_id], float(value))
                yield family


def _values(run: FollowedRun) -> dict[str, float | None]:
    rounds = run.rounds
    last: dict[str, Any] = rounds[-1] if rounds else {}
    steps = sorted(last["step_ms"]["measured"]) if last else []
    promises, metric = run.promises, run.metric
    return {
        "paceline_run_round": len(rounds),
        "paceline_run_step": run.step or 0,
        "paceline_run_metric": metric.get("final"),
        "paceline_run_target": metric.get("target"),
        "paceline_run_loss": last.get("loss"),
        "paceline_run_round_seconds": last["duration_ms"] / 1e3 if last else None,
        "paceline_run_step_seconds": steps[len(steps) // 2] / 1e3 if steps else None,
        "paceline_run_over_bound": last.get("round_over_bound"),
        "paceline_run_bytes": sum(transfer["bytes"] for row in rounds for transfer in row["transfers"]),
        "paceline_run_promises_made": promises["made"],
        "paceline_run_promises_kept": promises["kept"],
        "paceline_run_edges_lost": sum(len(row.get("lost", ())) for row in rounds),
    }


def _edges(run: FollowedRun) -> dict[str, tuple[str, int | None]]:
    """State and cut of every edge, by the run's events."""
    edges: dict[str, tuple[str, int | None]] = {}
    for event in run.events:
        match event["event"]:
            case "gathered":
                edges |= dict.fromkeys(event["edges"], ("training", None))
            case "plan":
                edges |= {edge: ("training", cut) for edge, cut in event["cuts"].items()}
            case "lost":
                edges[event["edge"]] = ("excluded" if event.get("excluded") else "lost", None)
            case "joined":
                edges[event["edge"]] = ("training", None)
    return edges
