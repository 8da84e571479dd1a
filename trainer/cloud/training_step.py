"""One mini-batch on every edge, as the cloud conducts it: a common first beat, then every segment answered at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from trainer.cloud.edge_manager import EdgeManager
from trainer.cloud.edge_replica import EdgeReplica
from trainer.cloud.edge_session import EdgeSession
from trainer.cloud.step_timing import StepResult, StepTransfers
from trainer.config.stragglers import StragglerPolicy, step_deadline_s
from trainer.errors import ProtocolError
from trainer.models.rng import RandomStream
from trainer.models.split_model import MiddleModel
from trainer.protocol import codec, messages
from trainer.records.run_record import Fields, milliseconds
from trainer.reservation.bandwidth import Grant
from trainer.transport.connection import Received
from trainer.transport.pacing import SentFrame

LEAD_S = 0.005
"""How far ahead the first beat is announced at least, so that every edge hears of it in time."""

_Answer = tuple[messages.Message, str, Tensor, codec.Codec]
"""A message, its tensor with its name, and how that travels."""


class CloudStep:
    """One step, from the common start until every edge that is still there has ended it.

    `earliest_s`: before this instant some edge has no segment ready.

    An edge that is lost or dropped on the way leaves an exchange that is not done.
    """

    def __init__(
        self, number: int, step: int, grant: Grant, crew: EdgeManager, apprentices: Mapping[str, EdgeReplica],
        gradient_codecs: Mapping[str, codec.Codec], seed: int, tell_late: Callable[[str, int], None], earliest_s: float,
    ) -> None:
        self.number = number
        self.step = step
        self._grant = grant
        self._crew = crew
        self._apprentices = apprentices
        self._gradient_codecs = gradient_codecs
        self._codecs = {edge.edge: edge.codec for edge in grant.plan.edges}
        self._seed = seed
        self._began_with = dict(apprentices)
        self._tell_late = tell_late
        self._earliest_s = earliest_s
        self._first_s = earliest_s
        self.late: list[str] = []
        self._began = 0.0
        self.exchanges = {
            name: StepTransfers(one.member.offset_s, one.member.mss_bytes, grant.up[name], grant.down[name])
            for name, one in apprentices.items()
        }

    def run(self, policy: StragglerPolicy, late_factor: float, timeout_s: float) -> StepResult:
        """Run it. `timeout_s` ends the patience with an edge whatever the policy is."""
        self._began = time.perf_counter()
        deadline_s = time.monotonic() + timeout_s
        late_s = time.monotonic() + step_deadline_s(self._grant.plan.step_s, late_factor)
        self._start()
        while busy := self._busy():
            item = self._crew.receive(min(deadline_s, late_s))
            if item is not None:
                self._take(*item)
            elif time.monotonic() >= deadline_s:
                for member in busy:
                    self._crew.drop(member, f"it did not end step {self.step} within {timeout_s:g} s.")
            elif time.monotonic() >= late_s:
                late_s = deadline_s
                self._treat_late(busy, policy, late_factor)
        return StepResult(self.step, time.perf_counter() - self._began, self._done())

    def unfinished(self) -> list[Fields]:
        """The transfers that are still under way, with their age; rows as `trainer.records.run_record` names them."""
        now_s = time.time()
        rows: list[Fields] = []
        for name, exchange in self.exchanges.items():
            if exchange.done is None:
                rows += [
                    {"round": self.number, "edge": name, "direction": direction, "step": self.step,
                     "sent_at": round(sent_s, 4), "age_ms": milliseconds(now_s - sent_s),
                     "ideal_ms": milliseconds(self._grant.plan.uplink_s)}
                    for direction, sent_s in self._under_way(name, exchange) if sent_s < now_s
                ]
        return rows

    def _under_way(self, name: str, exchange: StepTransfers) -> Iterator[tuple[str, float]]:
        """Direction, and when it began (our clock): as the first frame says, else as it was planned."""
        one = self._began_with[name]
        if len(exchange.sent_up) < one.micros * (2 if isinstance(one.half, MiddleModel) else 1):
            sent_s = self._first_s
            prefix = one.member.connection.arriving
            if exchange.sent_up:
                sent_s = exchange.sent_up[0].send_s - exchange.offset_s
            elif prefix is not None and prefix.kind == messages.Segment.kind:
                sent_s = prefix.sent_s - exchange.offset_s
            yield "up", sent_s
        if exchange.sent_down:
            yield "down", exchange.sent_down[0].send_s

    def _start(self) -> None:
        self._first_s = max(time.time() + LEAD_S, self._earliest_s)
        for member in self._crew.members:
            self._crew.send(
                member, messages.Start(round=self.number, step=self.step, first_s=self._first_s + member.offset_s)
            )

    def _busy(self) -> list[EdgeSession]:
        return [member for member in self._crew.members if self.exchanges[member.name].done is None]

    def _done(self) -> dict[str, StepTransfers]:
        return {name: exchange for name, exchange in self.exchanges.items() if exchange.done is not None}

    def _treat_late(self, busy: list[EdgeSession], policy: StragglerPolicy, late_factor: float) -> None:
        for member in busy:
            self.late.append(member.name)
            self._tell_late(member.name, self.step)
            if policy == "drop":
                self._crew.drop(member, f"it was late: {late_factor:g} times the planned step had passed.")
            elif policy == "shrink":
                one = self._apprentices[member.name]
                one.cap = one.cut // 2

    def _take(self, member: EdgeSession, received: Received) -> None:
        """Deal with one message; who sends what cannot be is dropped."""
        one, exchange = self._apprentices[member.name], self.exchanges[member.name]
        match received.frame.message:
            case messages.Segment() | messages.TailGradient() as frame if frame.step == self.step:
                try:
                    self._answer(frame, received, one, exchange)
                except ProtocolError as error:
                    self._crew.drop(member, str(error))
            case messages.StepDone() as done if done.step == self.step:
                if len(done.gradients_received_s) != one.micros:
                    self._crew.drop(member, f"it ended step {self.step} before it had all gradients.")
                elif (done.loss is None) == isinstance(one.half, MiddleModel):
                    who = "the edges" if done.loss is None else "the cloud"
                    self._crew.drop(member, f"it ended step {self.step} as if {who} had no labels here.")
                else:
                    exchange.done_s = received.arrival_s
                    self._end(done, one, exchange)
            case other:
                self._crew.drop(member, f"it sent {type(other).__name__} in the middle of step {self.step}.")

    def _answer(
        self, asked: messages.Segment | messages.TailGradient, received: Received, one: EdgeReplica,
        exchange: StepTransfers,
    ) -> None:
        """What the cloud computes of one micro-batch; the result goes back at once."""
        exchange.sent_up.append(SentFrame(received.frame.sent_s, received.frame.size_bytes))
        exchange.up_arrived_s = received.arrival_s
        began = time.perf_counter()
        try:
            if isinstance(asked, messages.Segment):
                exchange.segments = _next(asked, exchange.segments, one)
                exchange.arrived_s = received.arrival_s
                answer, name, values, used = self._take_segment(asked, received.frame.tensors, one, exchange)
            else:
                exchange.tail_gradients = _next(asked, exchange.tail_gradients, one)
                answer, name, values, used = self._take_tail_gradient(asked, received.frame.tensors, one)
        except (KeyError, RuntimeError, IndexError, ValueError) as error:
            what = type(asked).__name__
            raise ProtocolError(f"it sent a {what} that does not fit cut {one.cut}: {error}.") from error
        sent = self._crew.send(one.member, answer, codec.encode(name, values, used))
        if sent is not None:
            exchange.sent_down.append(SentFrame(sent.send_s, sent.size_bytes))
        exchange.cloud_s += time.perf_counter() - began

    def _take_segment(
        self, segment: messages.Segment, tensors: Mapping[str, Tensor], one: EdgeReplica, exchange: StepTransfers
    ) -> _Answer:
        values = codec.decode("segment", tensors).to(one.device)
        stream = RandomStream(self._seed, one.name, self.number, segment.step, segment.micro)
        step, micro = segment.step, segment.micro
        if isinstance(one.half, MiddleModel):
            outputs = one.half.forward(micro, values, stream)
            return messages.TailInput(step=step, micro=micro), "tail_input", outputs, self._codecs[one.name]
        labels = tensors["labels"].to(one.device, torch.int64)
        gradient, loss = one.half.train(values, labels, one.batch, stream)
        exchange.loss += loss
        return messages.Gradient(step=step, micro=micro), "gradient", gradient, self._gradient_codecs[one.name]

    def _take_tail_gradient(
        self, back: messages.TailGradient, tensors: Mapping[str, Tensor], one: EdgeReplica
    ) -> _Answer:
        if not isinstance(one.half, MiddleModel):
            raise ProtocolError("it sent the gradient of a tail it does not have.")
        gradient = one.half.backward(back.micro, codec.decode("tail_gradient", tensors).to(one.device))
        return (messages.Gradient(step=back.step, micro=back.micro), "gradient", gradient,
                self._gradient_codecs[one.name])

    def _end(self, done: messages.StepDone, one: EdgeReplica, exchange: StepTransfers) -> None:
        """An edge has ended the step; its half here learns now, when no gradient waits for it."""
        began = time.perf_counter()
        one.half.step()
        exchange.cloud_s += time.perf_counter() - began
        exchange.done = done
        exchange.loss += done.loss or 0.0


def _next(asked: messages.Segment | messages.TailGradient, seen: int, one: EdgeReplica) -> int:
    if asked.micro != seen or seen >= one.micros:
        raise ProtocolError(f"it sent a {type(asked).__name__} of micro-batch {asked.micro} in place of {seen}.")
    return seen + 1
