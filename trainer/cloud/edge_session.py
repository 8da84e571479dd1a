"""The cloud's record of one connection of an edge."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainer.errors import TrainingFailedError
from trainer.protocol import messages
from trainer.transport.connection import Connection
from trainer.transport.pacing import mss_within_tls_bytes


@dataclass(eq=False)
class EdgeSession:
    """One edge on one connection; `offset_s` is its clock minus the cloud's, `data_order` the seed of the order of its
    mini-batches.

    `samples`, `held_out`: what it trains on and holds out now; `request` has what it joined with.
    `initial_digest`: of the trained values that it began with. `excluded`: it takes no further part in the run;
    `failure`: because the model failed on it.
    """

    name: str
    connection: Connection
    request: messages.JoinRequest
    source_port: int
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
