"""Records of runs, read back: what reports and comparisons are made of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import UsageError

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """One run's summary, and where it lies."""

    directory: Path
    summary: Row

    @property
    def rounds(self) -> list[Row]:
        """The finished rounds."""
        return list(self.summary["rounds"])

    @property
    def edges(self) -> list[str]:
        """Every edge that took part in any round, in order of appearance."""
        return list(dict.fromkeys(edge["edge"] for row in self.rounds for edge in row["edges"]))

    def transfers(self) -> Iterator[Row]:
        """All of them, up and down."""
        for row in self.rounds:
            yield from row["transfers"]

    def of_edge(self, name: str) -> list[tuple[int, Row]]:
        """(round, row of the edge) for every round it ended."""
        return [(row["round"], edge) for row in self.rounds for edge in row["edges"] if edge["edge"] == name]

    def seconds(self) -> list[float]:
        """The time trained at the end of every round."""
        return list(np.cumsum([row["duration_ms"] / 1e3 for row in self.rounds]))

    def megabytes(self) -> list[float]:
        """What had been sent, up and down, at the end of every round: segments and gradients."""
        return list(np.cumsum([sum(one["bytes"] for one in row["transfers"]) / 1e6 for row in self.rounds]))


def read_run(directory: Path) -> Run:
    """The record in a directory.

    Raises: UsageError if there is none.
    """
    path = directory / "summary.json"
    try:
        summary = json.loads(path.read_text())
        run = Run(directory, summary)
        _ = run.rounds, run.edges, summary["status"], summary["accuracy"], summary["promises"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{directory} is not the record of a run ({path.name}: {error}).") from error
    return run


def facts(run: Run) -> dict[str, str]:
    """What a run comes to, in the order in which it is read; "-" where there is nothing to say."""
    summary, rounds = run.summary, run.rounds
    accuracy, promises = summary["accuracy"], summary["promises"]
    measured = [row["measured_ms"] for row in run.transfers()]
    over = [row["measured_ms"] / row["ideal_ms"] for row in run.transfers() if row["ideal_ms"]]
    steps = [ms for row in rounds for ms in row["step_ms"]["measured"]]
    spreads = [ms for row in rounds for ms in row["spread_ms"]]
    over_bound = [row["round_over_bound"] for row in rounds if row.get("round_over_bound")]
    lost = sum(len(row.get("lost", ())) for row in rounds)
    return {
        "status": str(summary["status"]),
        "map": str(summary.get("map") or "none, this machine alone"),
        "model": str(summary.get("model") or "-"),
        "edges": ", ".join(run.edges) or "-",
        "rounds": str(len(rounds)),
        "rounds done again": str(summary.get("redone_rounds") or "none"),
        "accuracy": "-" if accuracy["final"] is None else f"{accuracy['final']:.4f}",
        "target reached": _reached(run),
        "trained for": f"{run.seconds()[-1]:.1f} s" if rounds else "-",
        "labels": _labels(run),
        "sent": f"{run.megabytes()[-1]:.1f} MB" if rounds else "-",
        "step, median": _quantile(steps, 0.5, " ms"),
        "transfer, median": _quantile(measured, 0.5, " ms"),
        "transfer, 99 %": _quantile(measured, 0.99, " ms"),
        "over its rate's time, 99 %": _quantile(over, 0.99, " x", 3),
        "spread, median": _quantile(spreads, 0.5, " ms"),
        "round over its bound, median": _quantile(over_bound, 0.5, " x", 3),
        "promises kept": f"{promises['kept']} of {promises['made']}" if promises["made"] else "none made",
        "edges lost": str(lost) if lost else "none",
        "unfinished transfers": str(len(summary.get("unfinished", ())) or "none"),
    }


def _labels(run: Run) -> str:
    """Whether labels stayed on the edges, and what that cost."""
    if not run.summary.get("labels", {}).get("protected"):
        return "travel with the segments"
    tails = sum((edge["tail_up_bytes"] + edge["tail_down_bytes"]) * len(row["step_ms"]["measured"]) / 1e6
                for row in run.rounds for edge in row["edges"])
    steps = [(row["step_ms"]["predicted"], row["step_ms"]["unprotected"]) for row in run.rounds]
    more = [predicted / without - 1 for predicted, without in steps if without]
    predicted = f"; predicted step {np.median(more):+.1%} against the same cuts without" if more else ""
    return f"never left the edges: {tails:.1f} MB more sent{predicted}"


def _reached(run: Run) -> str:
    accuracy = run.summary["accuracy"]
    if accuracy.get("target") is None:
        return "none set"
    number = accuracy.get("reached_round")
    if number is None:
        return f"not {accuracy['target']:g}"
    after_s = sum(row["duration_ms"] for row in run.rounds if row["round"] <= number) / 1e3
    return f"{accuracy['target']:g} in round {number}, after {after_s:.1f} s"


def _quantile(values: list[float], share: float, unit: str, digits: int = 1) -> str:
    return f"{np.quantile(values, share, method='inverted_cdf'):.{digits}f}{unit}" if values else "-"
