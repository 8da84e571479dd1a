"""Splits a user's model into a chain of layers that can be cut anywhere.

The children of an `nn.Sequential` are the layers. Any other model is traced and split before every operation that has
parameters or pools; what crosses a cut is all values that are needed later. Operations that only normalise, activate
or reshape stay with the preceding layer, and a parameter used in two places merges everything between them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn

from trainer.errors import UsageError, UserCodeError
from trainer.models.boundary import PROBES, THIRD_PROBE, BoundaryError, Probe, describe, to_boundary
from trainer.models.traced_layer import Section, TracedLayer, live_nodes, training_values
from trainer.models.tracing import ModeGraph, TracedModel, attach, check_inputs, trace
from trainer.models.value_checks import check_shapes_known, copied_model
from trainer.plugins import describe_error

_MERGED_WITH_PREVIOUS = (
    nn.modules.batchnorm._BatchNorm, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm,
    nn.LocalResponseNorm, nn.modules.dropout._DropoutNd, nn.Flatten, nn.Unflatten, nn.Identity, nn.ReLU, nn.ReLU6,
    nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus,
    nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softmax, nn.LogSoftmax,
)
"""Modules that are merged with the preceding layer."""

_MERGED_FUNCTIONS = ("norm", "dropout", "relu", "add_", "assert")
"""Parts of the names of functions that are merged although they use a parameter, as torch.export writes them."""

Batch = Callable[[int], Tensor]
"""Returns an input of that many samples."""


def split_into_layers(model: object, name: str, batch: Batch) -> list[nn.Module]:
    """Return the layers of a model, in order.

    Raises: UsageError if `model` is not a module, cannot be traced, or has no place for a cut.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"{name} returned {type(model).__name__}; it must return a torch.nn.Module.")
    for path, part in model.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise UsageError(f"{name}: {path or 'the model'} is a TorchScript module, which can be neither divided nor "
                             "copied with its weights; use the module as it was before torch.jit.")
    if is_plain_sequential(model):
        return [layer for layer in model._modules.values() if layer is not None]  # children() leaves out repeated ones
    check_shapes_known(model, name)
    _check_runs(model, name, batch)
    traced = trace(model, name, batch)
    training = _layer_starts(traced, _allowed_cuts(traced, batch))
    evaluation = _starts_in_evaluation(traced, training)
    kept = [start for start in training if start in evaluation]
    layers = _merge_sharing(traced, [Section(*part) for part in _parts(traced.training, kept)],
                          None if traced.evaluation is None
                          else [Section(*part) for part in _parts(traced.evaluation, [evaluation[s] for s in kept])])
    _attach_unused(model, layers)
    return layers


def is_plain_sequential(model: nn.Module) -> bool:
    """Return whether a model only calls its children one after another."""
    return isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward


def _attach_unused(model: nn.Module, layers: Sequence[nn.Module]) -> None:
    """Give the first layer the parameters and buffers that no layer uses: they are part of the model's state."""
    used = {id(value) for layer in layers for value in (*layer.parameters(), *layer.buffers())}
    for path, value in (*model.named_parameters(), *model.named_buffers()):
        if id(value) not in used:
            attach(layers[0], path, model)


def _check_runs(model: nn.Module, name: str, batch: Batch) -> None:
    """Run a copy of a model, so that an error is told with its place in the user's file.

    Raises: UserCodeError.
    """
    check_inputs(model, name)
    values = batch(PROBES[0])
    copied = copied_model(model, name)
    try:
        copied.train()(values)
    except Exception as error:
        raise UserCodeError(f"{name} does not take samples of shape {describe(values)}: "
                            f"{describe_error(error)}.") from error


def _allowed_cuts(traced: TracedModel, batch: Batch) -> list[bool]:
    """Return, before each operation of the training graph, whether its live values can be a segment."""
    graph = traced.training
    live = live_nodes(graph.input, graph.operations, graph.result)[:-1]
    runs = [_live_probes(traced, batch(samples), live) for samples in (*PROBES, THIRD_PROBE)]
    allowed = []
    for first, second, third in zip(*runs, strict=True):
        try:
            allowed.append(third.fits(to_boundary(0, first, second), THIRD_PROBE))
        except BoundaryError:
            allowed.append(False)
    return allowed


def _live_probes(traced: TracedModel, values: Tensor, live: Sequence[tuple[fx.Node, ...]]) -> list[Probe]:
    """Return what is live before each operation, recorded when each value is computed."""
    probes: dict[str, Any] = {}
    training_values(traced, values, lambda name, value: probes.__setitem__(name, Probe.of(value)))
    return [Probe.joined([probes[node.name] for node in nodes]) for nodes in live]


def _layer_starts(traced: TracedModel, allowed: Sequence[bool]) -> list[int]:
    """Return the operations of the training graph that begin a layer."""
    operations = traced.training.operations
    starts = [number for number, node in enumerate(operations) if allowed[number] and _begins_layer(traced, node)]
    if starts and all(map(_is_shape_query, operations[: starts[0]])):
        starts = starts[1:]  # reading the shape of the input is no layer
    return sorted({0, *starts})


def _is_shape_query(node: fx.Node) -> bool:
    return node.target in (getattr, operator.getitem, "size", "dim")


def _begins_layer(traced: TracedModel, node: fx.Node) -> bool:
    """Return whether an operation does more than normalise, activate or reshape."""
    if node.op == "call_module":
        return not isinstance(traced.attribute(node.target), _MERGED_WITH_PREVIOUS)
    if any(part in node.name for part in _MERGED_FUNCTIONS):
        return False
    return "pool" in node.name or any(source.op == "get_attr" for source in node.all_input_nodes)


def _starts_in_evaluation(traced: TracedModel, starts: Sequence[int]) -> dict[int, int]:
    """Return the counterparts of layers' first operations in the evaluation graph, where there are any."""
    if traced.evaluation is None:
        return {start: start for start in starts}
    first, second = ([(node.op, str(node.target)) for node in graph.operations]
                     for graph in (traced.training, traced.evaluation))
    matches = SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
    twins = {match.a + k: match.b + k for match in matches for k in range(match.size)}
    return {start: twins[start] for start in starts if start in twins} | {0: 0}


def _parts(
    graph: ModeGraph, starts: Sequence[int]
) -> list[tuple[tuple[fx.Node, ...], tuple[fx.Node, ...], tuple[fx.Node, ...]]]:
    live = live_nodes(graph.input, graph.operations, graph.result)
    return [(live[first], graph.operations[first:end], live[end])
            for first, end in pairwise([*starts, len(graph.operations)])]


def _merge_sharing(
    traced: TracedModel, training: Sequence[Section], evaluation: Sequence[Section] | None
) -> list[nn.Module]:
    """Return the layers; all between two uses of one parameter is one."""
    used = [_storage(traced, section) | (_storage(traced, evaluation[number]) if evaluation else set())
            for number, section in enumerate(training)]
    layers: list[nn.Module] = []
    first = 0
    while first < len(training):
        end = first + 1
        number = first
        while number < end:
            end = max([end, *(later + 1 for later in range(end, len(training)) if used[number] & used[later])])
            number += 1
        layers.append(TracedLayer(traced, _joined(training[first:end]),
                                  None if evaluation is None else _joined(evaluation[first:end])))
        first = end
    return layers


def _joined(sections: Sequence[Section]) -> Section:
    return Section(sections[0].entry, tuple(node for section in sections for node in section.operations),
                   sections[-1].exit)


def _storage(traced: TracedModel, section: Section) -> set[int]:
    """Return the addresses of all parameters and buffers that a section uses."""
    used: set[int] = set()
    for node in section.operations:
        if node.op == "call_module":
            used |= addresses(traced.attribute(node.target))
        used |= {traced.attribute(source.target).data_ptr() for source in node.all_input_nodes
                 if source.op == "get_attr" and isinstance(traced.attribute(source.target), Tensor)}
    return used - {0}


def addresses(module: nn.Module) -> set[int]:
    """Return the addresses of a module's parameters and buffers; 0 stands for all that are empty."""
    return {value.data_ptr() for value in (*module.parameters(), *module.buffers())} - {0}
