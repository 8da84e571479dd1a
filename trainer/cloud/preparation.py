"""Derives model, standardization and regularization of a run from the join requests of all edges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import zip_longest
from typing import cast

from torch import Tensor, nn

from trainer.cloud.made_ahead import MadeAhead
from trainer.cloud.private_averaging import check_private_model
from trainer.config.fine_tuning import ALL_TRAINED, AUTO_RANKS, FineTuning, parse_fine_tuning
from trainer.config.objectives import METRICS, NEXT_TOKEN, Objective, choose_objective, parse_schedule, target_mistake
from trainer.config.settings import RunSettings
from trainer.data.standardization import (
    HIGH_CLASS_SKEW,
    Statistics,
    choose_standardization,
    choose_weight_decay,
    class_skew,
    feature_choices,
)
from trainer.errors import TrainingFailedError, UsageError, UserCodeError
from trainer.models.boundary import Boundary
from trainer.models.building import BuiltModel, build_model, random_batch
from trainer.models.causal_check import check_causal
from trainer.models.chain_check import CLASSES
from trainer.models.frozen import backward_layers, digest
from trainer.models.lora import adapters
from trainer.models.lora_ranks import set_rank
from trainer.models.objective import check_loss
from trainer.models.optimizer import OptimizerConfig, OptimizerName
from trainer.models.split_model import tail_protects_labels
from trainer.models.zoo import Integers, check_model_name, choose_model, takes_whole_numbers
from trainer.planning.forecasts import AdapterCosts
from trainer.profiling.layer_costs import LayerCost, layer_costs
from trainer.protocol.messages import JoinRequest, Prepare


@dataclass(frozen=True, slots=True)
class Preparation:
    """The message for all edges, the reasons for its contents, the layers' costs, boundaries, names and fixed values.

    `constant`: for every cut whether its segments depend on their samples alone; `unchanging`: the values that training
    does not change, `<layer>.<name>`. `adapters`: what they cost, if each edge gets a rank of its own.
    """

    message: Prepare
    costs: tuple[LayerCost, ...]
    boundaries: tuple[Boundary, ...]
    constant: tuple[bool, ...]
    names: Mapping[str, str]
    unchanging: Mapping[str, Tensor]
    reasons: dict[str, object]
    adapters: AdapterCosts | None = None


def prepare(
    requests: Sequence[JoinRequest], settings: RunSettings, made: MadeAhead | None = None
) -> Preparation:
    """Choose the settings common to all edges; model and costs may have been `made` ahead.

    Raises: UsageError if the settings do not fit the model, TrainingFailedError if the requests do not.
    """
    sample_shape, classes, objective = _common_shape(requests, settings)
    model, model_reason = choose_model(settings.task, sample_shape)
    if settings.model is not None:
        model, model_reason = settings.model, "it was configured"
    samples_of_edges = {request.edge: request.samples for request in requests}
    statistics = [request.statistics for request in requests]
    values = range_of(statistics) if all(request.whole_numbers for request in requests) else None
    made = MadeAhead() if made is None else made
    built, tail, integers = check_model(model, settings, sample_shape, classes, samples_of_edges, values, objective,
                                        made)
    tuning = parse_fine_tuning(settings.freeze, settings.lora)
    costs = made.get(
        ("costs", model, settings.seed, sample_shape, classes, integers, objective, tuning),
        lambda: tuple(layer_costs(built.layers, sample_shape, partial(
            random_batch, sample_shape=sample_shape, integers=integers), built.unchanging)))
    samples = sum(request.samples for request in requests)
    parameters = sum(cost.trained_parameters for cost in costs)
    weight_decay, decay_reason = choose_weight_decay(samples, parameters)
    if settings.weight_decay is not None:
        weight_decay, decay_reason = settings.weight_decay, "it was configured"
    standardization = choose_standardization(statistics, settings.standardization, integers is not None)
    message = Prepare(
        model=model,
        sample_shape=sample_shape,
        classes=classes,
        objective=objective,
        integers=integers,
        tuning=tuning,
        frozen_digest=digest(built.layers, built.unchanging),
        seed=settings.seed,
        optimizer=OptimizerConfig(optimizer_name(settings.optimizer), settings.learning_rate, weight_decay,
                                  parse_schedule(settings.schedule, settings.rounds, settings.steps),
                                  settings.proximal, settings.moments == "reset"),
        standardization=standardization,
        batch=settings.batch,
        micro=settings.micro,
        steps=settings.steps,
        tail=tail,
        secure_aggregation=settings.secure_aggregation,
    )
    reasons: dict[str, object] = {
        "model_reason": model_reason,
        "standardization": asdict(standardization),
        "regularization": {"weight_decay": weight_decay, "reason": decay_reason},
        "features": [asdict(choice) for choice in feature_choices(statistics)],
        "class_counts": None if not any(edge.class_counts for edge in statistics) or settings.protect_labels else [
            sum(column) for column in zip_longest(*(edge.class_counts for edge in statistics), fillvalue=0)],
    }
    if any(built.unchanging):
        reasons["frozen"] = {"parameters": sum(cost.parameters for cost in costs) - parameters, "trained": parameters,
                             "layers": backward_layers(built.layers).index(True), "digest": message.frozen_digest}
    skew = class_skew([edge.class_counts for edge in statistics])
    reasons["class_skew"] = round(skew, 4)
    if skew > HIGH_CLASS_SKEW:
        reasons["warning"] = (
            f"The edges have different classes: {skew:.0%} of the samples would have to change theirs for all edges to "
            "be alike. Their models drift apart between averagings; a smaller --average-every or --learning-rate helps."
        )
    has_ranks = tuning.lora is not None and tuning.lora.auto
    return Preparation(message, costs, tuple(built.boundaries), built.constant, built.names,
                       _fixed_values(built), reasons,
                       _adapter_costs(built, costs, sample_shape, integers) if has_ranks else None)


def _adapter_costs(
    built: BuiltModel, costs: Sequence[LayerCost], sample_shape: tuple[int, ...], integers: Integers | None
) -> AdapterCosts:
    """Return what adapters cost: FLOPs grow in proportion to their rank."""
    set_rank(built.layers, 1)
    least = layer_costs(built.layers, sample_shape, partial(random_batch, sample_shape=sample_shape, integers=integers),
                        built.unchanging)
    set_rank(built.layers, None)
    most = AUTO_RANKS[-1]
    shares = [(cost.work_flops - one.work_flops) * most / (most - 1) / cost.work_flops if cost.work_flops else 0.0
              for cost, one in zip(costs, least, strict=True)]
    rows = [sum(value.nbytes for module in adapters(layer).values() for value in (module.lora_A, module.lora_B)) // most
            for layer in built.layers]
    return AdapterCosts(tuple(shares), tuple(rows))


def _fixed_values(built: BuiltModel) -> dict[str, Tensor]:
    """Return the values that training does not change."""
    return {f"{number}.{name}": layer.state_dict()[name] for number, layer in enumerate(built.layers)
            for name in sorted(built.unchanging[number])}


def check_model(
    model: str, settings: RunSettings, sample_shape: tuple[int, ...], classes: int, samples: Mapping[str, int],
    values: Integers | None = None, objective: Objective = CLASSES, made: MadeAhead | None = None,
) -> tuple[BuiltModel, int | None, Integers | None]:
    """Build the model, unless it was `made` ahead, compare it with the user's own, and check that the settings fit it.

    `samples`: the training samples of every edge. `values`: least and greatest input if all are whole numbers.
    Returns the model, its tail, and `values` if the model takes whole numbers as they are.

    Raises: UsageError.
    """
    key = (model, settings.seed, sample_shape, classes, values, settings.standardization, objective,
           parse_fine_tuning(settings.freeze, settings.lora))
    built, values = (made or MadeAhead()).get(("model", *key), lambda: build_for_inputs(*key))
    if mistake := target_mistake(settings.target, objective.metric):
        raise UsageError(mistake)
    if objective.loss == NEXT_TOKEN:
        check_causal(built.layers, model, partial(random_batch, sample_shape=sample_shape, integers=values), values)
        if settings.protect_labels and 0 in (settings.min_cut, *(cut for row in settings.cuts for cut in row)):
            raise UsageError("With --protect-labels cut 0 is not possible for --loss next-token: it sends the tokens, "
                             "which are the labels. Give --min-cut 1.")
    outputs = built.boundaries[-1].tensors[0].shape(1)[1:]
    check_loss(objective, outputs, classes, settings.micro)
    if objective.target_shape not in (None, outputs) and objective.metric in METRICS and objective.metric != "loss":
        raise UsageError(f"--metric {objective.metric} compares outputs of the shape of a sample's values, "
                         f"{objective.target_shape}; {model} makes {outputs}. Give --metric loss, or your own.")
    _check_batches(samples, settings, built.layers, model)
    if settings.dp is not None:
        check_private_model(model, built.layers)
    tail = tail_of(built.layers, settings.protect_labels, settings.tail_layers)
    check_cuts(model, len(built.layers), tail, settings.min_cut, settings.max_cut, settings.cuts)
    return built, tail, values


def build_for_inputs(
    model: str, seed: int, sample_shape: tuple[int, ...], classes: int, values: Integers | None, standardization: str,
    objective: Objective = CLASSES, tuning: FineTuning = ALL_TRAINED,
) -> tuple[BuiltModel, Integers | None]:
    """Build a model for whole numbers if it takes them as they are, else for real ones; verify it.

    Raises: UsageError.
    """
    build = partial(build_model, model, seed, sample_shape, classes, verify=True, objective=objective, tuning=tuning)
    check_model_name(model)
    if values is None or standardization not in ("auto", "none") or not takes_whole_numbers(model):
        return build(), None
    try:
        return build(values), values
    except UserCodeError as error:
        try:
            return build(), None
        except UsageError:
            raise error from None


def vocabulary_of(requests: Sequence[JoinRequest]) -> int | None:
    """Return the number of token ids over all edges; None if their classes are not next tokens."""
    return max((request.vocabulary for request in requests if request.vocabulary is not None), default=None)


def range_of(statistics: Sequence[Statistics]) -> Integers:
    """Return the least and greatest input value over all edges."""
    return (int(min(min(edge.plain.minimum) for edge in statistics)),
            int(max(max(edge.plain.maximum) for edge in statistics)))


def _common_shape(
    requests: Sequence[JoinRequest], settings: RunSettings
) -> tuple[tuple[int, ...], int, Objective]:
    """Return the sample shape, which must be the same on all edges, the number of outputs, and the objective."""
    first = requests[0]
    shape = first.sample_shape
    for request in requests:
        if request.sample_shape != shape:
            raise TrainingFailedError(
                f"{request.edge} has samples of {_dimensions(request.sample_shape)}, {first.edge} of "
                f"{_dimensions(shape)}; all edges must have the same shape."
            )
        if request.class_names != first.class_names:
            raise TrainingFailedError(
                f"{request.edge} has the classes {', '.join(request.class_names) or 'without names'}, {first.edge} "
                f"{', '.join(first.class_names) or 'without names'}; all edges must have the same in the same order: "
                "name them in a file classes.txt in each edge's folder.")
        if _targets(request) != _targets(first):
            raise TrainingFailedError(f"{request.edge} has {_targets(request)} as targets, {first.edge} "
                                      f"{_targets(first)}; all edges must have the same.")
        for moments in (request.statistics.plain, request.statistics.logged):
            columns = {len(moments.mean), len(moments.m2), len(moments.m3), len(moments.minimum), len(moments.maximum)}
            if columns != {shape[0]}:
                raise TrainingFailedError(
                    f"{request.edge} sent statistics of {max(columns)} features; its samples have {shape[0]}."
                )
    target_shape = first.target_shape
    objective = choose_objective(settings.loss, settings.metric, settings.better, target_shape,
                                 all(request.binary_targets for request in requests), first.class_shape,
                                 vocabulary_of(requests))
    classes = vocabulary_of(requests) or max(len(request.statistics.class_counts) for request in requests)
    if target_shape is None and not classes:
        raise TrainingFailedError(f"{first.edge} has neither classes nor values to predict.")
    return shape, classes if target_shape is None else math.prod(target_shape), objective


def _targets(request: JoinRequest) -> str:
    if request.target_shape is not None:
        return f"values of shape {request.target_shape}"
    if request.vocabulary is not None:
        return f"the next tokens of sequences of {request.sample_shape[0]}"
    return f"classes of shape {request.class_shape}" if request.class_shape else "classes"


def _dimensions(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _check_batches(
    samples: Mapping[str, int], settings: RunSettings, layers: Sequence[nn.Module], model: str
) -> None:
    """Reject micro-batches of a single sample if the model has batch normalization."""
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for layer in layers for module in layer.modules()):
        return
    for edge, count in samples.items():
        batch = min(settings.batch, count)
        smallest = batch // min(settings.micro, batch)
        if smallest < 2:
            raise UsageError(
                f"{model} uses batch normalization, and micro-batches of {edge} have {smallest} of {batch} "
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
    if len(layers) == 1:
        return None  # `check_cuts` refuses it
    if not 1 <= tail < len(layers):
        raise UsageError(f"--tail-layers is {tail_layers}; the model has {len(layers)} layers, "
                         "and the tail needs at least one layer and one before it.")
    if not tail_protects_labels(layers, tail):
        raise UsageError(
            f"The last {tail_layers} layers of the model have no parameters: the cloud would receive "
            "outputs and gradients that reveal the labels. Set a larger --tail-layers."
        )
    return tail


def check_cuts(
    model: str, layers: int, tail: int | None, min_cut: int, max_cut: int | None,
    fixed: Sequence[Sequence[int]] = (),
) -> None:
    """Check the configured cuts against the layers, or those before the edges' tail.

    Raises: UsageError.
    """
    last = layers if tail is None else tail
    where = f"the model {model} has {layers} layer{'s'[: layers > 1]}" + (
        "" if tail is None else f", {tail} before the edges' tail")
    if layers == 1:
        raise UsageError(f"The model {model} has one layer, so there is nothing to cut between edge and cloud; divide "
                         "it into several, for example as the children of an nn.Sequential.")
    greatest = last - 1 if max_cut is None else max_cut
    if not 0 <= min_cut <= greatest <= last:
        raise UsageError(f"Cuts from {min_cut} to {greatest} are not possible: {where}, so cuts lie between 0 and "
                         f"{last}; the last one is by default {last - 1}.")
    outside = [cut for row in fixed for cut in row if not 0 <= cut <= last]
    if outside:
        raise UsageError(f"--cuts contains cut {outside[0]}: {where}, so cuts lie between 0 and {last}.")
