"""One mini-batch on every edge, driven by the cloud: a common start, then every segment is processed on arrival."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping

from trainer.cloud.compute_pool import ComputePool
from trainer.cloud.edge_manager import EdgeManager
from trainer.cloud.edge_replica import EdgeReplica
from trainer.cloud.edge_session import EdgeSession
from trainer.cloud.remote_step import RemoteStep
from trainer.cloud.server_step import ServerStep, StepPlan
from trainer.cloud.step_timing import Direction, StepResult, StepTransfers
from trainer.config.stragglers import StragglerPolicy, step_deadline_s
from trainer.errors import ProtocolError, TrainingFailedError
from trainer.protocol import codec, messages
from trainer.records.run_record import milliseconds
from trainer.records.summary_file import Fields
from trainer.reservation.bandwidth import Grant
from trainer.transport.connection import ReceivedFrame
from trainer.transport.pacing import pace_bytes_per_s

START_LEAD_S = 0.005
"""Minimum time between the start message and the first send instant, for the message to arrive."""

_serials = itertools.count()


class CloudStep:
    """A step from the common start until every active edge has completed it; `steps`: steps of a round.

    `earliest_s`: when every edge can have its first segment ready; `timeout_s`: after it an edge is dropped. Transfers
    of an edge that is lost stay without `done`.
    """

    def __init__(
        self, number: int, step: int, grant: Grant, edge_manager: EdgeManager, replicas: Mapping[str, EdgeReplica],
        gradient_codecs: Mapping[str, codec.Codec], seed: int, steps: int, on_late: Callable[[str, int], None],
        earliest_s: float, timeout_s: float, pool: ComputePool | None = None,
    ) -> None:
        self.number = number
        self.step = step
        self._grant = grant
        self._edge_manager = edge_manager
        self._replicas = replicas
        self._initial_replicas = dict(replicas)
        self._on_late = on_late
        self._earliest_s = earliest_s
        self._first_s = earliest_s
        self.late: list[str] = []
        codecs = {edge.edge: edge.codec for edge in grant.plan.edges}
        # In one pass the samples of a mini-batch, so that the memory does not grow with the edges.
        plan = StepPlan(next(_serials), number, step, steps, seed, codecs, gradient_codecs, timeout_s,
                        max(replica.batch for replica in replicas.values()))
        kind = ServerStep if edge_manager.workers is None else RemoteStep
        self._server = kind(plan, replicas, edge_manager.send, self._give_up, pool)

    @property
    def transfers(self) -> Mapping[str, StepTransfers]:
        """What was sent and when, by edge."""
        return self._server.transfers

    def run(self, policy: StragglerPolicy, late_factor: float) -> StepResult:
        """Run the step."""
        began_s, timeout_s = time.perf_counter(), self._server.plan.timeout_s
        deadline_s = time.monotonic() + timeout_s
        late_s = time.monotonic() + step_deadline_s(self._grant.plan.step_s, late_factor)
        self._start()
        while self._is_busy():
            item = self._edge_manager.receive(time.monotonic() if self._server.has_ready else min(deadline_s, late_s))
            if item is not None:
                self._handle(*item)
            elif self._server.has_ready:
                self._server.train_ready()
            elif time.monotonic() >= deadline_s:
                for session in self._busy():
                    self._edge_manager.drop(session, f"it did not complete step {self.step} within {timeout_s:g} s.")
            elif time.monotonic() >= late_s:
                late_s = deadline_s
                self._handle_late(self._busy(), policy, late_factor)
        return StepResult(self.step, time.perf_counter() - began_s, self._done())

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
        if len(transfers.sent_up) < self._server.expected_frames(replica):
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
            grant, session = self._grant, replica.session
            self._server.add(replica, StepTransfers(session.offset_s, session.mss_bytes, grant.up[name],
                                                    grant.down[name], grant.rates_are_assumed, session.worker))
        for session in self._edge_manager.sessions:
            self._edge_manager.send(
                session, messages.StartStep(round=self.number, step=self.step, first_s=self._first_s + session.offset_s)
            )

    def _is_busy(self) -> bool:
        transfers = self.transfers
        return any(transfers[session.name].done is None for session in self._edge_manager.sessions)

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
        message = received.frame.message
        if self._server.awaits(message):
            self._server.handle(session.name, received)
        else:
            self._edge_manager.drop(session, f"it sent {type(message).__name__} during step {self.step}.")

    def _give_up(self, session: EdgeSession, error: ProtocolError | TrainingFailedError) -> None:
        if isinstance(error, TrainingFailedError):
            self._edge_manager.fail(session, error)
        else:
            self._edge_manager.exclude(session, str(error))
