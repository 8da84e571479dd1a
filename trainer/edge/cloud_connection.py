"""An edge's connection to the cloud: the join handshake, then its messages, with failures raised as errors."""

from __future__ import annotations

import secrets
import time
from typing import TypeVar

from trainer.errors import ConnectionLostError, NetworkError, ProtocolError, TrainingFailedError
from trainer.protocol import messages
from trainer.transport.connection import Connection, ConnectionEvent, Disconnected, ReceivedFrame
from trainer.transport.inbox import Inbox
from trainer.transport.shared_secret import SharedSecret

SILENCE_TIMEOUT_S = 60.0
"""Time without any message after which the cloud counts as lost; it sends keep-alives every few seconds."""
HANDSHAKE_TIMEOUT_S = 20.0

M = TypeVar("M", bound=messages.Message)


class JoinDeferredError(ConnectionLostError):
    """The cloud refused the join request for now; a retry may succeed."""

    code = "not_now"


class CloudConnection:
    """One connection to the cloud."""

    def __init__(self, connection: Connection, token: SharedSecret | None = None) -> None:
        self.connection = connection
        self._token = token
        self._inbox: Inbox[str, ConnectionEvent] = Inbox()

    def join(self, request: messages.JoinRequest) -> None:
        """Authenticate and send the join request.

        Raises: ConnectionLostError, ProtocolError, NetworkError if the cloud refuses, JoinDeferredError if a retry may
        succeed.
        """
        self.connection.set_receive_timeout(HANDSHAKE_TIMEOUT_S)
        hello = self.connection.receive().frame.message
        if not isinstance(hello, messages.Hello):
            raise ProtocolError(f"The cloud sent {type(hello).__name__} instead of Hello.")
        if hello.requires_proof and self._token is None:
            raise NetworkError("The cloud requires the token of the run; start the edge with --token-file.")
        nonce = secrets.token_hex(16)
        proof = self._token.proof("edge", hello.nonce, nonce, request.edge) if self._token else None
        self.connection.send(request.model_copy(update={"nonce": nonce, "proof": proof}))
        answer = self.connection.receive().frame.message
        self.connection.set_receive_timeout(None)
        _raise_for_failure(answer)
        if not isinstance(answer, messages.JoinAccepted):
            raise ProtocolError(f"The cloud answered a join request with {type(answer).__name__}.")
        if self._token and not self._token.verify(answer.proof, "cloud", hello.nonce, nonce, request.edge):
            raise NetworkError("The cloud does not have the token of this edge; it is not the cloud of this run.")
        self.connection.start(self._deliver)

    def receive(self) -> ReceivedFrame:
        """Return the cloud's next message.

        Raises: ConnectionLostError if the cloud is lost or silent, NetworkError, TrainingFailedError.
        """
        while True:
            item = self._inbox.get(time.monotonic() + SILENCE_TIMEOUT_S)
            if item is None:
                raise ConnectionLostError(f"The cloud sent nothing for {SILENCE_TIMEOUT_S:g} s.")
            inbound = item[1]
            if isinstance(inbound, Disconnected):
                raise ConnectionLostError(f"The connection to the cloud was lost: {inbound.reason}")
            _raise_for_failure(inbound.frame.message)
            if not isinstance(inbound.frame.message, messages.Keepalive):
                return inbound

    def await_end(self, timeout_s: float) -> None:
        """Wait until the cloud closes the connection or the timeout passes; its messages are ignored."""
        deadline_s = time.monotonic() + timeout_s
        while (item := self._inbox.get(deadline_s)) is not None:
            if isinstance(item[1], Disconnected):
                return

    @property
    def has_message(self) -> bool:
        """Whether a message is available."""
        return len(self._inbox) > 0

    def close(self) -> None:
        """Reset the connection, which frees the source port for the next attempt."""
        self._inbox.close()
        self.connection.abort()

    def _deliver(self, inbound: ConnectionEvent) -> None:
        size_bytes = inbound.frame.size_bytes if isinstance(inbound, ReceivedFrame) else 0
        self._inbox.put("cloud", inbound, size_bytes)


def _raise_for_failure(message: messages.Message) -> None:
    match message:
        case messages.JoinRefused(retry=True):
            raise JoinDeferredError(f"The cloud refused for now: {message.reason}")
        case messages.JoinRefused():
            raise NetworkError(f"The cloud refused: {message.reason}")
        case messages.Failed():
            raise TrainingFailedError(f"The cloud failed: {message.reason}")
