"""FLOPs, bytes and parameters per layer: what a layer costs, before anybody has timed it.

Counted by tracing: every layer is run with two and with four samples of zeros, and what four take more is what two
samples take. So what does not grow with the samples, such as reading the parameters, is left out.
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
    """Per sample, except `parameters` and `stored_values` (parameters and buffers).

    FLOPs are those of matrix products, convolutions and attention. Everything else a layer does (normalising,
    pooling, activating) is paid in `moved_bytes`: what its operators read and write.
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
    """What one run of a layer took: forward, then backward."""

    flops: tuple[int, int]
    moved_bytes: tuple[int, int]


def layer_costs(layers: Sequence[nn.Module], sample_shape: tuple[int, ...]) -> list[LayerCost]:
    """The cost of every layer; the layers themselves are left as they are.

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
    """The shape of a sample in the segment of every cut 0..L; cut 0 would send the input itself."""
    return [tuple(sample_shape), *(cost.output_shape for cost in costs)]


def _layer_cost(layer: nn.Module, sample_shape: tuple[int, ...], with_input_gradient: bool) -> LayerCost:
    few, output = _trace(layer, torch.zeros(_FEW, *sample_shape), with_input_gradient)
    more, _ = _trace(layer, torch.zeros(_MORE, *sample_shape), with_input_gradient)
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


def _trace(layer: nn.Module, values: Tensor, with_input_gradient: bool) -> tuple[_Pass, Tensor]:
    leaf = values.requires_grad_(with_input_gradient)  # nobody wants the gradient of the input
    with FlopCounterMode(display=False) as forward, _MovedBytes() as moved_forward:
        output: Tensor = layer(leaf)
    wanted = [value for value in (leaf, *layer.parameters()) if value.requires_grad]
    with FlopCounterMode(display=False) as backward, _MovedBytes() as moved_backward:
        if wanted and output.requires_grad:
            torch.autograd.grad(output, wanted, torch.ones_like(output), allow_unused=True)
    flops = forward.get_total_flops(), backward.get_total_flops()
    return _Pass(flops, (moved_forward.total, moved_backward.total)), output


class _MovedBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what operators read and write; a view moves nothing."""

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
            touched = tree_leaves((args, kwargs, result))
            self.total += sum(value.nbytes for value in touched if isinstance(value, Tensor))
        return result


def _describe(layer: nn.Module) -> str:
    modules = list(layer.children()) if isinstance(layer, nn.Sequential) else [layer]
    first = next((one for one in modules if next(one.parameters(), None) is not None), modules[0])
    if isinstance(first, nn.Conv2d):
        return f"conv {first.in_channels}>{first.out_channels}"
    if isinstance(first, nn.Linear):
        return f"linear {first.in_features}>{first.out_features}"
    if isinstance(first, nn.MaxPool2d | nn.AvgPool2d):
        size = first.kernel_size if isinstance(first.kernel_size, tuple) else (first.kernel_size,) * 2
        return f"pool {size[0]}x{size[1]}"
    return type(first).__name__.lower()
