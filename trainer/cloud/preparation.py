"""Derives model, standardization and regularization of a run from the join requests of all edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import cast

from torch import nn

from trainer.config.settings import RunSettings
from trainer.data.standardization import choose_standardization, choose_weight_decay, feature_choices
from trainer.errors import TrainingFailedError, UsageError
from trainer.models.optimizer import OptimizerConfig, OptimizerName
from trainer.models.split_model import tail_protects_labels
from trainer.models.zoo import build_layers, choose_model
from trainer.profiling.layer_costs import LayerCost, layer_costs, segment_shapes
from trainer.protocol.messages import JoinRequest, Prepare


@dataclass(frozen=True, slots=True)
class Preparation:
    """The message for all edges, the reasons for its contents, and the costs of every layer."""

    message: Prepare
    costs: tuple[LayerCost, ...]
    segment_shapes: tuple[tuple[int, ...], ...]
    reasons: dict[str, object]


def prepare(requests: Sequence[JoinRequest], settings: RunSettings) -> Preparation:
    """Choose the settings common to all edges.

    Raises: UsageError if the settings do not fit the model, TrainingFailedError if the requests do not.
    """
    sample_shape, classes = _common_shape(requests)
    model, model_reason = choose_model(settings.task, sample_shape)
    if settings.model is not None:
        model, model_reason = settings.model, "it was configured"
    layers = build_layers(model, settings.seed, sample_shape, classes)
    _check_batches(requests, settings, layers, model)
    costs = tuple(layer_costs(layers, sample_shape))
    tail = tail_of(layers, settings.protect_labels, settings.tail_layers)
    _check_cuts(settings, len(costs) if tail is None else tail)
    samples = sum(request.samples for request in requests)
    parameters = sum(cost.parameters for cost in costs)
    weight_decay, decay_reason = choose_weight_decay(samples, parameters)
    statistics = [request.statistics for request in requests]
    standardization = choose_standardization(statistics)
    message = Prepare(
        model=model,
        sample_shape=sample_shape,
        classes=classes,
        seed=settings.seed,
        optimizer=OptimizerConfig(optimizer_name(settings.optimizer), settings.learning_rate, weight_decay),
        standardization=standardization,
        batch=settings.batch,
        micro=settings.micro,
        steps=settings.steps,
        tail=tail,
    )
    reasons: dict[str, object] = {
        "model_reason": model_reason,
        "standardization": asdict(standardization),
        "regularization": {"weight_decay": weight_decay, "reason": decay_reason},
        "features": [asdict(choice) for choice in feature_choices(statistics)],
        "class_counts": None if settings.protect_labels else [
            sum(column) for column in zip_longest(*(edge.class_counts for edge in statistics), fillvalue=0)],
    }
    return Preparation(message, costs, tuple(segment_shapes(costs, sample_shape)), reasons)


def _common_shape(requests: Sequence[JoinRequest]) -> tuple[tuple[int, ...], int]:
    """Return the sample shape, which must be the same on all edges, and the largest number of classes."""
    first = requests[0]
    shape = first.sample_shape
    for request in requests:
        if request.sample_shape != shape:
            raise TrainingFailedError(
                f"{request.edge} has samples of {_dimensions(request.sample_shape)}, {first.edge} of "
                f"{_dimensions(shape)}; all edges must have the same shape."
            )
        for moments in (request.statistics.plain, request.statistics.logged):
            columns = {len(moments.mean), len(moments.m2), len(moments.m3), len(moments.minimum), len(moments.maximum)}
            if columns != {shape[0]}:
                raise TrainingFailedError(
                    f"{request.edge} sent statistics of {max(columns)} features; its samples have {shape[0]}."
                )
    return shape, max(len(request.statistics.class_counts) for request in requests)


def _dimensions(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _check_batches(
    requests: Sequence[JoinRequest], settings: RunSettings, layers: Sequence[nn.Module], model: str
) -> None:
    """Reject micro-batches of a single sample if the model has batch normalization."""
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for layer in layers for module in layer.modules()):
        return
    for request in requests:
        batch = min(settings.batch, request.samples)
        smallest = batch // min(settings.micro, batch)
        if smallest < 2:
            raise UsageError(
                f"{model} uses batch normalization, and micro-batches of {request.edge} have {smallest} of {batch} "
                "samples; lower --micro, raise --batch, or use GroupNorm in the model."
            )


def optimizer_name(text: str) -> OptimizerName:
    """Return the name of a supported optimizer.

    Raises: UsageError if it is not supported.
    """
    if text not in ("sgd", "momentum", "adam", "adamw"):
        raise UsageError(f"Unknown optimizer {text!r}; supported: sgd, momentum, adam, adamw.")
    return cast(OptimizerName, text)


def tail_of(layers: Sequence[nn.Module], protect_labels: bool, tail_layers: int) -> int | None:
    """Return the first layer of the edges' tail; None if labels are not protected.

    Raises: UsageError if the tail is the whole model or has no parameters.
    """
    if not protect_labels:
        return None
    tail = len(layers) - tail_layers
    if not 1 <= tail < len(layers):
        raise UsageError(f"--tail-layers is {tail_layers}; the model has {len(layers)} layers, "
                         "and the tail needs at least one layer and one before it.")
    if not tail_protects_labels(layers, tail):
        raise UsageError(
            f"The last {tail_layers} layers of the model have no parameters: the cloud would receive "
            "outputs and gradients that reveal the labels. Set a larger --tail-layers."
        )
    return tail


def _check_cuts(settings: RunSettings, layers: int) -> None:
    """Check the configured cuts; `layers` counts those before the tail."""
    where = "before the edges' tail" if settings.protect_labels else "in the model"
    last = layers - 1 if settings.max_cut is None else settings.max_cut
    if not 0 <= settings.min_cut <= last <= layers:
        raise UsageError(
            f"Cuts from {settings.min_cut} to {last} are not possible: there are {layers} layers {where}, so cuts lie "
            f"between 0 and {layers}."
        )
    outside = [cut for row in settings.cuts for cut in row if not 0 <= cut <= layers]
    if outside:
        raise UsageError(f"--cuts contains cut {outside[0]}, but there are {layers} layers {where}.")
