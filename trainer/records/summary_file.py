"""summary.json and rounds.jsonl: the summary is replaced at averagings, each round is appended when it has ended."""

from __future__ import annotations

import json
import os
from pathlib import Path
from textwrap import indent
from typing import IO, Any

from trainer.config.objectives import is_as_good
from trainer.records.atomic_file import replace_durably

Fields = dict[str, Any]

SUMMARY, ROUNDS = "summary.json", "rounds.jsonl"


def read_summary(directory: Path) -> Fields:
    """Read the summary, with the rounds that ended after it was written.

    Raises: OSError, ValueError, KeyError or TypeError if it is not the record of a run.
    """
    summary: Fields = json.loads((directory / SUMMARY).read_text())
    last = max((row["round"] for row in summary["rounds"]), default=0)
    for row in _appended_rounds(directory / ROUNDS):
        if row["round"] > last:
            count_round(summary, row)
    return summary


def _appended_rounds(path: Path) -> list[Fields]:
    lines = path.read_text().split("\n") if path.exists() else [""]
    return [json.loads(line) for line in lines[:-1]]  # the last one is empty, or was being written


def count_round(summary: Fields, row: Fields) -> None:
    """Add a round to the summary; updates promises and metric."""
    summary["rounds"].append(row)
    bounded = [transfer["kept"] for transfer in row["transfers"] if transfer["kept"] is not None]
    summary["promises"]["made"] += len(bounded)
    summary["promises"]["kept"] += sum(bounded)
    metric, measured = metric_of(summary), row.get("metric", row["accuracy"])
    if measured is not None:
        metric["final"] = measured
        if metric["best"] is None or is_as_good(measured, metric["best"], metric["better"]):
            metric["best"] = measured
        if (metric["target"] is not None and is_as_good(measured, metric["target"], metric["better"])
                and metric["reached_round"] is None):
            metric["reached_round"] = row["round"]
    summary["metric"] = metric
    if metric["name"] == "accuracy":
        summary["accuracy"] = {name: metric[name] for name in summary["accuracy"]}


def metric_of(summary: Fields) -> Fields:
    """Return the metric of a run; that of records without the field `metric` is the accuracy."""
    found: Fields = {"name": "accuracy", "better": "higher", "loss": "cross-entropy", **summary["accuracy"],
                     **summary.get("metric", {})}
    return found


class SummaryFiles:
    """Writes both files. A round costs the same whatever their length: it is encoded once, and one line."""

    def __init__(self, directory: Path, summary: Fields) -> None:
        self.summary = summary
        self._directory = directory
        self._encoded: list[str] = []
        self._rounds: IO[str] | None = None
        self.rewrite()

    def append(self, row: Fields) -> None:
        """Add a round to the summary and, durably, to rounds.jsonl."""
        assert self._rounds is not None
        count_round(self.summary, row)
        self._encoded.append(_encoded(row))
        self._rounds.write(json.dumps(row) + "\n")
        self._rounds.flush()
        os.fsync(self._rounds.fileno())

    def write_summary(self) -> None:
        """Replace summary.json."""
        text = json.dumps({**self.summary, "rounds": []}, indent=1)
        if self._encoded:
            rounds = ",\n".join(self._encoded)
            text = text.replace('\n "rounds": []', f'\n "rounds": [\n{rounds}\n ]', 1)  # nested names are indented more
        replace_durably(self._directory / SUMMARY, f"{text}\n".encode())

    def rewrite(self) -> None:
        """Replace both files after rounds were removed from the summary."""
        self.close()
        rows = self.summary["rounds"]
        self._encoded = [_encoded(row) for row in rows]
        path = self._directory / ROUNDS
        replace_durably(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        self._rounds = path.open("a")
        self.write_summary()

    def close(self) -> None:
        """Close rounds.jsonl."""
        if self._rounds is not None:
            self._rounds.close()


def _encoded(row: Fields) -> str:
    return indent(json.dumps(row, indent=1), "  ")
