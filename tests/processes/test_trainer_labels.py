"""Label protection: the trained model is the same, and no frame from an edge contains a label."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.processes.spy import RecordingProxy
from tests.processes.training import TrainingProcesses, training_processes
from trainer.config.partitioning import IID
from trainer.data import dataset
from trainer.data.load import load_local
from trainer.planning.forecasts import FRAME_BYTES
from trainer.protocol import messages
from trainer.protocol.framing import Frame

EDGES, ROUNDS, STEPS, BATCH, MICRO = 2, 4, 2, 24, 2
CUTS = [[2, 7], [11, 4], [12, 1], [12, 0]]
RECIPE = ("--rounds", str(ROUNDS), "--steps", str(STEPS), "--batch", str(BATCH), "--micro", str(MICRO),
          "--average-every", "2", "--seed", "5", "--optimizer", "adamw", "--learning-rate", "0.003", "--min-cut", "0",
          "--cuts", ";".join(",".join(map(str, row)) for row in CUTS))
LAYERS = 13
PROTECT = "--protect-labels"
TIMEOUT_S = 250
"""More than ten times the duration of a run on an idle machine."""

pytestmark = pytest.mark.timeout(3 * TIMEOUT_S)


@dataclass(frozen=True)
class RecordedRun:
    """A finished run, and all bytes that its edges sent."""

    sent: list[bytes]
    frames: list[Frame]
    model: dict[str, Tensor]
    summary: dict[str, Any]


@contextmanager
def proxied_run(directory: Path, *mode: str) -> Iterator[tuple[TrainingProcesses, RecordingProxy]]:
    with training_processes(directory, EDGES) as training:
        proxy = RecordingProxy(training.port)
        try:
            training.start_cloud(*RECIPE, *mode)
            for number in range(1, EDGES + 1):
                training.start_edge(number, "--cloud", proxy.address, "--min-cut", "0", *mode)
            yield training, proxy
        finally:
            proxy.close()


def run_to_end(directory: Path, *mode: str) -> RecordedRun:
    with proxied_run(directory, *mode) as (training, proxy):
        assert training.finish(seconds=TIMEOUT_S) == 0, training.logs()
        return RecordedRun([bytes(sent) for sent in proxy.received], list(proxy.frames()),
                     load_file(training.run / "model.safetensors"), training.summary())


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    return run_to_end(tmp_path_factory.mktemp("protected"), PROTECT)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    return run_to_end(tmp_path_factory.mktemp("plain"))


def micro_batches(edge: int) -> Iterator[Tensor]:
    """Yield the labels of every micro-batch of this edge."""
    labels = load_local("traffic-lights", IID, f"edge{edge + 1}", edge, EDGES, 5).train.labels
    for step in range(ROUNDS * STEPS):
        indices = dataset.batch_indices(len(labels), BATCH, 5 * 1009 + edge, step)
        yield from torch.split(labels[indices], BATCH // MICRO)


def micro_batches_with_labels_sent(recorded: RecordedRun) -> int:
    """Number of micro-batches whose labels are contained in the sent bytes, in any of several number formats."""
    count = 0
    for edge in range(EDGES):
        for labels in micro_batches(edge):
            encodings = [labels.to(kind).numpy().tobytes()
                       for kind in (torch.uint8, torch.int32, torch.int64, torch.float32, torch.float64)]
            count += any(encoding in sent for sent in recorded.sent for encoding in encodings)
    return count


def test_protection_does_not_change_the_model(protected: RecordedRun, plain: RecordedRun) -> None:
    assert [[edge["cut"] for edge in row["edges"]] for row in protected.summary["rounds"]] == CUTS
    assert protected.model.keys() == plain.model.keys()
    for name, value in plain.model.items():
        torch.testing.assert_close(protected.model[name], value, rtol=1e-4, atol=1e-5)
    assert [row["loss"] for row in protected.summary["rounds"]] == pytest.approx(
        [row["loss"] for row in plain.summary["rounds"]], rel=1e-3)


def test_no_label_is_in_anything_an_edge_sends(protected: RecordedRun, plain: RecordedRun) -> None:
    assert micro_batches_with_labels_sent(plain) == EDGES * ROUNDS * STEPS * MICRO
    assert micro_batches_with_labels_sent(protected) == 0


def test_every_tensor_an_edge_sends_is_an_activation_a_gradient_or_a_layer(protected: RecordedRun) -> None:
    allowed = {messages.Segment: {"segment"}, messages.TailGradient: {"tail_gradient"}}
    counts: dict[type[messages.Message], int] = {}
    for frame in protected.frames:
        kind = type(frame.message)
        counts[kind] = counts.get(kind, 0) + 1
        if kind in (messages.PlanApplied, messages.ModelUpdate):
            assert all(name.split(".")[1] in ("value", "state") for name in frame.tensors)
        else:
            assert set(frame.tensors) == allowed.get(kind, set())
        assert all(tensor.is_floating_point() for tensor in frame.tensors.values())
    assert counts[messages.Segment] == counts[messages.TailGradient] == EDGES * ROUNDS * STEPS * MICRO


def test_the_class_counts_are_not_sent(protected: RecordedRun, plain: RecordedRun) -> None:
    def counts(recorded: RecordedRun) -> list[int]:
        return [sum(frame.message.statistics.class_counts) for frame in recorded.frames
                if isinstance(frame.message, messages.JoinRequest)]

    assert counts(protected) == [0, 0]
    assert min(counts(plain)) > 0


def test_the_summary_reports_protection_and_its_cost(protected: RecordedRun, plain: RecordedRun) -> None:
    assert protected.summary["labels"] == {"protected": True, "tail": LAYERS - 1}
    assert plain.summary["labels"] == {"protected": False, "tail": None}
    for row, bare in zip(protected.summary["rounds"], plain.summary["rounds"], strict=True):
        for edge, other in zip(row["edges"], bare["edges"], strict=True):
            assert edge["segment_bytes"] == other["segment_bytes"]
        tails = {(edge["edge"], way): edge[f"tail_{way}_bytes"] for edge in row["edges"] for way in ("up", "down")}
        bytes_without = {(t["edge"], t["direction"], t["step"]): t["bytes"] for t in bare["transfers"]}
        for transfer in row["transfers"]:
            edge_name, direction = transfer["edge"], transfer["direction"]
            without = bytes_without.get((edge_name, direction, transfer["step"]), 0)  # at cut 0 nothing comes back
            extra = transfer["bytes"] - without
            tail = tails[edge_name, direction]
            assert tail - FRAME_BYTES * MICRO < extra < tail + FRAME_BYTES * MICRO
        assert min(row["step_ms"]["predicted"], row["step_ms"]["unprotected"]) > 0
        assert "unprotected" not in bare["step_ms"]


def test_a_killed_cloud_and_a_killed_edge_do_not_change_the_model(tmp_path: Path, protected: RecordedRun) -> None:
    with training_processes(tmp_path / "killed", EDGES, edge_flags=(PROTECT, "--min-cut", "0")) as training:
        training.start_cloud(*RECIPE, PROTECT, "--quorum", "2")
        training.start_edges()
        training.wait_for("plan", lambda event: event["round"] == 3)
        training.send("cloud", signal.SIGKILL)
        training.resume_cloud()
        training.wait_for("step", lambda event: event["round"] == 4)
        training.send("edge1", signal.SIGKILL)
        training.wait_for("paused")
        training.start_edge(1)
        assert training.finish(seconds=TIMEOUT_S) == 0, training.logs()
        model = load_file(training.run / "model.safetensors")
        assert all(torch.equal(model[name], value) for name, value in protected.model.items())


def test_an_edge_that_protects_its_labels_refuses_a_cloud_that_requires_them(tmp_path: Path) -> None:
    with training_processes(tmp_path / "unprotected", 1) as training:
        proxy = RecordingProxy(training.port)
        training.start_cloud("--rounds", "1", "--ask-timeout", "120", "--rejoin-timeout", "0.5")
        training.start_edge(1, "--cloud", proxy.address, PROTECT)
        assert training.finish("edge1", TIMEOUT_S) == 4
        assert "The cloud requires the labels of edge1, which are protected" in training.logs()
        assert not any(isinstance(frame.message, messages.Segment) for frame in proxy.frames())
        assert training.finish(seconds=TIMEOUT_S) == 4
        proxy.close()
