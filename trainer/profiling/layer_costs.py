"""FLOPs, memory traffic and parameters per layer, counted without timing.

Every layer is traced with two and with four samples of zeros; the difference is the cost of two samples. So costs
that do not grow with the samples, such as reading the parameters, are left out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

_FEW, _MORE = 2, 4


@dataclass(frozen=True, slots=True)
class LayerCost:
    """Cost of a layer per sample, except `parameters` and `stored_values` (parameters and buffers).

    FLOPs are those of matrix products, convolutions and attention. Everything else (normalisation, pooling,
    activation) counts in `moved_bytes`: the bytes that its operators read and write.
    """

    name: str
    forward_flops: float
    backward_flops: float
    moved_bytes: float
    output_values: int
    parameters: int
    stored_values: int
    backward_moved_bytes: float
    output_shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Pass:
    """Counts of one traced pass of a layer: forward, backward."""

    flops: tuple[int, int]
    moved_bytes: tuple[int, int]


def layer_costs(layers: Sequence[nn.Module], sample_shape: tuple[int, ...]) -> list[LayerCost]:
    """Return the cost of every layer; the layers are not modified.

    Source: torch.utils.flop_counter counts 2 FLOPs for a multiply-add.
    """
    costs = []
    with torch.random.fork_rng(devices=[]):
        for number, layer in enumerate(layers):
            cost = _layer_cost(copy.deepcopy(layer), sample_shape, with_input_gradient=number > 0)
            costs.append(cost)
            sample_shape = cost.output_shape
    return costs


def segment_shapes(costs: Sequence[LayerCost], sample_shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the shape of a sample in the segment of every cut 0..L; cut 0 would send the input itself."""
    return [tuple(sample_shape), *(cost.output_shape for cost in costs)]


def _layer_cost(layer: nn.Module, sample_shape: tuple[int, ...], with_input_gradient: bool) -> LayerCost:
    few, output = _trace_pass(layer, torch.zeros(_FEW, *sample_shape), with_input_gradient)
    more, _ = _trace_pass(layer, torch.zeros(_MORE, *sample_shape), with_input_gradient)
    samples = _MORE - _FEW
    flops = [(b - a) / samples for a, b in zip(few.flops, more.flops, strict=True)]
    moved = [(b - a) / samples for a, b in zip(few.moved_bytes, more.moved_bytes, strict=True)]
    return LayerCost(
        name=_describe(layer),
        forward_flops=flops[0],
        backward_flops=flops[1],
        moved_bytes=moved[0],
        output_values=output.numel() // _FEW,
        parameters=sum(parameter.numel() for parameter in layer.parameters()),
        stored_values=sum(value.numel() for value in layer.state_dict().values()),
        backward_moved_bytes=moved[1],
        output_shape=tuple(output.shape[1:]),
    )


def _trace_pass(layer: nn.Module, values: Tensor, with_input_gradient: bool) -> tuple[_Pass, Tensor]:
    leaf = values.requires_grad_(with_input_gradient)  # the input of the model needs no gradient
    with FlopCounterMode(display=False) as forward, _MovedBytes() as moved_forward:
        output: Tensor = layer(leaf)
    sources = [value for value in (leaf, *layer.parameters()) if value.requires_grad]
    with FlopCounterMode(display=False) as backward, _MovedBytes() as moved_backward:
        if sources and output.requires_grad:
            torch.autograd.grad(output, sources, torch.ones_like(output), allow_unused=True)
    flops = forward.get_total_flops(), backward.get_total_flops()
    return _Pass(flops, (moved_forward.total, moved_backward.total)), output


class _MovedBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that operators read and write; views count nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count one operator."""
        result = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        if not (returns and returns[0].alias_info is not None and not returns[0].alias_info.is_write):
            operands = tree_leaves((args, kwargs, result))
            self.total += sum(value.nbytes for value in operands if isinstance(value, Tensor))
        return result


def _describe(layer: nn.Module) -> str:
    modules = list(layer.children()) if isinstance(layer, nn.Sequential) else [layer]
    first = next((module for module in modules if next(module.parameters(), None) is not None), modules[0])
    if isinstance(first, nn.Conv2d):
        return f"conv {first.in_channels}>{first.out_channels}"
    if isinstance(first, nn.Linear):
        return f"linear {first.in_features}>{first.out_features}"
    if isinstance(first, nn.MaxPool2d | nn.AvgPool2d):
        size = first.kernel_size if isinstance(first.kernel_size, tuple) else (first.kernel_size,) * 2
        return f"pool {size[0]}x{size[1]}"
    return type(first).__name__.lower()
