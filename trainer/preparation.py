"""From the training requests of all edges to what all edges are sent: model, standardization, regularization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast

from trainer.codec import VALUE_BYTES, Codec
from trainer.costs import LayerCost, layer_costs, segment_values
from trainer.errors import TrainingFailedError, UsageError
from trainer.messages import Ask, Prepare
from trainer.models import MODEL_OF_TASK, build_layers, spec_of
from trainer.parts import OptimizerName, OptimizerRecipe
from trainer.settings import RunSettings
from trainer.standardize import choose, choose_weight_decay


@dataclass(frozen=True, slots=True)
class Preparation:
    """The decision, the reasons for it, and what it implies for every layer."""

    message: Prepare
    costs: tuple[LayerCost, ...]
    segment_values: tuple[int, ...]
    reasons: dict[str, object]


def prepare(asks: Sequence[Ask], settings: RunSettings) -> Preparation:
    """Decide for all edges together.

    Raises: UsageError if the settings do not fit the model, TrainingFailedError if the requests do not.
    """
    model = MODEL_OF_TASK[settings.task]
    spec = spec_of(model)
    for ask in asks:
        if len(ask.statistics.plain) != spec.sample_shape[0] or len(ask.statistics.class_counts) != spec.classes:
            raise TrainingFailedError(
                f"{ask.edge} has images of {len(ask.statistics.plain)} channels in "
                f"{len(ask.statistics.class_counts)} classes; {model} needs {spec.sample_shape[0]} and {spec.classes}."
            )
    costs = tuple(layer_costs(build_layers(model, settings.seed), spec.sample_shape))
    _check_cuts(settings, len(costs))
    samples = sum(ask.samples for ask in asks)
    parameters = sum(cost.parameters for cost in costs)
    weight_decay, decay_reason = choose_weight_decay(samples, parameters)
    standardization = choose([ask.statistics for ask in asks])
    message = Prepare(
        model=model,
        seed=settings.seed,
        optimizer=OptimizerRecipe(optimizer_name(settings.optimizer), settings.learning_rate, weight_decay),
        standardization=standardization,
        batch=settings.batch,
        micro=settings.micro,
    )
    reasons: dict[str, object] = {
        "model_reason": f"the task is {settings.task}",
        "standardization": asdict(standardization),
        "regularization": {"weight_decay": weight_decay, "reason": decay_reason},
        "class_counts": [sum(column) for column in zip(*(a.statistics.class_counts for a in asks), strict=True)],
    }
    return Preparation(message, costs, tuple(segment_values(costs, spec.sample_shape)), reasons)


def optimizer_name(text: str) -> OptimizerName:
    """The optimiser of that name.

    Raises: UsageError if there is none.
    """
    if text not in ("sgd", "momentum", "adam", "adamw"):
        raise UsageError(f"There is no optimizer {text!r}; there are: sgd, momentum, adam, adamw.")
    return cast(OptimizerName, text)


def codec_name(text: str) -> Codec:
    """The codec of that name.

    Raises: UsageError if there is none.
    """
    if text not in VALUE_BYTES:  # narrows the type
        raise UsageError(f"There is no codec {text!r}; there are: {', '.join(VALUE_BYTES)}.")
    return text


def _check_cuts(settings: RunSettings, layers: int) -> None:
    last = layers - 1 if settings.max_cut is None else settings.max_cut
    if not 0 <= settings.min_cut <= last <= layers:
        raise UsageError(
            f"Cuts from {settings.min_cut} to {last} were asked for; the model has {layers} layers, so they lie "
            f"between 0 and {layers}."
        )
    outside = [cut for row in settings.cuts for cut in row if not 0 <= cut <= layers]
    if outside:
        raise UsageError(f"--cuts names the cut {outside[0]}; the model has {layers} layers.")
