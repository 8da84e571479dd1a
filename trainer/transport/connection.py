"""Paced TCP connections that carry frames in both directions, with a receiving thread.

The arrival time is the kernel's timestamp of a frame's last byte (SO_TIMESTAMPNS), not the time of the read.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from trainer.errors import CloudUnreachableError, ConnectionLostError, NetworkError, ProtocolError
from trainer.protocol import framing
from trainer.protocol.messages import Message
from trainer.transport.byte_stream import (
    SEND_TIMEOUT_S,
    USER_TIMEOUT_MS,
    ByteStream,
    PlainStream,
    TlsStream,
    to_trainer_error,
)
from trainer.transport.pacing import DEFAULT_MSS, SentFrame
from trainer.transport.sockets import new_socket

log = logging.getLogger(__name__)

SO_MAX_PACING_RATE = 47  # not in Python's socket module; bytes/s of payload
RESERVED_TOS = 46 << 2
"""DSCP 46 (RFC 3246): priority already at this host's port. The first switch overwrites the mark."""
UNPACED = 0xFFFF_FFFF
PROBE_AFTER_S, PROBE_EVERY_S, PROBES = 20, 10, 4
"""TCP keepalive: a vanished host is detected after a minute on an idle connection."""


@dataclass(frozen=True, slots=True)
class ReceivedFrame:
    """A frame and the arrival of its last byte (seconds, local clock)."""

    frame: framing.Frame
    arrival_s: float


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection ended; `reason`: a sentence; `error`: the cause (None: closed by the peer)."""

    reason: str
    error: Exception | None


ConnectionEvent = ReceivedFrame | Disconnected


class Connection:
    """Frames over one socket. After `start`, every received frame and the disconnection are passed to a callback.

    `partial_frame`: the prefix of the frame that is being received.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None = None, server_name: str = "") -> None:
        """Use TLS if `context` is given; `server_name`: the required name of the peer, "" on the listening side.

        Raises: OSError, NetworkError if the TLS handshake fails.
        """
        self._socket = sock
        self.peer_names: frozenset[str] | None = None
        self.uses_tls = context is not None
        self._stream = self._new_stream(sock, context, server_name or None)
        self._sending = threading.Lock()
        self._broken: str | None = None
        self._sent_frames = 0
        self._received_frames = 0
        self._sent_at_s = 0.0
        self._has_ended = threading.Event()
        self._has_ended.set()
        self.limits = framing.FrameLimits()
        self.partial_frame: framing.Prefix | None = None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_EVERY_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)

    def _new_stream(self, sock: socket.socket, context: ssl.SSLContext | None, server_name: str | None) -> ByteStream:
        if context is None:
            return PlainStream(sock)
        try:
            stream = TlsStream(sock, context, server_name)
        except OSError as error:
            raise to_trainer_error(error, self.peer) from error
        self.peer_names = stream.peer_names
        return stream

    @property
    def mss_bytes(self) -> int:
        """Payload of a full packet (TCP_MAXSEG)."""
        try:
            return self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        except OSError:
            return DEFAULT_MSS

    @property
    def peer_port(self) -> int:
        """TCP port of the peer."""
        return int(self._socket.getpeername()[1])

    @property
    def peer(self) -> str:
        """Address of the peer, for messages."""
        try:
            host, port = self._socket.getpeername()[:2]
        except OSError:
            return "a disconnected peer"
        return f"{host}:{port}"

    def pace(self, bytes_per_s: float | None) -> None:
        """Limit the sending rate and mark packets as reserved traffic; None removes limit and mark.

        Does nothing on a broken connection: the next send or receive raises.
        """
        with contextlib.suppress(OSError):
            self._pace(bytes_per_s)

    def _pace(self, bytes_per_s: float | None) -> None:
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0 if bytes_per_s is None else RESERVED_TOS)
        rate = UNPACED if bytes_per_s is None else max(1, int(bytes_per_s))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, struct.pack("@I", min(rate, UNPACED)))

    def send(self, message: Message, tensors: Mapping[str, Tensor] | None = None) -> SentFrame:
        """Send one frame; returns when the kernel has accepted all of it.

        Raises: ConnectionLostError if the peer is gone or has stopped reading.
        """
        encoded = framing.encode(message, tensors)
        with self._sending:
            return self._send(*encoded)

    def send_if_idle(self, message: Message, idle_s: float) -> None:
        """Send a small frame, unless a send is in progress or ended within the last `idle_s`.

        Raises: ConnectionLostError as `send` does.
        """
        if not self._sending.acquire(blocking=False):
            return
        try:
            if time.monotonic() - self._sent_at_s >= idle_s:
                self._send(*framing.encode(message))
        finally:
            self._sending.release()

    def _send(self, kind: int, header: bytes, buffers: list[memoryview]) -> SentFrame:
        if self._broken is not None:  # broken within a frame: the stream cannot be resynchronised
            raise ConnectionLostError(self._broken)
        send_s = time.time()
        start = framing.pack_prefix(kind, header, buffers, send_s, self._sent_frames + 1)
        views = [memoryview(start + header), *(view for view in buffers if len(view))]
        size_bytes = sum(map(len, views))
        try:
            self._stream.send(views)
        except BlockingIOError:
            self._broken = f"{self.peer} accepted no data for {SEND_TIMEOUT_S} s."
            raise ConnectionLostError(self._broken) from None
        except OSError as error:
            self._broken = f"The connection to {self.peer} broke: {error}."
            raise ConnectionLostError(self._broken) from error
        self._sent_frames += 1
        self._sent_at_s = time.monotonic()
        return SentFrame(send_s, self._stream.size_on_wire(size_bytes))

    def receive(self) -> ReceivedFrame:
        """Receive one frame; duplicates are skipped.

        Raises: ConnectionLostError if the peer is gone, ProtocolError if it violates the protocol.
        """
        while True:
            first, _ = self._receive_exactly(framing.PREFIX.size)
            start = framing.parse_prefix(first, self.limits)
            if start.number > self._received_frames + 1:
                raise ProtocolError(
                    f"{self.peer} sent frame {start.number}; frame {self._received_frames + 1} is missing."
                )
            self.partial_frame = start
            header, arrival_s = self._receive_exactly(start.header_bytes)
            payload, payload_arrival_s = self._receive_exactly(start.payload_bytes)
            self.partial_frame = None
            frame = framing.decode(start, header, payload)
            frame = replace(frame, size_bytes=self._stream.size_on_wire(frame.size_bytes))
            if start.number <= self._received_frames:
                continue
            self._received_frames = start.number
            return ReceivedFrame(frame, payload_arrival_s if payload else arrival_s)

    def start(self, deliver: Callable[[ConnectionEvent], None]) -> None:
        """Start a receiving thread; the last event delivered is a Disconnected."""
        self._has_ended.clear()
        threading.Thread(target=self._receive_all, args=(deliver,), daemon=True).start()

    def set_receive_timeout(self, seconds: float | None) -> None:
        """Set how long `receive` waits for data; None: without limit."""
        self._socket.settimeout(seconds)

    def end_sending(self) -> None:
        """Send no more; what the peer sends is still read.

        A connection that is closed with unread data is reset, and what the peer has not received yet is lost.
        """
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def await_end(self, timeout_s: float) -> None:
        """Wait until the receiving thread has seen the end of the connection, or the timeout passes."""
        self._has_ended.wait(timeout_s)

    def abort(self) -> None:
        """Reset the connection: unsent data may be lost, and both ports are free for the next connection.

        After a regular close the kernel would keep the port of a killed process for a minute (TIME_WAIT).
        """
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close the connection; data already sent still arrives."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _receive_all(self, deliver: Callable[[ConnectionEvent], None]) -> None:
        try:
            while True:
                try:
                    deliver(self.receive())
                except (NetworkError, ProtocolError) as error:
                    deliver(Disconnected(str(error), error))
                    return
        finally:
            self._has_ended.set()

    def _receive_exactly(self, size: int) -> tuple[bytearray, float]:
        data = bytearray(size)
        view = memoryview(data)
        stamp_s = 0.0
        while len(view):
            try:
                received_bytes, stamp_s = self._stream.receive_into(view)
            except OSError as error:
                raise to_trainer_error(error, self.peer) from error
            if received_bytes == 0:
                raise ConnectionLostError(f"{self.peer} closed the connection.")
            view = view[received_bytes:]
        return data, stamp_s


def connect(
    address: tuple[str, int], source_port: int | None, timeout_s: float, source_ip: str = "",
    context: ssl.SSLContext | None = None, server_name: str = "",
) -> Connection:
    """Connect to the cloud from a fixed source port; retries until `timeout_s` has passed.

    Raises: NetworkError with the last reason; immediately if the TLS handshake fails.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        sock = new_socket()
        try:
            if source_port is not None:
                sock.bind((source_ip, source_port))
            sock.settimeout(max(0.1, deadline - time.monotonic()))
            sock.connect(address)
            connection = Connection(sock, context, server_name)
            sock.settimeout(None)
            return connection
        except (NetworkError, ProtocolError):
            sock.close()
            raise
        except OSError as error:
            sock.close()
            if time.monotonic() >= deadline:
                raise CloudUnreachableError(
                    f"No cloud at {address[0]}:{address[1]} after {timeout_s:g} s"
                    f"{f' (from port {source_port})' if source_port else ''}: {error}."
                ) from error
            time.sleep(0.1)
