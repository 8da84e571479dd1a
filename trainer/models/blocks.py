"""Building blocks of the model zoo: each is one layer, the smallest unit that a cut moves.

GroupNorm and LayerNorm keep a sample's result independent of its batch, so micro-batches compute what the whole
batch would (Wu & He 2018, Ba et al. 2016). No block has batch statistics.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

GROUP_CHANNELS = 8


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a group normalisation with eight channels per group, or one group if eight does not divide `channels`."""
    return nn.GroupNorm(channels // GROUP_CHANNELS if channels % GROUP_CHANNELS == 0 else 1, channels)


def convolution(inputs: int, outputs: int) -> nn.Sequential:
    """Return 3x3 convolution, group normalisation, ReLU: (N, inputs, H, W) -> (N, outputs, H, W)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False), group_norm(outputs), nn.ReLU()
    )


def convolution_1d(inputs: int, outputs: int) -> nn.Sequential:
    """Return convolution of kernel size 5, group normalisation, ReLU: (N, inputs, T) -> (N, outputs, T)."""
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, kernel_size=5, padding=2, bias=False), group_norm(outputs), nn.ReLU()
    )


def perceptron(inputs: int, outputs: int) -> nn.Sequential:
    """Return linear, ReLU: (N, inputs) -> (N, outputs)."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut connection: (N, inputs, H, W) -> (N, outputs, H / stride, W / stride).

    Source: He et al. 2016, figure 2 and section 3.3 (projection shortcut where the shape changes).
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False),
            group_norm(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False),
            group_norm(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False), group_norm(outputs)
            )

    def forward(self, values: Tensor) -> Tensor:
        """Add the convolutions' output to the shortcut."""
        return torch.relu(self.body(values) + self.shortcut(values))


class PatchEmbedding(nn.Module):
    """Embeds each time step of a series (N, C, T) or each patch of an image (N, C, H, W): -> (N, tokens, width).

    Adds a learned positional embedding.
    Source: Dosovitskiy et al. 2021, equation 1, without the class token.
    """

    def __init__(self, sample_shape: tuple[int, ...], width: int, patch: int) -> None:
        super().__init__()
        channels, *sides = sample_shape
        self.projection: nn.Module
        if len(sides) == 1:
            self.projection = nn.Conv1d(channels, width, kernel_size=1)
            count = sides[0]
        else:
            self.projection = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
            count = (sides[0] // patch) * (sides[1] // patch)
        self.positional_embedding = nn.Parameter(0.02 * torch.randn(1, count, width))

    def forward(self, values: Tensor) -> Tensor:
        """Project every step or patch and add its positional embedding."""
        tokens: Tensor = self.projection(values).flatten(2).transpose(1, 2)  # (N, tokens, width)
        return tokens + self.positional_embedding


class MeanPooling(nn.Module):
    """LayerNorm, then mean pooling over the tokens: (N, tokens, width) -> (N, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Normalise and average over the tokens."""
        normalised: Tensor = self.norm(tokens)
        return normalised.mean(dim=1)


def encoder_layer(width: int, heads: int, dropout: float) -> nn.TransformerEncoderLayer:
    """Return a transformer encoder layer, (N, tokens, width) -> the same shape.

    Source: Vaswani et al. 2017, section 3.1, with pre-normalisation (Xiong et al. 2020).
    """
    return nn.TransformerEncoderLayer(
        width, heads, dim_feedforward=2 * width, dropout=dropout, batch_first=True, norm_first=True
    )


