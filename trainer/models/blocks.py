"""The building blocks of the zoo: each is one layer, the smallest thing that moves across the cut.

GroupNorm and LayerNorm keep every sample's result independent of its batch, so a micro-batch computes what the
whole batch would have computed (Wu & He 2018, Ba et al. 2016). No block has batch statistics.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

GROUP_CHANNELS = 8


def normalisation(channels: int) -> nn.GroupNorm:
    """Group normalisation with eight channels to a group, or one group for what eight does not divide."""
    return nn.GroupNorm(channels // GROUP_CHANNELS if channels % GROUP_CHANNELS == 0 else 1, channels)


def convolution(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution, group normalisation, ReLU: (N, inputs, H, W) -> (N, outputs, H, W)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False), normalisation(outputs), nn.ReLU()
    )


def convolution_1d(inputs: int, outputs: int) -> nn.Sequential:
    """Convolution over five steps, group normalisation, ReLU: (N, inputs, T) -> (N, outputs, T)."""
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, kernel_size=5, padding=2, bias=False), normalisation(outputs), nn.ReLU()
    )


def perceptron(inputs: int, outputs: int) -> nn.Sequential:
    """Linear, ReLU: (N, inputs) -> (N, outputs)."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())


class Residual(nn.Module):
    """Two convolutions and the way around them: (N, inputs, H, W) -> (N, outputs, H / stride, W / stride).

    Source: He et al. 2016, figure 2 and section 3.3 (projection shortcut where the shape changes).
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False),
            normalisation(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False),
            normalisation(outputs),
        )
        self.around: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.around = nn.Sequential(
                nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False), normalisation(outputs)
            )

    def forward(self, values: Tensor) -> Tensor:
        """Add what the convolutions find to what came in."""
        return torch.relu(self.inner(values) + self.around(values))


class Tokens(nn.Module):
    """A series (N, C, T) -> a token per step; an image (N, C, H, W) -> a token per patch: (N, tokens, width).

    Source: Dosovitskiy et al. 2021, equation 1, without the class token.
    """

    def __init__(self, sample_shape: tuple[int, ...], width: int, patch: int) -> None:
        super().__init__()
        channels, *sides = sample_shape
        self.project: nn.Module
        if len(sides) == 1:
            self.project = nn.Conv1d(channels, width, kernel_size=1)
            count = sides[0]
        else:
            self.project = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
            count = (sides[0] // patch) * (sides[1] // patch)
        self.place = nn.Parameter(0.02 * torch.randn(1, count, width))

    def forward(self, values: Tensor) -> Tensor:
        """Project every step or patch and add its place."""
        tokens: Tensor = self.project(values).flatten(2).transpose(1, 2)  # (N, tokens, width)
        return tokens + self.place


class Mean(nn.Module):
    """LayerNorm, then the mean over the tokens: (N, tokens, width) -> (N, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Average."""
        normalised: Tensor = self.norm(tokens)
        return normalised.mean(dim=1)


def encoder(width: int, heads: int, dropout: float) -> nn.TransformerEncoderLayer:
    """Self-attention and a two-layer perceptron, each with its way around: (N, tokens, width) -> the same shape.

    Source: Vaswani et al. 2017, section 3.1, with the normalisation first (Xiong et al. 2020).
    """
    return nn.TransformerEncoderLayer(
        width, heads, dim_feedforward=2 * width, dropout=dropout, batch_first=True, norm_first=True
    )


