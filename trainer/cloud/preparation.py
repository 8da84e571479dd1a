"""From the training requests of all edges to what all edges are sent: model, standardization, regularization."""

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
    """The decision, the reasons for it, and what it implies for every layer."""

    message: Prepare
    costs: tuple[LayerCost, ...]
    segment_shapes: tuple[tuple[int, ...], ...]
    reasons: dict[str, object]


def prepare(asks: Sequence[JoinRequest], settings: RunSettings) -> Preparation:
    """Decide for all edges together.

    Raises: UsageError if the settings do not fit the model, TrainingFailedError if the requests do not.
    """
    sample_shape, classes = _agree(asks)
    model, model_reason = choose_model(settings.task, sample_shape)
    if settings.model is not None:
        model, model_reason = settings.model, "it was asked for"
    layers = build_layers(model, settings.seed, sample_shape, classes)
    _check_batches(asks, settings, layers, model)
    costs = tuple(layer_costs(layers, sample_shape))
    tail = tail_of(layers, settings.protect_labels, settings.tail_layers)
    _check_cuts(settings, len(costs) if tail is None else tail)
    samples = sum(ask.samples for ask in asks)
    parameters = sum(cost.parameters for cost in costs)
    weight_decay, decay_reason = choose_weight_decay(samples, parameters)
    statistics = [ask.statistics for ask in asks]
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
            sum(column) for column in zip_longest(*(one.class_counts for one in statistics), fillvalue=0)],
    }
    return Preparation(message, costs, tuple(segment_shapes(costs, sample_shape)), reasons)


def _agree(asks: Sequence[JoinRequest]) -> tuple[tuple[int, ...], int]:
    """The shape of a sample, which all edges must share, and how many classes they have together."""
    first = asks[0]
    shape = first.sample_shape
    for ask in asks:
        if ask.sample_shape != shape:
            raise TrainingFailedError(
                f"{ask.edge} has samples of {_sides(ask.sample_shape)}, {first.edge} of {_sides(shape)}; all edges "
                "must have the same."
            )
        for moments in (ask.statistics.plain, ask.statistics.logged):
            columns = {len(moments.mean), len(moments.m2), len(moments.m3), len(moments.minimum), len(moments.maximum)}
            if columns != {shape[0]}:
                raise TrainingFailedError(
                    f"{ask.edge} sent statistics of {max(columns)} features; its samples have {shape[0]}."
                )
    return shape, max(len(ask.statistics.class_counts) for ask in asks)


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _check_batches(asks: Sequence[JoinRequest], settings: RunSettings, layers: Sequence[nn.Module], model: str) -> None:
    """With statistics over a batch a micro-batch of a single sample cannot be normalised."""
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for layer in layers for module in layer.modules()):
        return
    for ask in asks:
        batch = min(settings.batch, ask.samples)
        least = batch // min(settings.micro, batch)
        if least < 2:
            raise UsageError(
                f"{model} normalises over its batch, and {ask.edge}'s micro-batches have {least} sample of {batch}; "
                "lower --micro, raise --batch, or use GroupNorm in the model."
            )


def optimizer_name(text: str) -> OptimizerName:
    """The optimiser of that name.

    Raises: UsageError if there is none.
    """
    if text not in ("sgd", "momentum", "adam", "adamw"):
        raise UsageError(f"There is no optimizer {text!r}; there are: sgd, momentum, adam, adamw.")
    return cast(OptimizerName, text)


def tail_of(layers: Sequence[nn.Module], protect_labels: bool, tail_layers: int) -> int | None:
    """The first layer of the edges' tail; None if labels are not protected.

    Raises: UsageError if the tail takes the whole model, or has no parameters.
    """
    if not protect_labels:
        return None
    tail = len(layers) - tail_layers
    if not 1 <= tail < len(layers):
        raise UsageError(f"--tail-layers is {tail_layers}; the model has {len(layers)} layers: "
                         "at least one is the tail, and one comes before it.")
    if not tail_protects_labels(layers, tail):
        raise UsageError(
            f"The last {tail_layers} layers of the model have no parameters: the cloud would see its outputs "
            "and their gradients, and with them the labels. Give a larger --tail-layers."
        )
    return tail


def _check_cuts(settings: RunSettings, layers: int) -> None:
    """`layers`: how many there are before the tail."""
    where = "before the edges' tail" if settings.protect_labels else "in the model"
    last = layers - 1 if settings.max_cut is None else settings.max_cut
    if not 0 <= settings.min_cut <= last <= layers:
        raise UsageError(
            f"Cuts from {settings.min_cut} to {last} were asked for; there are {layers} layers {where}, so they lie "
            f"between 0 and {layers}."
        )
    outside = [cut for row in settings.cuts for cut in row if not 0 <= cut <= layers]
    if outside:
        raise UsageError(f"--cuts names the cut {outside[0]}; there are {layers} layers {where}.")
