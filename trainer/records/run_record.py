"""The run record: `runs/<time>/` with config.yaml, events.jsonl, rounds.jsonl, summary.json and model.safetensors.

summary.json is replaced at every averaging and at the end; rounds.jsonl has a line for every round. The names in them
are an interface to other programs: fields may be added, not renamed.

    status              "done", "failed" or "running"; `error` is a sentence if failed, `error_code` its code
    map, model, data    what was trained where; `data` has train and held-out samples per edge
    metric              {name, better (higher or lower), loss, target, final, best, reached_round}; the last three are
                        null before the first averaging
    accuracy            {target, final, best, reached_round}: the same if the metric is the accuracy, else null
    privacy             {secure_aggregation, dp: {epsilon, delta, mechanism, unit, sampling, noise_by, clip,
                        noise_multiplier, averagings_planned, averagings, epsilon_spent} or null}
    excluded            {edge: reason}: edges that take no further part, also after the run is resumed
    model_bytes         bytes of the global model's trained parameters and buffers
    confusion           {round, counts}: held-out samples by true class (rows) and predicted class (columns) after the
                        last averaging; absent without classes, with protected labels or secure aggregation, or with
                        more than 64 classes
    redone_rounds       rounds repeated after too many edges or the cloud were lost (absent: none)
    promises            {made, kept}: one per reserved transfer
    labels              {protected, tail}: with protected labels the layers from `tail` on stay on the edges
    preparation         decisions of the cloud from the edges' statistics, with reasons
    controller          {url, reserved, unreachable_rounds, broken_rounds}: rounds in which the controller did not
                        answer, and rounds without the reservation they should have had: all promises broken
    assumed_bps         rate for all edges together that plans assume without a controller, else null
    strangers_refused   connections closed because they sent no training request
    rounds[]            round, duration_ms, averaged, averaging_ms (null without one), metric, accuracy,
                        epsilon_spent (null without --dp), training_delay_ms {target},
                        transmission_delay_ms {target, bound}, step_ms {predicted, measured: [..], and
                        with protected labels `unprotected`: the prediction without protection, for the same cuts},
                        cloud_ms {predicted, measured}, beat_ms, spread_ms [per step], spread_share,
                        training_spread_ms {predicted, least, measured},
                        bound_ms {edge, limit, link, cloud}, round_over_bound, loss,
                        reservation {id, version} or null, adaptations [sentences],
                        offer {quotes, quote_ms, transfer_ms {up, down}, bottleneck {up, down}}: quotes obtained before
                        planning, null without; transfer_ms is the shortest common time of one micro-batch's
                        segments over all free capacity,
                        lost [{edge, reason}]: edges lost in this round,
                        edges[], transfers[]
    rounds[].edges[]    edge, cut, codec, samples, segment_bytes (with protected labels also tail_down_bytes,
                        tail_up_bytes, tail_ms {predicted, measured}), reserved_bps, reserved_down_bps,
                        planned_bps, training_ms {predicted, measured}, backward_ms {predicted, measured},
                        uplink_ms and downlink_ms {predicted, measured, worst, bound} (null where nothing is
                        sent), late_ms, saved_bytes (only with kept segments), loss, offset_ms
    rounds[].transfers[]  edge, direction (up, down), step, sent_at (the cloud's clock, seconds since
                        the epoch), bytes, ideal_ms, bound_ms, measured_ms, margin_ms, span_ms, kept

    unfinished[]        transfers in progress when the run ended or their edge was lost: round, edge,
                        direction, step, sent_at, ideal_ms, age_ms (a lower bound of their duration)

`bound_ms`: lower bounds of the steps' time by the slowest edge, its CPU time within its CPU limit (0 without one), its
flows at their full rate, and the cloud, each alone; `round_over_bound`: the steps' time over the largest of them;
`spread_share`: the largest spread over it. `beat_ms`: the interval between segments. Measured values of a round are
medians over its steps; `worst` is the longest transfer, and `bound` is the bound of that one. Times of transfers are
those on the way, without waiting for the next beat; `span_ms` is all, from the first byte sent to the last received.
`margin_ms`: by how much the micro-batch nearest to its bound came before it. Without a reservation reserved_bps, bound,
margin and kept are null, and `ideal_ms` is implied by the planned rate; if that is only assumed (`assumed_bps`),
`ideal_ms` and `bound_ms.link` are null.
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

from trainer.config.objectives import is_as_good
from trainer.errors import CheckpointError, UsageError
from trainer.records.atomic_file import replace_durably
from trainer.records.summary_file import SUMMARY, Fields, SummaryFiles, count_round, metric_of, read_summary

if TYPE_CHECKING:
    from torch import Tensor


class Listener(Protocol):
    """Receives the events of a run as they are written."""

    def __call__(self, event: Fields) -> None:
        """Handle one event."""


def new_run_directory(runs: Path) -> Path:
    """Create a new directory `runs/<time>/`, named by the current UTC time in seconds."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        try:
            path = runs / f"{stamp}{suffix}"
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
    raise FileExistsError(f"{runs} has no free name for a run started in this second.")


def check_is_new(directory: Path) -> None:
    """Check that a directory has no record, and create it.

    Raises: UsageError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / SUMMARY).exists():
        raise UsageError(f"--run-dir is {directory}, which has the record of a run; resume that run with --resume "
                         f"{directory}, or give a new directory.")


class RunRecord:
    """Writes the record of a run while it runs; the summary exists from the start."""

    def __init__(
        self, directory: Path, config: Fields, listener: Listener | None = None, previous: Fields | None = None
    ) -> None:
        """`previous`: the summary of the run so far, if it resumes."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.summary: Fields = {
            "map": config.get("map_name"),
            "model": None,
            "data": None,
            "accuracy": {"target": None, "final": None, "reached_round": None, "best": None},
            "promises": {"made": 0, "kept": 0},
            "privacy": {"secure_aggregation": config.get("secure_aggregation", False), "dp": None},
            "excluded": {},
            "rounds": [],
            "unfinished": [],
            **(previous or {}),
            "status": "running",
        }
        self._set_metric({"target": config.get("target")})
        self._listener = listener
        self._events: IO[str] = (directory / "events.jsonl").open("a", buffering=1)
        (directory / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        self._files = SummaryFiles(directory, self.summary)

    @classmethod
    def reopen(cls, directory: Path, config: Fields, after_round: int, listener: Listener | None = None) -> RunRecord:
        """Reopen the record of a run that resumes after round `after_round`.

        Raises: CheckpointError if the directory has no summary.
        """
        try:
            previous = read_summary(directory)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{directory / SUMMARY} cannot be read: {error}.") from error
        previous.pop("error", None)
        previous.pop("error_code", None)
        record = cls(directory, config, listener, previous)
        record.drop_rounds_after(after_round)
        return record

    def event(self, name: str, **fields: Any) -> None:
        """Write one line to events.jsonl immediately and notify the listener."""
        event = {"time": round(time.time(), 3), "event": name, **fields}
        self._events.write(json.dumps(event) + "\n")
        if self._listener is not None:
            self._listener(event)

    def describe(self, **fields: Any) -> None:
        """Add fields to the summary; those of `metric` are merged into it."""
        self._set_metric(fields.pop("metric", {}))
        self.summary.update(fields)
        self._files.write_summary()

    def _set_metric(self, fields: Fields) -> None:
        metric = self.summary["metric"] = metric_of(self.summary) | fields
        accuracy = self.summary["accuracy"]
        accuracy |= {name: metric[name] if metric["name"] == "accuracy" else None for name in accuracy}

    def add_round(self, row: Fields) -> None:
        """Add a finished round; updates promises and metric. The summary is written if the round averaged."""
        self._files.append(row)
        if row["averaged"]:
            self._files.write_summary()

    def add_unfinished(self, rows: list[Fields]) -> None:
        """Add transfers in progress when their step ended or was aborted; written with the next summary."""
        self.summary["unfinished"].extend(rows)

    def drop_rounds_after(self, number: int) -> None:
        """Remove the rounds after `number` from the summary; they are repeated."""
        kept = [row for row in self.summary["rounds"] if row["round"] <= number]
        self.summary["redone_rounds"] = self.summary.get("redone_rounds", 0) + len(self.summary["rounds"]) - len(kept)
        self.summary["rounds"] = []
        self.summary["promises"] = {"made": 0, "kept": 0}
        self._set_metric({"final": None, "reached_round": None, "best": None})
        for row in kept:
            count_round(self.summary, row)
        self._files.rewrite()

    def save_model(
        self, model: Mapping[str, Tensor], metric: float | None, metadata: dict[str, str] | None = None
    ) -> None:
        """Write the global model, named as in the user's module; also keeps the best one by the metric."""
        from safetensors.torch import save  # imports torch, which a run that fails early does not need

        data = save({name: tensor.contiguous() for name, tensor in model.items()}, metadata)
        replace_durably(self.directory / "model.safetensors", data)
        known = self.summary["metric"]
        if known["best"] is None or (metric is not None and is_as_good(metric, known["best"], known["better"])):
            replace_durably(self.directory / "best.safetensors", data)

    def finish(self, status: str, error: str | None = None, code: str | None = None) -> None:
        """Write the final status and close the record. `error`: a sentence; `code`: its stable code."""
        self.summary["status"] = status
        if error is not None:
            self.summary |= {"error": error, "error_code": code}
        self._files.write_summary()
        self.event("finished", status=status, error=error, code=code, accuracy=self.summary["accuracy"],
                   metric=self.summary["metric"], promises=self.summary["promises"], directory=str(self.directory))
        self.close()

    def close(self) -> None:
        """Close the files as they are."""
        self._files.close()
        self._events.close()


def milliseconds(seconds: float | None) -> float | None:
    """Return seconds as milliseconds, rounded to microseconds."""
    return None if seconds is None else round(seconds * 1e3, 3)


def median_ms(seconds: list[float]) -> float:
    """Return the median in milliseconds."""
    return round(statistics.median(seconds) * 1e3, 3)
