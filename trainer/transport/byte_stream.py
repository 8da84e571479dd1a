"""Bytes over a TCP socket, plain or within TLS, with the instant at which the kernel received the last of them."""

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
STALL_S = 15
"""The kernel takes not one byte for this long: the other side has stopped reading."""
SILENCE_MS = 120_000
"""Unacknowledged for this long, a connection counts as lost (TCP_USER_TIMEOUT)."""

_TIMESPEC = struct.Struct("@ll")
_ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)
_RECORD_HEADER_BYTES = 5


class ByteStream(Protocol):
    """One connection's bytes. One thread may send while another receives."""

    def send(self, views: Sequence[memoryview]) -> None:
        """Hand all bytes to the kernel; raises OSError, BlockingIOError if it takes none for STALL_S."""

    def receive_into(self, view: memoryview) -> tuple[int, float]:
        """Some bytes, at least one, and when the last of them arrived; 0 at the end of the stream."""

    def size_on_wire(self, payload_bytes: int) -> int:
        """The bytes of the TCP stream that carry so many of ours."""


class PlainStream:
    """The socket itself."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMESPEC.pack(STALL_S, 0))
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def send(self, views: Sequence[memoryview]) -> None:
        """All of it, without copying."""
        left = list(views)
        while left:
            left = _after(left, self._socket.sendmsg(left[:64]))

    def receive_into(self, view: memoryview) -> tuple[int, float]:
        """Some of it, with the kernel's stamp."""
        got, ancillary, _, _ = self._socket.recvmsg_into([view], _ANCILLARY_BYTES)
        return got, _kernel_stamp_s(ancillary) or time.time()

    def size_on_wire(self, payload_bytes: int) -> int:
        """The same."""
        return payload_bytes


class TlsStream:
    """TLS 1.3 over the same. Records are read one by one, so that an arrival is that of the record it belongs to.

    Every `send` begins a record of its own: how many bytes travel follows from how many are sent.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_name: str | None) -> None:
        """`server_name`: who the other side must be; None on the listening side.

        Raises: OSError, ssl.SSLError, ConnectionLostError if the handshake fails.
        """
        self._plain = PlainStream(sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_name is None, server_name)
        self._using = threading.Lock()  # OpenSSL's object is not for two threads at once
        self._stamp_s = 0.0
        try:
            self._shake_hands()
        finally:  # what is wrong is told the other side, too
            with contextlib.suppress(OSError):
                self._flush()

    @property
    def peer_names(self) -> frozenset[str]:
        """The names in the other side's certificate: its common name and alternative DNS names."""
        certificate: dict[str, Any] = self._tls.getpeercert() or {}
        common = {value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"}
        others = {value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"}
        return frozenset(common | others)

    def send(self, views: Sequence[memoryview]) -> None:
        """All of it, in full records and one that is not."""
        data = b"".join(views)
        with self._using:
            self._tls.write(data)
            sealed = self._outgoing.read()
        self._plain.send([memoryview(sealed)])

    def receive_into(self, view: memoryview) -> tuple[int, float]:
        """What is left of the last record, or some of the next."""
        while True:
            with self._using:
                try:
                    got = self._tls.read(len(view), view)
                    return int(got), self._stamp_s
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLZeroReturnError:
                    return 0, self._stamp_s
            record = self._read_record()
            if not record:
                return 0, self._stamp_s
            with self._using:
                self._incoming.write(record)

    def size_on_wire(self, payload_bytes: int) -> int:
        """With the records' headers and tags."""
        return tls_bytes(payload_bytes)

    def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self._flush()
                record = self._read_record()
                if not record:
                    raise ConnectionLostError("The other side hung up in the middle of the TLS handshake.") from None
                self._incoming.write(record)

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._plain.send([memoryview(data)])

    def _read_record(self) -> bytes:
        """One whole record, empty at the end of the stream. Its length is bounded before memory is taken for it."""
        header = self._read_exactly(_RECORD_HEADER_BYTES)
        if not header:
            return b""
        size = int.from_bytes(header[3:], "big")
        if size > TLS_RECORD_BYTES + 256:
            raise ProtocolError("The other side does not speak TLS.")
        return header + self._read_exactly(size)

    def _read_exactly(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        while len(view):
            got, self._stamp_s = self._plain.receive_into(view)
            if not got:
                return b""
            view = view[got:]
        return bytes(data)


def explain(error: OSError, peer: str) -> Exception:
    """What an error of a wire means, as an error of ours."""
    if isinstance(error, ssl.SSLError):
        return NetworkError(f"TLS with {peer} failed: {error.reason or error}.")
    if isinstance(error, TimeoutError) and error.errno == errno.ETIMEDOUT:
        return ConnectionLostError(f"Nothing came through to or from {peer} for {SILENCE_MS / 1000:g} s.")
    if isinstance(error, TimeoutError):
        return ProtocolError(f"{peer} began a frame and did not go on.")
    return ConnectionLostError(f"The connection to {peer} broke: {error}.")


def _after(views: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of the buffers when `sent` bytes are gone."""
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
