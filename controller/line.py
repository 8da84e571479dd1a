"""A switch's connection, as Ryu wants its socket and as we do: nobody waits to write, confirmations come at once.

Ryu makes an object, an event and three turns of its queues of every message. Of those that say whether our own messages
were taken, barrier replies and errors, this takes note while it reads, in their order, and hands everything else on.
What is written while others write is sent together. Import controller.southbound first: it brings eventlet in quietly.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any

import eventlet

from controller.packing import BARRIER_REPLY, ERROR, HEADER, VERSION

log = logging.getLogger(__name__)

READ_BYTES = 65536

CONFIRMING = frozenset({BARRIER_REPLY, ERROR})

Hear = Callable[[int, int, bytes], bool]
"""Takes note of such a message (kind, transaction id, body) if it answers one of ours, and says whether it does."""


class Line:
    """The connection; it has the rest of a socket's methods too. For the hub's thread only."""

    def __init__(self, connection: Any) -> None:
        self.hear: Hear = _nobodys
        self.connection = connection
        self._incoming = bytearray()
        self._outgoing: list[bytes] = []
        self._is_sending = False

    def recv(self, _size: int) -> bytes:
        """What has come but for what answers us, in whole messages: at least one, or nothing at the end."""
        while received := self.connection.recv(READ_BYTES):
            self._incoming += received
            if others := self._sift():
                return others
        return b""

    def sendall(self, data: bytes) -> None:
        """Send it after what is being sent; waits for nothing, and never fails: a line that is cut is read to its end.

        What a switch that reads nothing has not taken in time is the end of its line.
        """
        self._outgoing.append(data)
        if not self._is_sending:
            self._is_sending = True
            eventlet.spawn(self._send)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    def _sift(self) -> bytes:
        incoming, at = self._incoming, 0
        others = bytearray()
        while len(incoming) - at >= HEADER.size:
            version, kind, length, xid = HEADER.unpack_from(incoming, at)
            end = at + max(length, HEADER.size)
            if end > len(incoming):
                break
            is_ours = kind in CONFIRMING and version == VERSION
            if not (is_ours and self.hear(kind, xid, bytes(incoming[at + HEADER.size : end]))):
                others += incoming[at:end]
            at = end
        del incoming[:at]
        return bytes(others)

    def _send(self) -> None:
        try:
            while self._outgoing:
                together = b"".join(self._outgoing)
                self._outgoing.clear()
                self.connection.sendall(together)
        except OSError as error:
            log.info("a switch's line is cut: %s", error)
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        finally:
            self._outgoing.clear()
            self._is_sending = False


def _nobodys(_kind: int, _xid: int, _body: bytes) -> bool:
    return False
