"""Split learning: the model divided between edge and cloud, in two parts or, with protected labels, in three.

Usually the edge runs the layers [0, cut) and the cloud [cut, L) with the loss (`ClientModel`, `ServerModel`). With
protected labels the split is U-shaped: the edge runs [0, cut), the cloud [cut, tail) (`MiddleModel`), and the edge
[tail, L) with the loss, as a local `ServerModel`. That costs another round trip for every micro-batch: the outputs of
the middle are sent down, their gradient up.
Source: Vepakomma et al. 2018, "Split learning for health", figure 1 (b).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.errors import ModelFailedError, ProtocolError
from trainer.models.objective import Loss
from trainer.models.rng import RandomStream
from trainer.models.stage import Stage
from trainer.models.values import Values, backward, detached, gradients_of, match, new_leaves
from trainer.plugins import describe_error


def tail_protects_labels(layers: Sequence[nn.Module], tail: int) -> bool:
    """Return whether a tail from that layer on protects the labels.

    Without trained parameters it does not: its input then determines the model's outputs, whose gradient is softmax
    minus label.
    """
    return any(parameter.requires_grad for layer in layers[tail:] for parameter in layer.parameters())


class ClientModel:
    """The edge's part of the model: the layers [0, cut), and with protected labels also the tail."""

    def __init__(self, stage: Stage, tail: int | None = None, loss: Loss = functional.cross_entropy) -> None:
        self.stage = stage
        self.tail = None if tail is None else ServerModel(stage.with_range(tail, len(stage.layers)), loss)
        self._segments: list[Values] = []

    @property
    def cut(self) -> int:
        """Number of leading layers that run on the edge."""
        return self.stage.last

    def move_cut(self, cut: int, arriving: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Move the cut: load the arriving layers, return the leaving ones, with their optimiser state.

        Raises: ProtocolError if `cut` is beyond the model or its tail, or `arriving` does not fit.
        """
        self._check_cut(cut)
        previous = self.cut
        self.stage.import_layers(previous, max(previous, cut), arriving)
        self.stage.last = cut
        return self.stage.export_layers(min(previous, cut), previous)

    def export_layers(self) -> dict[str, Tensor]:
        """Return all layers trained on the edge, with their optimiser state unless the averaging resets it."""
        layers = self.stage.export_layers(0, self.cut, for_averaging=True)
        if self.tail is not None:
            layers |= self.tail.stage.export_layers(self.tail.cut, len(self.stage.layers), for_averaging=True)
        return layers

    def value_names(self, trained_only: bool = False) -> list[str]:
        """Return the names, as in `Stage.state_dict`, of the values of these layers, in their order."""
        last = len(self.stage.layers)
        return [name for part in ((0, self.cut), (last if self.tail is None else self.tail.cut, last))
                for name in (self.stage.trained_names(*part) if trained_only else self.stage.state_dict(*part))]

    def restore(self, cut: int, layers: Mapping[str, Tensor]) -> None:
        """Load the whole model and abort the current mini-batch.

        Raises: ProtocolError if `layers` do not fit.
        """
        self._check_cut(cut)
        self.abort_batch()
        self.stage.import_layers(0, len(self.stage.layers), layers)
        self.stage.set_anchors()
        self.stage.last = cut

    def _check_cut(self, cut: int) -> None:
        last = len(self.stage.layers) if self.tail is None else self.tail.cut
        if not 0 <= cut <= last:
            raise ProtocolError(f"Cut {cut} was planned; it lies between 0 and {last} for this model.")

    def forward(self, samples: Tensor, stream: RandomStream) -> Values:
        """Run one micro-batch (N, ...); return its segment, detached; the graph is kept for `backward`.

        Raises: ModelFailedError.
        """
        segment = self.stage.forward(samples, stream)
        self._segments.append(segment)
        return detached(segment)

    def backward(self, micro: int, gradients: Sequence[Tensor | None]) -> None:
        """Backpropagate the gradients of the differentiable tensors of a micro-batch's segment.

        Raises: ProtocolError if there is no such segment or a shape differs, ModelFailedError.
        """
        if not 0 <= micro < len(self._segments) or not match(self._segments[micro], gradients):
            raise _unexpected(micro, gradients)
        backpropagate(self._segments[micro], gradients)

    def abort_batch(self) -> None:
        """Discard an unfinished mini-batch and its accumulated gradients."""
        self._segments.clear()
        self.stage.discard_gradients()
        if self.tail is not None:
            self.tail.stage.discard_gradients()

    def step(self, number: int = 0) -> None:
        """End mini-batch `number` of the run: update the parameters."""
        self._segments.clear()
        self.stage.step(number)
        if self.tail is not None:
            self.tail.step(number)


class _ServerSide:
    """Base of the cloud's parts: their first layer and how the cut moves."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    @property
    def cut(self) -> int:
        """The first layer that runs in the cloud."""
        return self.stage.first

    def layers_to_send(self, cut: int) -> dict[str, Tensor]:
        """Return the layers, with their optimiser state, that move to the edge for a new `cut`."""
        return self.stage.export_layers(self.cut, max(self.cut, cut))

    def move_cut(self, cut: int, arriving: Mapping[str, Tensor]) -> None:
        """Move the cut and load the layers that arrive from the edge.

        Raises: ProtocolError if `arriving` does not fit.
        """
        self.stage.import_layers(min(self.cut, cut), self.cut, arriving)
        self.stage.first = cut

    def step(self, number: int = 0) -> None:
        """End mini-batch `number` of the run: update the parameters."""
        self.stage.step(number)


class ServerModel(_ServerSide):
    """The cloud's part of one edge's model: the layers [cut, L) and the loss."""

    def __init__(self, stage: Stage, loss: Loss = functional.cross_entropy) -> None:
        super().__init__(stage)
        self._loss = loss

    def train(
        self, segment: Values, targets: Tensor, batch_samples: int, stream: RandomStream,
        needs_gradient: Sequence[bool] | None = None,
    ) -> tuple[list[Tensor | None], float]:
        """Run forward and backward for one micro-batch of a mini-batch of `batch_samples`.

        `targets`: classes (N,), or values (N, ...). `needs_gradient`: which differentiable tensors of the segment need
        a gradient, None: all; behind a frozen part none does, and no layer computes one for it.

        Returns the gradients of these tensors, and the micro-batch's contribution to the
        mini-batch's mean loss: summed over the micro-batches, both equal those of the undivided mini-batch.

        Raises: ModelFailedError.
        """
        leaves, values = new_leaves(segment, needs_gradient)
        loss = self.loss(self.stage.forward(values, stream), targets, batch_samples)
        backpropagate(loss, [torch.ones_like(loss)])
        return gradients_of(leaves), loss.item()

    def loss(self, outputs: Tensor, targets: Tensor, batch_samples: int) -> Tensor:
        """Return the contribution of a micro-batch to its mini-batch's mean loss."""
        return self._loss(outputs, targets) * (len(targets) / batch_samples)


class MiddleModel(_ServerSide):
    """The cloud's part with protected labels: the layers [cut, tail), which never receive labels."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self._awaiting_gradient: dict[int, tuple[list[Tensor], Values]] = {}

    def forward(
        self, micro: int, segment: Values, stream: RandomStream, needs_gradient: Sequence[bool] | None = None
    ) -> Values:
        """Run one micro-batch; return the outputs for the edge's tail, detached; `needs_gradient` as in `ServerModel`.

        Raises: ModelFailedError.
        """
        leaves, values = new_leaves(segment, needs_gradient)
        outputs = self.stage.forward(values, stream)
        self._awaiting_gradient[micro] = (leaves, outputs)
        return detached(outputs)

    def backward(self, micro: int, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Backpropagate the gradients of a micro-batch's outputs; return those of its segment.

        Raises: ProtocolError if there are no such outputs or a shape differs, ModelFailedError.
        """
        leaves, outputs = self._awaiting_gradient.pop(micro, (None, None))
        if leaves is None or not match(outputs, gradients):
            raise _unexpected(micro, gradients)
        backpropagate(outputs, gradients)
        return gradients_of(leaves)


def _unexpected(micro: int, gradients: Sequence[Tensor | None]) -> ProtocolError:
    shapes = " and ".join(str(tuple(gradient.shape)) for gradient in gradients if gradient is not None)
    return ProtocolError(f"Gradient of shape {shapes or '()'} for micro-batch {micro} does not match a forward pass.")


def backpropagate(values: Values, gradients: Sequence[Tensor | None]) -> None:
    """Backpropagate the gradients of values.

    Raises: ModelFailedError.
    """
    try:
        backward(values, gradients)
    except Exception as error:
        raise ModelFailedError(f"The backward pass of the model fails: {describe_error(error)}.") from error
