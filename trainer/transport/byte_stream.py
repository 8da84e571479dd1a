"""Byte streams over TCP, plain or with TLS, with the kernel's receive timestamp of the last byte."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import struct
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

from trainer.errors import ConnectionLostError, NetworkError, ProtocolError
from trainer.transport.pacing import TLS_RECORD_BYTES, tls_bytes

SO_TIMESTAMPNS = 35
SEND_TIMEOUT_S = 15
"""SO_SNDTIMEO: the kernel accepts no byte for this long when the peer has stopped reading."""
USER_TIMEOUT_MS = 120_000
"""TCP_USER_TIMEOUT: a connection with data unacknowledged for this long counts as lost."""

_TIMESPEC = struct.Struct("@ll")
_ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)
_RECORD_HEADER_BYTES = 5


class ByteStream(Protocol):
    """The bytes of a connection. One thread may send while another receives."""

    def send(self, views: Sequence[memoryview]) -> None:
        """Pass all bytes to the kernel; raises OSError, BlockingIOError if it accepts none for SEND_TIMEOUT_S."""

    def receive_into(self, view: memoryview) -> tuple[int, float]:
        """Receive at least one byte; return the number and the arrival time of the last; 0 at the end of the stream."""

    def size_on_wire(self, payload_bytes: int) -> int:
        """Return the bytes of the TCP stream that carry a payload."""


class PlainStream:
    """A TCP socket without TLS."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMESPEC.pack(SEND_TIMEOUT_S, 0))
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def send(self, views: Sequence[memoryview]) -> None:
        """Send all buffers without copying."""
        remaining = list(views)
        while remaining:
            remaining = _after(remaining, self._socket.sendmsg(remaining[:64]))

    def receive_into(self, view: memoryview) -> tuple[int, float]:
        """Receive some bytes with the kernel's timestamp."""
        received_bytes, ancillary, _, _ = self._socket.recvmsg_into([view], _ANCILLARY_BYTES)
        return received_bytes, _kernel_stamp_s(ancillary) or time.time()

    def size_on_wire(self, payload_bytes: int) -> int:
        """Return `payload_bytes`."""
        return payload_bytes


class TlsStream:
    """TLS 1.3 over a TCP socket. Records are read one by one, so that each has its own arrival time.

    Every `send` starts a new record, so that the number of bytes on the wire follows from the number sent.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_name: str | None) -> None:
        """`server_name`: the required name of the peer; None on the listening side.

        Raises: OSError, ssl.SSLError, ConnectionLostError if the handshake fails.
        """
        self._plain = PlainStream(sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_name is None, server_name)
        self._lock = threading.Lock()  # an OpenSSL object is not thread-safe
        self._stamp_s = 0.0
        try:
            self._handshake()
        finally:  # sends the TLS alert of a failed handshake
            with contextlib.suppress(OSError):
                self._flush()

    @property
    def peer_names(self) -> frozenset[str]:
        """The names in the peer's certificate: common name and DNS subject alternative names."""
        certificate: dict[str, Any] = self._tls.getpeercert() or {}
        common_names = {value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"}
        dns_names = {value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"}
        return frozenset(common_names | dns_names)

    def send(self, views: Sequence[memoryview]) -> None:
        """Send all buffers in full records and a last, shorter one."""
        data = b"".join(views)
        with self._lock:
            self._tls.write(data)
            encrypted = self._outgoing.read()
        self._plain.send([memoryview(encrypted)])

    def receive_into(self, view: memoryview) -> tuple[int, float]:
        """Return the rest of the last record, or the next one."""
        while True:
            with self._lock:
                try:
                    return int(self._tls.read(len(view), view)), self._stamp_s
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLZeroReturnError:
                    return 0, self._stamp_s
            record = self._read_record()
            if not record:
                return 0, self._stamp_s
            with self._lock:
                self._incoming.write(record)

    def size_on_wire(self, payload_bytes: int) -> int:
        """Return the bytes with the records' headers and tags."""
        return tls_bytes(payload_bytes)

    def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self._flush()
                record = self._read_record()
                if not record:
                    raise ConnectionLostError("The peer closed the connection during the TLS handshake.") from None
                self._incoming.write(record)

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._plain.send([memoryview(data)])

    def _read_record(self) -> bytes:
        """Read one record, empty at the end of the stream. Its length is checked before memory is allocated."""
        header = self._read_exactly(_RECORD_HEADER_BYTES)
        if not header:
            return b""
        size = int.from_bytes(header[3:], "big")
        if size > TLS_RECORD_BYTES + 256:
            raise ProtocolError("The peer does not use TLS.")
        return header + self._read_exactly(size)

    def _read_exactly(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        while len(view):
            received_bytes, self._stamp_s = self._plain.receive_into(view)
            if not received_bytes:
                return b""
            view = view[received_bytes:]
        return bytes(data)


def to_trainer_error(error: OSError, peer: str) -> Exception:
    """Translate an error of a stream into a trainer error."""
    if isinstance(error, ssl.SSLError):
        return NetworkError(f"TLS with {peer} failed: {error.reason or error}.")
    if isinstance(error, TimeoutError) and error.errno == errno.ETIMEDOUT:
        return ConnectionLostError(f"No data was acknowledged by {peer} for {USER_TIMEOUT_MS / 1000:g} s.")
    if isinstance(error, TimeoutError):
        return ProtocolError(f"{peer} sent an incomplete frame and stopped.")
    return ConnectionLostError(f"The connection to {peer} broke: {error}.")


def _after(views: list[memoryview], sent: int) -> list[memoryview]:
    """Return the buffers without their first `sent` bytes."""
    for number, view in enumerate(views):
        if sent < len(view):
            return [view[sent:], *views[number + 1 :]]
        sent -= len(view)
    return []


def _kernel_stamp_s(ancillary: list[tuple[int, int, bytes]]) -> float | None:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(data) == _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return float(seconds) + float(nanoseconds) / 1e9
    return None
