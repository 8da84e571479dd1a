"""A switch of raw OpenFlow 1.3 messages: it completes the handshake, and then sends and answers what it is told to.

Source: OpenFlow Switch Specification 1.3.5, §7.1-7.5.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator, Sequence

HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY, FEATURES_REQUEST, FEATURES_REPLY = 0, 1, 2, 3, 5, 6
PORT_STATUS, MULTIPART_REQUEST, MULTIPART_REPLY, BARRIER_REQUEST, BARRIER_REPLY = 12, 18, 19, 20, 21
FLOW, METER_CONFIG, GROUP_DESC, PORT_DESC = 1, 10, 7, 13
HEADER = struct.Struct("!BBHI")
FLOW_STATS_BYTES = 56


def message(kind: int, body: bytes = b"", xid: int = 0) -> bytes:
    """A message of OpenFlow 1.3."""
    return HEADER.pack(4, kind, HEADER.size + len(body), xid) + body


def port(number: int, is_up: bool = True) -> bytes:
    """The description of a port."""
    name = f"port{number}".encode()[:16]
    return struct.pack("!I4x6s2x16sIIIIIIII", number, bytes(6), name, 0, 0 if is_up else 1, 0, 0, 0, 0, 0, 0)


def port_status(number: int, is_up: bool = True) -> bytes:
    """A message that a port was modified."""
    return message(PORT_STATUS, struct.pack("!B7x", 2) + port(number, is_up))


def multipart_part(xid: int, kind: int, body: bytes, more: bool) -> bytes:
    """A part of a multipart reply."""
    return message(MULTIPART_REPLY, struct.pack("!HH4x", kind, 1 if more else 0) + body, xid)


def flow_stats(priority: int) -> bytes:
    """The statistics of a flow entry without instructions."""
    return struct.pack("!HBxIIHHHH4xQQQHH4x", FLOW_STATS_BYTES, 3, 0, 0, priority, 0, 0, 0, 0, 0, 0, 1, 4)


class RawSwitch:
    """One connection to the controller. `answer` runs in a thread until the connection ends."""

    def __init__(
        self, address: tuple[str, int], datapath_id: int, ports: Sequence[int] = (), source: str = "127.0.0.1",
        context: ssl.SSLContext | None = None,
    ) -> None:
        plain = socket.create_connection(address, timeout=30, source_address=(source, 0))
        self.socket = plain if context is None else context.wrap_socket(plain, server_hostname=address[0])
        self.datapath_id = datapath_id
        self.ports = ports
        self.endless = False
        """Whether replies to requests for flow statistics never end."""
        self.is_silent = False
        """Whether it answers nothing any more."""
        self.has_ended = threading.Event()
        self.is_established = threading.Event()
        self.sent_parts = 0

    def start(self) -> None:
        """Answer the controller in a thread."""
        threading.Thread(target=self.answer, daemon=True).start()

    def answer(self) -> None:
        """Answer all requests until the connection ends."""
        try:
            self.socket.sendall(message(HELLO))
            for kind, xid, body in self.messages():
                if not self.is_silent:
                    self._answer(kind, xid, body)
        except OSError:
            pass
        self.has_ended.set()

    def messages(self) -> Iterator[tuple[int, int, bytes]]:
        """Type, transaction id and body of each message received, until the connection ends."""
        buffer = b""
        while received := self._receive():
            buffer += received
            while len(buffer) >= HEADER.size:
                _, kind, length, xid = HEADER.unpack_from(buffer)
                if len(buffer) < length:
                    break
                yield kind, xid, buffer[HEADER.size : length]
                buffer = buffer[length:]

    def close(self) -> None:
        """Close the connection, also while the thread waits for it: a socket that is being read stays open."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _receive(self) -> bytes:
        self.socket.settimeout(None)
        try:
            return self.socket.recv(65536)
        except OSError:
            return b""

    def _answer(self, kind: int, xid: int, body: bytes) -> None:
        if kind == FEATURES_REQUEST:
            features = struct.pack("!QIBB2xII", self.datapath_id, 0, 254, 0, 0x4F, 0)
            self.socket.sendall(message(FEATURES_REPLY, features, xid))
        elif kind == ECHO_REQUEST:
            self.socket.sendall(message(ECHO_REPLY, body, xid))
        elif kind == BARRIER_REQUEST:
            self.socket.sendall(message(BARRIER_REPLY, b"", xid))
        elif kind == MULTIPART_REQUEST:
            (what,) = struct.unpack_from("!H", body)
            if what == PORT_DESC:
                self.socket.sendall(multipart_part(xid, what, b"".join(map(port, self.ports)), more=False))
                self.is_established.set()
            elif what == FLOW and self.endless:
                part = multipart_part(xid, what, flow_stats(7) * 1000, more=True)
                while True:
                    self.socket.sendall(part)
                    self.sent_parts += 1
            else:
                self.socket.sendall(multipart_part(xid, what, b"", more=False))
