"""What a worker of the cloud tells the training loop, and loads when it starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trainer.cloud.edge_session import EdgeFailed
from trainer.cloud.step_timing import StepTransfers
from trainer.transport.connection import ConnectionEvent
from trainer.transport.credentials import TransportCredentials


@dataclass(frozen=True, slots=True)
class Connected:
    """An edge has connected: payload bytes of a full packet, and whether it uses TLS."""

    mss_bytes: int
    uses_tls: bool


@dataclass(frozen=True, slots=True)
class StepFinished:
    """An edge's step is complete."""

    transfers: StepTransfers


WorkerEvent = Connected | StepFinished | ConnectionEvent | EdgeFailed

CredentialsLoader = Callable[[], TransportCredentials]
"""Loads the credentials of a node on the machine of its worker."""
