"""FLOPs of operators that PyTorch's counter leaves out or counts wrongly.

It has no formula for the recurrent layers and the attention of the CPU and for `nn.Bilinear`, multiplies a grouped
convolution's weight gradient by the groups, and counts a complex multiply-add as a real one (PyTorch 2.13). It is four
real multiplications and four real additions: 8 FLOPs instead of 2. A complex convolution is seen as the three real ones
that PyTorch makes of it. A backward pass counts twice the forward: one product for the gradient of the input, one for
that of the weight; what attention recomputes in it is not counted.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode, conv_flop_count, flop_registry, shape_wrapper

from trainer.models.without_compiler import run_without_compiler

run_without_compiler(_FlopCounterMode.__torch_dispatch__)

_aten = torch.ops.aten
_Shape = Sequence[int]


@contextlib.contextmanager
def count_flops() -> Iterator[FlopCounterMode]:
    """Count the FLOPs of the block's operators; 2 for a multiply-add.

    The fused inference path of attention is off, so that its products are seen.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _rnn_layer(values: _Shape, input_weight: _Shape, hidden_weight: _Shape, *_: Any, **__: Any) -> int:
    """A recurrent layer in one direction: (T, N, I), (gates x H, I), (gates x H, H)."""
    return 2 * math.prod(values[:-1]) * (math.prod(input_weight) + math.prod(hidden_weight))


def _rnn_layer_backward(*shapes: Any, **_: Any) -> int:
    return 2 * _rnn_layer(*shapes)


def _attention(query: _Shape, key: _Shape, value: _Shape, *_: Any, **__: Any) -> int:
    """Scores and their product with the values: (N, heads, T, D), (N, heads, S, D), (N, heads, S, E)."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward(_gradient: _Shape, query: _Shape, key: _Shape, value: _Shape, *_: Any, **__: Any) -> int:
    return 2 * _attention(query, key, value)


def _convolution_backward(
    gradient: Tensor, values: Tensor, weight: Tensor, _bias: Any, _stride: Any, _padding: Any, _dilation: Any,
    transposed: bool, _output_padding: Any, _groups: int, output_mask: Sequence[bool], **_: Any,
) -> int:
    """One forward pass each for the gradient of the input and of the weight, as far as they are wanted."""
    once = conv_flop_count(list(values.shape), list(weight.shape), list(gradient.shape), transposed)
    return once * (bool(output_mask[0]) + bool(output_mask[1]))


def _matrix_vector(matrix: _Shape, _vector: _Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


def _added_matrix_vector(_added: _Shape, matrix: _Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


def _added_products(_added: _Shape, first: _Shape, second: _Shape, *_: Any, **__: Any) -> int:
    """A sum of matrix products: (B, N, K), (B, K, M)."""
    return 2 * math.prod(first) * second[-1]


def _trilinear(
    first: _Shape, second: _Shape, third: _Shape, expand_first: _Shape, expand_second: _Shape, expand_third: _Shape,
    summed: _Shape, unrolled: int = 1, **_: Any,
) -> int:
    """`nn.Bilinear` and its three gradients: two products, one after the other, for each value of a dimension.

    `expand_…`: the dimensions that an operand lacks. A product that sums has 2 FLOPs for each of its terms, another 1.
    Source: `at::native::_trilinear`, aten/src/ATen/native/Linear.cpp of PyTorch.
    """
    sizes: dict[int, int] = {}
    dimensions = len(first) + len(expand_first)
    operands = ((first, expand_first), (second, expand_second), (third, expand_third))
    has = [[place for place in range(dimensions) if place not in expand] for _shape, expand in operands]
    for places, (shape, _expand) in zip(has, operands, strict=True):
        sizes.update(zip(places, shape, strict=True))
    rest = {place for place in sizes if place != unrolled}
    pair = (set(has[0]) | set(has[1])) & rest
    sums_of_pair = pair & set(summed) & set(expand_third)
    triple = ((pair - sums_of_pair) | set(has[2])) & rest
    sums_of_triple = rest & set(summed) - set(expand_third)
    return sizes[unrolled] * sum(
        math.prod(sizes[place] for place in places) * (2 if sums else 1)
        for places, sums in ((pair, sums_of_pair), (triple, sums_of_triple))
    )


_OWN: dict[Any, Any] = {
    _aten.mkldnn_rnn_layer: _rnn_layer,
    _aten.mkldnn_rnn_layer_backward: _rnn_layer_backward,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    _aten.convolution_backward: _convolution_backward,
    _aten.mv: _matrix_vector,
    _aten.dot: _matrix_vector,
    _aten.vdot: _matrix_vector,
    _aten.addmv: _added_matrix_vector,
    _aten.addbmm: _added_products,
    _aten._trilinear: _trilinear,
}


def _of_tensors(formula: Any) -> Any:
    return formula if formula is _convolution_backward else shape_wrapper(formula)  # type: ignore[no-untyped-call]


def _four_times_if_complex(of_tensors: Any) -> Any:
    """Return the formula that counts a complex multiply-add as four real ones."""

    def flops(*values: Any, **named: Any) -> int:
        is_complex = any(isinstance(leaf, Tensor) and leaf.is_complex() for leaf in tree_leaves((values, named)))
        return int(of_tensors(*values, **named)) * (4 if is_complex else 1)

    flops._get_raw = True  # type: ignore[attr-defined]  # called with the tensors themselves
    return flops


# PyTorch's own formulas in its registry are of tensors already.
_FORMULAS: dict[Any, Any] = {
    **{operator: _four_times_if_complex(formula) for operator, formula in flop_registry.items()},
    **{operator: _four_times_if_complex(_of_tensors(formula)) for operator, formula in _OWN.items()},
}
