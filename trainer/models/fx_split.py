"""Splits a user's model into a chain of layers that can be cut anywhere.

The children of an `nn.Sequential` are the layers. Any other model is traced by torch.fx and split wherever a single
tensor is live. Operations that only normalise, activate or reshape are merged with the preceding layer, and a
parameter used in two places merges everything between them.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from trainer.errors import UsageError

_MERGED_WITH_PREVIOUS = (
    nn.modules.batchnorm._BatchNorm, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm,
    nn.LocalResponseNorm, nn.modules.dropout._DropoutNd, nn.Flatten, nn.Unflatten, nn.Identity, nn.ReLU, nn.ReLU6,
    nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus,
    nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softmax, nn.LogSoftmax,
)
"""Modules that are merged with the preceding layer."""

_SAMPLES = 2


def split_into_layers(model: object, name: str) -> list[nn.Module]:
    """Return the layers of a model, in order.

    Raises: UsageError if `model` is not a module, cannot be traced, or never has a single live tensor; it names the
        node.
    """
    if isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward:
        return list(model.children())
    if not isinstance(model, nn.Module):
        raise UsageError(f"{name} returned {type(model).__name__}; it must return a torch.nn.Module.")
    try:
        traced = fx.symbolic_trace(model)
    except Exception as error:
        raise UsageError(
            f"{name} cannot be traced by torch.fx: {type(error).__name__}: {error} Return an nn.Sequential instead, or "
            "put what depends on values into a module of its own inside torch.fx.wrap."
        ) from error
    return _cut(traced, name)


def check_layers(layers: Sequence[nn.Module], name: str, sample_shape: tuple[int, ...], classes: int) -> None:
    """Run two samples of zeros through the chain; leaves it in training mode.

    Raises: UsageError that names the layer which does not fit or shares a parameter with another.
    """
    if not layers:
        raise UsageError(f"The model {name} has no layers.")
    owners: dict[int, int] = {}
    values = torch.zeros(_SAMPLES, *sample_shape)
    for number, layer in enumerate(layers, start=1):
        _disable_inplace(layer)
        for parameter in layer.parameters():
            owner = owners.setdefault(id(parameter), number)
            if owner != number:
                raise UsageError(f"{name}: layers {owner} and {number} share a parameter, so the model cannot be "
                                 "cut between them; make them one layer.")
        values = _run(layer.eval(), values, f"{name}: layer {number} ({type(layer).__name__})")
        layer.train()
    if values.shape != (_SAMPLES, classes):
        raise UsageError(f"{name}: a sample leaves the last layer as {tuple(values.shape[1:])}; the data has {classes} "
                         f"classes, so it must be ({classes},).")


def _disable_inplace(layer: nn.Module) -> None:
    """Turn off in-place operations, which would overwrite a segment that is being sent."""
    for module in layer.modules():
        if isinstance(getattr(module, "inplace", None), bool):
            module.__dict__["inplace"] = False


def _run(layer: nn.Module, values: Tensor, place: str) -> Tensor:
    shape = tuple(values.shape[1:])
    try:
        with torch.no_grad():
            output = layer(values)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise UsageError(f"{place} does not take samples of shape {shape}: {error}") from error
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.shape[:1] != (_SAMPLES,):
        what = f"{output.dtype} {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise UsageError(f"{place} makes {what} of {_SAMPLES} samples; a layer must make one tensor of real numbers "
                         f"whose first dimension counts the samples.")
    return output


def _cut(traced: fx.GraphModule, name: str) -> list[nn.Module]:
    """Return a GraphModule for every section between two points where a single tensor is live."""
    _replace_functional_dropout(traced, name)
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise UsageError(f"{name} takes {len(inputs)} inputs ({', '.join(node.name for node in inputs)}); it must take "
                         "one, the batch.")
    output = next(node for node in traced.graph.nodes if node.op == "output")
    result = output.args[0]
    if not isinstance(result, fx.Node):
        raise UsageError(f"{name} returns {result!r}; it must return one tensor.")
    operations = [node for node in traced.graph.nodes if node.op not in ("placeholder", "output", "get_attr")]
    sections = _merge(traced, _sections(inputs[0], operations, result))
    layers: list[nn.Module] = []
    entry = inputs[0]
    for section in sections:
        layers.append(_extract_layer(traced, entry, section))
        entry = section[-1]
    if len(layers) == 1 and len(operations) > 1:
        node, live = _most_live(inputs[0], operations, result)
        raise UsageError(
            f"{name} cannot be cut: after its node {node.name} ({', '.join(tensor.name for tensor in live)}) are all "
            "needed later, so there is no point between two layers at which only one tensor is live. Group the "
            "operations into modules and return an nn.Sequential of them."
        )
    return layers


def _live_nodes(start: fx.Node, operations: Sequence[fx.Node], result: fx.Node) -> list[list[fx.Node]]:
    """Return, after each node, the computed tensors that are needed later or are the result."""
    last_use = {node: number for number, node in enumerate(operations) for node in node.all_input_nodes}
    last_use[result] = len(operations)
    computed = [start, *operations]
    return [[node for node in computed[: number + 2] if last_use.get(node, -1) > number]
            for number in range(len(operations))]


def _sections(start: fx.Node, operations: list[fx.Node], result: fx.Node) -> list[list[fx.Node]]:
    sections: list[list[fx.Node]] = [[]]
    for node, live in zip(operations, _live_nodes(start, operations, result), strict=True):
        sections[-1].append(node)
        if live == [node]:
            sections.append([])
    return [section for section in sections if section]


def _most_live(start: fx.Node, operations: list[fx.Node], result: fx.Node) -> tuple[fx.Node, list[fx.Node]]:
    return max(zip(operations, _live_nodes(start, operations, result), strict=True), key=lambda pair: len(pair[1]))


def _merge(traced: fx.GraphModule, sections: list[list[fx.Node]]) -> list[list[fx.Node]]:
    """Merge sections with their predecessor where needed, and all between two uses of one parameter."""
    parameters = [_parameters(traced, section) for section in sections]
    merged: list[list[fx.Node]] = []
    merged_until = 0
    for number, section in enumerate(sections):
        if merged and (number <= merged_until or _merges_with_previous(traced, section)):
            merged[-1].extend(section)
        else:
            merged.append(list(section))
        later = [other for other in range(number + 1, len(sections)) if parameters[number] & parameters[other]]
        merged_until = max([merged_until, *later])
    return merged


def _parameters(traced: fx.GraphModule, section: Sequence[fx.Node]) -> set[int]:
    """Return the ids of all parameters and buffers that a section uses."""
    ids: set[int] = set()
    for node in section:
        if node.op == "call_module":
            module = traced.get_submodule(str(node.target))
            ids |= {id(value) for value in (*module.parameters(), *module.buffers())}
        ids |= {id(_attribute(traced, source)) for source in node.all_input_nodes if source.op == "get_attr"}
    return ids


def _attribute(traced: fx.GraphModule, node: fx.Node) -> object:
    return operator.attrgetter(str(node.target))(traced)


def _merges_with_previous(traced: fx.GraphModule, section: Sequence[fx.Node]) -> bool:
    """Return whether a section only normalises, activates or reshapes."""
    for node in section:
        if node.op == "call_module":
            if not isinstance(traced.get_submodule(str(node.target)), _MERGED_WITH_PREVIOUS):
                return False
        elif "pool" in node.name or any(source.op == "get_attr" for source in node.all_input_nodes):
            return False
    return True


def _extract_layer(traced: fx.GraphModule, entry: fx.Node, section: Sequence[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    copies = {entry: graph.placeholder("values")}
    for node in section:
        for attribute in node.all_input_nodes:
            if attribute.op == "get_attr" and attribute not in copies:
                copies[attribute] = graph.node_copy(attribute)
        copies[node] = graph.node_copy(node, lambda source: copies[source])
    graph.output(copies[section[-1]])
    return fx.GraphModule(traced, graph, class_name=_class_name(traced, section))


def _class_name(traced: fx.GraphModule, section: Sequence[fx.Node]) -> str:
    names = [type(traced.get_submodule(str(node.target))).__name__ for node in section if node.op == "call_module"]
    return names[0] if names else "Functions"


def _replace_functional_dropout(traced: fx.GraphModule, name: str) -> None:
    """Replace functional dropout by modules: traced as a function it would stay active in evaluation mode."""
    for number, node in enumerate(list(traced.graph.nodes)):
        if node.op != "call_function":
            continue
        if node.target is nn.functional.batch_norm and "training" in node.kwargs:
            raise UsageError(f"{name}: the node {node.name} calls functional batch_norm, which torch.fx ties to "
                             "training; use nn.BatchNorm.")
        if node.target is nn.functional.dropout and node.kwargs.get("training", True):
            target = f"_dropout_{number}"
            traced.add_submodule(target, nn.Dropout(node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)))
            with traced.graph.inserting_before(node):
                replacement = traced.graph.call_module(target, (node.args[0],))
            node.replace_all_uses_with(replacement)
            traced.graph.erase_node(node)
    traced.recompile()
