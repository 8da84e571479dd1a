"""The socket of a switch connection: non-blocking writes, early handling of confirmations.

Ryu creates several objects, an event and three queue hand-overs per message. Barrier replies and errors to our own
messages are therefore handled here as soon as they arrive, in order, without switching greenlets; all other messages
are passed on to Ryu's reader. Writes within `corked` are sent to each switch in one piece.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Collection
from typing import Any

from controller.openflow.encoder import BARRIER_REPLY, ERROR, HEADER, MULTIPART_REPLY, VERSION
from controller.openflow.eventlet_quiet import GreenSocket, eventlet
from controller.openflow.incoming import IncomingMessages
from controller.openflow.limits import OpenFlowLimits

log = logging.getLogger(__name__)

READ_BYTES = 65536
FAST_READ_BYTES = 4096
"""Read at once from a switch that sends more than it may: what was read is handled without a pause."""
UNREAD_BYTES = 4 * READ_BYTES
"""Unread bytes above which reading stops, so that TCP flow control slows the switch down."""

CONFIRMING = frozenset({BARRIER_REPLY, ERROR, MULTIPART_REPLY})

ConfirmationHandler = Callable[[int, int, bytes], bool]
"""Handles a reply to an update or an error (type, transaction id, body); False: it answers no message of ours."""


class SwitchConnection:
    """A switch's socket as Ryu uses it; other attributes are those of the wrapped socket. For the hub's thread only."""

    _corked: list[SwitchConnection] | None = None
    """Connections written to since `corked` was entered; None: not corked, writes are sent immediately."""

    def __init__(
        self,
        connection: Any,
        limits: OpenFlowLimits | None = None,
        on_established: Callable[[], None] = lambda: None,
        is_ours_alone: bool = False,
    ) -> None:
        """`on_established`: called when the handshake is complete. `is_ours_alone`: no other application of Ryu asks
        the switch for anything, so statistics that we have not asked for, or no longer wait for, are ignored."""
        self._is_ours_alone = is_ours_alone
        self._is_established = False
        self._limits = limits or OpenFlowLimits()
        self._on_established = on_established
        self._incoming = IncomingMessages(self._limits)
        self._error: Exception | None = None
        self._pause_timer: Any = None
        self._unsent_bytes = 0
        self.on_confirmation: ConfirmationHandler = _not_ours
        self.is_asked: Callable[[int], bool] = lambda _xid: False
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

    def established(self, wanted_ports: Collection[int], is_known: bool) -> None:
        """This is the connection of a switch: the status of these ports is wanted. `is_known`: it is on the map."""
        self._incoming.on_established(wanted_ports, is_known)
        self._is_established = True
        self.complete_handshake()

    def complete_handshake(self) -> None:
        """The deadline of the handshake is met."""
        self._on_established()

    @property
    def limits(self) -> OpenFlowLimits:
        """The limits of this connection."""
        return self._limits

    # Reading --------------------------------------------------------------------------------------------------------

    def recv(self, _size: int) -> bytes:
        """Return received messages apart from handled confirmations: at least one whole message, or b"" at the end.

        Raises: TimeoutError, as the socket would; BadMessageError.
        """
        while not self._unread and not self._has_ended:
            if self._is_plain:
                self._listen()
                self._wait()
            else:
                eventlet.sleep(self._incoming.pause_s())
                self._process(self.connection.recv(self._read_bytes()))
        if self._error is not None:
            raise self._error
        unread, self._unread = bytes(self._unread), bytearray()
        return unread

    def close(self) -> None:
        """Remove the listener and close the socket."""
        self._has_ended = True
        self._stop_listening()
        self.connection.close()

    def _read_bytes(self) -> int:
        return FAST_READ_BYTES if self._incoming.is_fast else READ_BYTES

    def _pause(self, seconds: float) -> None:
        """Read nothing for a while, so that TCP flow control slows the switch down."""
        self._stop_listening()
        self._pause_timer = eventlet.hubs.get_hub().schedule_call_global(seconds, self._resume)

    def _resume(self) -> None:
        self._pause_timer = None
        if not self._has_ended:
            self._listen()

    def _listen(self) -> None:
        if self._listener is None and self._pause_timer is None:
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
            received = self.connection.fd.recv(self._read_bytes())
        except BlockingIOError:
            return
        except OSError:
            received = b""
        try:
            with corked():
                self._process(received)
        except Exception as error:  # noqa: BLE001 - raised to the reader, which ends the connection
            self._error, self._has_ended = error, True
        if self._has_ended or len(self._unread) > UNREAD_BYTES:
            self._stop_listening()
        elif pause_s := self._incoming.pause_s():
            self._pause(pause_s)
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
            is_barrier = kind == BARRIER_REPLY and length == HEADER.size  # by far the most frequent
            if is_barrier or self._incoming.is_wanted(version, kind, length, xid, buffer, at):
                is_confirmation = kind in CONFIRMING and version == VERSION
                if not (is_confirmation and self.on_confirmation(kind, xid, bytes(buffer[at + HEADER.size : end]))):
                    self._pass_on(kind, xid, buffer[at:end])
            at = end
        del buffer[:at]

    def _pass_on(self, kind: int, xid: int, message: bytearray) -> None:
        """Keep a message for the reader; statistics that are not waited for cost too much to parse."""
        if kind == MULTIPART_REPLY and self.is_asked(xid):
            self._unread += message
            return
        self._incoming.count_unasked()
        if not (kind == MULTIPART_REPLY and self._is_ours_alone and self._is_established):
            self._unread += message

    # Writing --------------------------------------------------------------------------------------------------------

    def sendall(self, data: bytes) -> None:
        """Queue data after what is being sent; never blocks and never fails: errors show when the connection is read.

        A switch that does not read within the socket's timeout, or leaves too much unread, is disconnected.
        """
        self._unsent_bytes += len(data)
        if self._unsent_bytes > self._limits.unsent_bytes:
            limit = self._limits.unsent_bytes
            log.warning("closed the connection of a switch: it leaves more than %d bytes unread", limit)
            self.disconnect()
            return
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
            self._unsent_bytes -= sent
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
                self._unsent_bytes -= len(data)
        except OSError as error:
            log.info("a switch connection is lost: %s", error)
            self.disconnect()
        finally:
            self._unsent.clear()
            self._is_sending = False

    def fail(self, error: Exception) -> None:
        """End the connection with this error for its reader."""
        self._error = error
        self.disconnect()

    def disconnect(self) -> None:
        """End the connection in both directions."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


class corked:  # noqa: N801 - used as a function
    """Delay writes to all connections until the block ends (TCP_CORK); the block must not switch greenlets."""

    __slots__ = ("_connections",)

    def __enter__(self) -> None:
        self._connections: list[SwitchConnection] | None = None
        if SwitchConnection._corked is None:
            self._connections = SwitchConnection._corked = []

    def __exit__(self, *_: object) -> None:
        if self._connections is not None:
            SwitchConnection._corked = None
            for connection in self._connections:
                connection._flush()


def _not_ours(_kind: int, _xid: int, _body: bytes) -> bool:
    return False


def _ignore(*_: object) -> None:
    """Handle the hub's error and close notices: the connection removes its listener itself when it is closed."""
