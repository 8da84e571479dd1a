"""Layers from another node are checked: names, shapes, types, finite numbers, possible optimizer state."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from trainer.errors import ProtocolError
from trainer.models.averaging import limited_weights
from trainer.models.layer_checks import check_layers
from trainer.models.optimizer import OptimizerConfig, OptimizerName
from trainer.models.stage import Stage


class Masked(nn.Module):
    """A layer with a buffer that is not finite, and a parameter without gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, values: Tensor) -> Tensor:
        return values * self.scale * self.frozen


def trained(optimizer: OptimizerName) -> Stage:
    torch.manual_seed(0)
    stage = Stage([nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), Masked()], 0, 3,
                  OptimizerConfig(optimizer))
    values = torch.randn(8, 3)
    for layer in stage.layers:
        values = layer(values)
    values.sum().backward()  # type: ignore[no-untyped-call]
    stage.step()
    return stage


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
def test_honest_layers_pass_before_and_after_a_step(optimizer: OptimizerName) -> None:
    stage = trained(optimizer)
    fresh = Stage(stage.layers, 0, 3, OptimizerConfig(optimizer))
    check_layers(fresh, range(3), fresh.export_layers(0, 3), 0)
    check_layers(fresh, range(3), stage.export_layers(0, 3), 1)
    check_layers(fresh, [], {}, 1)


def fill(key: str, value: float) -> Callable[[dict[str, Tensor]], None]:
    def change(layers: dict[str, Tensor]) -> None:
        layers[key] = torch.full_like(layers[key], value)
    return change


def replace(key: str, value: Tensor) -> Callable[[dict[str, Tensor]], None]:
    return lambda layers: layers.update({key: value})


@pytest.mark.parametrize(("change", "reason"), [
    (fill("0.value.weight", math.nan), "its '0.value.weight' holds nan"),
    (fill("0.value.weight", math.inf), "its '0.value.weight' holds inf"),
    (fill("2.value.mask", math.inf), "its '2.value.mask' holds inf"),
    (fill("1.value.0.running_var", -1.0), "variances are at least 0"),
    (fill("0.state.0.exp_avg", math.nan), "its '0.state.0.exp_avg' holds nan"),
    (fill("0.state.1.exp_avg_sq", -1.0), "its '0.state.1.exp_avg_sq' holds -1; second moments are at least 0"),
    (fill("0.state.1.step", 1e9), "its '0.state.1.step' is 1e+09; at most 1 steps"),
    (fill("0.state.1.step", 0.5), "at most 1 steps"),
    (fill("0.state.1.step", math.nan), "at most 1 steps"),
    (replace("0.state.1.step", torch.ones(3)), "is not one number"),
    (replace("0.value.weight", torch.zeros(3, 4)), r"is torch.float32 (3, 4); it must be torch.float32 (4, 3)"),
    (replace("0.value.weight", torch.zeros(4, 3, dtype=torch.float64)), "is torch.float64"),
    (replace("0.state.0.exp_avg", torch.zeros(1)), "it must be torch.float32 (4, 3)"),
    (replace("7.value.weight", torch.zeros(1)), "it sent '7.value.weight', which is no part"),
    (replace("0.state.0.other", torch.zeros(1)), "it sent '0.state.0.other'"),
    (replace("nonsense", torch.zeros(1)), "it sent 'nonsense'"),
    (lambda layers: layers.pop("0.value.bias"), "it did not send '0.value.bias'"),
    (lambda layers: layers.pop("0.state.0.exp_avg"), "it did not send '0.state.0.exp_avg'"),
])
def test_impossible_layers_are_refused_with_the_tensor(
    change: Callable[[dict[str, Tensor]], object], reason: str
) -> None:
    stage = trained("adamw")
    layers = dict(stage.export_layers(0, 3))
    change(layers)
    with pytest.raises(ProtocolError) as caught:
        check_layers(stage, range(3), layers, 1)
    assert reason in str(caught.value)


def test_a_claimed_number_of_samples_does_not_take_over() -> None:
    assert limited_weights([100, 200, 10**9]) == [100, 200, 300]
    assert limited_weights([100, 10**9]) == [100, pytest.approx(1000)]
    assert limited_weights([500, 200, 300]) == [500, 200, 300]
    assert limited_weights([900, 100]) == [900, 100]
    assert limited_weights([7]) == [7]
    assert limited_weights([]) == []
