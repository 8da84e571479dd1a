"""Graphs of a user's module in training and in evaluation mode.

torch.fx replaces `self.training` by its value when it traces, so a module is traced once in each mode. A submodule
that torch.fx cannot trace stays whole; where the module's own forward cannot be traced, torch.export is tried.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import math
import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree

from trainer.errors import UsageError
from trainer.models.boundary import PROBES
from trainer.models.lora import Adapted
from trainer.models.trace_guards import drawing_nothing, unchanged
from trainer.models.traced_functions import autograd_functions_stay_whole, without_gradient
from trainer.plugins import describe_error

_OWN = "own"
_PREFIX = _OWN + "."


class _OneInput(nn.Module):
    """Calls a module with the batch alone, so that its optional arguments keep their defaults."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own = own

    def forward(self, values: Tensor) -> Any:
        """Call the module."""
        return self.own(values)


@dataclass(frozen=True, slots=True)
class ModeGraph:
    """A graph of one mode: its input, its operations in order, and its result."""

    input: fx.Node
    operations: tuple[fx.Node, ...]
    result: fx.Node


@dataclass(frozen=True, slots=True)
class TracedModel:
    """The graphs of a module; `root` has the attributes that they name. `evaluation` None: as `training`.

    `modes`: the submodules that stay in the other mode when the model is set to training (True) or evaluation (False),
    such as frozen normalization; each with its mode.
    """

    root: nn.Module
    training: ModeGraph
    evaluation: ModeGraph | None
    modes: dict[bool, dict[str, bool]]

    def attribute(self, target: object) -> Any:
        """Return the module or tensor that a node names."""
        return operator.attrgetter(str(target))(self.root)


def user_path(target: object) -> str:
    """Return the path in the user's module that a node names."""
    return str(target).removeprefix(_PREFIX)


def trace(model: nn.Module, name: str, batch: Callable[[int], Tensor]) -> TracedModel:
    """Trace a module in both modes; it stays in training mode with its values as they were.

    Raises: UsageError if it does not make one tensor or cannot be traced.
    """
    values = {key: value.detach().clone() for key, value in model.state_dict().items()}
    quiet = contextlib.ExitStack()
    quiet.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # torch.export logs and prints what it cannot trace
    quiet.enter_context(contextlib.redirect_stdout(io.StringIO()))
    quiet.enter_context(contextlib.redirect_stderr(io.StringIO()))
    try:
        traced = _trace_with_fx(model, name)
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001 - torch.fx runs user code
        try:
            traced = _trace_with_export(model, name, batch)
        except UsageError:
            raise
        except Exception as export_error:  # noqa: BLE001 - torch.export runs user code
            raise UsageError(
                f"{name} can be traced neither by torch.fx ({describe_error(error)}) nor by torch.export "
                f"({_first_sentence(describe_error(export_error))}). Return an nn.Sequential of modules instead: what "
                "depends on values may be inside any of them."
            ) from error
    finally:
        quiet.close()
        logging.disable(logging.NOTSET)
        model.train()
        model.load_state_dict(values)
    return traced


def _first_sentence(text: str, longest: int = 200) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."


def check_inputs(model: nn.Module, name: str) -> None:
    """Check that a module takes the batch and nothing else that is required.

    Raises: UsageError.
    """
    parameters = list(inspect.signature(model.forward).parameters.values())
    required = [parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty
                and parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    if len(required) > 1:
        raise UsageError(f"{name} takes {len(required)} inputs ({', '.join(required)}); it must take one, the batch.")


class _Tracer(fx.Tracer):
    """Traces through the user's module; a submodule whose forward cannot be traced becomes one node."""

    proxy_buffer_attributes = True

    def __init__(self, own: nn.Module) -> None:
        super().__init__(autowrap_modules=(math, torch.nn.utils.rnn))  # type: ignore[arg-type]
        self._own = own
        self._constants = set[fx.Node]()
        """What was made without gradients."""

    def create_proxy(
        self, kind: str, target: fx.node.Target, args: tuple[Any, ...], kwargs: dict[str, Any], *rest: Any, **named: Any
    ) -> fx.Proxy:
        """Make a node; of what is computed in `torch.no_grad` the inputs are constants, which torch.fx does not know.
        """
        if torch.is_grad_enabled() or kind in ("placeholder", "get_attr", "output"):
            return super().create_proxy(kind, target, args, kwargs, *rest, **named)
        args, kwargs = fx.node.map_aggregate((args, kwargs), self._constant)
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        if kind == "call_module":  # its parameters are no inputs of it
            return self._constant_proxy(proxy)
        self._constants.add(proxy.node)
        return proxy

    def _constant(self, value: Any) -> Any:
        is_variable = isinstance(value, fx.Proxy) and value.node not in self._constants
        return self._constant_proxy(value) if is_variable else value

    def _constant_proxy(self, value: fx.Proxy) -> fx.Proxy:
        proxy = super().create_proxy("call_function", without_gradient, (value,), {})
        self._constants.add(proxy.node)
        return proxy

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is one node: those of torch.nn and adapted ones, unless it is the user's whole model.
        """
        return m is not self._own and (isinstance(m, Adapted) or super().is_leaf_module(m, module_qualified_name))

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace into a module, or make it one node."""
        before = len(self.graph.nodes)
        try:
            with unchanged(m), drawing_nothing():
                return super().call_module(m, forward, args, kwargs)
        except Exception:
            if m is self._own:
                raise
            for node in list(self.graph.nodes)[:before - 1 : -1]:
                self.graph.erase_node(node)
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def _trace_with_fx(model: nn.Module, name: str) -> TracedModel:
    root = _OneInput(model)
    graphs, modes = [], {}
    for training in (True, False):
        root.train(training)
        modes[training] = _other_modes(model, training)
        with unchanged(model), drawing_nothing(), autograd_functions_stay_whole():
            graph = _Tracer(model).trace(root)
        graphs.append(_mode_graph(graph, name))
    return _traced(root, graphs, modes)


def _trace_with_export(model: nn.Module, name: str, batch: Callable[[int], Tensor]) -> TracedModel:
    """Trace by torch.export, whose operators are those of ATen and whose parameters are attributes."""
    root = _OneInput(model)
    modules, modes = [], {}
    samples = torch.export.Dim("samples", min=1)
    for training in (True, False):
        root.train(training)
        modes[training] = _other_modes(model, training)
        with drawing_nothing():
            program = torch.export.export(root, (batch(PROBES[0]),), dynamic_shapes=({0: samples},), strict=False)
        modules.append(program.module(check_guards=False))
    holder = nn.Module()
    for module in modules:
        for node in module.graph.nodes:
            if node.op == "get_attr":
                attach(holder, str(node.target), root if _has(root, str(node.target)) else module)
    return _traced(holder, [_mode_graph(module.graph, name) for module in modules], modes)


def _has(module: nn.Module, path: str) -> bool:
    """Return whether a module has an attribute at that path; the constants of a trace are in the traced module only."""
    try:
        operator.attrgetter(path)(module)
    except AttributeError:
        return False
    return True


def attach(module: nn.Module, path: str, source: nn.Module, source_path: str | None = None) -> None:
    """Set a module, parameter or buffer of `source` at a path of `module`, with empty modules on the way."""
    source_parent, _, name = (source_path or path).rpartition(".")
    value_holder = operator.attrgetter(source_parent)(source) if source_parent else source
    value = getattr(value_holder, name)
    *parents, last = path.split(".")
    for parent in parents:
        if not hasattr(module, parent):
            module.add_module(parent, nn.Module())
        module = getattr(module, parent)
    if hasattr(module, last):
        return
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        is_stored = name in value_holder._buffers and name not in value_holder._non_persistent_buffers_set
        module.register_buffer(last, value, persistent=is_stored)
    else:
        setattr(module, last, value)


def _other_modes(model: nn.Module, training: bool) -> dict[str, bool]:
    return {path: module.training for path, module in model.named_modules() if module.training != training}


def _traced(root: nn.Module, graphs: Sequence[ModeGraph], modes: dict[bool, dict[str, bool]]) -> TracedModel:
    training, evaluation = graphs
    return TracedModel(root, training, None if _are_equal(training, evaluation) else evaluation, modes)


def _mode_graph(graph: fx.Graph, name: str) -> ModeGraph:
    nodes = list(graph.nodes)
    for node in nodes:
        node.meta.pop("is_wrapped", None)  # else the code made of the graph disturbs later traces
    source = next(node for node in nodes if node.op == "placeholder")
    result = next(node for node in nodes if node.op == "output").args[0]
    if isinstance(result, fx.Node) and isinstance(result.target, type) and issubclass(result.target, tuple):
        nodes.remove(result)  # torch.fx makes a named tuple by an operation
        result = (result.args, result.kwargs)
    made = [leaf for leaf in _pytree.tree_leaves(result) if isinstance(leaf, fx.Node)]
    if len(made) != 1 or isinstance(result, str):
        raise UsageError(f"{name} returns {result!r}; it must return one tensor.")
    (result,) = made  # alone, or in a tuple or mapping
    return ModeGraph(source, tuple(node for node in nodes if node.op not in ("placeholder", "output", "get_attr")),
                     result)


def _are_equal(first: ModeGraph, second: ModeGraph) -> bool:
    """Return whether two graphs call the same with the same arguments."""
    if len(first.operations) != len(second.operations):
        return False
    twins = {second.input: first.input, **dict(zip(second.operations, first.operations, strict=True))}

    def twin(node: fx.Node) -> object:
        return twins.get(node, (node.op, node.target))

    def own(node: fx.Node) -> object:
        return (node.op, node.target) if node.op == "get_attr" else node

    return all(
        (a.op, a.target) == (b.op, b.target)
        and repr(fx.map_arg((a.args, a.kwargs), own)) == repr(fx.map_arg((b.args, b.kwargs), twin))  # type: ignore[arg-type]
        for a, b in zip(first.operations, second.operations, strict=True)
    ) and twins.get(second.result) is first.result
