"""FLOPs of operators that PyTorch's counter leaves out or counts wrongly.

It has no formula for the recurrent layers and the attention of the CPU, and multiplies a grouped convolution's weight
gradient by the groups (PyTorch 2.13). A backward pass counts twice the forward: one product for the gradient of the
input, one for that of the weight; what attention recomputes in it is not counted.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode, conv_flop_count

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


def _trilinear(first: _Shape, weight: _Shape, second: _Shape, *_: Any, **__: Any) -> int:
    """`nn.Bilinear`: (N, I), (O, I, J), (N, J)."""
    return 2 * first[0] * (math.prod(weight) + weight[0] * second[-1])


_convolution_backward._get_raw = True  # type: ignore[attr-defined]  # called with the tensors themselves

_FORMULAS: dict[Any, Any] = {
    _aten.mkldnn_rnn_layer: _rnn_layer,
    _aten.mkldnn_rnn_layer_backward: _rnn_layer_backward,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    _aten.convolution_backward: _convolution_backward,
    _aten.mv: _matrix_vector,
    _aten.dot: _matrix_vector,
    _aten._trilinear: _trilinear,
}
