"""One mini-batch on the edge: forward passes, scheduled sending, backward passes as gradients arrive, optimizer step.

Forward passes come first because network and cloud depend on them. Those of the next step start right after the
optimizer step, before the cloud has announced when its segments are sent.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from trainer.data import dataset
from trainer.data.sending import SentSamples
from trainer.edge.cloud_connection import CloudConnection
from trainer.edge.send_schedule import SendSchedule
from trainer.errors import DivergedError, ProtocolError
from trainer.models.boundary import Boundary, has_gradients
from trainer.models.rng import RandomStream
from trainer.models.split_model import ClientModel
from trainer.models.stage import split_evenly
from trainer.profiling.cgroup_limit import CgroupCpuLimit
from trainer.profiling.slowdown import looser_limit
from trainer.profiling.stopwatch import Stopwatch
from trainer.protocol import messages, segments
from trainer.transport.connection import ReceivedFrame


class StepAbortedError(ProtocolError):
    """The cloud sent another message during a step; `received` is that message."""

    code = "step_given_up"

    def __init__(self, received: ReceivedFrame) -> None:
        super().__init__(f"The cloud sent {type(received.frame.message).__name__} during a step.")
        self.received = received


@dataclass
class _StepTimers:
    """Times and loss of a step."""

    forward: Stopwatch = field(default_factory=Stopwatch)
    backward: Stopwatch = field(default_factory=Stopwatch)
    tail: Stopwatch = field(default_factory=Stopwatch)
    loss: float = 0.0
    late_s: float = 0.0
    gradients_received_s: list[float] = field(default_factory=list)
    tail_inputs_received_s: list[float] = field(default_factory=list)


@dataclass
class _StepInProgress:
    """A started step: its samples and the computed segments that are not yet queued for sending.

    `to_send`: the samples of each micro-batch whose segments are sent; `sent_after`: all that are sent after it, if the
    cloud keeps them.
    """

    round: int
    step: int
    samples: Tensor
    to_send: list[Tensor]
    sent_after: SentSamples | None
    forwarded: int = 0
    segments: deque[dict[str, Tensor]] = field(default_factory=deque)
    times: _StepTimers = field(default_factory=_StepTimers)


class EdgeStep:
    """Runs the steps of an edge; the samples of a step depend only on seed, round and step."""

    def __init__(
        self,
        cloud: CloudConnection,
        model: ClientModel,
        inputs: Tensor,
        labels: Tensor,
        recipe: messages.Prepare,
        boundaries: Sequence[Boundary],
        name: str,
        index: int,
    ) -> None:
        self._cloud = cloud
        self._model = model
        self._boundaries = boundaries
        self._inputs = inputs
        self._labels = labels
        self._recipe = recipe
        self._name = name
        self._batch = min(recipe.batch, len(labels))
        self._micro_slices = split_evenly(self._batch, recipe.micro)
        self._next_step: _StepInProgress | None = None
        self.data_order = recipe.seed * 1009 + index
        """Seed of the order of mini-batches."""
        self._sent: SentSamples | None = None
        self._sent_for: tuple[int, str] | None = None
        self.computed_s = 0.0
        """CPU time of all forward and backward passes so far."""
        self._cgroup_limit = CgroupCpuLimit()
        self._cpu_limit = self._cgroup_limit.read()

    @property
    def _has_gradients(self) -> bool:
        """Whether gradients of its segments are sent to this edge: some of its layers are trained."""
        return has_gradients(self._boundaries, self._model.cut, self._recipe.tail)

    @property
    def micro_batch(self) -> Tensor:
        """The inputs of one of the largest micro-batches."""
        return self._inputs[self._micro_slices[-1]]

    def replace_data(self, inputs: Tensor, labels: Tensor) -> None:
        """Train on other samples from the next step on."""
        self._inputs, self._labels = inputs, labels
        self._next_step = None

    def keep_sent(self, plan: messages.Plan) -> None:
        """Remember from now on what is sent if the cloud keeps it; forget it with another cut or codec."""
        key = (plan.cut, plan.codec) if plan.keep else None
        if key is None or key != self._sent_for:
            self._sent = None if key is None else SentSamples(len(self._labels))
            self._sent_for = key
        self._next_step = None

    def forget_sent(self) -> None:
        """Forget what was sent: the cloud has kept nothing."""
        self._sent = self._sent_for = None

    def run(self, start: messages.StartStep, plan: messages.Plan) -> None:
        """Run a step, then forward passes of the next one until the cloud's next message.

        Raises: StepAbortedError if the cloud sends another message.
        """
        progress = self._next_step
        if progress is None or (progress.round, progress.step) != (start.round, start.step):
            progress = self._begin(start.round, start.step)
        self._next_step, times = None, progress.times
        with SendSchedule(self._cloud.connection.send, start.first_s, plan.period_s) as schedule:
            for micro, samples in enumerate(progress.to_send):
                if len(samples):
                    segment = progress.segments.popleft() if progress.segments else self._forward(progress, plan)
                    schedule.put(messages.Segment(step=start.step, micro=micro, batch_samples=self._batch), segment)
            self._sent = progress.sent_after
            self._process_replies(progress, plan)
            times.late_s = schedule.finish()
        with times.backward:
            self._model.step((start.round - 1) * self._recipe.steps + start.step)
        self.computed_s += times.forward.cpu_s + times.backward.cpu_s + times.tail.cpu_s
        previous_limit, self._cpu_limit = self._cpu_limit, self._cgroup_limit.read()
        self._cloud.connection.send(
            messages.StepDone(
                step=start.step,
                forward_s=times.forward.wall_s,
                forward_cpu_s=times.forward.cpu_s,
                backward_s=times.backward.wall_s,
                backward_cpu_s=times.backward.cpu_s,
                late_s=times.late_s,
                gradients_received_s=times.gradients_received_s,
                tail_inputs_received_s=times.tail_inputs_received_s,
                cpu_limit=looser_limit(previous_limit, self._cpu_limit),
                tail_s=times.tail.wall_s,
                loss=None if self._model.tail is None else times.loss,
            )
        )
        if start.step + 1 < self._recipe.steps:
            self._compute_ahead(self._begin(start.round, start.step + 1), plan)

    def _begin(self, number: int, step: int) -> _StepInProgress:
        self._model.abort_batch()  # drop activations of another step
        self._next_step = None
        samples = self._samples(number, step)
        micro_batches = [samples[part] for part in self._micro_slices]
        sent = None if self._sent is None else self._sent.copy()
        return _StepInProgress(number, step, samples, micro_batches if sent is None else sent.take(micro_batches), sent)

    def _compute_ahead(self, progress: _StepInProgress, plan: messages.Plan) -> None:
        self._next_step = progress
        while progress.forwarded < len(self._micro_slices) and not self._cloud.has_message:
            if not len(progress.to_send[progress.forwarded]):
                progress.forwarded += 1
                continue
            progress.segments.append(self._forward(progress, plan))

    def _forward(self, progress: _StepInProgress, plan: messages.Plan) -> dict[str, Tensor]:
        """Compute the next micro-batch forward; return the tensors to send."""
        while not len(progress.to_send[progress.forwarded]):
            progress.forwarded += 1
        with progress.times.forward:
            micro = progress.forwarded
            samples = progress.to_send[micro]
            stream = RandomStream(self._recipe.seed, self._name, progress.round, progress.step, micro)
            values = self._model.forward(self._inputs[samples], stream)
            tensors = segments.encode_segment("segment", values, self._boundaries[self._model.cut], len(samples),
                                              plan.codec)
            if self._model.tail is None:
                tensors["labels"] = segments.encode_labels(self._labels[samples],
                                                           self._recipe.objective.class_bytes)
            progress.forwarded += 1
        return tensors

    def _samples(self, number: int, step: int) -> Tensor:
        return dataset.batch_indices(len(self._labels), self._batch, self.data_order,
                                     (number - 1) * self._recipe.steps + step)

    def _process_replies(self, step: _StepInProgress, plan: messages.Plan) -> None:
        """Process the cloud's replies until every micro-batch has been through its backward pass, if it has one.

        The tail has priority, because network and cloud depend on it and on no backward pass.
        """
        tails: deque[ReceivedFrame] = deque()
        gradients: deque[ReceivedFrame] = deque()
        finished = trained = 0
        micros = len(self._micro_slices)
        tail_inputs = 0 if self._model.tail is None else micros
        awaited = micros if self._has_gradients else 0
        while finished < tail_inputs or trained < awaited:
            while self._cloud.has_message or not (tails or gradients):
                received = self._cloud.receive()
                match received.frame.message:
                    case messages.TailInput() if self._model.tail is not None:
                        tails.append(received)
                    case messages.Gradient():
                        gradients.append(received)
                    case _:
                        raise StepAbortedError(received)
            if tails:
                self._train_tail(step, finished, tails.popleft(), plan)
                finished += 1
            else:
                self._backward(step, trained, gradients.popleft())
                trained += 1

    def _train_tail(self, step: _StepInProgress, micro: int, received: ReceivedFrame, plan: messages.Plan) -> None:
        """Train the tail on a micro-batch and send the gradient of its inputs."""
        message, tail = received.frame.message, self._model.tail
        assert isinstance(message, messages.TailInput) and tail is not None
        if (message.step, message.micro) != (step.step, micro) or micro >= len(self._micro_slices):
            raise StepAbortedError(received)
        step.times.tail_inputs_received_s.append(received.arrival_s)
        with step.times.tail:
            samples = step.samples[self._micro_slices[micro]]
            boundary = self._boundaries[tail.cut]
            values = segments.decode_segment("tail_input", received.frame.tensors, boundary, len(samples))
            stream = RandomStream(self._recipe.seed, self._name, step.round, step.step, micro)
            gradients, loss = tail.train(values, self._labels[samples], self._batch, stream, boundary.needs_gradient)
            tensors = segments.encode_gradients("tail_gradient", gradients, boundary, plan.gradient_codec)
        if not math.isfinite(loss):
            raise DivergedError(f"The loss is {loss}: training has diverged. Lower --learning-rate.")
        step.times.loss += loss
        if boundary.trained:
            self._cloud.connection.send(messages.TailGradient(step=step.step, micro=micro), tensors)

    def _backward(self, step: _StepInProgress, micro: int, received: ReceivedFrame) -> None:
        """Run the backward pass of a micro-batch."""
        message = received.frame.message
        assert isinstance(message, messages.Gradient)
        if (message.step, message.micro) != (step.step, micro):
            raise StepAbortedError(received)
        step.times.gradients_received_s.append(received.arrival_s)
        with step.times.backward:
            boundary = self._boundaries[self._model.cut]
            gradients = segments.decode_gradients("gradient", received.frame.tensors, boundary,
                                                  len(step.to_send[micro]))
            self._model.backward(micro, gradients)
