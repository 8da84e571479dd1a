"""The training loop's view of an edge that a worker serves: its connection, its replica and its steps."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, cast

from torch import Tensor

from trainer.cloud.edge_replica import EdgeReplica
from trainer.cloud.edge_session import EdgeEvent, EdgeFailed
from trainer.cloud.kept_segments import KeepingSpace, KeptElsewhere
from trainer.cloud.step_timing import StepTransfers
from trainer.cloud.worker_events import Connected, StepFinished, WorkerEvent
from trainer.data.sending import SentSamples
from trainer.errors import ConnectionLostError
from trainer.protocol import framing, messages
from trainer.protocol.codec import Codec
from trainer.records.checkpoint import Checkpoint
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

    def shared(self, tensors: Mapping[str, Tensor]) -> Any:
        """Return what stands for these tensors in calls: they are stored once for all calls with the same mapping."""


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

    def close(self) -> None:
        """Close the connection; data already sent still arrives."""
        self._broken = self._broken or f"The connection to {self.edge} was closed."
        self.tell("end", False)


class RemoteReplica(EdgeReplica):
    """The replica of an edge in its worker; here it has the cut, and the names and sizes of the layers."""

    @property
    def _link(self) -> RemoteConnection:
        return link_of(self)

    def build(self, model: Mapping[str, Tensor]) -> None:
        """Build it in the worker, with these values of all that is trained."""
        self._link.tell("build", self._link.worker.shared(model))

    def start_at(self, cut: int) -> None:
        """Set the first cut."""
        super().start_at(cut)
        self._link.tell("start_at", cut)

    def layers_to_send(self, cut: int) -> dict[str, Tensor]:
        """Return the layers that move to the edge for a new `cut`.

        Raises: ConnectionLostError.
        """
        return cast(dict[str, Tensor], self._link.ask("layers_to_send", cut)) if cut > self.cut else {}

    def load_model(self, model: Mapping[str, Tensor]) -> None:
        """Continue from the global model."""
        self._link.tell("load_model", self._link.worker.shared(model))

    def move_cut(self, cut: int, arriving: Mapping[str, Tensor], max_steps: int) -> None:
        """Move the cut in the worker.

        Raises: ProtocolError, ConnectionLostError.
        """
        if cut != self.cut or arriving:
            self._link.ask("move_cut", cut, dict(arriving), max_steps)
        self.model.stage.first = cut

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state after an averaging in the worker."""
        cut = checkpoint.cuts.get(self.name, 0)
        self._link.tell("restore", dict(checkpoint.layers_of(self.name)), cut)
        self.model.stage.first = cut

    def keeping_room_bytes(self, space: KeepingSpace) -> int:  # noqa: ARG002 - they are kept by the worker
        """Return how many bytes of segments its worker can keep further; 0 if it is lost."""
        try:
            return int(self._link.ask("room_bytes"))
        except ConnectionLostError:
            return 0

    def keep(self, cut: int, used: Codec, space: KeepingSpace) -> None:  # noqa: ARG002
        """Have the worker keep the segments.

        Raises: OSError, RuntimeError if there is no space for them, ConnectionLostError.
        """
        self._link.ask("keep", cut, used, self.session.data_order)
        self.kept = KeptElsewhere(cut, used, SentSamples(self.session.request.samples),
                                  lambda: self._link.tell("drop_kept"))

    def keep_held_out(self, space: KeepingSpace) -> None:  # noqa: ARG002
        """Have the worker make room for the segments of the held-out samples.

        Raises: OSError, RuntimeError if there is no space for them, ConnectionLostError.
        """
        assert self.kept is not None
        self.held_out = None
        self._link.ask("keep_held_out")
        self.held_out = KeptElsewhere(self.cut, self.kept.codec, SentSamples(self.session.held_out), lambda: None)

    def add_held_out(self, rows: Tensor, tensors: Mapping[str, Tensor]) -> None:  # noqa: ARG002 - the worker has them
        """Have the worker keep the segments of held-out samples that it has received.

        Raises: ProtocolError, ConnectionLostError.
        """
        self._link.ask("add_held_out", rows)
        assert self.held_out is not None
        self.held_out.sent.take([rows])

    def evaluate_held_out(self) -> messages.Evaluated:
        """Return what the edge would count, from its worker.

        Raises: DivergedError, ConnectionLostError.
        """
        return cast(messages.Evaluated, self._link.ask("evaluate_held_out"))

    def merged_layers(
        self, from_edge: Mapping[str, Tensor], max_steps: int  # noqa: ARG002 - they are in the worker
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the layers of edge and cloud as `EdgeReplica.merged_layers` does.

        Raises: ProtocolError, ConnectionLostError.
        """
        return cast(tuple[dict[str, Tensor], dict[str, Tensor]], self._link.ask("merged_layers", max_steps))

    def own_layers(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the cloud's layers.

        Raises: ConnectionLostError.
        """
        return cast(tuple[dict[str, Tensor], dict[str, Tensor]], self._link.ask("own_layers"))


def link_of(replica: EdgeReplica) -> RemoteConnection:
    """Return the connection of an edge that a worker serves."""
    return cast(RemoteConnection, replica.session.connection)


def shifted(transfers: StepTransfers, by_s: float) -> StepTransfers:
    """Return transfers with the cloud's clock set forward by `by_s`."""
    if not by_s:
        return transfers
    return replace(
        transfers, offset_s=transfers.offset_s - by_s, arrived_s=transfers.arrived_s + by_s,
        arrived_up_s=[time_s + by_s for time_s in transfers.arrived_up_s], done_s=transfers.done_s + by_s,
        sent_down=[replace(frame, send_s=frame.send_s + by_s) for frame in transfers.sent_down],
    )
