"""Several edges in one pass through frozen layers: exactly what one pass for each would make, in double precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from trainer.config.fine_tuning import parse_fine_tuning
from trainer.models.blocks import MeanPooling, PatchEmbedding, encoder_layer
from trainer.models.boundary import find_boundaries
from trainer.models.frozen import copy_sharing, find_unchanging
from trainer.models.lora import adapters, tune
from trainer.models.optimizer import OptimizerConfig
from trainer.models.rng import RandomStream
from trainer.models.shared_trunk import MicroBatch, joint_layers, train_together
from trainer.models.split_model import ServerModel
from trainer.models.stage import Stage
from trainer.models.values import Values, tensors_of

CLASSES, SAMPLES, BATCH = 3, (4, 1, 2, 4), 8


class Embedded(nn.Module):
    """Values and a mask of (N, 5, 2) inputs: two tensors cross the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 8)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Embed."""
        return self.linear(values), values[..., 0] > 0


class Attention(nn.Module):
    """Attention that leaves out what the mask says; linear layers see (N, 5, 8) and, transposed, (5, N, 8)."""

    def __init__(self, time_first: bool = False) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.time_first = time_first

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Attend."""
        values, mask = pair
        query, key = self.query(values), self.key(values)
        scores = (query @ key.transpose(1, 2)).masked_fill(~mask[:, None, :], -1e9)
        value = self.value(values.transpose(0, 1)).transpose(0, 1) if self.time_first else self.value(values)
        return values + scores.softmax(dim=2) @ value, mask


class Last(nn.Module):
    """A linear layer for classes of the mean over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, CLASSES)

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        """Classify."""
        outputs: Tensor = self.head(pair[0].mean(dim=1))
        return outputs


Build = Callable[[], list[nn.Module]]
MODELS: dict[str, tuple[Build, tuple[int, ...], str | None, str | None, list[bool]]] = {
    "masked attention": (lambda: [Embedded(), Attention(), Attention(), Last()], (5, 2), "2", None,
                         [True, True, True, False]),
    "adapters of rows that are not the samples'": (
        lambda: [Embedded(), Attention(time_first=True), Attention(), Last()], (5, 2), "2", None,
        [True, False, True, False]),
    "images": (lambda: [nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3, stride=2), nn.Flatten(),
                        nn.Linear(16, CLASSES)], (2, 7, 7), "1", None, [True, True, True, True, False]),
    "series": (lambda: [nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 2), nn.Flatten(), nn.Linear(12, CLASSES)],
               (2, 6), "1", None, [True, True, True, True, False]),
    "dropout": (lambda: [PatchEmbedding((2, 5), 8, 1), encoder_layer(8, 2, 0.2), encoder_layer(8, 2, 0.0),
                         MeanPooling(8), nn.Linear(8, CLASSES)], (2, 5), "2", None, [True, False, True, True, False]),
    "statistics of a batch": (
        lambda: [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False, track_running_stats=False), nn.Conv2d(4, 4, 3),
                 nn.Flatten(), nn.Linear(36, CLASSES)], (2, 7, 7), "1", None, [True, False, True, True, False]),
    "frozen layers without adapters": (
        lambda: [nn.Linear(4, 6), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, CLASSES)], (4,), None,
        "0,1", [True, True, True, False, False]),
    "all trained": (lambda: [nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES)], (4,), None, None, [False] * 3),
}


def inputs(samples: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(samples)
    return torch.randn(samples, *shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("cut", [0, 1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_one_pass_for_several_edges_is_exact(name: str, cut: int) -> None:
    build, shape, lora, freeze, expected = MODELS[name]
    layers = [layer.double() for layer in build()]
    tune(nn.Sequential(*layers), parse_fine_tuning(freeze, lora), name)
    batch = partial(inputs, shape=shape)
    boundaries, unchanging = find_boundaries(layers, batch), find_unchanging(layers, batch, name)
    before = [{key: value.clone() for key, value in layer.state_dict().items()} for layer in layers]
    joint = joint_layers(layers, boundaries, unchanging, batch)
    assert list(joint) == expected
    assert all(torch.equal(value, values[key]) for layer, values in zip(layers, before, strict=True)
               for key, value in layer.state_dict().items())

    def micro_batches() -> list[MicroBatch]:
        """Four micro-batches of three edges: the first one has two, which share its adapters."""
        models: dict[str, ServerModel] = {}
        batches = []
        for number, samples in enumerate(SAMPLES):
            edge = f"edge{max(1, number)}"
            if edge not in models:
                own = copy_sharing(layers, unchanging)
                generator = torch.Generator().manual_seed(number)
                for layer in own:
                    for parameter in filter(lambda value: value.requires_grad, layer.parameters()):
                        with torch.no_grad():
                            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
                models[edge] = ServerModel(Stage(own, cut, len(own), OptimizerConfig(), unchanging))
            segment: Values = batch(samples + 10 * number)[:samples]
            with torch.no_grad():
                for layer in layers[:cut]:
                    segment = layer.eval()(segment)
                    layer.train()
            batches.append(MicroBatch(models[edge], segment, torch.arange(samples) % CLASSES, BATCH,
                                      RandomStream(1, edge, 1, 0, number)))
        return batches

    together, alone = micro_batches(), micro_batches()
    results = train_together(together, boundaries, joint)
    for (gradients, loss), one in zip(results, alone, strict=True):
        expected_gradients, expected_loss = one.train(boundaries[cut].needs_gradient)
        assert loss == pytest.approx(expected_loss, rel=1e-12)
        assert [gradient is None for gradient in gradients] == [gradient is None for gradient in expected_gradients]
        torch.testing.assert_close(tensors_of(list(gradients)), tensors_of(list(expected_gradients)), rtol=1e-9,
                                   atol=1e-11)
    trained = 0
    for one, other in zip(together, alone, strict=True):
        for layer, twin in zip(one.model.stage.layers, other.model.stage.layers, strict=True):
            for parameter, same in zip(layer.parameters(), twin.parameters(), strict=True):
                assert (parameter.grad is None) == (same.grad is None)
                if parameter.grad is not None and same.grad is not None:
                    torch.testing.assert_close(parameter.grad, same.grad, rtol=1e-9, atol=1e-11)
                    trained += 1
    assert trained
    assert not any("adapter_rows" in module.__dict__ for one in together for layer in one.model.stage.layers
                   for module in adapters(layer).values())
