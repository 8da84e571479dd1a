"""The model zoo: each model is a list of layers that can be cut anywhere.

A *layer* is the smallest thing that moves across the cut: a convolution with its normalisation and activation
is one layer, a pool is its own. GroupNorm keeps every sample's result independent of its batch, so a
micro-batch computes what the whole batch would have computed (Wu & He 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from trainer.errors import UsageError


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What is known of a model before it is built: `sample_shape` is (C, H, W)."""

    name: str
    sample_shape: tuple[int, int, int]
    classes: int
    build: Callable[[], list[nn.Module]]


def block(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution, group normalisation, ReLU: (N, inputs, H, W) -> (N, outputs, H, W)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.GroupNorm(outputs // 8, outputs),
        nn.ReLU(),
    )


def _signal_cnn() -> list[nn.Module]:
    """About 15 MFLOP a sample, 167 k parameters.

    Width and height are halved in turn, so that the segment shrinks in small steps and there is a choice of
    cuts; deep layers cost more and save less, so that slow edges stop early. The head keeps the rows apart:
    which of a signal's lamps is lit is a matter of height.
    """
    return [
        block(3, 16),  # (N, 16, 32, 32)
        nn.MaxPool2d(2),  # (N, 16, 16, 16)
        block(16, 24),  # (N, 24, 16, 16)
        nn.MaxPool2d((1, 2)),  # (N, 24, 16, 8)
        block(24, 32),  # (N, 32, 16, 8)
        nn.MaxPool2d((2, 1)),  # (N, 32, 8, 8)
        nn.Sequential(*block(32, 48), *block(48, 48)),  # (N, 48, 8, 8)
        nn.MaxPool2d((1, 2)),  # (N, 48, 8, 4)
        nn.Sequential(*block(48, 64), *block(64, 64)),  # (N, 64, 8, 4)
        nn.MaxPool2d((2, 1)),  # (N, 64, 4, 4)
        block(64, 96),  # (N, 96, 4, 4)
        nn.Sequential(nn.AdaptiveAvgPool2d((4, 1)), nn.Flatten()),  # (N, 384)
        nn.Linear(384, 3),  # (N, 3)
    ]


MODELS = {
    spec.name: spec
    for spec in (ModelSpec("signal-cnn", sample_shape=(3, 32, 32), classes=3, build=_signal_cnn),)
}
"""Every model by name."""

MODEL_OF_TASK = {"traffic-lights": "signal-cnn"}
"""The model the cloud chooses for each task."""


def spec_of(name: str) -> ModelSpec:
    """The model of that name.

    Raises: UsageError if there is none.
    """
    try:
        return MODELS[name]
    except KeyError:
        raise UsageError(f"There is no model {name!r}; there are: {', '.join(sorted(MODELS))}.") from None


def build_layers(name: str, seed: int) -> list[nn.Module]:
    """The layers of a model with weights that depend on `seed` alone, wherever they are built.

    Raises: UsageError if there is no such model.
    """
    spec = spec_of(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return spec.build()
