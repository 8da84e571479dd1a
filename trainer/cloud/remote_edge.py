"""The connection of an edge to its worker, from the training loop."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from trainer.cloud.edge_session import EdgeEvent, EdgeFailed
from trainer.cloud.step_timing import StepTransfers
from trainer.cloud.worker_events import Connected, StepFinished, WorkerEvent
from trainer.errors import ConnectionLostError
from trainer.protocol import framing, messages
from trainer.transport.connection import Disconnected, ReceivedFrame
from trainer.transport.pacing import DEFAULT_MSS, SentFrame


class WorkerHandle(Protocol):
    """A worker, from the training loop; `node`: of the cloud on which it is, `offset_s`: its clock minus that of the
    training loop.
    """

    name: str
    node: str
    address: tuple[str, int]
    offset_s: float

    def tell(self, edge: str, ticket: int, method: str, *arguments: Any) -> None:
        """Call a method for an edge without waiting; calls are carried out in order."""

    def ask(self, edge: str, ticket: int, method: str, *arguments: Any) -> Any:
        """Call a method for an edge and return its result.

        Raises: ConnectionLostError if the worker is lost, what the method raises.
        """

    def ask_stored(self, edge: str, ticket: int, method: str, *arguments: Any) -> tuple[Any, Any]:
        """Call a method that returns two results; the first stays where it is, and what stands for it is returned.

        Raises: as `ask`.
        """

    def shared(self, tensors: Mapping[str, Tensor]) -> Any:
        """Return what stands for these tensors in calls: they are stored once for all calls with the same mapping."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that has stayed at the cloud's workers; `stored`: what stands for it in calls."""

    worker: str
    stored: Any


class ModelsLostError(ConnectionLostError):
    """The stored models of these edges are lost with their machine."""

    code = "models_lost"

    def __init__(self, edges: Sequence[str]) -> None:
        super().__init__(f"The machine with the models of {', '.join(edges)} was lost.")
        self.edges = edges


class RemoteConnection:
    """A connection of an edge to its worker, with the interface of `Connection`."""

    def __init__(self, worker: WorkerHandle, edge: str, ticket: int) -> None:
        self.worker = worker
        self.edge = edge
        self.ticket = ticket
        self.uses_tls = False
        self.mss_bytes = DEFAULT_MSS
        self.partial_frame: framing.Prefix | None = None
        self.finished: StepTransfers | None = None
        """Transfers of the last step that is complete."""
        self._limits = framing.FrameLimits()
        self._broken: str | None = None
        self._timeout_s: float | None = None
        self._early: deque[EdgeEvent] = deque()
        self._deliver: Callable[[EdgeEvent], None] | None = None
        self._changed = threading.Condition()
        self._is_connected = False

    def handle(self, event: WorkerEvent) -> None:
        """Process an event of the worker; times become those of this machine's clock."""
        offset_s = self.worker.offset_s
        match event:
            case Connected():
                self.mss_bytes, self.uses_tls = event.mss_bytes, event.uses_tls
                with self._changed:
                    self._is_connected = True
                    self._changed.notify_all()
            case StepFinished():
                self.finished = transfers = shifted(event.transfers, -offset_s)
                assert transfers.done is not None
                self._pass_on(ReceivedFrame(framing.Frame(transfers.done, 0.0), transfers.done_s))
            case ReceivedFrame():
                frame = event.frame
                if isinstance(frame.message, messages.Pong):
                    pong = frame.message.model_copy(update={"ping_sent_s": frame.message.ping_sent_s - offset_s})
                    frame = replace(frame, message=pong)
                self._pass_on(ReceivedFrame(frame, event.arrival_s - offset_s))
            case Disconnected():
                self._broken = event.reason
                self._pass_on(event)
            case EdgeFailed():
                self._pass_on(event)

    def _pass_on(self, event: EdgeEvent) -> None:
        with self._changed:
            if self._deliver is None:
                self._early.append(event)
                self._changed.notify_all()
                return
        self._deliver(event)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the edge has connected to its worker, or cannot any more; return whether it has."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_connected or self._broken is not None, timeout_s)
            return self._is_connected

    def start(self, deliver: Callable[[EdgeEvent], None]) -> None:
        """Pass every event from now on to `deliver`, and those before."""
        while True:
            with self._changed:
                if not self._early:
                    self._deliver = deliver
                    return
                event = self._early.popleft()
            deliver(event)

    def receive(self) -> ReceivedFrame:
        """Return the next frame, before `start`.

        Raises: ConnectionLostError if the edge is lost or sends nothing in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._early), self._timeout_s):
                raise ConnectionLostError(f"{self.edge} sent nothing for {self._timeout_s:g} s.")
            event = self._early.popleft()
        if isinstance(event, ReceivedFrame):
            return event
        raise ConnectionLostError(event.reason if isinstance(event, Disconnected) else str(event.error))

    def set_receive_timeout(self, seconds: float | None) -> None:
        """Set how long `receive` waits."""
        self._timeout_s = seconds

    @property
    def limits(self) -> framing.FrameLimits:
        """Largest header and payload accepted from the edge."""
        return self._limits

    @limits.setter
    def limits(self, limits: framing.FrameLimits) -> None:
        self._limits = limits
        self.tell("set_limits", limits)

    def tell(self, method: str, *arguments: Any) -> None:
        """Call a method of the worker for this edge without waiting."""
        self.worker.tell(self.edge, self.ticket, method, *arguments)

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the worker for this edge.

        Raises: ConnectionLostError if edge or worker are lost, what the method raises.
        """
        return self.worker.ask(self.edge, self.ticket, method, *arguments)

    def ask_stored(self, method: str, *arguments: Any) -> tuple[StoredModel, Any]:
        """Call a method of the worker for this edge of whose two results the first, a model, stays there.

        Raises: as `ask`.
        """
        stored, result = self.worker.ask_stored(self.edge, self.ticket, method, *arguments)
        return StoredModel(self.worker.name, stored), result

    def send(self, message: messages.Message, tensors: Mapping[str, Tensor] | None = None) -> SentFrame:
        """Send one frame by the worker, in order; a failure is told as an event.

        Raises: ConnectionLostError if the edge or the worker is lost.
        """
        if self._broken is not None:
            raise ConnectionLostError(self._broken)
        self.tell("send", message, self.worker.shared(tensors) if tensors else None)
        return SentFrame(time.time(), 0)

    def send_if_idle(self, message: messages.Message, idle_s: float) -> None:
        """Send a small frame unless the worker has sent one within the last `idle_s`."""
        if self._broken is None:
            self.tell("send_if_idle", message, idle_s)

    def pace(self, bytes_per_s: float | None) -> None:
        """Limit the sending rate of the worker to this edge."""
        self.tell("pace", bytes_per_s)

    def abort(self) -> None:
        """Reset the connection."""
        self._broken = self._broken or f"The connection to {self.edge} was closed."
        self.tell("end", True)

    def end_sending(self) -> None:
        """Do nothing: the worker closes the connection."""

    def await_end(self, timeout_s: float) -> None:
        """Do nothing: the worker closes the connection."""

    def close(self) -> None:
        """Close the connection; data already sent still arrives."""
        self._broken = self._broken or f"The connection to {self.edge} was closed."
        self.tell("end", False)


def shifted(transfers: StepTransfers, by_s: float) -> StepTransfers:
    """Return transfers with the cloud's clock set forward by `by_s`."""
    if not by_s:
        return transfers
    return replace(
        transfers, offset_s=transfers.offset_s - by_s, arrived_s=transfers.arrived_s + by_s,
        arrived_up_s=[time_s + by_s for time_s in transfers.arrived_up_s], done_s=transfers.done_s + by_s,
        sent_down=[replace(frame, send_s=frame.send_s + by_s) for frame in transfers.sent_down],
    )
