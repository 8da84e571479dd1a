"""The run record: `runs/<time>/` with config.yaml, events.jsonl, summary.json and model.safetensors.

The names in summary.json are the interface to other programs: keep them, add freely.

    status              "done", "failed" or "running"; `error` is a sentence if failed
    map, model, data    what was trained where; `data` has train and held-out samples per edge
    accuracy            {target, final, best, reached_round}; null until the first averaging
    redone_rounds       rounds that were done again, after too many edges or the cloud were lost (absent: none)
    promises            {made, kept}: one for each reserved transfer
    labels              {protected, tail}: with protected labels the layers from `tail` on stay on the edges
    preparation         what the cloud decided from the edges' statistics, and why
    controller          {url, reserved, unreachable_rounds, broken_rounds}: rounds without an answer of the controller,
                        and rounds in which nothing was reserved although it should be: all promises broken
    strangers_refused   connections that were closed because they sent no training request
    rounds[]            round, duration_ms, averaged, averaging_ms (null without one), accuracy,
                        training_delay_ms {target},
                        transmission_delay_ms {target, bound}, step_ms {predicted, measured: [..], and
                        with labels protected `unprotected`: what was predicted without, for the same cuts},
                        cloud_ms {predicted, measured}, beat_ms, spread_ms [per step], spread_share,
                        bound_ms {edge, limit, link, cloud}, round_over_bound, loss,
                        reservation {id, version} or null, adaptations [sentences],
                        offer {quotes, quote_ms, transfer_ms {up, down}, bottleneck {up, down}}: what the controller
                        was asked before the plan, null if it was not; transfer_ms is the shortest common time of one
                        micro-batch's segments over all that is free,
                        lost [{edge, reason}]: who left in this round,
                        edges[], transfers[]
    rounds[].edges[]    edge, cut, codec, samples, segment_bytes (with labels protected also tail_down_bytes,
                        tail_up_bytes, tail_ms {predicted, measured}), reserved_bps, reserved_down_bps,
                        planned_bps, training_ms {predicted, measured}, backward_ms {predicted, measured},
                        uplink_ms and downlink_ms {predicted, bound, measured, worst}, late_ms, loss, offset_ms
    rounds[].transfers[]  edge, direction (up, down), step, sent_at (the cloud's clock, seconds since
                        the epoch), bytes, ideal_ms, bound_ms, measured_ms, kept

    unfinished[]        transfers that were under way when the run ended or their edge was lost: round, edge,
                        direction, step, sent_at, ideal_ms, age_ms (so long at least it would have taken)

`bound_ms` is what the steps' slowest edge, its processor time within its CPU limit (0 without one), its flows at their
whole rate, and the cloud would have needed alone;
`round_over_bound` is the steps' time over the largest of them, `spread_share` the largest spread over it.
Measured values of a round are medians over its steps. Without a reservation reserved_bps, bound and kept are
null, and `ideal_ms` is what the rate of the plan implies.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import yaml

from trainer.errors import CheckpointError
from trainer.records.atomic_file import replace_durably

if TYPE_CHECKING:
    from torch import Tensor

Fields = dict[str, Any]


class Listener(Protocol):
    """Whoever wants to hear the events as they happen."""

    def __call__(self, event: Fields) -> None:
        """Take one event."""


def new_directory(runs: Path) -> Path:
    """A fresh `runs/<time>/`, named for the current UTC time to the second."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        try:
            path = runs / f"{stamp}{suffix}"
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
    raise FileExistsError(f"{runs} is full of runs of this second.")


class RunRecord:
    """Writes a run's record as it goes; the summary is there from the first event on."""

    def __init__(self, directory: Path, config: Fields, listener: Listener | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.summary: Fields = {
            "status": "running",
            "map": config.get("map_name"),
            "model": None,
            "data": None,
            "accuracy": {"target": config.get("target"), "final": None, "reached_round": None, "best": None},
            "promises": {"made": 0, "kept": 0},
            "rounds": [],
            "unfinished": [],
        }
        self._listener = listener
        self._events: IO[str] = (directory / "events.jsonl").open("a", buffering=1)
        (directory / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        self._write_summary()

    @classmethod
    def reopened(cls, directory: Path, config: Fields, after_round: int, listener: Listener | None = None) -> RunRecord:
        """The record of a run that goes on after round `after_round`.

        Raises: CheckpointError if the directory has no summary.
        """
        path = directory / "summary.json"
        try:
            before = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}.") from error
        record = cls(directory, config, listener)
        before.pop("error", None)
        record.summary = {**record.summary, **before, "status": "running"}
        record.summary["accuracy"]["target"] = config.get("target")
        record.forget_after(after_round)
        return record

    def event(self, name: str, **fields: Any) -> None:
        """Write one line to events.jsonl, at once, and tell the listener."""
        event = {"time": round(time.time(), 3), "event": name, **fields}
        self._events.write(json.dumps(event) + "\n")
        if self._listener is not None:
            self._listener(event)

    def describe(self, **fields: Any) -> None:
        """Add fields to the summary."""
        self.summary.update(fields)
        self._write_summary()

    def add_round(self, row: Fields) -> None:
        """Add a finished round; counts its promises and its accuracy."""
        self._count(row)
        self._write_summary()

    def _count(self, row: Fields) -> None:
        self.summary["rounds"].append(row)
        judged = [transfer["kept"] for transfer in row["transfers"] if transfer["kept"] is not None]
        self.summary["promises"]["made"] += len(judged)
        self.summary["promises"]["kept"] += sum(judged)
        accuracy, goal = self.summary["accuracy"], row["accuracy"]
        if goal is not None:
            accuracy["final"] = goal
            accuracy["best"] = max(goal, accuracy["best"] or 0.0)
            if accuracy["target"] is not None and goal >= accuracy["target"] and accuracy["reached_round"] is None:
                accuracy["reached_round"] = row["round"]

    def add_unfinished(self, rows: list[Fields]) -> None:
        """Add transfers that were still under way when their step ended or was given up."""
        if rows:
            self.summary["unfinished"].extend(rows)
            self._write_summary()

    def forget_after(self, number: int) -> None:
        """Take the rounds after `number` out of the summary: they are done again."""
        kept = [row for row in self.summary["rounds"] if row["round"] <= number]
        self.summary["redone_rounds"] = self.summary.get("redone_rounds", 0) + len(self.summary["rounds"]) - len(kept)
        self.summary["rounds"] = []
        self.summary["promises"] = {"made": 0, "kept": 0}
        self.summary["accuracy"] |= {"final": None, "reached_round": None, "best": None}
        for row in kept:
            self._count(row)
        self._write_summary()

    def save_model(self, model: Mapping[str, Tensor], accuracy: float | None) -> None:
        """Write the global model, one tensor per `<layer>.<name>`; the most accurate one is kept, too."""
        from safetensors.torch import save  # imports torch, which a run that fails early never needs

        data = save({name: tensor.contiguous() for name, tensor in model.items()})
        replace_durably(self.directory / "model.safetensors", data)
        best = self.summary["accuracy"]["best"]
        if best is None or (accuracy is not None and accuracy >= best):
            replace_durably(self.directory / "best.safetensors", data)

    def finish(self, status: str, error: str | None = None) -> None:
        """Close the record."""
        self.summary["status"] = status
        if error is not None:
            self.summary["error"] = error
        self._write_summary()
        self.event("finished", status=status, error=error, accuracy=self.summary["accuracy"],
                   promises=self.summary["promises"], directory=str(self.directory))
        self._events.close()

    def _write_summary(self) -> None:
        replace_durably(self.directory / "summary.json", (json.dumps(self.summary, indent=1) + "\n").encode())


def milliseconds(seconds: float | None) -> float | None:
    """Seconds as milliseconds to the microsecond."""
    return None if seconds is None else round(seconds * 1e3, 3)


def median_ms(seconds: list[float]) -> float:
    """The median of some seconds, in milliseconds."""
    return round(statistics.median(seconds) * 1e3, 3)
