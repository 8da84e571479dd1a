"""FLOPs of operators against values computed by hand: 2 for a multiply-add."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from trainer.profiling.layer_costs import layer_costs


class Attention(nn.Module):
    """Self-attention without projections, over heads."""

    def forward(self, values: Tensor) -> Tensor:
        """Attend."""
        return scaled_dot_product_attention(values, values, values)


class SelfAttention(nn.Module):
    """`nn.MultiheadAttention` of a sequence with itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, values: Tensor) -> Tensor:
        """Attend."""
        outputs: Tensor = self.attention(values, values, values, need_weights=False)[0]
        return outputs


class Projection(nn.Module):
    """A product of tokens and a parameter, as an einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 8))

    def forward(self, values: Tensor) -> Tensor:
        """Project."""
        return torch.einsum("ntd,de->nte", values, self.weight)


STEPS, INPUTS, HIDDEN = 20, 16, 32
RECURRENT = STEPS * HIDDEN * (INPUTS + HIDDEN)
TABLE: list[tuple[str, nn.Module, tuple[int, ...], float]] = [
    ("linear", nn.Linear(30, 40), (30,), 2 * 30 * 40),
    ("convolution", nn.Conv2d(8, 16, 3, padding=1), (8, 10, 10), 2 * 8 * 9 * 16 * 100),
    ("strided", nn.Conv2d(8, 16, 3, stride=2, padding=1), (8, 10, 10), 2 * 8 * 9 * 16 * 25),
    ("grouped", nn.Conv2d(8, 16, 3, padding=1, groups=4), (8, 10, 10), 2 * 2 * 9 * 16 * 100),
    ("depthwise", nn.Conv2d(64, 64, 3, padding=1, groups=64), (64, 32, 32), 2 * 9 * 64 * 1024),
    ("1d grouped", nn.Conv1d(8, 16, 5, padding=2, groups=2), (8, 12), 2 * 4 * 5 * 16 * 12),
    ("transposed grouped", nn.ConvTranspose2d(8, 16, 2, stride=2, groups=4), (8, 5, 5), 2 * 8 * 4 * 4 * 25),
    ("1d dilated", nn.Conv1d(8, 4, 3, dilation=2), (8, 12), 2 * 8 * 3 * 4 * 8),
    ("1d transposed", nn.ConvTranspose1d(8, 16, 3, stride=2), (8, 10), 2 * 8 * 3 * 16 * 10),
    ("two directions", nn.RNN(INPUTS, HIDDEN, batch_first=True, bidirectional=True), (STEPS, INPUTS),
     2 * 2 * RECURRENT),
    ("group norm", nn.GroupNorm(2, 8), (8, 10), 0),
    ("einsum", Projection(), (6, 8), 2 * 6 * 8 * 8),
    ("rnn", nn.RNN(INPUTS, HIDDEN, batch_first=True), (STEPS, INPUTS), 2 * RECURRENT),
    ("gru", nn.GRU(INPUTS, HIDDEN, batch_first=True), (STEPS, INPUTS), 2 * 3 * RECURRENT),
    ("lstm", nn.LSTM(INPUTS, HIDDEN, batch_first=True), (STEPS, INPUTS), 2 * 4 * RECURRENT),
    ("deep lstm", nn.LSTM(INPUTS, HIDDEN, 2, batch_first=True, bidirectional=True), (STEPS, INPUTS),
     2 * 2 * 4 * (RECURRENT + STEPS * HIDDEN * (2 * HIDDEN + HIDDEN))),
    ("lstm in double precision", nn.LSTM(INPUTS, HIDDEN, batch_first=True).double(), (STEPS, INPUTS),
     2 * 4 * RECURRENT),
    ("attention", Attention(), (4, 64, 32), 2 * 2 * 4 * 64 * 64 * 32),
    ("multi-head attention", SelfAttention(64, 4), (64, 64), 2 * 4 * 64 * 64 * 64 + 2 * 2 * 64 * 64 * 64),
    ("encoder", nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True), (64, 64),
     2 * 4 * 64 * 64 * 64 + 2 * 2 * 64 * 64 * 64 + 2 * 2 * 64 * 64 * 128),
    ("encoder with dropout", nn.TransformerEncoderLayer(64, 4, 128, dropout=0.1, batch_first=True), (64, 64),
     2 * 4 * 64 * 64 * 64 + 2 * 2 * 64 * 64 * 64 + 2 * 2 * 64 * 64 * 128),
]


class Scale(nn.Module):
    """A parameter without FLOPs: what follows has a gradient of its input."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, values: Tensor) -> Tensor:
        """Scale the values."""
        return values * self.scale


@pytest.mark.parametrize(("layer", "shape", "flops"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_an_operator_has_its_flops(layer: nn.Module, shape: tuple[int, ...], flops: float) -> None:
    """The second of two layers: the first has no gradient of its input, so half of its backward pass is left out."""
    dtype = next((value.dtype for value in layer.parameters()), torch.float32)

    def batch(samples: int) -> Tensor:
        return torch.zeros(samples, *shape, dtype=dtype)

    first, cost = layer_costs([Scale(dtype), layer], shape, batch)
    assert first.forward_flops == 0
    assert cost.forward_flops == flops
    assert cost.backward_flops == pytest.approx(2 * flops, rel=0.03)  # the first state of a recurrent layer is constant
