"""One mini-batch on the edge: all forward, sent on the common beat, backward as the gradients come, learn.

Forward goes first: it is what the network and the cloud wait for. The next step's begins as soon as the layers have
learnt from this one, before the cloud has said when its segments leave.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer import codec, datasets, messages
from trainer.beat import Beat
from trainer.cloud_link import CloudLink
from trainer.errors import ProtocolError
from trainer.halves import EdgeHalf
from trainer.parts import split_evenly
from trainer.randomness import RandomStream
from trainer.stopwatch import Stopwatch
from trainer.transport import Received


class StepGivenUpError(ProtocolError):
    """In the middle of a step the cloud said something else; `received` is what."""

    code = "step_given_up"

    def __init__(self, received: Received) -> None:
        super().__init__(f"The cloud sent {type(received.frame.message).__name__} in the middle of a step.")
        self.received = received


@dataclass
class _Times:
    """What one step took, in seconds."""

    forward: Stopwatch = field(default_factory=Stopwatch)
    backward: Stopwatch = field(default_factory=Stopwatch)
    late_s: float = 0.0
    gradients_received_s: list[float] = field(default_factory=list)


@dataclass
class _Ahead:
    """A step that has begun: its samples, and the segments that are ready and not handed over."""

    round: int
    step: int
    samples: Tensor
    forwarded: int = 0
    segments: deque[dict[str, Tensor]] = field(default_factory=deque)
    times: _Times = field(default_factory=_Times)


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
        self._ahead: _Ahead | None = None

    @property
    def micro_batch(self) -> Tensor:
        """The inputs of a largest micro-batch, to rehearse with."""
        return self._inputs[self._micros[-1]]

    def run(self, start: messages.Start, plan: messages.Plan) -> None:
        """One step, and the next one's forward pass as far as it comes before the cloud's next word.

        Raises: StepGivenUpError if the cloud goes on with something else.
        """
        ahead = self._ahead
        if ahead is None or (ahead.round, ahead.step) != (start.round, start.step):
            ahead = self._begin(start.round, start.step)
        self._ahead, times = None, ahead.times
        with Beat(self._link.connection.send, start.first_s, plan.beat_s) as beat:
            for micro in range(len(self._micros)):
                segment = ahead.segments.popleft() if ahead.segments else self._forward(ahead, plan)
                beat.put(messages.Segment(step=start.step, micro=micro, batch_samples=self._batch), segment)
            for micro in range(len(self._micros)):
                self._take_gradient(start.step, micro, times)
            times.late_s = beat.finish()
        with times.backward:
            self._half.step()
        self._link.connection.send(
            messages.StepDone(
                step=start.step, forward_s=times.forward.wall_s, forward_cpu_s=times.forward.cpu_s,
                backward_s=times.backward.wall_s, backward_cpu_s=times.backward.cpu_s, late_s=times.late_s,
                gradients_received_s=times.gradients_received_s,
            )
        )
        if start.step + 1 < self._recipe.steps:
            self._work_ahead(self._begin(start.round, start.step + 1), plan)

    def _begin(self, number: int, step: int) -> _Ahead:
        self._half.give_up()  # what was begun and belongs to another step
        self._ahead = None
        return _Ahead(number, step, self._samples(number, step))

    def _work_ahead(self, ahead: _Ahead, plan: messages.Plan) -> None:
        self._ahead = ahead
        while len(ahead.segments) < len(self._micros) and not self._link.has_news:
            ahead.segments.append(self._forward(ahead, plan))

    def _forward(self, ahead: _Ahead, plan: messages.Plan) -> dict[str, Tensor]:
        """The next micro-batch forward: the tensors to send."""
        with ahead.times.forward:
            micro = ahead.forwarded
            samples = ahead.samples[self._micros[micro]]
            stream = RandomStream(self._recipe.seed, self._name, ahead.round, ahead.step, micro)
            tensors = codec.encode("segment", self._half.forward(self._inputs[samples], stream), plan.codec)
            tensors["labels"] = self._labels[samples].to(torch.uint8)
            ahead.forwarded += 1
        return tensors

    def _samples(self, number: int, step: int) -> Tensor:
        seed = self._recipe.seed * 1009 + self._index
        return datasets.batch_places(len(self._labels), self._batch, seed, (number - 1) * self._recipe.steps + step)

    def _take_gradient(self, step: int, micro: int, times: _Times) -> None:
        received = self._link.receive()
        message = received.frame.message
        if not isinstance(message, messages.Gradient) or (message.step, message.micro) != (step, micro):
            raise StepGivenUpError(received)
        times.gradients_received_s.append(received.arrival_s)
        with times.backward:
            try:
                gradient = codec.decode("gradient", received.frame.tensors)
            except KeyError:
                raise ProtocolError(f"The cloud sent no gradient for micro-batch {micro} of step {step}.") from None
            self._half.backward(micro, gradient)
