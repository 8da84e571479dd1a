"""One mini-batch on the edge: all forward, sent on the common beat, backward as the gradients come, learn.

Forward goes first: it is what the network and the cloud wait for. The next step's begins as soon as the layers have
learnt from this one, before the cloud has said when its segments leave.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.data import dataset
from trainer.edge.cloud_connection import CloudLink
from trainer.edge.send_schedule import SendSchedule
from trainer.errors import DivergedError, ProtocolError
from trainer.models.rng import RandomStream
from trainer.models.split_model import ClientModel
from trainer.models.stage import split_evenly
from trainer.profiling.cgroup_limit import OwnLimit
from trainer.profiling.slowdown import widest
from trainer.profiling.stopwatch import Stopwatch
from trainer.protocol import codec, messages
from trainer.transport.connection import Received


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
    tail: Stopwatch = field(default_factory=Stopwatch)
    loss: float = 0.0
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
        self, link: CloudLink, half: ClientModel, inputs: Tensor, labels: Tensor, recipe: messages.Prepare, name: str,
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
        self._own_limit = OwnLimit()
        self._limit = self._own_limit.read()

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
        with SendSchedule(self._link.connection.send, start.first_s, plan.beat_s) as beat:
            for micro in range(len(self._micros)):
                segment = ahead.segments.popleft() if ahead.segments else self._forward(ahead, plan)
                beat.put(messages.Segment(step=start.step, micro=micro, batch_samples=self._batch), segment)
            self._take_answers(ahead, plan)
            times.late_s = beat.finish()
        with times.backward:
            self._half.step()
        before, self._limit = self._limit, self._own_limit.read()
        self._link.connection.send(
            messages.StepDone(
                step=start.step, forward_s=times.forward.wall_s, forward_cpu_s=times.forward.cpu_s,
                backward_s=times.backward.wall_s, backward_cpu_s=times.backward.cpu_s, late_s=times.late_s,
                gradients_received_s=times.gradients_received_s, cpu_limit=widest(before, self._limit),
                tail_s=times.tail.wall_s,
                loss=None if self._half.tail is None else times.loss,
            )
        )
        if start.step + 1 < self._recipe.steps:
            self._work_ahead(self._begin(start.round, start.step + 1), plan)

    def _begin(self, number: int, step: int) -> _Ahead:
        self._half.abort_batch()  # what was begun and belongs to another step
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
            if self._half.tail is None:
                tensors["labels"] = self._labels[samples].to(torch.uint8)
            ahead.forwarded += 1
        return tensors

    def _samples(self, number: int, step: int) -> Tensor:
        seed = self._recipe.seed * 1009 + self._index
        return dataset.batch_indices(len(self._labels), self._batch, seed, (number - 1) * self._recipe.steps + step)

    def _take_answers(self, step: _Ahead, plan: messages.Plan) -> None:
        """Learn from every micro-batch, as the cloud's answers come.

        The tail goes first, because network and cloud wait for it and for no backward pass.
        """
        tails: deque[Received] = deque()
        gradients: deque[Received] = deque()
        finished = learnt = 0
        while learnt < len(self._micros):
            while self._link.has_news or not (tails or gradients):
                received = self._link.receive()
                match received.frame.message:
                    case messages.TailInput() if self._half.tail is not None:
                        tails.append(received)
                    case messages.Gradient():
                        gradients.append(received)
                    case _:
                        raise StepGivenUpError(received)
            if tails:
                self._finish(step, finished, tails.popleft(), plan)
                finished += 1
            else:
                self._learn(step, learnt, gradients.popleft())
                learnt += 1

    def _finish(self, step: _Ahead, micro: int, received: Received, plan: messages.Plan) -> None:
        """Tail and loss of a micro-batch; the gradient goes back at once."""
        message, tail = received.frame.message, self._half.tail
        assert isinstance(message, messages.TailInput) and tail is not None
        if (message.step, message.micro) != (step.step, micro) or micro >= len(self._micros):
            raise StepGivenUpError(received)
        with step.times.tail:
            values = codec.decode("tail_input", received.frame.tensors)
            labels = self._labels[step.samples[self._micros[micro]]]
            stream = RandomStream(self._recipe.seed, self._name, step.round, step.step, micro)
            try:
                gradient, loss = tail.train(values, labels, self._batch, stream)
            except (RuntimeError, IndexError, ValueError) as error:
                raise ProtocolError(f"What the cloud sent for the tail fits nothing: {error}.") from error
            tensors = codec.encode("tail_gradient", gradient, plan.gradient_codec)
        if not math.isfinite(loss):
            raise DivergedError(f"The loss is {loss}: training has diverged. Lower --learning-rate.")
        step.times.loss += loss
        self._link.connection.send(messages.TailGradient(step=step.step, micro=micro), tensors)

    def _learn(self, step: _Ahead, micro: int, received: Received) -> None:
        """Backward of a micro-batch."""
        message = received.frame.message
        assert isinstance(message, messages.Gradient)
        if (message.step, message.micro) != (step.step, micro):
            raise StepGivenUpError(received)
        step.times.gradients_received_s.append(received.arrival_s)
        with step.times.backward:
            self._half.backward(micro, codec.decode("gradient", received.frame.tensors))
