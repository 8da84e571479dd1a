"""Labels that never leave the edge: the same model comes out, and no frame that an edge sends has a label in it."""

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

from tests.processes.spy import Spy
from tests.processes.training import Stage, stage
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
PATIENCE_S = 250
"""No run takes a tenth of it on a machine of its own."""

pytestmark = pytest.mark.timeout(3 * PATIENCE_S)


@dataclass(frozen=True)
class Heard:
    """A finished run, and all that its edges said."""

    said: list[bytes]
    frames: list[Frame]
    model: dict[str, Tensor]
    summary: dict[str, Any]


@contextmanager
def overheard(directory: Path, *mode: str) -> Iterator[tuple[Stage, Spy]]:
    with stage(directory, EDGES) as one:
        spy = Spy(one.port)
        try:
            one.start_cloud(*RECIPE, *mode)
            for number in range(1, EDGES + 1):
                one.start_edge(number, "--cloud", spy.address, *mode)
            yield one, spy
        finally:
            spy.close()


def hear(directory: Path, *mode: str) -> Heard:
    with overheard(directory, *mode) as (one, spy):
        assert one.finish(seconds=PATIENCE_S) == 0, one.logs()
        return Heard([bytes(said) for said in spy.heard], list(spy.frames()),
                     load_file(one.run / "model.safetensors"), one.summary())


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Heard:
    return hear(tmp_path_factory.mktemp("protected"), PROTECT)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Heard:
    return hear(tmp_path_factory.mktemp("plain"))


def micro_batches(edge: int) -> Iterator[Tensor]:
    """The labels of every micro-batch that this edge trains on."""
    labels = load_local("traffic-lights", IID, f"edge{edge + 1}", edge, EDGES, 5).train.labels
    for step in range(ROUNDS * STEPS):
        places = dataset.batch_indices(len(labels), BATCH, 5 * 1009 + edge, step)
        yield from torch.split(labels[places], BATCH // MICRO)


def told_labels(heard: Heard) -> int:
    """How many micro-batches' labels are somewhere in what was said, byte after byte or as longer integers."""
    found = 0
    for edge in range(EDGES):
        for labels in micro_batches(edge):
            written = [labels.to(kind).numpy().tobytes()
                       for kind in (torch.uint8, torch.int32, torch.int64, torch.float32, torch.float64)]
            found += any(text in said for said in heard.said for text in written)
    return found


def test_the_same_model_comes_out(protected: Heard, plain: Heard) -> None:
    assert [[edge["cut"] for edge in row["edges"]] for row in protected.summary["rounds"]] == CUTS
    assert protected.model.keys() == plain.model.keys()
    for name, value in plain.model.items():
        torch.testing.assert_close(protected.model[name], value, rtol=1e-4, atol=1e-5)
    assert [row["loss"] for row in protected.summary["rounds"]] == pytest.approx(
        [row["loss"] for row in plain.summary["rounds"]], rel=1e-3)


def test_no_label_is_in_anything_an_edge_sends(protected: Heard, plain: Heard) -> None:
    assert told_labels(plain) == EDGES * ROUNDS * STEPS * MICRO
    assert told_labels(protected) == 0


def test_every_tensor_an_edge_sends_is_an_activation_a_gradient_or_a_layer(protected: Heard) -> None:
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


def test_not_even_the_number_of_samples_with_a_label_is_told(protected: Heard, plain: Heard) -> None:
    def counts(heard: Heard) -> list[int]:
        return [sum(frame.message.statistics.class_counts) for frame in heard.frames
                if isinstance(frame.message, messages.JoinRequest)]

    assert counts(protected) == [0, 0]
    assert min(counts(plain)) > 0


def test_the_record_says_so_and_what_it_cost(protected: Heard, plain: Heard) -> None:
    assert protected.summary["labels"] == {"protected": True, "tail": LAYERS - 1}
    assert plain.summary["labels"] == {"protected": False, "tail": None}
    for row, bare in zip(protected.summary["rounds"], plain.summary["rounds"], strict=True):
        for edge, other in zip(row["edges"], bare["edges"], strict=True):
            assert edge["segment_bytes"] == other["segment_bytes"]
        tails = {(edge["edge"], way): edge[f"tail_{way}_bytes"] for edge in row["edges"] for way in ("up", "down")}
        bytes_without = {(one["edge"], one["direction"], one["step"]): one["bytes"] for one in bare["transfers"]}
        for one in row["transfers"]:
            extra = one["bytes"] - bytes_without[one["edge"], one["direction"], one["step"]]
            tail = tails[one["edge"], one["direction"]]
            assert tail - FRAME_BYTES * MICRO < extra < tail + FRAME_BYTES * MICRO
        assert min(row["step_ms"]["predicted"], row["step_ms"]["unprotected"]) > 0
        assert "unprotected" not in bare["step_ms"]


def test_a_killed_cloud_and_a_killed_edge_change_nothing(tmp_path: Path, protected: Heard) -> None:
    with stage(tmp_path / "killed", EDGES, edge_flags=(PROTECT,)) as one:
        one.start_cloud(*RECIPE, PROTECT, "--quorum", "2")
        one.start_edges()
        one.wait_for("plan", lambda event: event["round"] == 3)
        one.send("cloud", signal.SIGKILL)
        one.resume_cloud()
        one.wait_for("step", lambda event: event["round"] == 4)
        one.send("edge1", signal.SIGKILL)
        one.wait_for("paused")
        one.start_edge(1)
        assert one.finish(seconds=PATIENCE_S) == 0, one.logs()
        model = load_file(one.run / "model.safetensors")
        assert all(torch.equal(model[name], value) for name, value in protected.model.items())


def test_an_edge_that_protects_its_labels_trains_with_no_cloud_that_wants_them(tmp_path: Path) -> None:
    with stage(tmp_path / "greedy", 1) as one:
        spy = Spy(one.port)
        one.start_cloud("--rounds", "1", "--ask-timeout", "120", "--rejoin-timeout", "0.5")
        one.start_edge(1, "--cloud", spy.address, PROTECT)
        assert one.finish("edge1", PATIENCE_S) == 4
        assert "The cloud requires the labels of edge1, which are protected" in one.logs()
        assert not any(isinstance(frame.message, messages.Segment) for frame in spy.frames())
        assert one.finish(seconds=PATIENCE_S) == 4
        spy.close()
