"""A layer made of a section of a traced graph, in training and in evaluation mode."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, fx, nn

from trainer.models.tracing import TracedModel, attach, user_path
from trainer.models.values import Values


@dataclass(frozen=True, slots=True)
class Section:
    """Operations from one cut to the next; `entry` and `exit`: the values that are needed across the cuts."""

    entry: tuple[fx.Node, ...]
    operations: tuple[fx.Node, ...]
    exit: tuple[fx.Node, ...]


class TracedLayer(nn.Module):
    """Runs a section; takes and returns one value, or a tuple where several cross the cut.

    Modules and parameters keep their paths in the user's module. `evaluation` None: as `training`.
    """

    def __init__(self, traced: TracedModel, training: Section, evaluation: Section | None) -> None:
        super().__init__()
        for section in filter(None, (training, evaluation)):
            for target in _targets(section):
                attach(self, user_path(target), traced.root, str(target))
        own = dict(self.named_modules())
        self._modes = {mode: {path: flag for path, flag in flags.items() if path in own}
                       for mode, flags in traced.modes.items()}
        self._run_training = _compile(self, training)
        self._run_evaluation = self._run_training if evaluation is None else _compile(self, evaluation)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; modules that the user's model keeps in one mode stay in it."""
        super().train(mode)
        for path, flag in self._modes[mode].items():
            self.get_submodule(path).training = flag
        return self

    def forward(self, values: Values) -> Values:
        """Run the section of the present mode."""
        return (self._run_training if self.training else self._run_evaluation)(self, values)


def _targets(section: Section) -> list[object]:
    """Return the attributes that a section uses; not those of which an earlier section made what passes through."""
    calls = [node.target for node in section.operations if node.op == "call_module"]
    attributes = [source.target for node in section.operations for source in node.all_input_nodes
                  if source.op == "get_attr"]
    return [*calls, *attributes, *(node.target for node in section.exit if node.op == "get_attr")]


def _compile(layer: nn.Module, section: Section) -> Callable[[nn.Module, Values], Values]:
    """Return the section as a function of the layer and its values."""
    graph = fx.Graph()
    source = graph.placeholder("values")
    copies: dict[fx.Node, fx.Node] = {}
    if len(section.entry) == 1:
        copies[section.entry[0]] = source
    else:
        for number, node in enumerate(section.entry):
            copies[node] = graph.call_function(operator.getitem, (source, number))

    def copy_of(node: fx.Node) -> fx.Node:
        if node not in copies:  # an attribute
            copies[node] = graph.get_attr(user_path(node.target))
        return copies[node]

    for node in section.operations:
        for needed in node.all_input_nodes:
            copy_of(needed)
        copies[node] = graph.node_copy(node, copy_of)
        if node.op == "call_module":
            copies[node].target = user_path(node.target)
    outputs = [copy_of(node) for node in section.exit]
    graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
    compiled: Any = type(fx.GraphModule(layer, graph))
    return compiled.forward  # type: ignore[no-any-return]


def live_nodes(
    start: fx.Node, operations: Sequence[fx.Node], result: fx.Node
) -> list[tuple[fx.Node, ...]]:
    """Return, before each operation and after the last, the computed values that are needed later."""
    last_use = {start: -1}
    for number, node in enumerate(operations):
        for needed in node.all_input_nodes:
            last_use[needed] = number
    last_use[result] = len(operations)
    live: list[fx.Node] = [start]
    rows = []
    for number, node in enumerate(operations):
        live = [needed for needed in live if last_use.get(needed, -1) >= number]
        rows.append(tuple(live))
        live.append(node)
    rows[:1] = [(start,)]
    return [*rows, (result,)]


def training_values(traced: TracedModel, values: Tensor, record: Callable[[str, Any], None]) -> None:
    """Run a copy of the training graph on a batch, with autograd's graph.

    `record` sees every value with its node's name when it is computed: a later operation may modify it in place.
    """
    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            record(n.name, result)
            return result

    module = fx.GraphModule(copy.deepcopy(traced.root), traced.training.input.graph)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        Recorder(module).run(values)
