"""FLOPs, bytes and parameters per layer: what a layer costs, before anybody has run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

VALUE_BYTES = 4
_SAMPLES = 2


@dataclass(frozen=True, slots=True)
class LayerCost:
    """Per sample, except `parameters`. FLOPs are those of matrix products and convolutions.

    Everything else a layer does (normalising, pooling, activating) is paid in `moved_bytes`: the values each of
    its modules reads and writes, parameters not counted.
    """

    name: str
    forward_flops: float
    backward_flops: float
    moved_bytes: float
    output_values: int
    parameters: int
    stored_values: int


def layer_costs(layers: Sequence[nn.Module], sample_shape: tuple[int, ...]) -> list[LayerCost]:
    """The cost of every layer, counted by running two samples of zeros through each.

    Source: torch.utils.flop_counter counts 2 FLOPs for a multiply-add.
    """
    costs = []
    values = torch.zeros(_SAMPLES, *sample_shape)
    for number, layer in enumerate(layers):
        leaf = values.detach().requires_grad_(number > 0)  # nobody wants the gradient of the images
        moved = _MovedValues(layer)
        with FlopCounterMode(display=False) as forward:
            output = layer(leaf)
        moved.remove()
        with FlopCounterMode(display=False) as backward:
            torch.autograd.grad(output.sum(), [leaf, *layer.parameters()] if number else list(layer.parameters()))
        costs.append(
            LayerCost(
                name=_describe(layer),
                forward_flops=forward.get_total_flops() / _SAMPLES,
                backward_flops=backward.get_total_flops() / _SAMPLES,
                moved_bytes=VALUE_BYTES * moved.values / _SAMPLES,
                output_values=output.numel() // _SAMPLES,
                parameters=sum(parameter.numel() for parameter in layer.parameters()),
                stored_values=sum(value.numel() for value in layer.state_dict().values()),
            )
        )
        values = output.detach()
    return costs


def segment_values(costs: Sequence[LayerCost], sample_shape: tuple[int, ...]) -> list[int]:
    """Values per sample in the segment of every cut 0..L; cut 0 would send the input itself."""
    first = 1
    for side in sample_shape:
        first *= side
    return [first, *(cost.output_values for cost in costs)]


class _MovedValues:
    """Counts what the innermost modules of a layer read and write."""

    def __init__(self, layer: nn.Module) -> None:
        self.values = 0
        leaves = [module for module in layer.modules() if not list(module.children())]
        self._hooks = [module.register_forward_hook(self._count) for module in leaves]

    def _count(self, _module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self.values += inputs[0].numel() + output.numel()

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def _describe(layer: nn.Module) -> str:
    modules = list(layer.children()) if isinstance(layer, nn.Sequential) else [layer]
    first = modules[0]
    if isinstance(first, nn.Conv2d):
        return f"conv {first.in_channels}>{first.out_channels}"
    if isinstance(first, nn.Linear):
        return f"linear {first.in_features}>{first.out_features}"
    if isinstance(first, nn.MaxPool2d | nn.AvgPool2d):
        size = first.kernel_size if isinstance(first.kernel_size, tuple) else (first.kernel_size,) * 2
        return f"pool {size[0]}x{size[1]}"
    return type(first).__name__.lower()
