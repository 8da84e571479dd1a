"""One mini-batch on every edge, driven by the cloud: a common start, then every segment is processed on arrival."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from trainer.cloud import edge_checks
from trainer.cloud.edge_manager import EdgeManager
from trainer.cloud.edge_replica import EdgeReplica
from trainer.cloud.edge_session import EdgeSession
from trainer.cloud.step_timing import Direction, StepResult, StepTransfers
from trainer.config.objectives import Objective
from trainer.config.stragglers import StragglerPolicy, step_deadline_s
from trainer.errors import DivergedError, ProtocolError, TrainingFailedError
from trainer.models.rng import RandomStream
from trainer.models.split_model import MiddleModel
from trainer.models.values import Values, to_device
from trainer.plugins import is_plugin_name
from trainer.protocol import codec, messages, segments
from trainer.protocol.segments import segment_bytes
from trainer.records.run_record import milliseconds
from trainer.records.summary_file import Fields
from trainer.reservation.bandwidth import Grant
from trainer.transport.connection import ReceivedFrame
from trainer.transport.pacing import SentFrame, pace_bytes_per_s

START_LEAD_S = 0.005
"""Minimum time between the start message and the first send instant, for the message to arrive."""

_Reply = tuple[messages.Message, dict[str, Tensor]]
"""A message and its tensors."""


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
        self._kept: deque[tuple[EdgeSession, int]] = deque()
        """Micro-batches of which the cloud has all segments."""
        self._deferred: dict[str, list[int]] = {}
        """Of an edge: micro-batches that need nothing but segments of others in this step."""
        self._rows: dict[str, list[Tensor]] = {}
        """Of edges whose segments are kept: their samples in every micro-batch."""
        self._missing: dict[str, dict[int, Tensor]] = {}
        """Of every edge: the samples of every micro-batch whose segments are to arrive, in order."""
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
            item = self._edge_manager.receive(time.monotonic() if self._kept else min(deadline_s, late_s))
            if item is not None:
                self._handle(*item)
            elif self._kept:
                self._train_kept(*self._kept.popleft())
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
        expected = len(self._missing[name]) + (replica.micro_batches if replica.has_tail_gradients else 0)
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
            self._expect(name, replica)
        for session in self._edge_manager.sessions:
            self._edge_manager.send(
                session, messages.StartStep(round=self.number, step=self.step, first_s=self._first_s + session.offset_s)
            )

    def _expect(self, name: str, replica: EdgeReplica) -> None:
        """Find which segments will arrive: all, or of samples whose segments are not kept yet."""
        if replica.kept is None:
            self._missing[name] = {micro: torch.empty(replica.samples_of(micro))
                                   for micro in range(replica.micro_batches)}
            return
        rows = self._rows[name] = replica.micro_batches_of((self.number - 1) * self._steps + self.step)
        missing = replica.kept.sent.take(rows)
        self._missing[name] = {micro: samples for micro, samples in enumerate(missing) if len(samples)}
        self.transfers[name].saved_bytes = sum(
            segment_bytes(replica.boundary, len(all_rows), replica.kept.codec)
            - (segment_bytes(replica.boundary, len(samples), replica.kept.codec) if len(samples) else 0)
            for all_rows, samples in zip(rows, missing, strict=True))
        arriving = torch.cat(missing)
        complete = [micro for micro, samples in enumerate(missing) if not len(samples)]
        self._deferred[name] = [micro for micro in complete if bool(torch.isin(rows[micro], arriving).any())]
        self._kept += [(replica.session, micro) for micro in complete if micro not in self._deferred[name]]

    def _train_kept(self, session: EdgeSession, micro: int) -> None:
        """Compute the cloud's part of a micro-batch whose segments were all sent before."""
        replica, transfers = self._replicas.get(session.name), self.transfers[session.name]
        if replica is None or replica.session is not session:
            return  # lost since
        began = time.perf_counter()
        try:
            self._answer(replica, transfers, *self._train_rows(replica, transfers, micro))
        except ProtocolError as error:
            self._edge_manager.exclude(session, str(error))
        except TrainingFailedError as error:  # the values of this edge led to it
            self._edge_manager.fail(session, error)
        transfers.cloud_s += time.perf_counter() - began

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
                self._finish_kept(session)
                try:
                    self._check_done(done, received, replica, transfers)
                except ProtocolError as error:
                    self._edge_manager.exclude(session, str(error))
                else:
                    transfers.done_s = received.arrival_s
                    self._finish_edge(done, replica, transfers)
            case other:
                self._edge_manager.drop(session, f"it sent {type(other).__name__} during step {self.step}.")

    def _finish_kept(self, session: EdgeSession) -> None:
        """Train what is kept of an edge that has completed its part of the step."""
        own = [micro for other, micro in self._kept if other is session]
        self._kept = deque(item for item in self._kept if item[0] is not session)
        for micro in own:
            self._train_kept(session, micro)

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
        """Compute the cloud's part of a micro-batch and send the result.

        Raises: ProtocolError if the message is not valid, TrainingFailedError if the model fails on it or diverges.
        """
        edge_checks.check_sent_time(received.frame.sent_s, received.arrival_s, transfers.offset_s, self._timeout_s)
        transfers.sent_up.append(SentFrame(received.frame.sent_s, received.frame.size_bytes))
        transfers.arrived_up_s.append(received.arrival_s)
        began = time.perf_counter()
        try:
            if isinstance(message, messages.Segment):
                self._check_order(message, transfers, replica)
                if message.batch_samples != replica.batch:
                    raise ProtocolError(f"its mini-batch has {message.batch_samples} samples; it must have "
                                        f"{replica.batch}.")
                transfers.arrived_s = received.arrival_s
                answer, tensors = self._process_segment(message, received.frame.tensors, replica, transfers)
            else:
                transfers.tail_gradients = _next_micro_batch(message, transfers.tail_gradients, replica)
                answer, tensors = self._process_tail_gradient(message, received.frame.tensors, replica)
        except ProtocolError as error:
            kind = type(message).__name__
            raise ProtocolError(f"it sent a {kind} that does not fit cut {replica.cut}: {error}") from error
        self._answer(replica, transfers, answer, tensors)
        transfers.cloud_s += time.perf_counter() - began

    def _answer(
        self, replica: EdgeReplica, transfers: StepTransfers, answer: messages.Message, tensors: Mapping[str, Tensor]
    ) -> None:
        """Send the result of a micro-batch, unless it is the gradient of a frozen part."""
        if not isinstance(answer, messages.Gradient) or replica.has_gradients:
            sent = self._edge_manager.send(replica.session, answer, tensors)
            if sent is not None:
                transfers.sent_down.append(sent)

    def _check_order(self, message: messages.Segment, transfers: StepTransfers, replica: EdgeReplica) -> None:
        """Check that a segment is of the next micro-batch of which one must arrive.

        Raises: ProtocolError.
        """
        awaited = list(self._missing[replica.name])[transfers.segments_sent : transfers.segments_sent + 1]
        if [message.micro] != awaited:
            which = f"instead of {awaited[0]}" if awaited else "although none is awaited"
            raise ProtocolError(f"it sent a Segment of micro-batch {message.micro} {which}.")
        transfers.segments_sent += 1

    def _process_segment(
        self, segment: messages.Segment, tensors: Mapping[str, Tensor], replica: EdgeReplica, transfers: StepTransfers
    ) -> _Reply:
        micro = segment.micro
        samples = len(self._missing[replica.name][micro])
        used = self._codecs[replica.name]
        values = segments.decode_segment("segment", tensors, replica.boundary, samples, used)
        names = segments.segment_names("segment", replica.boundary, used)
        edge_checks.check_names(tensors, names if isinstance(replica.model, MiddleModel) else [*names, "labels"])
        edge_checks.check_values(values, replica.integers if replica.cut == 0 else None)
        labels = None if isinstance(replica.model, MiddleModel) else _labels(
            tensors, samples, replica.classes, replica.objective)
        if replica.kept is None:
            return self._train(replica, transfers, micro, values, labels)
        replica.kept.add(self._missing[replica.name][micro], tensors, labels)
        if transfers.segments_sent == len(self._missing[replica.name]):
            self._kept += [(replica.session, deferred) for deferred in self._deferred.pop(replica.name)]
        return self._train_rows(replica, transfers, micro)

    def _train_rows(self, replica: EdgeReplica, transfers: StepTransfers, micro: int) -> _Reply:
        """Compute the cloud's part of a micro-batch from kept segments."""
        assert replica.kept is not None
        rows = self._rows[replica.name][micro]
        labels = None if isinstance(replica.model, MiddleModel) else replica.kept.targets(rows)
        return self._train(replica, transfers, micro, replica.kept.values(rows), labels)

    def _train(
        self, replica: EdgeReplica, transfers: StepTransfers, micro: int, values: Values, labels: Tensor | None
    ) -> _Reply:
        step = self.step
        transfers.segments += 1
        values = to_device(values, replica.device)
        stream = RandomStream(self._seed, replica.name, self.number, step, micro)
        needed = replica.boundary.needs_gradient
        if isinstance(replica.model, MiddleModel):
            outputs = replica.model.forward(micro, values, stream, needed)
            tail = replica.boundaries[replica.model.stage.last]
            return messages.TailInput(step=step, micro=micro), segments.encode_segment(
                "tail_input", outputs, tail, replica.samples_of(micro), self._codecs[replica.name])
        assert labels is not None
        gradients, loss = replica.model.train(values, labels.to(replica.device), replica.batch, stream, needed)
        if not math.isfinite(loss):
            raise DivergedError(f"The loss of {replica.name} is {loss}: training has diverged. Lower --learning-rate.")
        transfers.loss += loss
        return messages.Gradient(step=step, micro=micro), self._encode_gradients(gradients, replica)

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


def _labels(
    tensors: Mapping[str, Tensor], samples: int, classes: int, objective: Objective
) -> Tensor:
    """Return the labels of a micro-batch: classes as int64, or values of that shape.

    Raises: ProtocolError if there are none, not one for every sample, of classes that do not exist, or not finite.
    """
    labels, target_shape = tensors.get("labels"), objective.target_shape
    kind, shape = (torch.uint8, (samples, *objective.class_shape)) if target_shape is None else (
        torch.float32, (samples, *target_shape))
    if labels is None or tuple(labels.shape) != shape or labels.dtype != kind:
        found = "missing" if labels is None else f"{labels.dtype} {tuple(labels.shape)}"
        raise ProtocolError(f"its labels are {found}; they must be {str(kind).removeprefix('torch.')} {shape}.")
    if target_shape is not None:
        if not bool(labels.isfinite().all()):
            raise ProtocolError("its labels are not finite.")
        return labels
    if int(labels.max()) >= classes:
        raise ProtocolError(f"its labels reach {int(labels.max())}; there are {classes} classes.")
    return labels.to(torch.int64)
