"""Reads run records for reports and comparisons."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from trainer.errors import UsageError
from trainer.records.summary_file import SUMMARY, metric_of, read_summary

if TYPE_CHECKING:
    from trainer.records.trained_model import TrainedModel

Row = dict[str, Any]

CONFIG = "config.yaml"


@dataclass(frozen=True, slots=True)
class Run:
    """The summary of a run and its directory."""

    directory: Path
    summary: Row

    @property
    def rounds(self) -> list[Row]:
        """The finished rounds."""
        return list(self.summary["rounds"])

    @property
    def metric(self) -> Row:
        """Name and direction of the metric, the loss, target, final and best value."""
        return metric_of(self.summary)

    @property
    def confusion(self) -> Row | None:
        """Held-out samples by true and predicted class (`counts`) after an averaging (`round`); None if unknown."""
        found: Row | None = self.summary.get("confusion")
        return found

    @property
    def settings(self) -> Row:
        """The settings of the run; empty if they cannot be read."""
        try:
            settings = yaml.safe_load((self.directory / CONFIG).read_text())
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return settings if isinstance(settings, dict) else {}

    @property
    def edges(self) -> list[str]:
        """All edges of any round, in order of appearance."""
        return list(dict.fromkeys(edge["edge"] for row in self.rounds for edge in row["edges"]))

    def model(self, which: Literal["last", "best"] = "last") -> TrainedModel:
        """Return the trained model; it takes inputs as they were in the data.

        Raises: CheckpointError if the run has none, UsageError if the user's module cannot be built.
        """
        from trainer.records.trained_model import load_model  # imports torch, which reports do not need

        return load_model(self.directory, which)

    def transfers(self) -> Iterator[Row]:
        """Iterate over all transfers, up and down."""
        for row in self.rounds:
            yield from row["transfers"]

    def of_edge(self, name: str) -> list[tuple[int, Row]]:
        """Return (round, row of the edge) for every round that the edge completed."""
        return [(row["round"], edge) for row in self.rounds for edge in row["edges"] if edge["edge"] == name]

    def seconds(self) -> list[float]:
        """Return the training time at the end of every round."""
        return list(accumulate(row["duration_ms"] / 1e3 for row in self.rounds))

    def megabytes(self) -> list[float]:
        """Return the segments and gradients sent until the end of every round, in MB."""
        return list(accumulate(sum(transfer["bytes"] for transfer in row["transfers"]) / 1e6 for row in self.rounds))

    def fedavg_megabytes(self) -> float | None:
        """Return what federated averaging would have sent, in MB: the model to and from each edge at each averaging.

        None for records that do not tell the model's size.
        """
        size = self.summary.get("model_bytes")
        if size is None:
            return None
        return float(sum(2 * size * len(row["edges"]) for row in self.rounds if row["averaged"]) / 1e6)


def read_run(directory: Path) -> Run:
    """Read the record in a directory.

    Raises: UsageError if there is none.
    """
    try:
        summary = read_summary(directory)
        run = Run(directory, summary)
        _ = run.rounds, run.edges, summary["status"], summary["accuracy"], summary["promises"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{directory} is not the record of a run ({SUMMARY}: {error}).") from error
    return run


def key_figures(run: Run) -> dict[str, str]:
    """Return the key figures of a run in display order; "-" for a missing value."""
    summary, rounds = run.summary, run.rounds
    metric, promises = run.metric, summary["promises"]
    measured = [row["measured_ms"] for row in run.transfers()]
    over_ideal = [row["measured_ms"] / row["ideal_ms"] for row in run.transfers() if row["ideal_ms"]]
    steps = [ms for row in rounds for ms in row["step_ms"]["measured"]]
    spreads = [ms for row in rounds for ms in row["spread_ms"]]
    over_bound = [row["round_over_bound"] for row in rounds if row.get("round_over_bound")]
    lost = sum(len(row.get("lost", ())) for row in rounds)
    return {
        "status": str(summary["status"]),
        "map": str(summary.get("map") or "none (local run)"),
        "model": str(summary.get("model") or "-"),
        "edges": ", ".join(run.edges) or "-",
        "rounds": str(len(rounds)),
        "rounds repeated": str(summary.get("redone_rounds") or "none"),
        str(metric["name"]): "-" if metric["final"] is None else f"{metric['final']:.4f}",
        "loss function": str(metric["loss"]),
        "target reached": _reached(run),
        "training time": f"{run.seconds()[-1]:.1f} s" if rounds else "-",
        "labels": _labels(run),
        "averages": _averages(run),
        "segments and gradients sent": f"{run.megabytes()[-1]:.1f} MB{beside_fedavg(run)}" if rounds else "-",
        "step time, median": _quantile(steps, 0.5, " ms"),
        "rates": _rates(run),
        "time on the way, median": _quantile(measured, 0.5, " ms"),
        "time on the way, p99": _quantile(measured, 0.99, " ms"),
        "time on the way / ideal, p99": _quantile(over_ideal, 0.99, " x", 3),
        "arrival spread, median": _quantile(spreads, 0.5, " ms"),
        "step time / lower bound, median": _quantile(over_bound, 0.5, " x", 3),
        "promises kept": f"{promises['kept']} of {promises['made']}" if promises["made"] else "none made",
        "edges lost": str(lost) if lost else "none",
        "unfinished transfers": str(len(summary.get("unfinished", ())) or "none"),
    }


def beside_fedavg(run: Run) -> str:
    """Compare the bytes sent with those of federated averaging; empty if unknown."""
    other = run.fedavg_megabytes()
    if not other:
        return ""
    return f"; federated averaging would send {other:.1f} MB ({run.megabytes()[-1] / other:.1f} times less)" if (
        run.megabytes()[-1] >= other) else f"; federated averaging would send {other:.1f} MB"


def _rates(run: Run) -> str:
    assumed = run.summary.get("assumed_bps")
    if assumed is not None:
        return f"{assumed / 1e6:g} Mb/s assumed for all edges together; nothing is judged by it"
    return "reserved" if run.summary["promises"]["made"] else "as the network offers, not reserved"


def _labels(run: Run) -> str:
    """Describe whether labels stayed on the edges, and the cost of that."""
    if not run.summary.get("labels", {}).get("protected"):
        return "sent with the segments"
    tails = sum((edge["tail_up_bytes"] + edge["tail_down_bytes"]) * len(row["step_ms"]["measured"]) / 1e6
                for row in run.rounds for edge in row["edges"])
    steps = [(row["step_ms"]["predicted"], row["step_ms"]["unprotected"]) for row in run.rounds]
    increases = [predicted / without - 1 for predicted, without in steps if without]
    predicted = ""
    if increases:
        increase = statistics.median(increases)
        predicted = f"; predicted step time {increase:+.1%} against the same cuts without protection"
    return f"stayed on the edges: {tails:.1f} MB more sent{predicted}"


def _averages(run: Run) -> str:
    """Describe what the cloud and others learn from the averages."""
    privacy = run.summary.get("privacy", {})
    seen = "sums of the edges' layers only" if privacy.get("secure_aggregation") else "each edge's layers"
    dp = privacy.get("dp")
    if dp is None:
        return f"the cloud saw {seen}"
    return (f"the cloud saw {seen}; differentially private for each {dp['unit']}: epsilon {dp['epsilon_spent']:.3g} of "
            f"{dp['epsilon']:g} spent at delta {dp['delta']:g} by {dp['averagings']} averagings ({dp['mechanism']} "
            f"noise, {dp['noise_multiplier']:.3g} x {dp['clip']:g}, by the {dp['noise_by']}; no sampling)")


def _reached(run: Run) -> str:
    metric = run.metric
    if metric["target"] is None:
        return "none set"
    number, target = metric["reached_round"], f"{metric['name']} {metric['target']:g}"
    if number is None:
        return f"{target} not reached"
    after_s = sum(row["duration_ms"] for row in run.rounds if row["round"] <= number) / 1e3
    return f"{target} in round {number}, after {after_s:.1f} s"


def _quantile(values: list[float], share: float, unit: str, digits: int = 1) -> str:
    """Format the quantile as the smallest value with at least that share of all values at or below it."""
    if not values:
        return "-"
    rank = max(1, math.ceil(share * len(values)))
    return f"{sorted(values)[rank - 1]:.{digits}f}{unit}"
