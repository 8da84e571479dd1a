"""One mini-batch on every edge, driven by the cloud: a common start, then every segment is processed on arrival."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from trainer.cloud import edge_checks
from trainer.cloud.edge_manager import EdgeManager
from trainer.cloud.edge_replica import EdgeReplica
from trainer.cloud.edge_session import EdgeSession
from trainer.cloud.step_segments import ReadyMicroBatch, StepSegments
from trainer.cloud.step_timing import Direction, StepResult, StepTransfers
from trainer.config.stragglers import StragglerPolicy, step_deadline_s
from trainer.errors import DivergedError, ModelFailedError, ProtocolError, TrainerError, TrainingFailedError
from trainer.models.rng import RandomStream
from trainer.models.shared_trunk import MicroBatch, train_together
from trainer.models.split_model import MiddleModel
from trainer.models.values import to_device
from trainer.plugins import is_plugin_name
from trainer.protocol import codec, messages, segments
from trainer.records.run_record import milliseconds
from trainer.records.summary_file import Fields
from trainer.reservation.bandwidth import Grant
from trainer.transport.connection import ReceivedFrame
from trainer.transport.pacing import SentFrame, pace_bytes_per_s

START_LEAD_S = 0.005
"""Minimum time between the start message and the first send instant, for the message to arrive."""

_Reply = tuple[messages.Message, dict[str, Tensor]]
"""A message and its tensors."""
_Result = tuple[messages.Message, dict[str, Tensor], float]
"""A message, its tensors and the loss."""


class CloudStep:
    """A step from the common start until every active edge has completed it; `steps`: steps of a round.

    `earliest_s`: when every edge can have its first segment ready. Transfers of an edge that is lost stay without
    `done`.
    """

    def __init__(
        self, number: int, step: int, grant: Grant, edge_manager: EdgeManager, replicas: Mapping[str, EdgeReplica],
        gradient_codecs: Mapping[str, codec.Codec], seed: int, steps: int, on_late: Callable[[str, int], None],
        earliest_s: float,
    ) -> None:
        self.number = number
        self.step = step
        self._grant = grant
        self._edge_manager = edge_manager
        self._replicas = replicas
        self._gradient_codecs = gradient_codecs
        self._codecs = {edge.edge: edge.codec for edge in grant.plan.edges}
        self._seed = seed
        self._steps = steps
        self._initial_replicas = dict(replicas)
        self._on_late = on_late
        self._earliest_s = earliest_s
        self._first_s = earliest_s
        self.late: list[str] = []
        self._began_s = 0.0
        self._began_at_s = 0.0
        self._timeout_s = 0.0
        self._segments = StepSegments((number - 1) * steps + step)
        self._max_samples = max(replica.batch for replica in replicas.values())
        """Samples in one pass: of a mini-batch, so that the memory does not grow with the edges."""
        self.transfers = {
            name: StepTransfers(replica.session.offset_s, replica.session.mss_bytes, grant.up[name], grant.down[name],
                                grant.rates_are_assumed)
            for name, replica in replicas.items()
        }

    def run(self, policy: StragglerPolicy, late_factor: float, timeout_s: float) -> StepResult:
        """Run the step; after `timeout_s` an edge is dropped under any policy."""
        self._began_s = time.perf_counter()
        self._began_at_s, self._timeout_s = time.time(), timeout_s
        deadline_s = time.monotonic() + timeout_s
        late_s = time.monotonic() + step_deadline_s(self._grant.plan.step_s, late_factor)
        self._start()
        while busy := self._busy():
            item = self._edge_manager.receive(
                time.monotonic() if self._segments.has_ready else min(deadline_s, late_s))
            if item is not None:
                self._handle(*item)
            elif self._segments.has_ready:
                self._train(self._segments.take(self._max_samples))
            elif time.monotonic() >= deadline_s:
                for session in busy:
                    self._edge_manager.drop(session, f"it did not complete step {self.step} within {timeout_s:g} s.")
            elif time.monotonic() >= late_s:
                late_s = deadline_s
                self._handle_late(busy, policy, late_factor)
        return StepResult(self.step, time.perf_counter() - self._began_s, self._done())

    def unfinished(self) -> list[Fields]:
        """Return the transfers in progress with their age; fields as in `trainer.records.run_record`."""
        now_s = time.time()
        rows: list[Fields] = []
        for name, transfers in self.transfers.items():
            if transfers.done is None:
                rows += [
                    {"round": self.number, "edge": name, "direction": direction, "step": self.step,
                     "sent_at": round(sent_s, 4), "age_ms": milliseconds(now_s - sent_s),
                     "ideal_ms": milliseconds(self._ideal_s(name, direction))}
                    for direction, sent_s in self._in_progress(name, transfers) if sent_s < now_s
                ]
        return rows

    def _ideal_s(self, name: str, direction: Direction) -> float | None:
        """Return the planned time on the way of all payloads of a step; None if the rates are only assumed."""
        if self._grant.rates_are_assumed:
            return None
        plan = self._grant.plan
        edge = next(edge for edge in plan.edges if edge.edge == name)
        time_s = plan.micro_batches * (edge.up_s if direction == "up" else edge.down_s)
        return time_s * pace_bytes_per_s(8, self._initial_replicas[name].session.mss_bytes)

    def _in_progress(self, name: str, transfers: StepTransfers) -> Iterator[tuple[Direction, float]]:
        """Yield direction and start (cloud's clock): of the first frame if it has arrived, otherwise as planned."""
        replica = self._initial_replicas[name]
        expected = self._segments.count(name) + (replica.micro_batches if replica.has_tail_gradients else 0)
        if len(transfers.sent_up) < expected:
            sent_s = self._first_s
            prefix = replica.session.connection.partial_frame
            if transfers.sent_up:
                sent_s = transfers.sent_up[0].send_s - transfers.offset_s
            elif prefix is not None and prefix.kind == messages.Segment.kind:
                sent_s = prefix.sent_s - transfers.offset_s
            yield "up", sent_s
        if transfers.sent_down:
            yield "down", transfers.sent_down[0].send_s

    def _start(self) -> None:
        self._first_s = max(time.time() + START_LEAD_S, self._earliest_s)
        for name, replica in self._replicas.items():
            self.transfers[name].saved_bytes = self._segments.expect(replica)
        for session in self._edge_manager.sessions:
            self._edge_manager.send(
                session, messages.StartStep(round=self.number, step=self.step, first_s=self._first_s + session.offset_s)
            )

    def _busy(self) -> list[EdgeSession]:
        return [session for session in self._edge_manager.sessions if self.transfers[session.name].done is None]

    def _done(self) -> dict[str, StepTransfers]:
        return {name: transfers for name, transfers in self.transfers.items() if transfers.done is not None}

    def _handle_late(self, busy: list[EdgeSession], policy: StragglerPolicy, late_factor: float) -> None:
        for session in busy:
            self.late.append(session.name)
            self._on_late(session.name, self.step)
            if policy == "drop":
                self._edge_manager.drop(session, f"it exceeded its deadline of {late_factor:g} times the planned step.")
            elif policy == "shrink":
                replica = self._replicas[session.name]
                replica.max_cut = replica.cut // 2

    def _handle(self, session: EdgeSession, received: ReceivedFrame) -> None:
        """Process a message; drop the edge if the message is not valid in this step."""
        replica, transfers = self._replicas[session.name], self.transfers[session.name]
        match received.frame.message:
            case messages.Segment() | messages.TailGradient() as frame if frame.step == self.step:
                try:
                    self._process(frame, received, replica, transfers)
                except ProtocolError as error:
                    self._edge_manager.exclude(session, str(error))
                except TrainingFailedError as error:  # the values of this edge led to it
                    self._edge_manager.fail(session, error)
            case messages.StepDone() as done if done.step == self.step:
                self._train_all_of(replica)
                try:
                    self._check_done(done, received, replica, transfers)
                except ProtocolError as error:
                    self._edge_manager.exclude(session, str(error))
                else:
                    transfers.done_s = received.arrival_s
                    self._finish_edge(done, replica, transfers)
            case other:
                self._edge_manager.drop(session, f"it sent {type(other).__name__} during step {self.step}.")

    def _check_done(
        self, done: messages.StepDone, received: ReceivedFrame, replica: EdgeReplica, transfers: StepTransfers
    ) -> None:
        complete = transfers.segments == replica.micro_batches and (
            not replica.has_tail_gradients or transfers.tail_gradients == replica.micro_batches)
        gradients = replica.micro_batches if replica.has_gradients else 0
        tail_inputs = replica.micro_batches if isinstance(replica.model, MiddleModel) else 0
        counts = (len(done.gradients_received_s), len(done.tail_inputs_received_s))
        if not complete or counts != (gradients, tail_inputs):
            raise ProtocolError(f"it completed step {self.step} before all gradients were sent.")
        if (done.loss is None) == isinstance(replica.model, MiddleModel):
            who = "the edges" if done.loss is None else "the cloud"
            raise ProtocolError(f"it ended step {self.step} as if {who} had no labels.")
        sent_s = [frame.send_s for frame in transfers.sent_down[-replica.micro_batches:]]
        if isinstance(replica.model, MiddleModel):
            sent_s = [self._began_at_s] * replica.micro_batches
        edge_checks.check_step_done(done, sent_s, received.arrival_s, transfers.offset_s, self._timeout_s,
                                    -math.inf if is_plugin_name(replica.objective.loss) else 0.0)

    def _process(
        self, message: messages.Segment | messages.TailGradient, received: ReceivedFrame, replica: EdgeReplica,
        transfers: StepTransfers,
    ) -> None:
        """Take a micro-batch's segment, which is trained now or with others, or the gradient of its tail.

        Raises: ProtocolError if the message is not valid, TrainingFailedError if the model fails on it.
        """
        edge_checks.check_sent_time(received.frame.sent_s, received.arrival_s, transfers.offset_s, self._timeout_s)
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
        if isinstance(message, messages.Segment) and not replica.shares_trunk:
            self._train_all_of(replica)
        elif self._segments.arrived_samples >= self._max_samples:
            self._train(self._segments.take(self._max_samples))

    def _answer(
        self, replica: EdgeReplica, transfers: StepTransfers, answer: messages.Message, tensors: Mapping[str, Tensor]
    ) -> None:
        """Send the result of a micro-batch, unless it is the gradient of a frozen part."""
        if not isinstance(answer, messages.Gradient) or replica.has_gradients:
            sent = self._edge_manager.send(replica.session, answer, tensors)
            if sent is not None:
                transfers.sent_down.append(sent)

    def _add_segment(
        self, micro: int, tensors: Mapping[str, Tensor], replica: EdgeReplica, transfers: StepTransfers
    ) -> None:
        """Check and decode a segment and its labels.

        Raises: ProtocolError.
        """
        samples = self._segments.samples_awaited(replica.name, micro)
        used = self._codecs[replica.name]
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
        while batches := self._segments.take(self._max_samples, first_of=replica):
            self._train(batches)

    def _train(self, batches: Sequence[ReadyMicroBatch]) -> None:
        """Compute the cloud's part of micro-batches in one pass and send each edge its result.

        Where the model fails on several, each is tried alone, so that only the edge that it fails on is excluded.
        """
        batches = [ready for ready in batches if self._replicas.get(ready.replica.name) is ready.replica]  # not lost
        if not batches:
            return
        began = time.perf_counter()
        try:
            results = self._compute(batches)
        except ModelFailedError as error:
            if len(batches) == 1:
                self._give_up(batches[0].replica, error)
            for ready in batches if len(batches) > 1 else ():
                self._train([ready])
            return
        except ProtocolError as error:
            self._give_up(batches[0].replica, error)
            return
        share_s = (time.perf_counter() - began) / sum(ready.samples for ready in batches)
        for ready, result in zip(batches, results, strict=True):
            replica, transfers = ready.replica, self.transfers[ready.replica.name]
            began = time.perf_counter()
            transfers.segments += 1
            if isinstance(result, DivergedError):
                self._give_up(replica, result)
            else:
                answer, tensors, loss = result
                transfers.loss += loss
                self._answer(replica, transfers, answer, tensors)
            transfers.cloud_s += share_s * ready.samples + time.perf_counter() - began

    def _give_up(self, replica: EdgeReplica, error: TrainerError) -> None:
        """Exclude an edge that sent what is not possible, or whose values the model fails on."""
        self._segments.forget(replica)
        if isinstance(error, TrainingFailedError):
            self._edge_manager.fail(replica.session, error)
        else:
            self._edge_manager.exclude(replica.session, str(error))

    def _compute(self, batches: Sequence[ReadyMicroBatch]) -> list[_Result | DivergedError]:
        """Return message, tensors and loss of every micro-batch.

        Raises: ProtocolError, ModelFailedError.
        """
        together = []
        for ready in batches:
            replica, micro = ready.replica, ready.micro
            values, labels = ready.load()
            values = to_device(values, replica.device)
            stream = RandomStream(self._seed, replica.name, self.number, self.step, micro)
            if isinstance(replica.model, MiddleModel):
                outputs = replica.model.forward(micro, values, stream, replica.boundary.needs_gradient)
                tail = replica.boundaries[replica.model.stage.last]
                tensors = segments.encode_segment("tail_input", outputs, tail, replica.samples_of(micro),
                                                  self._codecs[replica.name])
                return [(messages.TailInput(step=self.step, micro=micro), tensors, 0.0)]
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
        return (messages.Gradient(step=self.step, micro=ready.micro),
                self._encode_gradients(gradients, ready.replica), loss)

    def _process_tail_gradient(
        self, back: messages.TailGradient, tensors: Mapping[str, Tensor], replica: EdgeReplica
    ) -> _Reply:
        if not isinstance(replica.model, MiddleModel) or not replica.has_tail_gradients:
            raise ProtocolError("it sent a tail gradient although it has no tail, or none that needs one.")
        tail = replica.boundaries[replica.model.stage.last]
        used = self._gradient_codecs[replica.name]
        arrived = segments.decode_gradients("tail_gradient", tensors, tail, used)
        edge_checks.check_names(tensors, segments.gradient_names("tail_gradient", tail, used))
        edge_checks.check_values([gradient for gradient in arrived if gradient is not None])
        gradients = replica.model.backward(back.micro, to_device(arrived, replica.device))
        return messages.Gradient(step=back.step, micro=back.micro), self._encode_gradients(gradients, replica)

    def _encode_gradients(self, gradients: Sequence[Tensor | None], replica: EdgeReplica) -> dict[str, Tensor]:
        used = self._gradient_codecs[replica.name]
        return segments.encode_gradients("gradient", gradients, replica.boundary, used)

    def _finish_edge(self, done: messages.StepDone, replica: EdgeReplica, transfers: StepTransfers) -> None:
        """Complete the step of an edge; the optimizer step runs now because no gradient is pending."""
        began = time.perf_counter()
        replica.model.step((self.number - 1) * self._steps + self.step)
        transfers.cloud_s += time.perf_counter() - began
        transfers.done = done
        transfers.loss += done.loss or 0.0


def _next_micro_batch(message: messages.TailGradient, expected: int, replica: EdgeReplica) -> int:
    """Check that the message is of the expected micro-batch; return the number of the next one."""
    if message.micro != expected or expected >= replica.micro_batches:
        raise ProtocolError(f"it sent a TailGradient of micro-batch {message.micro} instead of {expected}.")
    return expected + 1
