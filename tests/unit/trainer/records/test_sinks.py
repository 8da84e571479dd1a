"""Sinks of metrics: what they get of a run's events, and that one that fails only costs a sentence."""

# ruff: noqa: ARG002 - the signatures are those of a sink

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import UsageError
from trainer.records.run_record import Listener, RunRecord
from trainer.records.sinks import SinkThread, WithSinks, check_sinks, metrics_of, with_sinks

ROUND = {
    "time": 1.5, "event": "round_done", "round": 3, "duration_ms": 20.0, "loss": 0.5, "accuracy": 0.75, "metric": 0.75,
    "averaged": True, "spread_ms": [1.0, 2.0], "cuts": {"edge1": 2}, "promises": {"made": 4, "kept": 3},
    "training_ms": {"edge1": {"predicted": 3.0, "measured": 4.0}},
    "uplink_ms": {"edge1": {"predicted": 3.0, "measured": None}},
}  # fmt: skip
EXPECTED = {
    "loss": 0.5, "metric": 0.75, "accuracy": 0.75, "duration_ms": 20.0, "spread_ms": 2.0, "promises/made": 4.0,
    "promises/kept": 3.0, "training_ms/edge1": 4.0,
}  # fmt: skip


def test_the_numbers_of_a_round_have_names_and_what_was_not_measured_has_none() -> None:
    assert metrics_of(ROUND) == (3, EXPECTED)
    assert metrics_of({"time": 1.0, "event": "said", "sentence": "x"}) is None


class Breaking:
    """A sink that fails at its second round, and then would block."""

    def __init__(self) -> None:
        self.written: list[int] = []

    def open(self, run: str, config: Mapping[str, Any]) -> None:
        pass

    def write(self, step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        self.written.append(step)
        if len(self.written) == 2:
            raise OSError("No space left on device\nand more")

    def close(self, status: str) -> None:
        raise AssertionError("a sink that has failed is not closed")


def keeping(shown: list[dict[str, Any]]) -> Listener:
    def keep(event: dict[str, Any]) -> None:
        shown.append(event)

    return keep


def recorded(tmp_path: Path, listener: WithSinks, rounds: int) -> list[dict[str, Any]]:
    record = RunRecord(tmp_path / "run", {}, listener)
    listener.tell = lambda sentence: record.event("said", sentence=sentence)
    for number in range(1, rounds + 1):
        fields: dict[str, Any] = {**ROUND, "round": number}
        del fields["time"], fields["event"]
        record.event("round_done", **fields)
        time.sleep(0.02)
    record.finish("done")
    return [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]


def test_a_sink_that_fails_is_told_once_and_the_run_goes_on(tmp_path: Path) -> None:
    shown: list[dict[str, Any]] = []
    broken = Breaking()
    sinks = [SinkThread("Broken", broken, "run", {})]
    events = recorded(tmp_path, WithSinks(keeping(shown), sinks), 20)
    said = [event["sentence"] for event in events if event["event"] == "said"]
    assert said == ["Broken gets no more metrics of this run: OSError: No space left on device."]
    assert broken.written == [1, 2]
    assert [event["round"] for event in events if event["event"] == "round_done"] == [*range(1, 21)]
    assert events == shown


def test_a_server_that_is_not_there_costs_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
        shown: list[dict[str, Any]] = []
        events = recorded(tmp_path, with_sinks(keeping(shown), None, uri, tmp_path / "run", {}), 2)
    assert events[-1]["status"] == "done"
    said = [event["sentence"] for event in shown if event["event"] == "said"]
    assert len(said) == 1 and said[0].startswith("MLflow gets no more metrics of this run: "), said


def test_a_uri_with_a_password_is_refused() -> None:
    with pytest.raises(UsageError, match="MLFLOW_TRACKING_PASSWORD"):
        check_sinks(None, "http://lab:secret@tracking.example:5000")
