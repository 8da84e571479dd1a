"""Where the cloud computes: what is asked for, what is there, and that the model does not depend on it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch

from trainer.cloud.edge_replica import EdgeReplica, apprentice_of
from trainer.cloud.edge_session import EdgeSession
from trainer.data.standardization import choose, summarize
from trainer.errors import UsageError
from trainer.models.device import device_of
from trainer.models.optimizer import OptimizerConfig
from trainer.models.rng import RandomStream
from trainer.models.split_model import ServerModel
from trainer.protocol.messages import Prepare
from trainer.records.checkpoint import Checkpoint

HAS_CUDA = torch.cuda.is_available()
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not HAS_CUDA, reason="NO CUDA DEVICE HERE"))]
BATCH, SHAPE, CLASSES = 8, (3, 32, 32), 3


def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_of("auto").type == ("cuda" if HAS_CUDA else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("auto") == device_of("cuda") == torch.device("cuda", 0)
    assert device_of("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == torch.device("cpu")


def test_cuda_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="--device is cuda; PyTorch finds none here"):
        device_of("cuda")


def recipe() -> Prepare:
    images = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    standardization = choose([summarize(images, torch.tensor([0, 1, 2, 0]), CLASSES)])
    return Prepare(model="signal-cnn", sample_shape=SHAPE, classes=CLASSES, seed=5, optimizer=OptimizerConfig(),
                   standardization=standardization, batch=BATCH, micro=1, steps=1)


def apprentice(device: str) -> EdgeReplica:
    member = cast(EdgeSession, SimpleNamespace(name="edge1", ask=SimpleNamespace(samples=100)))  # needs no connection
    return apprentice_of(member, recipe(), torch.device(device))


def learn(one: EdgeReplica) -> torch.Tensor:
    """One step of the whole model in the cloud; the gradient that would go back."""
    images = torch.randn(BATCH, *SHAPE, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(BATCH) % CLASSES
    assert isinstance(one.half, ServerModel)
    gradient, _ = one.half.train(images.to(one.device), labels.to(one.device), BATCH, RandomStream(5, "edge1", 1, 0, 0))
    one.half.step()
    return gradient


@pytest.mark.parametrize("device", DEVICES)
def test_what_travels_and_is_kept_lies_in_ordinary_memory_and_is_the_same(device: str) -> None:
    one, here = apprentice(device), apprentice("cpu")
    assert {value.device.type for value in one.initial_values().values()} == {"cpu"}
    assert torch.allclose(learn(one).cpu(), learn(here), atol=1e-4)
    values, states = one.whole({})
    assert {tensor.device.type for tensor in (*values.values(), *states.values())} == {"cpu"}
    assert all(torch.allclose(values[name], wanted, atol=1e-3) for name, wanted in here.whole({})[0].items())

    again = apprentice(device)
    again.restore(Checkpoint(1, recipe(), None, {"edge1": 0}, {}, {}, values, {"edge1": states}))
    assert {parameter.device.type for layer in again.half.part.layers for parameter in layer.parameters()} == {device}
    assert torch.allclose(learn(again).cpu(), learn(one).cpu(), atol=1e-4)
