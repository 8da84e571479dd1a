"""The cloud's half of a step with several threads."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from tests.unit.trainer.cloud.test_step_segments import MICRO, replicas
from trainer.cloud.compute_pool import ComputePool
from trainer.cloud.edge_replica import EdgeReplica
from trainer.cloud.edge_session import EdgeSession
from trainer.cloud.server_step import ServerStep, StepPlan
from trainer.cloud.step_timing import StepTransfers
from trainer.errors import ProtocolError, TrainingFailedError
from trainer.models.rng import draws_random
from trainer.models.zoo import MODELS
from trainer.protocol import messages
from trainer.protocol.codec import Codec
from trainer.protocol.framing import Frame
from trainer.reservation.bandwidth import FlowGuarantee
from trainer.transport.connection import ReceivedFrame

CUTS = [1, 2, 1, 3, 1]


def trained(edges: list[EdgeReplica], threads: int, wrong: str | None) -> tuple[dict[str, list[Tensor]], list[str]]:
    """Make a step; returns of every edge its gradients and then its values, and the edges that are excluded."""
    by_name = {edge.name: edge for edge in edges}
    found: dict[str, list[Tensor]] = {name: [] for name in by_name}
    excluded: list[str] = []

    def send(session: EdgeSession, _: messages.Message, tensors: Mapping[str, Tensor] | None) -> None:
        found[session.name] += [tensor.clone() for tensor in (tensors or {}).values()]

    def give_up(session: EdgeSession, _: ProtocolError | TrainingFailedError) -> None:
        excluded.append(session.name)
        del by_name[session.name]

    fp32: dict[str, Codec] = dict.fromkeys(found, "fp32")
    step = ServerStep(StepPlan(0, 1, 0, 1, 1, fp32, fp32, 1e12, 8), by_name, send, give_up, ComputePool(threads))
    for edge in edges:
        flow = FlowGuarantee(1)
        step.add(edge, StepTransfers(0.0, 1460, flow, flow))
    random = torch.Generator().manual_seed(1)
    for micro in range(MICRO):
        for edge in edges:
            width = edge.boundary.tensors[0].sides[1].constant
            values = torch.randn(edge.samples_of(micro), width, generator=random)
            if edge.name == wrong and micro:
                values[0, 0] = torch.inf
            labels = torch.randint(0, 3, (len(values),), generator=random).to(torch.uint8)
            segment = messages.Segment(step=0, micro=micro, batch_samples=edge.batch)
            if edge.name in by_name:
                step.handle(edge.name, ReceivedFrame(Frame(segment, 0.0, {"segment": values, "labels": labels}), 0.0))
    while step.has_ready:
        step.train_ready()
    for edge in list(by_name.values()):
        edge.model.step(0)
        found[edge.name] += [value.clone() for value in edge.model.stage.state_dict(0, 5).values()]
    return found, excluded


@pytest.mark.parametrize("wrong", [None, "edge3"], ids=["all train", "one edge sends infinity"])
def test_several_threads_train_bit_for_bit_what_one_does(wrong: str | None) -> None:
    alone, excluded = trained(replicas(CUTS, None), 1, wrong)
    assert excluded == ([] if wrong is None else [wrong])
    assert len(alone["edge1"]) > MICRO
    for _ in range(5):
        together, others = trained(replicas(CUTS, None), 3, wrong)
        assert others == excluded
        for name, tensors in alone.items():
            if name == wrong:
                continue  # with several threads it is excluded before its first micro-batch has been trained
            assert len(tensors) == len(together[name])
            assert all(map(torch.equal, tensors, together[name])), name


def test_no_work_is_left_behind_where_a_result_cannot_be_used() -> None:
    began: list[int] = []
    ended: list[int] = []

    def work(number: int) -> None:
        began.append(number)
        time.sleep(0.02)
        ended.append(number)

    with pytest.raises(ValueError, match="unusable"), ComputePool(2).each(work, range(8)) as results:
        next(results)
        raise ValueError("unusable")
    assert sorted(began) == sorted(ended) and len(ended) < 8


@pytest.mark.parametrize(("model", "is_random"), [("mlp", False), ("feature-mlp", True)])
def test_models_with_dropout_draw_random_numbers(model: str, is_random: bool) -> None:
    state = torch.default_generator.get_state()
    layers = MODELS[model].build((6,), 3)
    torch.default_generator.set_state(state)
    assert draws_random(layers, torch.zeros(2, 6)) == is_random
    assert torch.equal(state, torch.default_generator.get_state())
