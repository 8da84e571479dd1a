"""The socket of a switch connection: non-blocking writes, early handling of confirmations.

Ryu creates several objects, an event and three queue hand-overs per message. Barrier replies and errors to our own
messages are therefore handled here as soon as they arrive, in order, without switching greenlets; all other messages
are passed on to Ryu's reader. Writes within `corked` are sent to each switch in one piece.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

from controller.openflow.encoder import BARRIER_REPLY, ERROR, HEADER, MULTIPART_REPLY, VERSION
from controller.openflow.eventlet_quiet import GreenSocket, eventlet

log = logging.getLogger(__name__)

READ_BYTES = 65536
UNREAD_BYTES = 4 * READ_BYTES
"""Unread bytes above which reading stops, so that TCP flow control slows the switch down."""

CONFIRMING = frozenset({BARRIER_REPLY, ERROR, MULTIPART_REPLY})

ConfirmationHandler = Callable[[int, int, bytes], bool]
"""Handles a reply to an update or an error (type, transaction id, body); False: it answers no message of ours."""


class SwitchConnection:
    """A switch's socket as Ryu uses it; other attributes are those of the wrapped socket. For the hub's thread only."""

    _corked: list[SwitchConnection] | None = None
    """Connections written to since `corked` was entered; None: not corked, writes are sent immediately."""

    def __init__(self, connection: Any) -> None:
        self.on_confirmation: ConfirmationHandler = _not_ours
        self.connection = connection
        self._received = bytearray()
        self._unread = bytearray()
        self._has_ended = False
        self._listener: Any = None
        self._reader: Any = None
        self._unsent: list[bytes] = []
        self._is_sending = False
        # A TLS socket may hold decrypted bytes of which the hub's poll knows nothing.
        self._is_plain = isinstance(connection, GreenSocket)

    # Reading --------------------------------------------------------------------------------------------------------

    def recv(self, _size: int) -> bytes:
        """Return received messages apart from handled confirmations: at least one whole message, or b"" at the end.

        Raises: TimeoutError, as the socket would.
        """
        while not self._unread and not self._has_ended:
            if self._is_plain:
                self._listen()
                self._wait()
            else:
                self._process(self.connection.recv(READ_BYTES))
        unread, self._unread = bytes(self._unread), bytearray()
        return unread

    def close(self) -> None:
        """Remove the listener and close the socket."""
        self._stop_listening()
        self.connection.close()

    def _listen(self) -> None:
        if self._listener is None:
            hub = eventlet.hubs.get_hub()
            self._listener = hub.add(hub.READ, self.connection.fileno(), self._on_readable, _ignore, _ignore)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            eventlet.hubs.get_hub().remove(self._listener)
            self._listener = None

    def _wait(self) -> None:
        """Block this greenlet until there is something to read.

        Raises: TimeoutError.
        """
        hub, timer = eventlet.hubs.get_hub(), None
        self._reader = eventlet.getcurrent()
        if (timeout_s := self.connection.gettimeout()) is not None:
            timer = hub.schedule_call_global(timeout_s, self._reader.throw, TimeoutError("timed out"))
        try:
            hub.switch()
        finally:
            self._reader = None
            if timer is not None:
                timer.cancel()

    def _on_readable(self, _fileno: int) -> None:
        """Called by the hub when the socket is readable."""
        try:
            received = self.connection.fd.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        try:
            with corked():
                self._process(received)
        except Exception:
            log.exception("cannot read a switch connection; closing it")
            self._has_ended = True
        if self._has_ended or len(self._unread) > UNREAD_BYTES:
            self._stop_listening()
        if self._reader is not None and (self._unread or self._has_ended):
            self._reader.switch()

    def _process(self, received: bytes) -> None:
        """Handle confirmations among the whole messages received so far; keep the others for the reader."""
        self._has_ended = not received
        self._received += received
        buffer, at = self._received, 0
        while len(buffer) - at >= HEADER.size:
            version, kind, length, xid = HEADER.unpack_from(buffer, at)
            end = at + max(length, HEADER.size)
            if end > len(buffer):
                break
            is_confirmation = kind in CONFIRMING and version == VERSION
            if not (is_confirmation and self.on_confirmation(kind, xid, bytes(buffer[at + HEADER.size : end]))):
                self._unread += buffer[at:end]
            at = end
        del buffer[:at]

    # Writing --------------------------------------------------------------------------------------------------------

    def sendall(self, data: bytes) -> None:
        """Queue data after what is being sent; never blocks and never fails: errors show when the connection is read.

        A switch that does not read within the socket's timeout is disconnected.
        """
        self._unsent.append(data)
        if SwitchConnection._corked is None:
            self._flush()
        elif len(self._unsent) == 1:
            SwitchConnection._corked.append(self)

    def _flush(self) -> None:
        """Send what the kernel accepts without blocking; a greenlet sends the rest."""
        if self._is_sending or not self._unsent:
            return
        if self._is_plain:
            data = b"".join(self._unsent)
            self._unsent.clear()
            try:
                sent = self.connection.fd.send(data)
            except OSError:  # would block, or disconnected: the greenlet finds out which
                sent = 0
            if sent == len(data):
                return
            self._unsent.append(data[sent:])
        self._is_sending = True
        eventlet.spawn(self._send)

    def _send(self) -> None:
        try:
            while self._unsent:
                data = b"".join(self._unsent)
                self._unsent.clear()
                self.connection.sendall(data)
        except OSError as error:
            log.info("a switch connection is lost: %s", error)
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        finally:
            self._unsent.clear()
            self._is_sending = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


@contextlib.contextmanager
def corked() -> Iterator[None]:
    """Delay writes to all connections until the block ends (TCP_CORK); the block must not switch greenlets."""
    if SwitchConnection._corked is not None:
        yield
        return
    connections: list[SwitchConnection] = []
    SwitchConnection._corked = connections
    try:
        yield
    finally:
        SwitchConnection._corked = None
        for connection in connections:
            connection._flush()


def _not_ours(_kind: int, _xid: int, _body: bytes) -> bool:
    return False


def _ignore(*_: object) -> None:
    """Handle the hub's error and close notices: the connection removes its listener itself when it is closed."""
