"""The cloud's front door: whoever connects is greeted and must ask to train; strangers lose their connection.

Nothing that a stranger sends or leaves unsaid holds up anybody else, and none gets more than a small frame's memory.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import threading
from collections.abc import Callable

from trainer.errors import ConnectionLostError, ProtocolError, TrainerError
from trainer.protocol import framing, messages
from trainer.transport.connection import Connection
from trainer.transport.credentials import TransportCredentials
from trainer.transport.sockets import listen

log = logging.getLogger(__name__)

STRANGER_LIMITS = framing.FrameLimits(header_bytes=framing.MAX_HEADER_BYTES, payload_bytes=0)
STRANGER_TIMEOUT_S = 10.0
MAX_STRANGERS = 64


class NotAdmittedError(TrainerError):
    """Whoever asked to train is not let in; `retry`: may be later."""

    code = "not_admitted"

    def __init__(self, sentence: str, retry: bool = False) -> None:
        super().__init__(sentence)
        self.retry = retry


class EdgeAcceptor:
    """Listens from the first moment to `close`.

    `admit` takes whoever asked properly and is who it says, with the answer to send, or raises NotAdmittedError.
    """

    def __init__(
        self, address: tuple[str, int], credentials: TransportCredentials,
        admit: Callable[[messages.JoinRequest, Connection, messages.JoinAccepted], None],
    ) -> None:
        self._credentials = credentials
        self.refused = 0
        self._admit = admit
        self._places = threading.BoundedSemaphore(MAX_STRANGERS)
        self._listener = listen(address)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Let nobody in any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # closed
            if not self._places.acquire(blocking=False):
                self.refused += 1
                sock.close()
                continue
            threading.Thread(target=self._welcome, args=(sock,), daemon=True).start()

    def _welcome(self, sock: socket.socket) -> None:
        try:
            sock.settimeout(STRANGER_TIMEOUT_S)
            connection = Connection(sock, self._credentials.context)
        except (TrainerError, OSError) as error:
            self.refused += 1
            log.warning("stranger=? refused=%r", str(error))
            sock.close()
            self._places.release()
            return
        try:
            connection.limits = STRANGER_LIMITS
            nonce = secrets.token_hex(16)
            connection.send(messages.Hello(nonce=nonce, wants_proof=self._credentials.token is not None))
            ask = connection.receive().frame.message
            if not isinstance(ask, messages.JoinRequest):
                raise ProtocolError(f"{connection.peer} sent {type(ask).__name__} before asking to train.")
            proof = self._check(ask, connection, nonce)
            connection.set_timeout(None)
            self._admit(ask, connection, messages.JoinAccepted(proof=proof))
        except NotAdmittedError as error:
            with contextlib.suppress(ConnectionLostError):
                connection.send(messages.JoinRefused(reason=str(error), retry=error.retry))
            self._turn_away(connection, error)
        except (TrainerError, OSError) as error:
            self._turn_away(connection, error)
        finally:
            self._places.release()

    def _check(self, ask: messages.JoinRequest, connection: Connection, nonce: str) -> str | None:
        """Whether this edge is who it says; returns our own proof for it.

        Raises: NotAdmittedError.
        """
        if connection.peer_names is not None and ask.edge not in connection.peer_names:
            names = ", ".join(sorted(connection.peer_names)) or "nobody"
            raise NotAdmittedError(f"this certificate is for {names}, not for {ask.edge}.")
        token = self._credentials.token
        if token is None:
            return None
        if not token.is_proven(ask.proof, "edge", nonce, ask.nonce, ask.edge):
            raise NotAdmittedError(f"{ask.edge} does not know the token of this run: give it the same --token-file.")
        return token.proof("cloud", nonce, ask.nonce, ask.edge)

    def _turn_away(self, connection: Connection, why: Exception) -> None:
        self.refused += 1
        log.warning("stranger=%s refused=%r", connection.peer, str(why))
        connection.close()
