"""Training on loopback with real processes: equal to unsplit training, and robust against foreign connections."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.processes.training import free_ports
from trainer.config.partitioning import IID
from trainer.data import dataset, standardization
from trainer.data.load import load_local
from trainer.models.averaging import average
from trainer.models.building import build_layers
from trainer.models.optimizer import OptimizerConfig

EDGES, ROUNDS, STEPS, BATCH, SEED = 2, 3, 2, 16, 5
CUTS = [[2, 7], [11, 4], [13, 1]]


def paceline(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.cli.main", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate()
    finally:
        process.kill()
    return process.returncode, out, err


def summary_of(runs: Path) -> dict[str, Any]:
    (run,) = runs.iterdir()
    content: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return content


def send_garbage(port: int) -> None:
    """Send invalid data: text, a partial frame, a frame header with a length of gigabytes."""
    too_large = b"PACE\x03\x01\x00\x00" + b"\xff" * 12 + bytes(12)
    for garbage in (b"GET / HTTP/1.1\r\n\r\n" * 4, b"PACE\x03", too_large, os.urandom(4096), b""):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(garbage)


def wait_for_event(directory: Path, name: str, process: subprocess.Popen[str]) -> None:
    """Wait until the event is recorded; fail if the process ends without it. Only pytest-timeout limits the time."""
    try:
        while True:
            ended = process.poll() is not None
            if any(f'"event": "{name}"' in path.read_text() for path in directory.glob("*/events.jsonl")):
                return
            assert not ended, f"no event {name}: {process.communicate()}"
            time.sleep(0.05)
    except BaseException:
        process.kill()
        raise


@dataclass(frozen=True)
class Run:
    """Output and files of a finished run."""

    out: str
    summary: dict[str, Any]
    directory: Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run with two edges and different cuts in every round, while other connections send garbage."""
    runs, port = tmp_path_factory.mktemp("runs"), free_ports(1 + EDGES)
    process = paceline(
        "train", "--local", "--edges", str(EDGES), "--port", str(port), "--rounds", str(ROUNDS), "--steps", str(STEPS),
        "--batch", str(BATCH), "--micro", "3", "--seed", str(SEED), "--optimizer", "momentum", "--learning-rate",
        "0.01", "--average-every", str(ROUNDS), "--cuts", ";".join(",".join(map(str, row)) for row in CUTS),
        "--target", "0.01", "--runs-dir", str(runs),
    )
    wait_for_event(runs, "waiting", process)
    send_garbage(port)
    wait_for_event(runs, "plan", process)
    send_garbage(port)
    code, out, err = finish(process)
    assert code == 0, err
    yield Run(out, summary_of(runs), next(runs.iterdir()))


def unsplit_reference(weight_decay: float) -> dict[str, Tensor]:
    """Federated averaging of unsplit models on the same data in the same order, single precision."""
    data = [load_local("traffic-lights", IID, f"edge{index + 1}", index, EDGES, SEED).train for index in range(EDGES)]
    how = standardization.choose_standardization([standardization.summarize(d.inputs, d.labels, 3) for d in data])
    optimizer_config = OptimizerConfig("momentum", 0.01, weight_decay)
    replicas = [nn.Sequential(*build_layers("signal-cnn", SEED, (3, 32, 32), 3)) for _ in data]
    for index, (replica, samples) in enumerate(zip(replicas, data, strict=True)):
        optimizer = optimizer_config.build(replica.parameters())
        images = standardization.standardize(samples.inputs, how)
        for step in range(ROUNDS * STEPS):
            indices = dataset.batch_indices(len(samples), BATCH, SEED * 1009 + index, step)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(replica(images[indices]), samples.labels[indices])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return average([replica.state_dict() for replica in replicas], [len(samples) for samples in data])


def test_processes_with_changing_cuts_train_the_model_of_the_unsplit_reference(run: Run) -> None:
    assert [[edge["cut"] for edge in row["edges"]] for row in run.summary["rounds"]] == CUTS
    model = load_file(run.directory / "model.safetensors")
    reference = unsplit_reference(run.summary["preparation"]["regularization"]["weight_decay"])
    assert model.keys() == reference.keys()
    for name, value in reference.items():
        torch.testing.assert_close(model[name], value, rtol=1e-4, atol=1e-5)


def test_garbage_on_the_port_closes_only_its_own_connection(run: Run) -> None:
    assert run.summary["strangers_refused"] >= 4
    assert run.summary["status"] == "done"


def test_a_local_run_reports_that_nothing_is_reserved(run: Run) -> None:
    assert "no emulated network, no reservations" in run.out.splitlines()[0]
    assert run.summary["promises"] == {"made": 0, "kept": 0}


def test_the_summary_has_the_documented_fields(run: Run) -> None:
    assert run.summary["accuracy"]["reached_round"] == ROUNDS
    assert {"map", "model", "data", "preparation"} <= run.summary.keys()
    row = run.summary["rounds"][-1]
    assert {"round", "duration_ms", "averaged", "accuracy", "training_delay_ms", "transmission_delay_ms",
            "edges", "transfers", "spread_ms"} <= row.keys()
    edge = row["edges"][0]
    assert {"edge", "cut", "codec", "samples", "segment_bytes", "reserved_bps", "training_ms", "uplink_ms",
            "downlink_ms", "loss"} <= edge.keys()
    assert edge["uplink_ms"].keys() >= {"predicted", "bound", "measured"}
    assert len(row["transfers"]) == 2 * EDGES * STEPS


def test_events_report_each_round(run: Run) -> None:
    events = [json.loads(line) for line in (run.directory / "events.jsonl").read_text().splitlines()]
    assert [event["cuts"] for event in events if event["event"] == "plan"] == [
        {"edge1": first, "edge2": second} for first, second in CUTS
    ]
    assert [event["round"] for event in events if event["event"] == "round_done"] == [1, 2, 3]


def test_edges_of_one_command_weigh_what_they_say(run: Run) -> None:
    assert "trust_samples: true" in (run.directory / "config.yaml").read_text()


def test_an_interrupted_run_leaves_no_process_and_a_failed_record(tmp_path: Path) -> None:
    port = free_ports(2)
    process = paceline("train", "--local", "--edges", "1", "--port", str(port), "--rounds", "1000", "--runs-dir",
                       str(tmp_path))
    wait_for_event(tmp_path, "round_done", process)
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process)
    assert code == 130, err
    assert "stopped: no global model yet; record in" in out and "failed" not in out
    assert summary_of(tmp_path)["status"] == "failed"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        probe.listen()


def test_every_field_of_a_record_is_on_its_reference_page(run: Run) -> None:
    page = (Path(__file__).parents[2] / "docs/run-record.md").read_text()
    named = set(re.findall(r"`(\w+)`", page))
    free = {"data.edges", "preparation.standardization", "preparation.regularization", "preparation.features"}

    def missing(value: object, place: str) -> Iterator[str]:
        for item in value if isinstance(value, list) else []:
            yield from missing(item, place)
        for name, item in value.items() if isinstance(value, dict) else ():
            if name not in named:
                yield f"{place}.{name}"
            if f"{place}.{name}".removeprefix("summary.") not in free:
                yield from missing(item, f"{place}.{name}")

    assert set(missing(run.summary, "summary")) == set()
    events = (run.directory / "events.jsonl").read_text().splitlines()
    assert {json.loads(event)["event"] for event in events} <= named
