"""One mini-batch on the edge: forward, wait for the common training delay, send, take the gradients back, learn."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer import codec, datasets, messages
from trainer.cloud_link import CloudLink
from trainer.errors import ProtocolError
from trainer.halves import EdgeHalf
from trainer.parts import split_evenly
from trainer.randomness import RandomStream
from trainer.transport import Received


class StepGivenUpError(ProtocolError):
    """In the middle of a step the cloud said something else; `received` is what."""

    code = "step_given_up"

    def __init__(self, received: Received) -> None:
        super().__init__(f"The cloud sent {type(received.frame.message).__name__} in the middle of a step.")
        self.received = received


@dataclass
class _Times:
    """What one step took, in seconds of wall clock."""

    forward_s: float = 0.0
    backward_s: float = 0.0
    late_s: float = 0.0
    gradients_received_s: list[float] = field(default_factory=list)


class EdgeStep:
    """Runs steps for one edge; which samples a step takes follows from seed, round and step alone."""

    def __init__(
        self, link: CloudLink, half: EdgeHalf, inputs: Tensor, labels: Tensor, recipe: messages.Prepare, name: str,
        index: int,
    ) -> None:
        self._link = link
        self._half = half
        self._inputs = inputs
        self._labels = labels
        self._recipe = recipe
        self._name = name
        self._index = index
        self._batch = min(recipe.batch, len(labels))
        self._micros = split_evenly(self._batch, recipe.micro)

    @property
    def micro_batch(self) -> Tensor:
        """The inputs of a largest micro-batch, to rehearse with."""
        return self._inputs[self._micros[-1]]

    def run(self, start: messages.Start, plan: messages.Plan) -> None:
        """One step.

        Raises: StepGivenUpError if the cloud goes on with something else.
        """
        times = _Times()
        samples = self._samples(start)
        wait_until(start.start_s)
        began = time.perf_counter()
        segments = [
            self._half.forward(self._inputs[samples[micro]], self._stream(start, number))
            for number, micro in enumerate(self._micros)
        ]
        times.forward_s = time.perf_counter() - began
        send_at_s = start.start_s + plan.training_delay_s
        times.late_s = max(0.0, time.time() - send_at_s)
        wait_until(send_at_s)
        for micro, segment in enumerate(segments):
            tensors = {
                **codec.encode("segment", segment, plan.codec),
                "labels": self._labels[samples[self._micros[micro]]].to(torch.uint8),
            }
            message = messages.Segment(step=start.step, micro=micro, batch_samples=self._batch)
            self._link.connection.send(message, tensors)
        for micro in range(len(segments)):
            self._take_gradient(start.step, micro, times)
        began = time.perf_counter()
        self._half.step()
        times.backward_s += time.perf_counter() - began
        self._link.connection.send(
            messages.StepDone(step=start.step, forward_s=times.forward_s, backward_s=times.backward_s,
                              late_s=times.late_s, gradients_received_s=times.gradients_received_s)
        )

    def _stream(self, start: messages.Start, micro: int) -> RandomStream:
        return RandomStream(self._recipe.seed, self._name, start.round, start.step, micro)

    def _samples(self, start: messages.Start) -> Tensor:
        seed = self._recipe.seed * 1009 + self._index
        number = (start.round - 1) * self._recipe.steps + start.step
        return datasets.batch_places(len(self._labels), self._batch, seed, number)

    def _take_gradient(self, step: int, micro: int, times: _Times) -> None:
        received = self._link.receive()
        message = received.frame.message
        if not isinstance(message, messages.Gradient) or (message.step, message.micro) != (step, micro):
            raise StepGivenUpError(received)
        times.gradients_received_s.append(received.arrival_s)
        began = time.perf_counter()
        try:
            gradient = codec.decode("gradient", received.frame.tensors)
        except KeyError:
            raise ProtocolError(f"The cloud sent no gradient for micro-batch {micro} of step {step}.") from None
        self._half.backward(micro, gradient)
        times.backward_s += time.perf_counter() - began


def wait_until(instant_s: float) -> None:
    """Sleep until that time of day."""
    while (left := instant_s - time.time()) > 0:
        time.sleep(left)
