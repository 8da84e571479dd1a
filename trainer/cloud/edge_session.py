"""The cloud's record of one connection of an edge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from trainer.errors import ProtocolError, TrainingFailedError
from trainer.protocol import framing, messages
from trainer.transport.connection import ConnectionEvent, ReceivedFrame
from trainer.transport.pacing import SentFrame, mss_within_tls_bytes


@dataclass(frozen=True, slots=True)
class EdgeFailed:
    """A worker found that an edge sent what is not possible, or that the model failed on what it sent."""

    error: ProtocolError | TrainingFailedError


EdgeEvent = ConnectionEvent | EdgeFailed


class EdgeConnection(Protocol):
    """A connection of an edge: to this process (`Connection`), or to a worker of the cloud."""

    limits: framing.FrameLimits

    @property
    def uses_tls(self) -> bool: ...

    @property
    def mss_bytes(self) -> int: ...

    @property
    def partial_frame(self) -> framing.Prefix | None: ...

    def pace(self, bytes_per_s: float | None) -> None: ...

    def send(self, message: messages.Message, tensors: Mapping[str, Tensor] | None = None) -> SentFrame: ...

    def send_if_idle(self, message: messages.Message, idle_s: float) -> None: ...

    def receive(self) -> ReceivedFrame: ...

    def set_receive_timeout(self, seconds: float | None) -> None: ...

    def start(self, deliver: Callable[[EdgeEvent], None]) -> None: ...

    def abort(self) -> None: ...

    def end_sending(self) -> None: ...

    def await_end(self, timeout_s: float) -> None: ...

    def close(self) -> None: ...


@dataclass(eq=False)
class EdgeSession:
    """One edge on one connection; `offset_s` is its clock minus the cloud's, `data_order` the seed of the order of its
    mini-batches.

    `worker`, `cloud_port`, `cloud_node`: which serves it, if one does, and where that listens.
    `samples`, `held_out`: what it trains on and holds out now; `request` has what it joined with.
    `initial_digest`: of the trained values that it began with. `excluded`: it takes no further part in the run;
    `failure`: because the model failed on it.
    """

    name: str
    connection: EdgeConnection
    request: messages.JoinRequest
    source_port: int
    worker: str | None = None
    cloud_port: int | None = None
    cloud_node: str | None = None
    offset_s: float = 0.0
    samples: int = field(init=False)
    held_out: int = field(init=False)
    data_order: int = 0
    initial_digest: str | None = None
    excluded: bool = False
    failure: TrainingFailedError | None = None
    mss_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.samples, self.held_out = self.request.samples, self.request.held_out
        self.mss_bytes = self.connection.mss_bytes

    @property
    def planning_mss_bytes(self) -> int:
        """Payload bytes per packet for planning, without the overhead of TLS."""
        return mss_within_tls_bytes(self.mss_bytes) if self.connection.uses_tls else self.mss_bytes
