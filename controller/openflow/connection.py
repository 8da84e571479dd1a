"""A switch's connection, as Ryu wants its socket and as we do: nobody waits to write, confirmations come at once.

Ryu makes an object, an event and three turns of its queues of every message. Of those that say whether our own messages
were taken, barrier replies and errors, this takes note when they come in, in their order, without waking anybody, and
hands everything else on to who reads. What is written to a switch in one breath is sent together.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

from controller.openflow.encoder import BARRIER_REPLY, ERROR, HEADER, VERSION
from controller.openflow.eventlet_quiet import GreenSocket, eventlet

log = logging.getLogger(__name__)

READ_BYTES = 65536
UNREAD_BYTES = 4 * READ_BYTES
"""If so much is there that nobody has read, the switch has to wait."""

CONFIRMING = frozenset({BARRIER_REPLY, ERROR})

Hear = Callable[[int, int, bytes], bool]
"""Takes note of such a message (kind, transaction id, body) if it answers one of ours, and says whether it does."""


class SwitchConnection:
    """The connection; it has the rest of a socket's methods too. For the hub's thread only."""

    _held: list[SwitchConnection] | None = None
    """The lines to which something was written in this breath; None: what is written is sent at once."""

    def __init__(self, connection: Any) -> None:
        self.hear: Hear = _nobodys
        self.connection = connection
        self._incoming = bytearray()
        self._others = bytearray()
        self._has_ended = False
        self._listener: Any = None
        self._reader: Any = None
        self._outgoing: list[bytes] = []
        self._is_sending = False
        # Over TLS bytes may be there of which the hub knows nothing.
        self._is_plain = isinstance(connection, GreenSocket)

    # Reading --------------------------------------------------------------------------------------------------------

    def recv(self, _size: int) -> bytes:
        """What has come but for what answers us, in whole messages: at least one, or nothing at the end.

        Raises: TimeoutError, as the socket would.
        """
        while not self._others and not self._has_ended:
            if self._is_plain:
                self._listen()
                self._wait()
            else:
                self._take(self.connection.recv(READ_BYTES))
        others, self._others = bytes(self._others), bytearray()
        return others

    def close(self) -> None:
        """Let go of the connection."""
        self._listen_no_more()
        self.connection.close()

    def _listen(self) -> None:
        if self._listener is None:
            hub = eventlet.hubs.get_hub()
            self._listener = hub.add(hub.READ, self.connection.fileno(), self._come, _nobody, _nobody)

    def _listen_no_more(self) -> None:
        if self._listener is not None:
            eventlet.hubs.get_hub().remove(self._listener)
            self._listener = None

    def _wait(self) -> None:
        """Wait for something to read.

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

    def _come(self, _fileno: int) -> None:
        """Called by the hub when there is something to read."""
        try:
            received = self.connection.fd.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        try:
            with corked():
                self._take(received)
        except Exception:
            log.exception("a switch's line cannot be read")
            self._has_ended = True
        if self._has_ended or len(self._others) > UNREAD_BYTES:
            self._listen_no_more()
        if self._reader is not None and (self._others or self._has_ended):
            self._reader.switch()

    def _take(self, received: bytes) -> None:
        """Take note of what answers us, and keep the rest."""
        self._has_ended = not received
        self._incoming += received
        incoming, at = self._incoming, 0
        while len(incoming) - at >= HEADER.size:
            version, kind, length, xid = HEADER.unpack_from(incoming, at)
            end = at + max(length, HEADER.size)
            if end > len(incoming):
                break
            is_ours = kind in CONFIRMING and version == VERSION
            if not (is_ours and self.hear(kind, xid, bytes(incoming[at + HEADER.size : end]))):
                self._others += incoming[at:end]
            at = end
        del incoming[:at]

    # Writing --------------------------------------------------------------------------------------------------------

    def sendall(self, data: bytes) -> None:
        """Send it after what is being sent; waits for nothing, and never fails: a line that is cut is read to its end.

        What a switch that reads nothing has not taken in time is the end of its line.
        """
        self._outgoing.append(data)
        if SwitchConnection._held is None:
            self._flush()
        elif len(self._outgoing) == 1:
            SwitchConnection._held.append(self)

    def _flush(self) -> None:
        """Send what the system takes at once; the rest in a greenlet."""
        if self._is_sending or not self._outgoing:
            return
        if self._is_plain:
            data = b"".join(self._outgoing)
            self._outgoing.clear()
            try:
                sent = self.connection.fd.send(data)
            except OSError:  # nothing for now, or a line that is cut: the greenlet will know
                sent = 0
            if sent == len(data):
                return
            self._outgoing.append(data[sent:])
        self._is_sending = True
        eventlet.spawn(self._send)

    def _send(self) -> None:
        try:
            while self._outgoing:
                corked = b"".join(self._outgoing)
                self._outgoing.clear()
                self.connection.sendall(corked)
        except OSError as error:
            log.info("a switch's line is cut: %s", error)
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        finally:
            self._outgoing.clear()
            self._is_sending = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


@contextlib.contextmanager
def corked() -> Iterator[None]:
    """What is written to any line within this is sent at its end, to each switch in one piece. Must not wait."""
    if SwitchConnection._held is not None:
        yield
        return
    held: list[SwitchConnection] = []
    SwitchConnection._held = held
    try:
        yield
    finally:
        SwitchConnection._held = None
        for line in held:
            line._flush()


def _nobodys(_kind: int, _xid: int, _body: bytes) -> bool:
    return False


def _nobody(*_: object) -> None:
    """Nobody is told: the line itself lets go of its listener when it is closed."""
