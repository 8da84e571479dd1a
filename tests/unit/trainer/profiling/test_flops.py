"""FLOPs of operators against values computed by hand: 2 for a multiply-add."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from trainer.profiling.flops import count_flops
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

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 8, dtype=dtype))

    def forward(self, values: Tensor) -> Tensor:
        """Project."""
        return torch.einsum("ntd,de->nte", values, self.weight)


class Bilinear(nn.Module):
    """`nn.Bilinear` of the first values and all values."""

    def __init__(self, first: int, second: int, outputs: int) -> None:
        super().__init__()
        self.first = first
        self.bilinear = nn.Bilinear(first, second, outputs)

    def forward(self, values: Tensor) -> Tensor:
        """Multiply."""
        outputs: Tensor = self.bilinear(values[..., : self.first], values)
        return outputs


class MatrixSums(nn.Module):
    """Operators that add their product to a tensor: a matrix and a vector for every sample, and a batch of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.ones(6))

    def forward(self, values: Tensor) -> Tensor:
        """Multiply (N, 6, 6)."""
        products = torch.addbmm(values[0], values, values)
        return torch.stack([torch.addmv(self.vector, matrix, self.vector) for matrix in values]) + products.sum(0)


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


COMPLEX = torch.complex64
# A complex multiply-add is (a + bi)(c + di) + (e + fi): 4 multiplications, 2 additions, and 2 more for the sum.
# A complex convolution is three real ones, (a + b)(c + d) - ac - bd being the imaginary part.
COMPLEX_TABLE: list[tuple[str, nn.Module, tuple[int, ...], float]] = [
    ("linear", nn.Linear(30, 40, dtype=COMPLEX), (30,), 8 * 30 * 40),
    ("linear in double precision", nn.Linear(30, 40, dtype=torch.complex128), (30,), 8 * 30 * 40),
    ("linear of tokens", nn.Linear(30, 40, bias=False, dtype=COMPLEX), (6, 30), 8 * 6 * 30 * 40),
    ("einsum", Projection(COMPLEX), (6, 8), 8 * 6 * 8 * 8),
    ("convolution", nn.Conv2d(8, 16, 3, padding=1, dtype=COMPLEX), (8, 10, 10), 3 * 2 * 8 * 9 * 16 * 100),
    ("grouped", nn.Conv2d(8, 16, 3, padding=1, groups=4, dtype=COMPLEX), (8, 10, 10), 3 * 2 * 2 * 9 * 16 * 100),
    ("1d transposed", nn.ConvTranspose1d(8, 16, 3, stride=2, dtype=COMPLEX), (8, 10), 3 * 2 * 8 * 3 * 16 * 10),
]


class Scale(nn.Module):
    """A parameter without FLOPs: what follows has a gradient of its input."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, values: Tensor) -> Tensor:
        """Scale the values."""
        return values * self.scale


@pytest.mark.parametrize(
    ("layer", "shape", "flops"), [row[1:] for row in TABLE + COMPLEX_TABLE],
    ids=[row[0] for row in TABLE] + ["complex " + row[0] for row in COMPLEX_TABLE],
)
def test_an_operator_has_its_flops(layer: nn.Module, shape: tuple[int, ...], flops: float) -> None:
    """The second of two layers: the first has no gradient of its input, so half of its backward pass is left out."""
    dtype = next((value.dtype for value in layer.parameters()), torch.float32)

    def batch(samples: int) -> Tensor:
        return torch.zeros(samples, *shape, dtype=dtype)

    first, cost = layer_costs([Scale(dtype), layer], shape, batch)
    assert first.forward_flops == 0
    assert cost.forward_flops == flops
    assert cost.backward_flops == pytest.approx(2 * flops, rel=0.03)  # the first state of a recurrent layer is constant


@pytest.mark.parametrize(("rows", "shape"), [(1, (20,)), (3, (3, 20))])
def test_a_bilinear_layer_has_the_flops_of_its_products(rows: int, shape: tuple[int, ...]) -> None:
    """Per row with I = 12, J = 20, O = 7, each done once for every output o:

    forward: x1 W_o, a product of (I) and (I, J), and of its J values with x2;
    gradient of x1: g_o W_o without a sum, then its product with x2 over J; gradient of W: x1 g_o without a sum, then
    the products (I) by (J) summed over the rows; gradient of x2: x1 W_o over I, then times g_o without a sum.
    """
    first, second, outputs = 12, 20, 7
    _, cost = layer_costs([Scale(torch.float32), Bilinear(first, second, outputs)], shape)
    products = first * second
    assert cost.forward_flops == rows * outputs * 2 * (products + second)
    of_first = products + 2 * products
    of_weight = first + 2 * products
    of_second = 2 * products + second
    assert cost.backward_flops == rows * outputs * (of_first + of_weight + of_second)


def test_products_that_are_added_to_a_tensor_count() -> None:
    """For every sample a product of two (6, 6) matrices, and of a matrix and a vector."""
    _, cost = layer_costs([Scale(torch.float32), MatrixSums()], (6, 6))
    assert cost.forward_flops == 2 * 6 * 6 * 6 + 2 * 6 * 6


@pytest.mark.parametrize("product", [torch.dot, torch.vdot])
@pytest.mark.parametrize(("dtype", "flops"), [(torch.float32, 2), (torch.complex64, 8)])
def test_a_product_of_two_vectors_counts(
    product: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, flops: int
) -> None:
    """Ten multiply-adds."""
    vector = torch.ones(10, dtype=dtype)
    with count_flops() as counter:
        product(vector, vector)
    assert counter.get_total_flops() == 10 * flops
