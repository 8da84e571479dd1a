"""Accepts and authenticates connections of edges; all other connections are closed.

Every handshake runs in its own thread with one deadline and a small frame limit. Where there are too many, the oldest
one is ended in favour of the new one: peers that never complete theirs lock no edge out.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from trainer.errors import ConnectionLostError, ProtocolError, TrainerError
from trainer.protocol import framing, messages
from trainer.transport.connection import Connection
from trainer.transport.credentials import TransportCredentials
from trainer.transport.sockets import listen

log = logging.getLogger(__name__)

UNAUTHENTICATED_LIMITS = framing.FrameLimits(header_bytes=64 * 1024, payload_bytes=0)
ACCEPT_RETRY_S = 0.1
CLOSED = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})
"""Errors of accept on a socket that was closed; all others pass. Source: accept(2)."""


@dataclass(frozen=True, slots=True)
class HandshakeLimits:
    """Incomplete handshakes, in total and of one address, and the time from accepting to the end of each."""

    total: int = 64
    per_address: int = 32
    timeout_s: float = 10.0


class JoinRefusedError(TrainerError):
    """A join request is refused; `retry`: a later request may succeed."""

    code = "not_admitted"

    def __init__(self, sentence: str, retry: bool = False) -> None:
        super().__init__(sentence)
        self.retry = retry


@dataclass(frozen=True, eq=False, slots=True)
class _Handshake:
    socket: socket.socket
    address: str
    deadline: threading.Timer

    def end(self) -> None:
        """End it; its thread finds the connection closed."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class EdgeAcceptor:
    """Listens until `close`.

    `admit` receives every authenticated request with its connection and the reply to send; it may raise
    JoinRefusedError. `on_collecting` receives every authenticated report of an edge that collects.
    """

    def __init__(
        self, address: tuple[str, int], credentials: TransportCredentials,
        admit: Callable[[messages.JoinRequest, Connection, messages.JoinAccepted], None],
        limits: HandshakeLimits | None = None,
        on_collecting: Callable[[messages.Collecting], None] = lambda _report: None,
    ) -> None:
        self._credentials = credentials
        self.refused = 0
        self._admit = admit
        self._on_collecting = on_collecting
        self._limits = limits or HandshakeLimits()
        self._handshakes: dict[_Handshake, None] = {}
        """Incomplete ones, oldest first."""
        self._lock = threading.Lock()
        self._listener = listen(address)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop accepting connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, (host, _) = self._listener.accept()
            except OSError as error:
                if error.errno in CLOSED:
                    return
                log.warning("cannot accept a connection, trying again: %s", error.strerror)
                self._end_oldest(list(self._handshakes))
                time.sleep(ACCEPT_RETRY_S)
                continue
            handshake = self._begin(sock, host)
            threading.Thread(target=self._run, args=(handshake,), daemon=True).start()

    def _begin(self, sock: socket.socket, host: str) -> _Handshake:
        deadline = threading.Timer(self._limits.timeout_s, lambda: handshake.end())
        deadline.daemon = True
        handshake = _Handshake(sock, host, deadline)
        with self._lock:
            known = list(self._handshakes)
            own = [each for each in known if each.address == host]
            if len(own) >= self._limits.per_address:
                self._end_oldest(own)
            elif len(known) >= self._limits.total:
                self._end_oldest(known)
            self._handshakes[handshake] = None
        deadline.start()
        return handshake

    def _end_oldest(self, handshakes: list[_Handshake]) -> None:
        if handshakes:
            self._handshakes.pop(handshakes[0], None)
            handshakes[0].end()

    def _complete(self, handshake: _Handshake) -> None:
        handshake.deadline.cancel()
        with self._lock:
            self._handshakes.pop(handshake, None)

    def _run(self, handshake: _Handshake) -> None:
        try:
            self._shake_hands(handshake)
        finally:
            self._complete(handshake)

    def _shake_hands(self, handshake: _Handshake) -> None:
        sock = handshake.socket
        try:
            sock.settimeout(self._limits.timeout_s)
            connection = Connection(sock, self._credentials.context)
        except (TrainerError, OSError) as error:
            self.refused += 1
            log.warning("peer=%s refused=%r", handshake.address, str(error))
            sock.close()
            return
        try:
            connection.limits = UNAUTHENTICATED_LIMITS
            nonce = secrets.token_hex(16)
            connection.send(messages.Hello(nonce=nonce, requires_proof=self._credentials.shared_secret is not None))
            request = connection.receive().frame.message
            if not isinstance(request, messages.JoinRequest | messages.Collecting):
                raise ProtocolError(f"{connection.peer} sent {type(request).__name__} before a join request.")
            proof = self._authenticate(request, connection, nonce)
            self._complete(handshake)
            if isinstance(request, messages.Collecting):
                self._on_collecting(request)
                connection.close()
                return
            connection.set_receive_timeout(None)
            self._admit(request, connection, messages.JoinAccepted(proof=proof))
        except JoinRefusedError as error:
            with contextlib.suppress(ConnectionLostError):
                connection.send(messages.JoinRefused(reason=str(error), retry=error.retry))
            self._reject(connection, error)
        except (TrainerError, OSError) as error:
            self._reject(connection, error)

    def _authenticate(
        self, request: messages.JoinRequest | messages.Collecting, connection: Connection, nonce: str
    ) -> str | None:
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
