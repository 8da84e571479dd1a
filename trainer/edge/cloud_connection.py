"""An edge's way to the cloud: connect, ask to be let in, then take its messages, with the bad news sorted out."""

from __future__ import annotations

import secrets
import time
from typing import TypeVar

from trainer.errors import ConnectionLostError, NetworkError, ProtocolError, TrainingFailedError
from trainer.protocol import messages
from trainer.transport.connection import Connection, Inbound, Lost, Received
from trainer.transport.inbox import Inbox
from trainer.transport.shared_secret import SharedSecret

SILENCE_S = 60.0
"""A cloud that lives says so every few seconds; one that is silent for this long is as good as lost."""
GREETING_TIMEOUT_S = 20.0

M = TypeVar("M", bound=messages.Message)


class NotNowError(ConnectionLostError):
    """The cloud refused, and says that trying again may help."""

    code = "not_now"


class CloudLink:
    """One connection to the cloud, from the greeting on."""

    def __init__(self, connection: Connection, token: SharedSecret | None = None) -> None:
        self.connection = connection
        self._token = token
        self._inbox: Inbox[str, Inbound] = Inbox()

    def ask(self, request: messages.JoinRequest) -> None:
        """Wait for the cloud's greeting, and ask to train.

        Raises: ConnectionLostError, ProtocolError, NetworkError if the cloud refuses, NotNowError if only for now.
        """
        self.connection.set_timeout(GREETING_TIMEOUT_S)
        hello = self.connection.receive().frame.message
        if not isinstance(hello, messages.Hello):
            raise ProtocolError(f"The cloud began with {type(hello).__name__} in place of Hello.")
        if hello.wants_proof and self._token is None:
            raise NetworkError("The cloud wants to see that this edge knows the run's token: give it --token-file.")
        nonce = secrets.token_hex(16)
        proof = self._token.proof("edge", hello.nonce, nonce, request.edge) if self._token else None
        self.connection.send(request.model_copy(update={"nonce": nonce, "proof": proof}))
        answer = self.connection.receive().frame.message
        self.connection.set_timeout(None)
        _heed(answer)
        if not isinstance(answer, messages.JoinAccepted):
            raise ProtocolError(f"The cloud answered {type(answer).__name__} to a training request.")
        if self._token and not self._token.is_proven(answer.proof, "cloud", hello.nonce, nonce, request.edge):
            raise NetworkError("The cloud does not know the token of this edge: it is not the cloud of this run.")
        self.connection.start(self._deliver)

    def receive(self) -> Received:
        """The cloud's next message.

        Raises: ConnectionLostError if it is gone or silent, NetworkError or TrainingFailedError if it gave up.
        """
        while True:
            item = self._inbox.get(time.monotonic() + SILENCE_S)
            if item is None:
                raise ConnectionLostError(f"Nothing was heard from the cloud for {SILENCE_S:g} s.")
            inbound = item[1]
            if isinstance(inbound, Lost):
                raise ConnectionLostError(f"The cloud was lost: {inbound.reason}")
            _heed(inbound.frame.message)
            if not isinstance(inbound.frame.message, messages.Alive):
                return inbound

    @property
    def has_news(self) -> bool:
        """Whether a message waits."""
        return len(self._inbox) > 0

    def close(self) -> None:
        """Hang up, and leave the port free for the next try."""
        self._inbox.close()
        self.connection.abort()

    def _deliver(self, inbound: Inbound) -> None:
        size_bytes = inbound.frame.size_bytes if isinstance(inbound, Received) else 0
        self._inbox.put("cloud", inbound, size_bytes)


def _heed(message: messages.Message) -> None:
    match message:
        case messages.JoinRefused(retry=True):
            raise NotNowError(f"The cloud refused for now: {message.reason}")
        case messages.JoinRefused():
            raise NetworkError(f"The cloud refused: {message.reason}")
        case messages.Failed():
            raise TrainingFailedError(f"The cloud gave up: {message.reason}")
