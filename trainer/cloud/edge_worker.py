"""A worker of the cloud: listens for its edges and computes the cloud's half of their steps.

The training loop is another process: what the edges send and what became of their steps is told to it as events.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch
from torch import Tensor

from trainer.cloud.edge_acceptor import EdgeAcceptor, JoinRefusedError
from trainer.cloud.edge_replica import EdgeReplica, build_replica, build_shared
from trainer.cloud.edge_session import EdgeFailed, EdgeSession
from trainer.cloud.kept_segments import KeepingSpace
from trainer.cloud.server_step import ServerStep, StepPlan
from trainer.cloud.step_timing import StepTransfers
from trainer.cloud.worker_events import Connected, StepFinished, WorkerEvent
from trainer.errors import ConnectionLostError, ProtocolError, TrainingFailedError
from trainer.models.building import BuiltModel
from trainer.models.device import select_device
from trainer.models.frozen import digest
from trainer.plugins import describe_error
from trainer.processes.malloc import retain_freed_memory
from trainer.protocol import framing, messages
from trainer.protocol.codec import Codec
from trainer.transport.connection import Connection, ConnectionEvent, Disconnected, ReceivedFrame
from trainer.transport.credentials import TransportCredentials
from trainer.transport.inbox import Inbox
from trainer.transport.pacing import SentFrame

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Edge:
    """An edge that this worker serves; `ticket` tells its connections apart."""

    name: str
    ticket: int
    limits: framing.FrameLimits
    session: EdgeSession | None = None
    update: Mapping[str, Tensor] | None = None
    held_out: Mapping[str, Tensor] | None = None

    @property
    def connection(self) -> Connection:
        """Its connection.

        Raises: ConnectionLostError if it has none.
        """
        if self.session is None:
            raise ConnectionLostError(f"{self.name} is not connected to its worker.")
        assert isinstance(self.session.connection, Connection)
        return self.session.connection


class EdgeWorker:
    """Serves the edges that the training loop announces by `expect`; all methods may be called from any thread."""

    def __init__(self, host: str, credentials: TransportCredentials, device: str) -> None:
        torch.set_num_threads(1)
        retain_freed_memory()
        self._device = select_device(device)
        self._edges: dict[str, _Edge] = {}
        self._replicas: dict[str, EdgeReplica] = {}
        self._step: ServerStep | None = None
        self._lock = threading.RLock()
        self._inbox: Inbox[_Edge | None, ReceivedFrame | None] = Inbox()
        self._events: Inbox[str, tuple[str, int, WorkerEvent]] = Inbox(limit_items=2**30)
        self._recipe: messages.Prepare
        self._built: BuiltModel
        self._space: KeepingSpace
        self._acceptor = EdgeAcceptor((host, 0), credentials, self._admit)
        self.port = self._acceptor.port
        threading.Thread(target=self._compute, daemon=True).start()

    def events(self, deadline_s: float | None = None) -> list[tuple[str, int, WorkerEvent]]:
        """Wait for events; return all that there are: edge, ticket, event."""
        found = []
        item = self._events.get(deadline_s)
        while item is not None:
            found.append(item[1])
            item = self._events.get(0.0)
        return found

    def prepare(self, recipe: messages.Prepare, keep_bytes: int) -> None:
        """Build the model that the replicas of all edges are copies of.

        `keep_bytes`: memory for kept segments; beyond that they are in the directory for temporary files.

        Raises: TrainingFailedError if its frozen values are not those of the training loop.
        """
        with self._lock:
            self._recipe, self._built = recipe, build_shared(recipe, self._device)
            self._space = KeepingSpace(keep_bytes, Path(gettempdir()))
            if digest(self._built.layers, self._built.unchanging) != recipe.frozen_digest:
                raise TrainingFailedError(f"The frozen values of {recipe.model} in a worker are not those of the "
                                          "cloud; all machines must load the same.")

    def expect(self, edge: str, ticket: int) -> None:
        """Admit one connection of an edge; one that it has is closed."""
        with self._lock:
            previous = self._edges.pop(edge, None)
            self._replicas.pop(edge, None)
            self._edges[edge] = _Edge(edge, ticket, framing.FrameLimits())
        if previous is not None and previous.session is not None:
            previous.connection.abort()

    def call(self, edge: str, ticket: int, method: str, *arguments: Any) -> Any:
        """Call a method for an edge; nothing happens if it has another connection by now.

        Raises: ConnectionLostError if it is not connected, what the method raises.
        """
        with self._lock:
            known = self._edges.get(edge)
            if known is None or known.ticket != ticket:
                raise ConnectionLostError(f"{edge} has another connection by now.")
            return getattr(self, f"_{method}")(known, *arguments)

    def close(self) -> None:
        """Stop listening."""
        self._acceptor.close()

    # What the training loop asks for an edge, by `call`.

    def _send(self, edge: _Edge, message: messages.Message, tensors: Mapping[str, Tensor] | None) -> None:
        try:
            edge.connection.send(message, tensors)
        except ConnectionLostError as error:
            self._tell(edge, Disconnected(str(error), error))

    def _send_if_idle(self, edge: _Edge, message: messages.Message, idle_s: float) -> None:
        edge.connection.send_if_idle(message, idle_s)

    def _pace(self, edge: _Edge, bytes_per_s: float | None) -> None:
        edge.connection.pace(bytes_per_s)

    def _set_limits(self, edge: _Edge, limits: framing.FrameLimits) -> None:
        edge.limits = limits
        if edge.session is not None:
            edge.connection.limits = limits

    def _end(self, edge: _Edge, aborts: bool) -> None:
        del self._edges[edge.name]
        self._replicas.pop(edge.name, None)
        if edge.session is not None:
            (edge.connection.abort if aborts else edge.connection.close)()

    def _build(self, edge: _Edge, model: Mapping[str, Tensor] | None = None) -> None:
        assert edge.session is not None
        replica = self._replicas[edge.name] = build_replica(edge.session, self._recipe, self._device, self._built)
        if self._step is not None:
            self._step.transfers.pop(edge.name, None)  # it was aborted
        if model is not None:
            replica.load_model(model)

    def _start_at(self, edge: _Edge, cut: int) -> None:
        self._replica(edge).start_at(cut)

    def _layers_to_send(self, edge: _Edge, cut: int) -> dict[str, Tensor]:
        return self._replica(edge).layers_to_send(cut)

    def _move_cut(self, edge: _Edge, cut: int, arriving: Mapping[str, Tensor], max_steps: int) -> None:
        self._replica(edge).move_cut(cut, arriving, max_steps)

    def _begin(self, edge: _Edge, plan: StepPlan, transfers: StepTransfers) -> None:
        if self._step is None or self._step.plan.serial != plan.serial:
            self._step = ServerStep(plan, self._replicas, self._answer, self._give_up)
        had_ready = self._step.has_ready
        self._step.add(self._replica(edge), transfers)
        if self._step.has_ready and not had_ready:  # segments that were kept
            self._inbox.put(None, None)

    def _load_model(self, edge: _Edge, model: Mapping[str, Tensor]) -> None:
        self._replica(edge).load_model(model)

    def _restore(self, edge: _Edge, layers: Mapping[str, Tensor], cut: int) -> None:
        self._build(edge)
        self._replica(edge).restore_layers(layers, cut)

    def _room_bytes(self, _edge: _Edge) -> int:
        return self._space.room_bytes

    def _keep(self, edge: _Edge, cut: int, used: Codec, data_order: int) -> None:
        replica = self._replica(edge)
        replica.session.data_order = data_order
        replica.keep(cut, used, self._space)

    def _drop_kept(self, edge: _Edge) -> None:
        self._replica(edge).drop_kept()

    def _keep_held_out(self, edge: _Edge) -> None:
        self._replica(edge).keep_held_out(self._space)

    def _add_held_out(self, edge: _Edge, rows: Tensor) -> None:
        if edge.held_out is None:
            raise ProtocolError("it sent no segments of held-out samples.")
        tensors, edge.held_out = edge.held_out, None
        self._replica(edge).add_held_out(rows, tensors)

    def _evaluate_held_out(self, edge: _Edge) -> messages.Evaluated:
        return self._replica(edge).evaluate_held_out()

    def _merged_layers(self, edge: _Edge, max_steps: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if edge.update is None:
            raise ProtocolError("it sent no layers.")
        return self._replica(edge).merged_layers(edge.update, max_steps)

    def _own_layers(self, edge: _Edge) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self._replica(edge).own_layers()

    # What edges send.

    def _admit(self, request: messages.JoinRequest, connection: Connection, answer: messages.JoinAccepted) -> None:
        """Admit an expected edge; runs in a thread of the acceptor."""
        with self._lock:
            edge = self._edges.get(request.edge)
            if edge is None or edge.session is not None:
                raise JoinRefusedError(f"{request.edge} is not expected at this worker.", retry=True)
            edge.session = EdgeSession(request.edge, connection, request, connection.peer_port)
            connection.limits = edge.limits
            connection.send(answer)
            self._tell(edge, Connected(connection.mss_bytes, connection.uses_tls))
        connection.start(lambda inbound: self._deliver(edge, inbound))

    def _deliver(self, edge: _Edge, inbound: ConnectionEvent) -> None:
        if isinstance(inbound, Disconnected):
            self._tell(edge, Disconnected(inbound.reason, None))
        elif isinstance(inbound.frame.message, messages.Segment | messages.TailGradient | messages.StepDone):
            self._inbox.put(edge, inbound, inbound.frame.size_bytes)
        elif isinstance(inbound.frame.message, messages.ModelUpdate):
            edge.update = inbound.frame.tensors  # the layers stay here until they are merged
            self._tell(edge, replace(inbound, frame=replace(inbound.frame, tensors={})))
        elif isinstance(inbound.frame.message, messages.HeldOut):
            edge.held_out = inbound.frame.tensors
            self._tell(edge, replace(inbound, frame=replace(inbound.frame, tensors={})))
        else:
            self._tell(edge, inbound)

    def _compute(self) -> None:
        """Compute what edges send, and what is ready while nothing arrives."""
        while True:
            step = self._step
            item = self._inbox.get(time.monotonic() if step is not None and step.has_ready else None)
            edge, received = (None, None) if item is None else item
            with self._lock:
                if edge is None or received is None:
                    if self._step is step and step is not None:
                        self._guarded(None, step.train_ready)
                elif self._edges.get(edge.name) is edge:
                    self._handle(edge, received)

    def _handle(self, edge: _Edge, received: ReceivedFrame) -> None:
        step = self._step
        is_served = step is not None and edge.name in step.transfers and edge.name in self._replicas
        if step is None or not is_served or not step.awaits(received.frame.message):
            self._tell(edge, replace(received, frame=replace(received.frame, tensors={})))
            return
        self._guarded(edge, lambda: step.handle(edge.name, received))
        transfers = step.transfers[edge.name]
        if transfers.done is not None:
            del step.transfers[edge.name]
            self._tell(edge, StepFinished(transfers))

    def _guarded(self, edge: _Edge | None, work: Callable[[], None]) -> None:
        """Compute; an error that is nobody's fault ends the run, which `edge` or all edges tell."""
        try:
            work()
        except Exception as error:
            log.exception("worker")
            failed = TrainingFailedError(f"Internal error of a worker: {describe_error(error)}.")
            for each in [edge] if edge is not None else list(self._edges.values()):
                self._tell(each, EdgeFailed(failed))

    def _give_up(self, session: EdgeSession, error: ProtocolError | TrainingFailedError) -> None:
        self._replicas.pop(session.name, None)
        self._tell(self._edges[session.name], EdgeFailed(error))

    def _replica(self, edge: _Edge) -> EdgeReplica:
        """Return the replica of an edge.

        Raises: ConnectionLostError if it has none.
        """
        if (replica := self._replicas.get(edge.name)) is None:
            raise ConnectionLostError(f"{edge.name} has no model in its worker.")
        return replica

    def _answer(
        self, session: EdgeSession, message: messages.Message, tensors: Mapping[str, Tensor] | None
    ) -> SentFrame | None:
        try:
            return session.connection.send(message, tensors)
        except ConnectionLostError:
            return None  # the receiving thread reports the loss

    def _tell(self, edge: _Edge, event: WorkerEvent) -> None:
        self._events.put(edge.name, (edge.name, edge.ticket, event))
