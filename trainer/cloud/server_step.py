"""The cloud's half of a step, of the edges that one process serves: from their segments to the optimizer steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from trainer.cloud import edge_checks
from trainer.cloud.compute_pool import ComputePool
from trainer.cloud.edge_replica import EdgeReplica
from trainer.cloud.edge_session import EdgeSession
from trainer.cloud.step_segments import ReadyMicroBatch, StepSegments
from trainer.cloud.step_timing import StepTransfers
from trainer.errors import DivergedError, ProtocolError, TrainingFailedError
from trainer.models.rng import RandomStream
from trainer.models.shared_trunk import MicroBatch, train_together
from trainer.models.split_model import MiddleModel
from trainer.models.values import to_device
from trainer.plugins import is_plugin_name
from trainer.protocol import messages, segments
from trainer.protocol.codec import Codec
from trainer.transport.connection import ReceivedFrame
from trainer.transport.pacing import SentFrame

_Reply = tuple[messages.Message, dict[str, Tensor]]
"""A message and its tensors."""
_Result = tuple[messages.Message, dict[str, Tensor], float]
"""A message, its tensors and the loss."""

PASSES_PER_THREAD = 4
"""Passes that are computed together, so that a thread whose passes are short need not wait."""

_Outcome = tuple["list[_Result | DivergedError] | TrainingFailedError | ProtocolError", float]
"""What a pass came to, and how long it took in seconds."""
_Finish = tuple[messages.StepDone, EdgeReplica, StepTransfers]
"""An edge that has completed its part of the step."""

Send = Callable[[EdgeSession, messages.Message, Mapping[str, Tensor] | None], SentFrame | None]
"""Sends to an edge; None if its connection is lost."""
GiveUp = Callable[[EdgeSession, ProtocolError | TrainingFailedError], None]
"""Excludes an edge that sent what is not possible, or whose values the model fails on."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What the cloud's half of a step needs to know.

    `serial`: tells a step from one that is repeated; `steps`: of a round; `codecs`, `gradient_codecs`: by edge;
    `timeout_s`: the longest that a step can take; `max_samples`: in one pass.
    """

    serial: int
    number: int
    step: int
    steps: int
    seed: int
    codecs: Mapping[str, Codec]
    gradient_codecs: Mapping[str, Codec]
    timeout_s: float
    max_samples: int

    @property
    def mini_batch(self) -> int:
        """The number of the mini-batch in the run."""
        return (self.number - 1) * self.steps + self.step


class ServerStep:
    """Computes the cloud's half as messages arrive; `transfers` has by edge what was sent and when.

    `replicas`: of the edges that are served, as they are at any time: one that is lost is not in it. `pool`: its
    threads compute for several edges at once.
    """

    def __init__(
        self, plan: StepPlan, replicas: Mapping[str, EdgeReplica], send: Send, give_up: GiveUp,
        pool: ComputePool | None = None,
    ) -> None:
        self.plan = self._plan = plan
        self.transfers: dict[str, StepTransfers] = {}
        self._replicas = replicas
        self._send = send
        self._exclude = give_up
        self._began_at_s = time.time()
        self._segments = StepSegments(plan.mini_batch)
        self._pool = ComputePool() if pool is None else pool
        self._passes = 1 if self._pool.threads == 1 else PASSES_PER_THREAD * self._pool.threads
        self._finishing: list[_Finish] = []

    def add(self, replica: EdgeReplica, transfers: StepTransfers) -> None:
        """Begin the step of an edge."""
        self.transfers[replica.name] = transfers
        transfers.saved_bytes = self._segments.expect(replica)

    @property
    def has_ready(self) -> bool:
        """Whether `train_ready` has work."""
        return self._segments.has_ready or bool(self._finishing)

    def train_ready(self) -> None:
        """Compute for micro-batches whose segments are all there, else the optimizer steps of edges that are done."""
        if self._segments.has_ready:
            self._train(self._segments.take_passes(self._plan.max_samples, self._passes))
        else:
            self._finish_all()

    def expected_frames(self, replica: EdgeReplica) -> int:
        """Return the number of frames with segments and tail gradients that an edge sends in this step."""
        return self._segments.count(replica.name) + (replica.micro_batches if replica.has_tail_gradients else 0)

    def awaits(self, message: messages.Message) -> bool:
        """Return whether a message belongs to this step."""
        return (isinstance(message, messages.Segment | messages.TailGradient | messages.StepDone)
                and message.step == self._plan.step)

    def handle(self, name: str, received: ReceivedFrame) -> None:
        """Process a message of an edge in this step."""
        replica, transfers, message = self._replicas[name], self.transfers[name], received.frame.message
        try:
            if isinstance(message, messages.StepDone):
                self._train_all_of(replica)
                self._check_done(message, received, replica, transfers)
                transfers.done_s = received.arrival_s
                self._finishing.append((message, replica, transfers))
                if self._pool.threads == 1:
                    self._finish_all()
            else:
                assert isinstance(message, messages.Segment | messages.TailGradient)
                self._process(message, received, replica, transfers)
        except (ProtocolError, TrainingFailedError) as error:  # the values of this edge led to it
            self._give_up(replica, error)

    def _give_up(self, replica: EdgeReplica, error: ProtocolError | TrainingFailedError) -> None:
        self._segments.forget(replica)
        self._exclude(replica.session, error)

    def _check_done(
        self, done: messages.StepDone, received: ReceivedFrame, replica: EdgeReplica, transfers: StepTransfers
    ) -> None:
        complete = transfers.segments == replica.micro_batches and (
            not replica.has_tail_gradients or transfers.tail_gradients == replica.micro_batches)
        gradients = replica.micro_batches if replica.has_gradients else 0
        tail_inputs = replica.micro_batches if isinstance(replica.model, MiddleModel) else 0
        counts = (len(done.gradients_received_s), len(done.tail_inputs_received_s))
        if not complete or counts != (gradients, tail_inputs):
            raise ProtocolError(f"it completed step {self._plan.step} before all gradients were sent.")
        if (done.loss is None) == isinstance(replica.model, MiddleModel):
            who = "the edges" if done.loss is None else "the cloud"
            raise ProtocolError(f"it ended step {self._plan.step} as if {who} had no labels.")
        sent_s = [frame.send_s for frame in transfers.sent_down[-replica.micro_batches:]]
        if isinstance(replica.model, MiddleModel):
            sent_s = [self._began_at_s] * replica.micro_batches
        edge_checks.check_step_done(done, sent_s, received.arrival_s, transfers.offset_s, self._plan.timeout_s,
                                    -math.inf if is_plugin_name(replica.objective.loss) else 0.0)

    def _process(
        self, message: messages.Segment | messages.TailGradient, received: ReceivedFrame, replica: EdgeReplica,
        transfers: StepTransfers,
    ) -> None:
        """Take a micro-batch's segment, which is trained now or with others, or the gradient of its tail.

        Raises: ProtocolError if the message is not valid, TrainingFailedError if the model fails on it.
        """
        edge_checks.check_sent_time(received.frame.sent_s, received.arrival_s, transfers.offset_s, self._plan.timeout_s)
        transfers.sent_up.append(SentFrame(received.frame.sent_s, received.frame.size_bytes))
        transfers.arrived_up_s.append(received.arrival_s)
        began = time.perf_counter()
        try:
            if isinstance(message, messages.Segment):
                self._segments.check_order(message, transfers, replica)
                if message.batch_samples != replica.batch:
                    raise ProtocolError(f"its mini-batch has {message.batch_samples} samples; it must have "
                                        f"{replica.batch}.")
                transfers.arrived_s = received.arrival_s
                self._add_segment(message.micro, received.frame.tensors, replica, transfers)
            else:
                transfers.tail_gradients = _next_micro_batch(message, transfers.tail_gradients, replica)
                self._answer(replica, transfers, *self._process_tail_gradient(message, received.frame.tensors, replica))
        except ProtocolError as error:
            kind = type(message).__name__
            raise ProtocolError(f"it sent a {kind} that does not fit cut {replica.cut}: {error}") from error
        transfers.cloud_s += time.perf_counter() - began
        if self._pool.threads > 1:
            if self._segments.arrived >= self._passes:
                self.train_ready()
        elif isinstance(message, messages.Segment) and not replica.shares_trunk:
            self._train_all_of(replica)
        elif self._segments.arrived_samples >= self._plan.max_samples:
            self.train_ready()

    def _answer(
        self, replica: EdgeReplica, transfers: StepTransfers, answer: messages.Message, tensors: Mapping[str, Tensor]
    ) -> None:
        """Send the result of a micro-batch, unless it is the gradient of a frozen part."""
        if not isinstance(answer, messages.Gradient) or replica.has_gradients:
            sent = self._send(replica.session, answer, tensors)
            if sent is not None:
                transfers.sent_down.append(sent)

    def _add_segment(
        self, micro: int, tensors: Mapping[str, Tensor], replica: EdgeReplica, transfers: StepTransfers
    ) -> None:
        """Check and decode a segment and its labels.

        Raises: ProtocolError.
        """
        samples = self._segments.samples_awaited(replica.name, micro)
        used = self._plan.codecs[replica.name]
        values = segments.decode_segment("segment", tensors, replica.boundary, samples, used)
        names = segments.segment_names("segment", replica.boundary, used)
        edge_checks.check_names(tensors, names if isinstance(replica.model, MiddleModel) else [*names, "labels"])
        edge_checks.check_values(values, replica.integers if replica.cut == 0 else None)
        labels = None if isinstance(replica.model, MiddleModel) else edge_checks.labels_of(
            tensors, samples, replica.classes, replica.objective)
        is_last = transfers.segments_sent == self._segments.count(replica.name)
        self._segments.add(replica, micro, tensors, values, labels, is_last)

    def _train_all_of(self, replica: EdgeReplica) -> None:
        """Train all that is ready of an edge, with others where they share a pass."""
        while batches := self._segments.take(self._plan.max_samples, first_of=replica):
            self._train([batches])

    def _train(self, passes: Sequence[Sequence[ReadyMicroBatch]]) -> None:
        """Compute the cloud's part of micro-batches, those of a pass together, and send each edge its result.

        Where the model fails on several, each is tried alone, so that only the edge that it fails on is excluded.
        """
        served = ([ready for ready in batches if self._is_served(ready.replica)] for batches in passes)
        passes = [batches for batches in served if batches]
        began = time.perf_counter()
        durations_s: list[float] = []
        failed: list[ReadyMicroBatch] = []
        with self._pool.each(self._outcome, passes) as outcomes:
            for batches, (outcome, duration_s) in zip(passes, outcomes, strict=True):
                durations_s.append(duration_s)
                if isinstance(outcome, list):
                    self._answer_all(batches, outcome)
                elif len(batches) == 1 or isinstance(outcome, ProtocolError):
                    self._give_up(batches[0].replica, outcome)
                else:
                    failed += batches
        self._share_time(time.perf_counter() - began, [
            (ready.replica, duration_s * ready.samples / sum(each.samples for each in batches))
            for batches, duration_s in zip(passes, durations_s, strict=True) for ready in batches])
        for ready in failed:
            self._train([[ready]])

    def _is_served(self, replica: EdgeReplica) -> bool:
        """Whether its edge is not lost."""
        return self._replicas.get(replica.name) is replica

    def _outcome(self, batches: Sequence[ReadyMicroBatch]) -> _Outcome:
        """Compute a pass; runs in a thread of the pool."""
        began = time.perf_counter()
        try:
            outcome: list[_Result | DivergedError] | TrainingFailedError | ProtocolError = self._compute(batches)
        except (TrainingFailedError, ProtocolError) as error:
            outcome = error
        return outcome, time.perf_counter() - began

    def _answer_all(self, batches: Sequence[ReadyMicroBatch], results: Sequence[_Result | DivergedError]) -> None:
        """Send the results of a pass."""
        for ready, result in zip(batches, results, strict=True):
            replica, transfers = ready.replica, self.transfers[ready.replica.name]
            transfers.segments += 1
            if isinstance(result, DivergedError):
                self._give_up(replica, result)
            else:
                answer, tensors, loss = result
                transfers.loss += loss
                self._answer(replica, transfers, answer, tensors)

    def _share_time(self, elapsed_s: float, work: Sequence[tuple[EdgeReplica, float]]) -> None:
        """Divide time of this process among the edges by the seconds of work for each."""
        total_s = sum(work_s for _, work_s in work) or 1.0
        for replica, work_s in work:
            self.transfers[replica.name].cloud_s += elapsed_s * work_s / total_s

    def _compute(self, batches: Sequence[ReadyMicroBatch]) -> list[_Result | DivergedError]:
        """Return message, tensors and loss of every micro-batch.

        Raises: ProtocolError, ModelFailedError.
        """
        together, plan = [], self._plan
        for ready in batches:
            replica, micro = ready.replica, ready.micro
            values, labels = ready.load()
            values = to_device(values, replica.device)
            stream = RandomStream(plan.seed, replica.name, plan.number, plan.step, micro)
            if isinstance(replica.model, MiddleModel):
                outputs = replica.model.forward(micro, values, stream, replica.boundary.needs_gradient)
                tail = replica.boundaries[replica.model.stage.last]
                tensors = segments.encode_segment("tail_input", outputs, tail, replica.samples_of(micro),
                                                  plan.codecs[replica.name])
                return [(messages.TailInput(step=self._plan.step, micro=micro), tensors, 0.0)]
            assert labels is not None
            together.append(MicroBatch(replica.model, values, labels.to(replica.device), replica.batch, stream))
        leading = batches[0].replica
        if len(together) > 1:
            made = train_together(together, leading.boundaries, leading.joint)
        else:
            made = [together[0].train(leading.boundary.needs_gradient)]
        return [self._gradient(ready, *result) for ready, result in zip(batches, made, strict=True)]

    def _gradient(
        self, ready: ReadyMicroBatch, gradients: Sequence[Tensor | None], loss: float
    ) -> _Result | DivergedError:
        name = ready.replica.name
        if not math.isfinite(loss):
            return DivergedError(f"The loss of {name} is {loss}: training has diverged. Lower --learning-rate.")
        return (messages.Gradient(step=self._plan.step, micro=ready.micro),
                self._encode_gradients(gradients, ready.replica), loss)

    def _process_tail_gradient(
        self, back: messages.TailGradient, tensors: Mapping[str, Tensor], replica: EdgeReplica
    ) -> _Reply:
        if not isinstance(replica.model, MiddleModel) or not replica.has_tail_gradients:
            raise ProtocolError("it sent a tail gradient although it has no tail, or none that needs one.")
        tail = replica.boundaries[replica.model.stage.last]
        used = self._plan.gradient_codecs[replica.name]
        arrived = segments.decode_gradients("tail_gradient", tensors, tail, replica.samples_of(back.micro), used)
        edge_checks.check_names(tensors, segments.gradient_names("tail_gradient", tail, used))
        edge_checks.check_values([gradient for gradient in arrived if gradient is not None])
        gradients = replica.model.backward(back.micro, to_device(arrived, replica.device))
        return messages.Gradient(step=back.step, micro=back.micro), self._encode_gradients(gradients, replica)

    def _encode_gradients(self, gradients: Sequence[Tensor | None], replica: EdgeReplica) -> dict[str, Tensor]:
        used = self._plan.gradient_codecs[replica.name]
        return segments.encode_gradients("gradient", gradients, replica.boundary, used)

    def _finish_all(self) -> None:
        """Complete the step of the edges that are done; the optimizer steps run now because no gradient is pending."""
        finishing = [each for each in self._finishing if self._is_served(each[1])]
        self._finishing.clear()
        began, durations_s = time.perf_counter(), []
        with self._pool.each(self._optimize, [replica for _, replica, _ in finishing]) as durations:
            for (done, _, transfers), duration_s in zip(finishing, durations, strict=True):
                durations_s.append(duration_s)
                transfers.done = done
                transfers.loss += done.loss or 0.0
        self._share_time(time.perf_counter() - began, [
            (replica, duration_s) for (_, replica, _), duration_s in zip(finishing, durations_s, strict=True)])

    def _optimize(self, replica: EdgeReplica) -> float:
        """Make the optimizer step of an edge; return its duration in seconds. Runs in a thread of the pool."""
        began = time.perf_counter()
        replica.model.step(self._plan.mini_batch)
        return time.perf_counter() - began


def _next_micro_batch(message: messages.TailGradient, expected: int, replica: EdgeReplica) -> int:
    """Check that the message is of the expected micro-batch; return the number of the next one."""
    if message.micro != expected or expected >= replica.micro_batches:
        raise ProtocolError(f"it sent a TailGradient of micro-batch {message.micro} instead of {expected}.")
    return expected + 1
