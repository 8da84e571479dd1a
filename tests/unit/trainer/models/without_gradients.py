"""Modules that compute a part of their forward pass in `torch.no_grad`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.unit.trainer.models.unusual import linear


class Centred(nn.Module):
    """Subtracts a moving mean, which is updated without gradients."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = linear(), linear(8, 3)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, values: Tensor) -> Tensor:
        """Return the scores."""
        values = self.first(values)
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(0.1 * values.mean(0))
        scores: Tensor = self.last(functional.relu(values - self.mean))
        return scores


class Quantized(nn.Module):
    """The nearest of 16 codes, whose gradient is passed straight through; the codes move without gradients."""

    codes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = linear(), linear(8, 3)
        self.register_buffer("codes", torch.randn(16, 8))

    def forward(self, values: Tensor) -> Tensor:
        """Return the scores."""
        values = self.first(values)
        with torch.no_grad():
            nearest = torch.cdist(values, self.codes).argmin(1)
            quantized = self.codes[nearest]
            if self.training:
                one_hot = functional.one_hot(nearest, 16).to(values.dtype)
                self.codes.add_(0.01 * (one_hot.T @ values - one_hot.sum(0)[:, None] * self.codes))
        scores: Tensor = self.last(values + (quantized - values).detach())
        return scores


class Scaled(nn.Module):
    """Divides by a norm that counts as a constant, computed by a decorated method with a number from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = linear(), linear(8, 3)

    def forward(self, values: Tensor) -> Tensor:
        """Return the scores."""
        samples = values.size(0)
        values = self.first(values)
        scores: Tensor = self.last(functional.relu(values / self._norm(values, samples)))
        return scores

    @torch.no_grad()
    def _norm(self, values: Tensor, samples: int) -> Tensor:
        return values.view(samples, -1).abs().amax(1, keepdim=True) + 1e-6


class FrozenPart(nn.Module):
    """Has a part that is never trained, though its parameters ask for gradients, and one that is, around it."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed, self.other, self.last = nn.LSTM(4, 8, batch_first=True), linear(), linear(16, 3)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, values: Tensor) -> Tensor:
        """Return the scores."""
        with torch.no_grad():
            fixed, _ = self.fixed(values.view(-1, 2, 4))
            fixed = fixed[:, -1] * self.scale
        scores: Tensor = self.last(torch.cat((fixed, functional.relu(self.other(values)) * self.scale), 1))
        return scores
