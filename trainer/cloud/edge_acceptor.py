"""Accepts and authenticates connections of edges; all other connections are closed.

Every handshake runs in its own thread with a timeout and a small frame limit, so an unauthenticated peer can neither
block other edges nor allocate memory.
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

UNAUTHENTICATED_LIMITS = framing.FrameLimits(header_bytes=framing.MAX_HEADER_BYTES, payload_bytes=0)
HANDSHAKE_TIMEOUT_S = 10.0
MAX_HANDSHAKES = 64


class JoinRefusedError(TrainerError):
    """A join request is refused; `retry`: a later request may succeed."""

    code = "not_admitted"

    def __init__(self, sentence: str, retry: bool = False) -> None:
        super().__init__(sentence)
        self.retry = retry


class EdgeAcceptor:
    """Listens until `close`.

    `admit` receives every authenticated request with its connection and the reply to send; it may raise
    JoinRefusedError.
    """

    def __init__(
        self, address: tuple[str, int], credentials: TransportCredentials,
        admit: Callable[[messages.JoinRequest, Connection, messages.JoinAccepted], None],
    ) -> None:
        self._credentials = credentials
        self.refused = 0
        self._admit = admit
        self._slots = threading.BoundedSemaphore(MAX_HANDSHAKES)
        self._listener = listen(address)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop accepting connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # closed
            if not self._slots.acquire(blocking=False):
                self.refused += 1
                sock.close()
                continue
            threading.Thread(target=self._handshake, args=(sock,), daemon=True).start()

    def _handshake(self, sock: socket.socket) -> None:
        try:
            sock.settimeout(HANDSHAKE_TIMEOUT_S)
            connection = Connection(sock, self._credentials.context)
        except (TrainerError, OSError) as error:
            self.refused += 1
            log.warning("peer=? refused=%r", str(error))
            sock.close()
            self._slots.release()
            return
        try:
            connection.limits = UNAUTHENTICATED_LIMITS
            nonce = secrets.token_hex(16)
            connection.send(messages.Hello(nonce=nonce, requires_proof=self._credentials.shared_secret is not None))
            request = connection.receive().frame.message
            if not isinstance(request, messages.JoinRequest):
                raise ProtocolError(f"{connection.peer} sent {type(request).__name__} before a join request.")
            proof = self._authenticate(request, connection, nonce)
            connection.set_receive_timeout(None)
            self._admit(request, connection, messages.JoinAccepted(proof=proof))
        except JoinRefusedError as error:
            with contextlib.suppress(ConnectionLostError):
                connection.send(messages.JoinRefused(reason=str(error), retry=error.retry))
            self._reject(connection, error)
        except (TrainerError, OSError) as error:
            self._reject(connection, error)
        finally:
            self._slots.release()

    def _authenticate(self, request: messages.JoinRequest, connection: Connection, nonce: str) -> str | None:
        """Verify the identity of the edge; return the cloud's own proof for it.

        Raises: JoinRefusedError.
        """
        if connection.peer_names is not None and request.edge not in connection.peer_names:
            names = ", ".join(sorted(connection.peer_names)) or "no name"
            raise JoinRefusedError(f"the certificate is issued for {names}, not for {request.edge}.")
        token = self._credentials.shared_secret
        if token is None:
            return None
        if not token.verify(request.proof, "edge", nonce, request.nonce, request.edge):
            raise JoinRefusedError(
                f"{request.edge} does not have the token of this run; start it with the same --token-file."
            )
        return token.proof("cloud", nonce, request.nonce, request.edge)

    def _reject(self, connection: Connection, error: Exception) -> None:
        self.refused += 1
        log.warning("peer=%s refused=%r", connection.peer, str(error))
        connection.close()
