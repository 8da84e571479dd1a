"""A range of a model's layers with their optimisers: run it, cut it, move a layer with its state.

Every layer that has parameters has its own optimiser. SGD, momentum, Adam and AdamW treat each element alone,
so many small optimisers compute what one large one would, and the state of a layer can move with the layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from trainer.errors import ProtocolError

OptimizerName = Literal["sgd", "momentum", "adam", "adamw"]


@dataclass(frozen=True, slots=True)
class OptimizerRecipe:
    """How a layer learns; `weight_decay` is the L2 regularization."""

    name: OptimizerName = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4

    @property
    def copies(self) -> int:
        """How many values move with each parameter: itself and what the optimiser keeps of it."""
        return {"sgd": 1, "momentum": 2, "adam": 3, "adamw": 3}[self.name]

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """An optimiser for the parameters of one layer."""
        rate, decay = self.learning_rate, self.weight_decay
        match self.name:
            case "sgd":
                return torch.optim.SGD(parameters, lr=rate, weight_decay=decay)
            case "momentum":
                return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay)
            case "adam":
                return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
            case "adamw":
                return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)


class Part:
    """The layers [first, last) of a model. All layers are held, only those in the range are trained."""

    def __init__(self, layers: Sequence[nn.Module], first: int, last: int, recipe: OptimizerRecipe) -> None:
        self.layers = list(layers)
        self.first = first
        self.last = last
        self._recipe = recipe
        self._optimizers = [self._new_optimizer(layer) for layer in self.layers]

    def forward(self, values: Tensor) -> Tensor:
        """Run the range over a batch."""
        for layer in self.layers[self.first : self.last]:
            values = layer(values)
        return values

    def step(self) -> None:
        """Apply the gradients gathered since the last step, and forget them."""
        for optimizer in self._optimizers[self.first : self.last]:
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad()

    def export_layers(self, first: int, last: int) -> dict[str, Tensor]:
        """Parameters, buffers and optimiser state of the layers [first, last).

        Names: `<layer>.value.<name>` and `<layer>.state.<number of the parameter>.<name>`.
        """
        tensors: dict[str, Tensor] = {}
        for number in range(first, last):
            for name, value in self.layers[number].state_dict().items():
                tensors[f"{number}.value.{name}"] = value
            optimizer = self._optimizers[number]
            if optimizer is None:
                continue
            for index, state in optimizer.state_dict()["state"].items():
                for name, value in state.items():
                    if isinstance(value, Tensor):
                        tensors[f"{number}.state.{index}.{name}"] = value
        return tensors

    def adopt_layers(self, first: int, last: int, tensors: Mapping[str, Tensor]) -> None:
        """Take over layers with their optimiser state, as `export_layers` gave them.

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
                self.layers[layer].load_state_dict(values[layer])
                self._load_optimizer(layer, states[layer])
        except (KeyError, ValueError, RuntimeError) as error:
            raise ProtocolError(f"Layers {first}..{last} cannot be taken over: {error}.") from error

    def values(self, first: int, last: int) -> dict[str, Tensor]:
        """Parameters and buffers, without optimiser state, of the layers [first, last): `<layer>.<name>`."""
        return {
            f"{number}.{name}": value
            for number in range(first, last)
            for name, value in self.layers[number].state_dict().items()
        }

    def load_values(self, values: Mapping[str, Tensor]) -> None:
        """Replace parameters and buffers of *all* layers; each layer keeps its optimiser state.

        Raises: ProtocolError if a value is missing or does not fit.
        """
        try:
            for number, layer in enumerate(self.layers):
                names = layer.state_dict().keys()
                layer.load_state_dict({name: values[f"{number}.{name}"] for name in names})
        except (KeyError, RuntimeError) as error:
            raise ProtocolError(f"The model does not fit: {error}.") from error

    def _new_optimizer(self, layer: nn.Module) -> torch.optim.Optimizer | None:
        parameters = list(layer.parameters())
        return self._recipe.build(parameters) if parameters else None

    def _load_optimizer(self, number: int, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        optimizer = self._optimizers[number]
        if optimizer is None:
            return
        optimizer.zero_grad()
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": {index: dict(tensors) for index, tensors in state.items()},
                                   "param_groups": groups})


class EdgeHalf:
    """An edge's side of a mini-batch: the layers [0, cut)."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self._segments: list[Tensor] = []

    @property
    def cut(self) -> int:
        """How many leading layers run here."""
        return self.part.last

    def move(self, cut: int, arriving: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Move the cut: take over the layers that come, return those that leave, with their optimiser state.

        Raises: ProtocolError if `cut` is beyond the model or what comes does not fit.
        """
        if not 0 <= cut <= len(self.part.layers):
            raise ProtocolError(f"Cut {cut} was planned; the model has {len(self.part.layers)} layers.")
        old = self.cut
        self.part.adopt_layers(old, max(old, cut), arriving)
        self.part.last = cut
        return self.part.export_layers(min(old, cut), old)

    def forward(self, images: Tensor) -> Tensor:
        """Run one micro-batch (N, C, H, W); returns its segment, free of the graph, kept here for `backward`."""
        segment = self.part.forward(images)
        self._segments.append(segment)
        return segment.detach()

    def backward(self, micro: int, gradient: Tensor) -> None:
        """Propagate the gradient of the segment of that micro-batch.

        Raises: ProtocolError if there is no such segment or the shape differs.
        """
        if not 0 <= micro < len(self._segments) or gradient.shape != self._segments[micro].shape:
            raise ProtocolError(f"Gradient of shape {tuple(gradient.shape)} for micro-batch {micro} fits nothing.")
        segment = self._segments[micro]
        if segment.requires_grad:
            segment.backward(gradient)  # type: ignore[no-untyped-call]

    def step(self) -> None:
        """End the mini-batch: update the layers."""
        self._segments.clear()
        self.part.step()


class CloudHalf:
    """The cloud's side of one edge's mini-batch: the layers [cut, L) and the loss."""

    def __init__(self, part: Part) -> None:
        self.part = part

    @property
    def cut(self) -> int:
        """The first layer that runs here."""
        return self.part.first

    def leaving(self, cut: int) -> dict[str, Tensor]:
        """The layers, with their optimiser state, that go to the edge when the cut moves to `cut`."""
        return self.part.export_layers(self.cut, max(self.cut, cut))

    def move(self, cut: int, arriving: Mapping[str, Tensor]) -> None:
        """Move the cut, taking over the layers that come from the edge.

        Raises: ProtocolError if what comes does not fit.
        """
        self.part.adopt_layers(min(self.cut, cut), self.cut, arriving)
        self.part.first = cut

    def train(self, segment: Tensor, labels: Tensor, batch_samples: int) -> tuple[Tensor, float]:
        """Forward and backward of one micro-batch of a mini-batch of `batch_samples`.

        Returns the gradient of the segment and the micro-batch's share of the mini-batch's mean loss: summed
        over the micro-batches, both equal those of the undivided mini-batch.
        """
        leaf = segment.detach().requires_grad_()
        outputs = self.part.forward(leaf)
        loss = nn.functional.cross_entropy(outputs, labels, reduction="sum") / batch_samples
        loss.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return leaf.grad, loss.item()

    def step(self) -> None:
        """End the mini-batch: update the layers."""
        self.part.step()


def split_evenly(samples: int, pieces: int) -> list[slice]:
    """Cut `samples` into at most `pieces` slices whose sizes differ by at most one; none is empty."""
    pieces = max(1, min(pieces, samples))
    bounds = [samples * number // pieces for number in range(pieces + 1)]
    return [slice(first, last) for first, last in pairwise(bounds)]
