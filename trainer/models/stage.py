"""A pipeline stage: a range of a model's layers with their optimisers.

Every layer that has trained parameters has its own optimiser. SGD, momentum, Adam and AdamW update elementwise, so many
small optimisers compute what one large one would, and a layer's optimiser state can move with the layer.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from trainer.errors import ProtocolError
from trainer.models.boundary import call_layer
from trainer.models.frozen import Unchanging, frozen_names, trained_parameters
from trainer.models.optimizer import OptimizerConfig
from trainer.models.rng import RandomStream
from trainer.models.values import Values, tensors_of
from trainer.models.without_compiler import optimizer_step


class Stage:
    """The layers [first, last) of a model; all layers are stored, only those in the range are trained.

    `unchanging`: for every layer the values that training does not change, which are never exported; None: the frozen
    parameters.
    """

    def __init__(
        self, layers: Sequence[nn.Module], first: int, last: int, optimizer: OptimizerConfig,
        unchanging: Unchanging | None = None,
    ) -> None:
        self.layers = list(layers)
        self.unchanging = tuple(map(frozen_names, self.layers)) if unchanging is None else unchanging
        self.first = first
        self.last = last
        self.optimizer = optimizer
        self._optimizers = [self._new_optimizer(layer) for layer in self.layers]
        self._anchors: list[list[Tensor]] = []
        self.set_anchors()

    def with_range(self, first: int, last: int) -> Stage:
        """Return a stage over another range that shares these layers and optimisers."""
        other = copy.copy(self)
        other.first, other.last = first, last
        return other

    def forward(self, values: Values, stream: RandomStream) -> Values:
        """Run the range over a micro-batch; random layers draw from `stream`.

        Raises: ModelFailedError if a layer fails.
        """
        device = tensors_of(values)[0].device
        for number in range(self.first, self.last):
            stream.seed_layer(number, device)
            values = call_layer(self.layers, number, values)
        return values

    def evaluate(self, values: Values, first: int = 0, last: int | None = None) -> Values:
        """Run the layers [first, last), by default all, in evaluation mode, without a graph.

        They are in training mode again afterwards.

        Raises: ModelFailedError if a layer fails.
        """
        with torch.no_grad():
            for number in range(first, len(self.layers) if last is None else last):
                layer = self.layers[number]
                layer.eval()
                try:
                    values = call_layer(self.layers, number, values)
                finally:
                    layer.train()
        return values

    def step(self, number: int = 0) -> None:
        """Apply and clear the gradients accumulated since the last step, at the rate of mini-batch `number`."""
        rate = self.optimizer.rate(number)
        if self.optimizer.proximal:
            self._add_proximal_gradients()
        for optimizer in self._optimizers[self.first : self.last]:
            if optimizer is not None:
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer_step(optimizer)
                optimizer.zero_grad()

    def set_anchors(self) -> None:
        """Let the proximal term pull all layers to their present values, which are those of the global model."""
        if self.optimizer.proximal:
            self._anchors[:] = [[value.detach().clone() for value in trained_parameters(layer)]
                                for layer in self.layers]

    def _add_proximal_gradients(self) -> None:
        for layer, anchors in zip(self.layers[self.first : self.last], self._anchors[self.first : self.last],
                                  strict=True):
            for parameter, anchor in zip(trained_parameters(layer), anchors, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - anchor, alpha=self.optimizer.proximal)

    def discard_gradients(self) -> None:
        """Clear the gradients accumulated since the last step without applying them."""
        for optimizer in self._optimizers[self.first : self.last]:
            if optimizer is not None:
                optimizer.zero_grad()

    def export_layers(self, first: int, last: int, for_averaging: bool = False) -> dict[str, Tensor]:
        """Return trained parameters, buffers and optimiser state of the layers [first, last).

        `for_averaging`: without a state that the averaging resets.

        Names: `<layer>.value.<name>` and `<layer>.state.<number of the parameter>.<name>`.
        """
        tensors: dict[str, Tensor] = {}
        for number in range(first, last):
            for name, value in self.changing_values(number).items():
                tensors[f"{number}.value.{name}"] = value
            optimizer = self._optimizers[number]
            if optimizer is None or (for_averaging and self.optimizer.reset):
                continue
            for index, state in optimizer.state_dict()["state"].items():
                for name, value in state.items():
                    if isinstance(value, Tensor):
                        tensors[f"{number}.state.{index}.{name}"] = value
        return tensors

    def import_layers(self, first: int, last: int, tensors: Mapping[str, Tensor]) -> None:
        """Load layers with their optimiser state, as `export_layers` returned them.

        Raises: ProtocolError if a layer is missing or does not fit.
        """
        values: dict[int, dict[str, Tensor]] = {number: {} for number in range(first, last)}
        states: dict[int, dict[int, dict[str, Tensor]]] = {number: {} for number in range(first, last)}
        try:
            for key, tensor in tensors.items():
                number, kind, rest = key.split(".", 2)
                if kind == "value":
                    values[int(number)][rest] = tensor
                else:
                    index, name = rest.split(".", 1)
                    states[int(number)].setdefault(int(index), {})[name] = tensor
            for layer in range(first, last):
                self._load(layer, values[layer])
                self._load_optimizer(layer, states[layer])
        except (KeyError, ValueError, RuntimeError) as error:
            raise ProtocolError(f"Layers {first}..{last} cannot be loaded: {error}.") from error

    def state_dict(self, first: int, last: int) -> dict[str, Tensor]:
        """Return trained parameters and buffers of the layers [first, last), without optimiser state: `<layer>.<name>`.
        """
        return {
            f"{number}.{name}": value
            for number in range(first, last)
            for name, value in self.changing_values(number).items()
        }

    def changing_values(self, number: int) -> dict[str, Tensor]:
        """Return the trained parameters and the buffers of a layer."""
        return {name: value for name, value in self.layers[number].state_dict().items()
                if name not in self.unchanging[number]}

    def unchanging_values(self) -> dict[str, Tensor]:
        """Return the values of all layers that training does not change: `<layer>.<name>`."""
        return {f"{number}.{name}": value for number, names in enumerate(self.unchanging)
                for name, value in self.layers[number].state_dict().items() if name in names}

    def trained_names(self, first: int, last: int) -> list[str]:
        """Return the names, as in `state_dict`, of the parameters of the layers [first, last) that are trained."""
        return [f"{number}.{name}" for number in range(first, last)
                for name, _ in self.layers[number].named_parameters() if name not in self.unchanging[number]]

    def unchanging_front(self) -> int:
        """Return the number of leading layers that training does not change; 0 if they have no parameters at all."""
        front = next((number for number in range(len(self.layers)) if self.changing_values(number)), len(self.layers))
        return front if any(self.unchanging[:front]) else 0

    def load_state_dict(self, values: Mapping[str, Tensor]) -> None:
        """Load trained parameters and buffers of *all* layers: the global model; moments are reset or stay.

        Raises: ProtocolError if a value is missing or does not fit.
        """
        self.load_layers(0, len(self.layers), values)
        self.continue_from_loaded()

    def load_layers(self, first: int, last: int, values: Mapping[str, Tensor]) -> None:
        """Load the layers [first, last) of the global model; `continue_from_loaded` follows when all are loaded.

        Raises: ProtocolError if a value is missing or does not fit.
        """
        try:
            for number in range(first, last):
                self._load(number, {name: values[f"{number}.{name}"] for name in self.changing_values(number)})
        except (KeyError, RuntimeError) as error:
            raise ProtocolError(f"The model does not fit: {error}.") from error

    def continue_from_loaded(self) -> None:
        """Continue from the loaded layers: the proximal term pulls to them; moments are reset or stay."""
        self.set_anchors()
        if self.optimizer.reset:
            for number in range(len(self.layers)):
                self._load_optimizer(number, {})

    def _load(self, number: int, values: Mapping[str, Tensor]) -> None:
        """Load all values of a layer that training changes, and no others.

        Raises: KeyError, RuntimeError.
        """
        expected = self.changing_values(number).keys()
        if wrong := values.keys() ^ expected:
            raise KeyError(f"{number}.{min(wrong)}")
        self.layers[number].load_state_dict(values, strict=False)

    def _new_optimizer(self, layer: nn.Module) -> torch.optim.Optimizer | None:
        parameters = trained_parameters(layer)
        return self.optimizer.build(parameters) if parameters else None

    def _load_optimizer(self, number: int, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        optimizer = self._optimizers[number]
        if optimizer is None:
            return
        optimizer.zero_grad()
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": {index: dict(tensors) for index, tensors in state.items()},
                                   "param_groups": groups})


def split_evenly(samples: int, pieces: int) -> list[slice]:
    """Divide `samples` into at most `pieces` non-empty slices whose sizes differ by at most one."""
    pieces = max(1, min(pieces, samples))
    bounds = [samples * number // pieces for number in range(pieces + 1)]
    return [slice(first, last) for first, last in pairwise(bounds)]
