"""A user's model -> a chain of layers that can be cut anywhere.

`nn.Sequential` is a chain already: each child is a layer. Anything else is traced by torch.fx, and cut wherever
the graph narrows to a single tensor. What only normalises, activates or reshapes stays with the layer before it,
and a parameter that is used in two places holds all between them together.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from trainer.errors import UsageError

_FOLLOWERS = (
    nn.modules.batchnorm._BatchNorm, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm,
    nn.LocalResponseNorm, nn.modules.dropout._DropoutNd, nn.Flatten, nn.Unflatten, nn.Identity, nn.ReLU, nn.ReLU6,
    nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus,
    nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softmax, nn.LogSoftmax,
)
"""Modules that stay with the layer before them."""

_SAMPLES = 2


def to_layers(model: object, name: str) -> list[nn.Module]:
    """The layers of a model, in order.

    Raises: UsageError if it is no model, cannot be traced, or never narrows to one tensor; it names the node.
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
    """Run two samples of zeros through the chain, and leave it in training mode.

    Raises: UsageError that names the layer which does not fit, or shares a parameter with another.
    """
    if not layers:
        raise UsageError(f"The model {name} has no layers.")
    owners: dict[int, int] = {}
    values = torch.zeros(_SAMPLES, *sample_shape)
    for number, layer in enumerate(layers, start=1):
        _work_on_copies(layer)
        for parameter in layer.parameters():
            owner = owners.setdefault(id(parameter), number)
            if owner != number:
                raise UsageError(f"{name}: layers {owner} and {number} share a parameter, so no cut can lie between "
                                 "them; make them one layer.")
        values = _run(layer.eval(), values, f"{name}: layer {number} ({type(layer).__name__})")
        layer.train()
    if values.shape != (_SAMPLES, classes):
        raise UsageError(f"{name}: a sample leaves the last layer as {tuple(values.shape[1:])}; the data has {classes} "
                         f"classes, so it must be ({classes},).")


def _work_on_copies(layer: nn.Module) -> None:
    """A layer that overwrites its input would overwrite a segment that travels."""
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
    """One GraphModule for every stretch between two places where a single tensor is alive."""
    _make_dropout_a_module(traced, name)
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise UsageError(f"{name} takes {len(inputs)} inputs ({', '.join(node.name for node in inputs)}); it must take "
                         "one, the batch.")
    output = next(node for node in traced.graph.nodes if node.op == "output")
    result = output.args[0]
    if not isinstance(result, fx.Node):
        raise UsageError(f"{name} returns {result!r}; it must return one tensor.")
    work = [node for node in traced.graph.nodes if node.op not in ("placeholder", "output", "get_attr")]
    stretches = _merge(traced, _narrow(inputs[0], work, result))
    layers: list[nn.Module] = []
    entry = inputs[0]
    for stretch in stretches:
        layers.append(_extract(traced, entry, stretch))
        entry = stretch[-1]
    if len(layers) == 1 and len(work) > 1:
        node, alive = _widest(inputs[0], work, result)
        raise UsageError(
            f"{name} can be cut nowhere: after its node {node.name} ({', '.join(one.name for one in alive)}) are all "
            "needed later, and it never narrows to one tensor between two layers. Put what belongs together "
            "into a module of its own, and return an nn.Sequential of such modules."
        )
    return layers


def _alive(start: fx.Node, work: Sequence[fx.Node], result: fx.Node) -> list[list[fx.Node]]:
    """After each node: what has been computed and is needed later, or is the result."""
    last = {node: number for number, node in enumerate(work) for node in node.all_input_nodes}
    last[result] = len(work)
    known = [start, *work]
    return [[node for node in known[: number + 2] if last.get(node, -1) > number] for number in range(len(work))]


def _narrow(start: fx.Node, work: list[fx.Node], result: fx.Node) -> list[list[fx.Node]]:
    stretches: list[list[fx.Node]] = [[]]
    for node, alive in zip(work, _alive(start, work, result), strict=True):
        stretches[-1].append(node)
        if alive == [node]:
            stretches.append([])
    return [stretch for stretch in stretches if stretch]


def _widest(start: fx.Node, work: list[fx.Node], result: fx.Node) -> tuple[fx.Node, list[fx.Node]]:
    return max(zip(work, _alive(start, work, result), strict=True), key=lambda pair: len(pair[1]))


def _merge(traced: fx.GraphModule, stretches: list[list[fx.Node]]) -> list[list[fx.Node]]:
    """Join followers to what they follow, and all that lies between two uses of one parameter."""
    owned = [_parameters(traced, stretch) for stretch in stretches]
    merged: list[list[fx.Node]] = []
    joined_until = 0
    for number, stretch in enumerate(stretches):
        if merged and (number <= joined_until or _follows(traced, stretch)):
            merged[-1].extend(stretch)
        else:
            merged.append(list(stretch))
        later = [other for other in range(number + 1, len(stretches)) if owned[number] & owned[other]]
        joined_until = max([joined_until, *later])
    return merged


def _parameters(traced: fx.GraphModule, stretch: Sequence[fx.Node]) -> set[int]:
    """The identities of what the nodes of a stretch can learn, or keep."""
    found: set[int] = set()
    for node in stretch:
        if node.op == "call_module":
            module = traced.get_submodule(str(node.target))
            found |= {id(value) for value in (*module.parameters(), *module.buffers())}
        found |= {id(_attribute(traced, one)) for one in node.all_input_nodes if one.op == "get_attr"}
    return found


def _attribute(traced: fx.GraphModule, node: fx.Node) -> object:
    return operator.attrgetter(str(node.target))(traced)


def _follows(traced: fx.GraphModule, stretch: Sequence[fx.Node]) -> bool:
    """Whether a stretch only normalises, activates or reshapes."""
    for node in stretch:
        if node.op == "call_module":
            if not isinstance(traced.get_submodule(str(node.target)), _FOLLOWERS):
                return False
        elif "pool" in node.name or any(one.op == "get_attr" for one in node.all_input_nodes):
            return False
    return True


def _extract(traced: fx.GraphModule, entry: fx.Node, stretch: Sequence[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    copies = {entry: graph.placeholder("values")}
    for node in stretch:
        for attribute in node.all_input_nodes:
            if attribute.op == "get_attr" and attribute not in copies:
                copies[attribute] = graph.node_copy(attribute)
        copies[node] = graph.node_copy(node, lambda one: copies[one])
    graph.output(copies[stretch[-1]])
    return fx.GraphModule(traced, graph, class_name=_class_name(traced, stretch))


def _class_name(traced: fx.GraphModule, stretch: Sequence[fx.Node]) -> str:
    names = [type(traced.get_submodule(str(node.target))).__name__ for node in stretch if node.op == "call_module"]
    return names[0] if names else "Functions"


def _make_dropout_a_module(traced: fx.GraphModule, name: str) -> None:
    """A traced functional dropout would go on dropping when the model is only asked for answers."""
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
