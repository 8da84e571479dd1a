"""Image models compute the same, bit for bit, wherever they are cut."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from trainer.models.boundary import Boundary, find_boundaries
from trainer.models.building import build_layers
from trainer.models.optimizer import OptimizerConfig
from trainer.models.rng import RandomStream
from trainer.models.split_model import ClientModel, ServerModel
from trainer.models.stage import Stage
from trainer.protocol import framing, messages, segments

SHAPE, CLASSES, SAMPLES = (3, 32, 32), 3, 5
STREAM = RandomStream(1, "edge1", 1, 0, 0)


def sent(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as they arrive."""
    kind, header, buffers = framing.encode(messages.Segment(step=0, micro=0, batch_samples=SAMPLES), tensors)
    payload = bytearray(b"".join(buffers))
    prefix = framing.Prefix(kind, len(header), len(payload), 0.0)
    return dict(framing.decode(prefix, header, payload).tensors)


def step_with_cut(
    layers: list[nn.Module], boundaries: list[Boundary], cut: int, inputs: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """Train one step of layers divided at a cut; return all values."""
    own = copy.deepcopy(layers)
    edge = ClientModel(Stage(own, 0, cut, OptimizerConfig("sgd", 0.1)))
    cloud = ServerModel(Stage(own, cut, len(own), OptimizerConfig("sgd", 0.1)))
    boundary = boundaries[cut]
    up = segments.encode_segment("segment", edge.forward(inputs, STREAM), boundary, SAMPLES, "fp32")
    segment = segments.decode_segment("segment", sent(up), boundary, SAMPLES)
    gradients, _ = cloud.train(segment, targets, SAMPLES, STREAM, boundary.needs_gradient)
    if boundary.trained:
        down = segments.encode_gradients("gradient", gradients, boundary, "fp32")
        edge.backward(0, segments.decode_gradients("gradient", sent(down), boundary, SAMPLES))
    edge.step()
    cloud.step()
    return edge.stage.state_dict(0, len(own))


@pytest.mark.parametrize("name", ["signal-cnn", "resnet"])
def test_every_cut_makes_the_same_step_bit_for_bit(name: str) -> None:
    layers = build_layers(name, 1, SHAPE, CLASSES)
    boundaries = find_boundaries(layers, lambda samples: torch.randn(samples, *SHAPE))
    inputs, targets = torch.randn(SAMPLES, *SHAPE), torch.arange(SAMPLES) % CLASSES
    whole = step_with_cut(layers, boundaries, 0, inputs, targets)
    assert any(not torch.equal(whole[f"{number}.{key}"], value) for number, layer in enumerate(layers)
               for key, value in layer.state_dict().items())
    for cut in range(1, len(layers)):
        divided = step_with_cut(layers, boundaries, cut, inputs, targets)
        assert all(torch.equal(divided[key], value) for key, value in whole.items()), cut
