"""Which micro-batches of several edges the cloud trains in one pass."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch

from trainer.cloud.edge_replica import EdgeReplica, build_replica, build_shared
from trainer.cloud.edge_session import EdgeSession
from trainer.cloud.step_segments import StepSegments
from trainer.config.fine_tuning import parse_fine_tuning
from trainer.data.standardization import Standardization
from trainer.models.optimizer import OptimizerConfig
from trainer.protocol.messages import Prepare

BATCH, MICRO = 8, 2
MOVED = "another cut"
CPU = torch.device("cpu")


def replicas(cuts: list[int], lora: str | None) -> list[EdgeReplica]:
    recipe = Prepare(model="mlp", sample_shape=(6,), classes=3, seed=1, tuning=parse_fine_tuning(None, lora),
                     optimizer=OptimizerConfig(), standardization=Standardization("none", (), (), (), "a test"),
                     batch=BATCH, micro=MICRO, steps=1)
    built = build_shared(recipe, CPU)
    made = []
    for number, cut in enumerate(cuts, start=1):
        session = SimpleNamespace(name=f"edge{number}", request=SimpleNamespace(samples=40), data_order=number)
        replica = build_replica(cast(EdgeSession, session), recipe, CPU, built)
        replica.model.stage.first = cut
        made.append(replica)
    return made


def arrive(segments: StepSegments, replica: EdgeReplica, micro: int) -> None:
    values = torch.zeros(replica.samples_of(micro), 1)
    segments.add(replica, micro, {}, values, torch.zeros(len(values)), is_last=False)


@pytest.mark.parametrize(("cuts", "lora", "expected"), [
    ([1, 1, 1], "2", [["edge1", "edge2"], ["edge3", "edge1"], ["edge2", "edge3"]]),
    ([1, 2, 1], "2", [["edge1", "edge3"], ["edge2", "edge2"], ["edge1", "edge3"]]),
    ([1, 1, 1], None, [["edge1"], ["edge2"], ["edge3"], ["edge1"], ["edge2"], ["edge3"]]),
    ([4, 4, 4], "2", [["edge1"], ["edge2"], ["edge3"], ["edge1"], ["edge2"], ["edge3"]]),
], ids=["one cut", MOVED, "nothing frozen", "only the output layer in the cloud"])
def test_a_pass_takes_micro_batches_of_one_cut_in_their_order(
    cuts: list[int], lora: str | None, expected: list[list[str]]
) -> None:
    edges, segments = replicas(cuts, lora), StepSegments(0)
    for edge in edges:
        assert segments.expect(edge) == 0
    for micro in range(MICRO):
        for edge in edges:
            arrive(segments, edge, micro)
    assert segments.arrived_samples == 3 * BATCH
    passes, micros = [], []
    while segments.has_ready:
        taken = segments.take(BATCH)
        passes.append([ready.replica.name for ready in taken])
        micros += [(ready.replica.name, ready.micro) for ready in taken]
    assert passes == expected
    for edge in edges:
        assert [micro for name, micro in micros if name == edge.name] == [0, 1]


def test_the_pass_of_an_edge_that_is_done_begins_with_its_own_and_takes_others_along() -> None:
    first, second, third = edges = replicas([1, 1, 1], "2")
    segments = StepSegments(0)
    for edge in edges:
        segments.expect(edge)
        arrive(segments, edge, 0)
    assert [ready.replica.name for ready in segments.take(BATCH, first_of=third)] == ["edge3", "edge1"]
    assert segments.take(BATCH, first_of=third) == []
    segments.forget(second)
    assert not segments.has_ready
    assert first.shares_trunk
