"""The two sides of a mini-batch, and the three pieces of one whose labels stay on the edge.

Usually the edge runs the layers [0, cut) and the cloud [cut, L) with the loss (`ClientModel`, `ServerModel`). With
labels protected the model is bent to a U: the edge runs [0, cut), the cloud [cut, tail) (`MiddleModel`), and the
edge again [tail, L) with the loss, as a `ServerModel` of its own. That costs one more way there and back for every
micro-batch: the outputs of the middle down, their gradient up.
Source: Vepakomma et al. 2018, "Split learning for health", figure 1 (b).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from trainer.errors import ProtocolError
from trainer.models.rng import RandomStream
from trainer.models.stage import Stage


def hides_labels(layers: Sequence[nn.Module], tail: int) -> bool:
    """Whether a tail from that layer on keeps labels on the edge.

    Without parameters it would not: its input is then as good as the model's outputs, and the gradient of those is
    softmax minus label.
    """
    return any(True for layer in layers[tail:] for _ in layer.parameters())


class ClientModel:
    """An edge's side of a mini-batch: the layers [0, cut), and with labels protected those of the `tail`, too."""

    def __init__(self, part: Stage, tail: int | None = None) -> None:
        self.part = part
        self.tail = None if tail is None else ServerModel(part.beside(tail, len(part.layers)))
        self._segments: list[Tensor] = []

    @property
    def cut(self) -> int:
        """How many leading layers run here."""
        return self.part.last

    def move(self, cut: int, arriving: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Move the cut: take over the layers that come, return those that leave, with their optimiser state.

        Raises: ProtocolError if `cut` is beyond the model or its tail, or what comes does not fit.
        """
        self._check(cut)
        old = self.cut
        self.part.adopt_layers(old, max(old, cut), arriving)
        self.part.last = cut
        return self.part.export_layers(min(old, cut), old)

    def export_layers(self) -> dict[str, Tensor]:
        """All layers that are trained here, with their optimiser state."""
        layers = self.part.export_layers(0, self.cut)
        if self.tail is not None:
            layers |= self.tail.part.export_layers(self.tail.cut, len(self.part.layers))
        return layers

    def restore(self, cut: int, layers: Mapping[str, Tensor]) -> None:
        """Take over the whole model, and forget what was begun.

        Raises: ProtocolError if it does not fit.
        """
        self._check(cut)
        self.give_up()
        self.part.adopt_layers(0, len(self.part.layers), layers)
        self.part.last = cut

    def _check(self, cut: int) -> None:
        last = len(self.part.layers) if self.tail is None else self.tail.cut
        if not 0 <= cut <= last:
            raise ProtocolError(f"Cut {cut} was planned; it lies between 0 and {last} for this model.")

    def forward(self, samples: Tensor, stream: RandomStream) -> Tensor:
        """Run one micro-batch (N, ...); returns its segment, free of the graph, kept here for `backward`."""
        segment = self.part.forward(samples, stream)
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

    def give_up(self) -> None:
        """Forget a mini-batch that is not ended, and what was gathered of its gradients."""
        self._segments.clear()
        self.part.forget_gradients()
        if self.tail is not None:
            self.tail.part.forget_gradients()

    def step(self) -> None:
        """End the mini-batch: update the layers."""
        self._segments.clear()
        self.part.step()
        if self.tail is not None:
            self.tail.step()


class _CloudSide:
    """What both halves in the cloud have in common: where they begin, and how that moves."""

    def __init__(self, part: Stage) -> None:
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

    def step(self) -> None:
        """End the mini-batch: update the layers."""
        self.part.step()


class ServerModel(_CloudSide):
    """The cloud's side of one edge's mini-batch: the layers [cut, L) and the loss."""

    def train(
        self, segment: Tensor, labels: Tensor, batch_samples: int, stream: RandomStream
    ) -> tuple[Tensor, float]:
        """Forward and backward of one micro-batch of a mini-batch of `batch_samples`.

        Returns the gradient of the segment and the micro-batch's share of the mini-batch's mean loss: summed
        over the micro-batches, both equal those of the undivided mini-batch.
        """
        leaf = segment.detach().requires_grad_()
        outputs = self.part.forward(leaf, stream)
        loss = nn.functional.cross_entropy(outputs, labels, reduction="sum") / batch_samples
        loss.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return leaf.grad, loss.item()


class MiddleModel(_CloudSide):
    """The cloud's side where labels are protected: the layers [cut, tail), which never see a label."""

    def __init__(self, part: Stage) -> None:
        super().__init__(part)
        self._waiting: dict[int, tuple[Tensor, Tensor]] = {}

    def forward(self, micro: int, segment: Tensor, stream: RandomStream) -> Tensor:
        """Run one micro-batch; returns the outputs for the edge's tail, free of the graph."""
        leaf = segment.detach().requires_grad_()
        outputs = self.part.forward(leaf, stream)
        self._waiting[micro] = (leaf, outputs)
        return outputs.detach()

    def backward(self, micro: int, gradient: Tensor) -> Tensor:
        """Propagate the gradient of the outputs of that micro-batch; returns that of its segment.

        Raises: ProtocolError if there are no such outputs or the shape differs.
        """
        leaf, outputs = self._waiting.pop(micro, (None, None))
        if leaf is None or outputs is None or gradient.shape != outputs.shape:
            raise ProtocolError(f"Gradient of shape {tuple(gradient.shape)} for micro-batch {micro} fits nothing.")
        outputs.backward(gradient)  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return leaf.grad
