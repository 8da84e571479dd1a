"""FLOPs, memory traffic and parameters per layer, counted without timing.

Every layer is traced with two and with four samples of zeros; the difference is the cost of two samples. So costs
that do not grow with the samples, such as reading the parameters, are left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.models.boundary import call_layer, leaf_modules
from trainer.models.frozen import Unchanging, backward_layers, frozen_names, trained_parameters
from trainer.models.traced_layer import TracedLayer
from trainer.models.values import Values, backward, detached, differentiable, new_leaves, tensors_of
from trainer.models.without_compiler import run_without_compiler
from trainer.profiling.flops import count_flops

_FEW, _MORE = 2, 4


@dataclass(frozen=True, slots=True)
class LayerCost:
    """Cost of a layer per sample, except its parameters and what it stores (parameters and buffers).

    `sent_bytes`: trained parameters and buffers, which are sent when the layer moves; `trained_parameters` and
    `trained_bytes`: of those that have an optimiser state.

    FLOPs are those of matrix products, convolutions, recurrent layers and attention. Everything else (normalisation,
    pooling, activation) counts in `moved_bytes`: the bytes that its operators read and write. `output_shape`: of a
    sample in the first tensor that the layer makes.
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
    sent_bytes: int = 0
    trained_parameters: int = 0
    trained_bytes: int = 0

    @property
    def work_flops(self) -> float:
        """FLOPs of forward and backward together."""
        return self.forward_flops + self.backward_flops


@dataclass(frozen=True, slots=True)
class _Pass:
    """Counts of one traced pass of a layer: forward, backward."""

    flops: tuple[int, int]
    moved_bytes: tuple[int, int]


def layer_costs(
    layers: Sequence[nn.Module], sample_shape: tuple[int, ...], batch: Callable[[int], Tensor] | None = None,
    unchanging: Unchanging | None = None,
) -> list[LayerCost]:
    """Return the cost of every layer; the layers are not modified. `batch`: makes inputs other than zeros.

    `unchanging` as in `trainer.models.stage`. Frozen layers before the first trained one have no backward pass.

    Source: torch.utils.flop_counter counts 2 FLOPs for a multiply-add; `trainer.profiling.flops` has what it lacks.
    """
    costs = []
    few, more = (torch.zeros(samples, *sample_shape) if batch is None else batch(samples) for samples in (_FEW, _MORE))
    with torch.random.fork_rng(devices=[]):
        needed = backward_layers(layers)
        for number, layer in enumerate(layers):
            with_input_gradient = number > 0 and needed[number - 1]
            few_pass, few = _trace_pass(copy.deepcopy(layer), few, with_input_gradient)
            more_pass, more = _trace_pass(copy.deepcopy(layer), more, with_input_gradient)
            names = frozen_names(layer) if unchanging is None else unchanging[number]
            costs.append(_cost(layer, few_pass, more_pass, few, names))
    return costs


def segment_shapes(costs: Sequence[LayerCost], sample_shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the shape of a sample in the segment of every cut 0..L; cut 0 would send the input itself."""
    return [tuple(sample_shape), *(cost.output_shape for cost in costs)]


def _cost(
    layer: nn.Module, few: _Pass, more: _Pass, outputs: Values, unchanging: frozenset[str]
) -> LayerCost:
    samples = _MORE - _FEW
    flops = [(b - a) / samples for a, b in zip(few.flops, more.flops, strict=True)]
    moved = [(b - a) / samples for a, b in zip(few.moved_bytes, more.moved_bytes, strict=True)]
    tensors, stored = tensors_of(outputs), layer.state_dict()
    trained = trained_parameters(layer)
    return LayerCost(
        name=_describe(layer),
        forward_flops=flops[0],
        backward_flops=flops[1],
        moved_bytes=moved[0],
        output_values=sum(tensor.numel() for tensor in tensors) // _FEW,
        parameters=sum(parameter.numel() for parameter in layer.parameters()),
        stored_values=sum(value.numel() for value in stored.values()),
        backward_moved_bytes=moved[1],
        output_shape=tuple(tensors[0].shape[1:]) if tensors else (),
        sent_bytes=sum(value.nbytes for name, value in stored.items() if name not in unchanging),
        trained_parameters=sum(parameter.numel() for parameter in trained),
        trained_bytes=sum(parameter.nbytes for parameter in trained),
    )


def _trace_pass(layer: nn.Module, values: Values, with_input_gradient: bool) -> tuple[_Pass, Values]:
    """Return the counts of a pass, and the outputs without their graph."""
    if with_input_gradient:
        _, values = new_leaves(values)
    with count_flops() as forward, _MovedBytes() as moved_forward:
        outputs = call_layer([layer], 0, values)
    kept = detached(outputs)
    gradients = [torch.ones_like(tensor) for tensor in differentiable(outputs)]
    with count_flops() as backward_counter, _MovedBytes() as moved_backward:
        backward(outputs, gradients)
    flops = forward.get_total_flops(), backward_counter.get_total_flops()
    return _Pass(flops, (moved_forward.total, moved_backward.total)), kept


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


run_without_compiler(_MovedBytes.__torch_dispatch__)


def _describe(layer: nn.Module) -> str:
    modules = leaf_modules(layer) if isinstance(layer, nn.Sequential | TracedLayer) else [layer]
    first = next((module for module in modules if next(module.parameters(), None) is not None), (modules or [layer])[0])
    if isinstance(first, nn.Conv2d):
        return f"conv {first.in_channels}>{first.out_channels}"
    if isinstance(first, nn.Linear):
        return f"linear {first.in_features}>{first.out_features}"
    if isinstance(first, nn.MaxPool2d | nn.AvgPool2d):
        size = first.kernel_size if isinstance(first.kernel_size, tuple) else (first.kernel_size,) * 2
        return f"pool {size[0]}x{size[1]}"
    return type(first).__name__.lower()
