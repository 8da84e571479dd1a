"""Device selection in the cloud; the model does not depend on the device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch

from trainer.cloud.edge_replica import EdgeReplica, build_replica
from trainer.cloud.edge_session import EdgeSession
from trainer.data.standardization import choose_standardization, summarize
from trainer.errors import UsageError
from trainer.models.device import select_device
from trainer.models.optimizer import OptimizerConfig
from trainer.models.rng import RandomStream
from trainer.models.split_model import ServerModel
from trainer.protocol.messages import Prepare
from trainer.records.checkpoint import Checkpoint

HAS_CUDA = torch.cuda.is_available()
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not HAS_CUDA, reason="NO CUDA DEVICE HERE"))]
BATCH, SHAPE, CLASSES = 8, (3, 32, 32), 3


def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert select_device("auto").type == ("cuda" if HAS_CUDA else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert select_device("auto") == select_device("cuda") == torch.device("cuda", 0)
    assert select_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("auto") == torch.device("cpu")


def test_cuda_is_refused_where_it_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="--device is cuda; PyTorch finds none here"):
        select_device("cuda")


def recipe() -> Prepare:
    images = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    standardization = choose_standardization([summarize(images, torch.tensor([0, 1, 2, 0]), CLASSES)])
    return Prepare(model="signal-cnn", sample_shape=SHAPE, classes=CLASSES, seed=5, optimizer=OptimizerConfig(),
                   standardization=standardization, batch=BATCH, micro=1, steps=1)


def replica_on(device: str) -> EdgeReplica:
    request = SimpleNamespace(samples=100)
    session = cast(EdgeSession, SimpleNamespace(name="edge1", request=request))  # needs no connection
    return build_replica(session, recipe(), torch.device(device))


def train_step(replica: EdgeReplica) -> torch.Tensor:
    """Train one step of the whole model in the cloud; return the gradient that would be sent back."""
    images = torch.randn(BATCH, *SHAPE, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(BATCH) % CLASSES
    assert isinstance(replica.model, ServerModel)
    stream = RandomStream(5, "edge1", 1, 0, 0)
    (gradient,), _ = replica.model.train(images.to(replica.device), labels.to(replica.device), BATCH, stream)
    replica.model.step()
    assert gradient is not None
    return gradient


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_sent_and_stored_are_in_host_memory_and_equal_those_of_the_cpu(device: str) -> None:
    replica, on_cpu = replica_on(device), replica_on("cpu")
    assert {value.device.type for value in replica.initial_values().values()} == {"cpu"}
    assert torch.allclose(train_step(replica).cpu(), train_step(on_cpu), atol=1e-4)
    values, states = replica.merged_layers({}, 1)
    assert {tensor.device.type for tensor in (*values.values(), *states.values())} == {"cpu"}
    expected, _ = on_cpu.merged_layers({}, 1)
    assert all(torch.allclose(values[name], expected[name], atol=1e-3) for name in expected)

    restored = replica_on(device)
    restored.restore(Checkpoint(1, recipe(), None, {"edge1": 0}, {}, {}, values, {"edge1": states}))
    layers = restored.model.stage.layers
    assert {parameter.device.type for layer in layers for parameter in layer.parameters()} == {device}
    assert torch.allclose(train_step(restored).cpu(), train_step(replica).cpu(), atol=1e-4)
