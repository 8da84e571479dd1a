"""A user's model of narrow layers, much of whose work is adapters: --model tests.processes.narrow_layers:model."""

from __future__ import annotations

from torch import nn

WIDTH = 16


def model(sample_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Six layers; of those between the first and the last, two further ranks of adapters are a quarter of the work."""
    hidden = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(4)]
    first = nn.Sequential(nn.Linear(sample_shape[0], WIDTH), nn.Tanh())
    return nn.Sequential(first, *hidden, nn.Linear(WIDTH, classes))
