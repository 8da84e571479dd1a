"""Paced sockets: one TCP connection, frames in both directions, a thread that receives.

Arrival is when the kernel received a frame's last byte (SO_TIMESTAMPNS), not when a busy process noticed.
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
from trainer.transport.byte_stream import SILENCE_MS, STALL_S, ByteStream, PlainStream, TlsStream, explain
from trainer.transport.pacing import DEFAULT_MSS
from trainer.transport.sockets import new_socket

log = logging.getLogger(__name__)

SO_MAX_PACING_RATE = 47  # not in Python's socket module; bytes/s of payload
RESERVED_TOS = 46 << 2
"""DSCP 46 (RFC 3246): priority at this host's own port already. The first switch marks for itself, believes nobody."""
UNPACED = 0xFFFF_FFFF
PROBE_AFTER_S, PROBE_EVERY_S, PROBES = 20, 10, 4
"""An idle connection is probed, so that a host that vanished is noticed after a minute."""


@dataclass(frozen=True, slots=True)
class Sent:
    """When a frame was handed to the kernel (seconds, this clock) and its size."""

    send_s: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Received:
    """A frame, and when its last byte arrived (seconds, this clock)."""

    frame: framing.Frame
    arrival_s: float


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection ended; `reason` is a sentence, `error` what ended it (None: the other side closed it)."""

    reason: str
    error: Exception | None


Inbound = Received | Lost


class Connection:
    """Frames over one socket. `start` begins to receive: every frame, and the end, goes to a callback.

    `arriving` is the prefix of the frame of which only a part is here.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None = None, server_name: str = "") -> None:
        """With `context` TLS is spoken; `server_name` is who must be on the other side, "" on the listening side.

        Raises: OSError, NetworkError if the TLS handshake fails.
        """
        self._socket = sock
        self.peer_names: frozenset[str] | None = None
        self.secured = context is not None
        self._wire = self._new_wire(sock, context, server_name or None)
        self._sending = threading.Lock()
        self._broken: str | None = None
        self._sent_frames = 0
        self._received_frames = 0
        self._sent_at_s = 0.0
        self.limits = framing.FrameLimits()
        self.arriving: framing.Prefix | None = None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_EVERY_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)

    def _new_wire(self, sock: socket.socket, context: ssl.SSLContext | None, server_name: str | None) -> ByteStream:
        if context is None:
            return PlainStream(sock)
        try:
            wire = TlsStream(sock, context, server_name)
        except OSError as error:
            raise explain(error, self.peer) from error
        self.peer_names = wire.peer_names
        return wire

    @property
    def mss_bytes(self) -> int:
        """The payload of a full packet."""
        try:
            return self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        except OSError:
            return DEFAULT_MSS

    @property
    def peer_port(self) -> int:
        """The TCP port of the other side."""
        return int(self._socket.getpeername()[1])

    @property
    def peer(self) -> str:
        """The other side, for messages."""
        try:
            host, port = self._socket.getpeername()[:2]
        except OSError:
            return "a peer that is gone"
        return f"{host}:{port}"

    def pace(self, bytes_per_s: float | None) -> None:
        """Send no faster than this from now on, as reserved traffic; None takes limit and mark away.

        On a connection that is broken this does nothing: whoever sends or receives will notice.
        """
        with contextlib.suppress(OSError):
            self._pace(bytes_per_s)

    def _pace(self, bytes_per_s: float | None) -> None:
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0 if bytes_per_s is None else RESERVED_TOS)
        rate = UNPACED if bytes_per_s is None else max(1, int(bytes_per_s))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, struct.pack("@I", min(rate, UNPACED)))

    def send(self, message: Message, tensors: Mapping[str, Tensor] | None = None) -> Sent:
        """Send one frame; returns when the kernel has all of it.

        Raises: ConnectionLostError if the other side is gone or has stopped reading.
        """
        encoded = framing.encode(message, tensors)
        with self._sending:
            return self._send(*encoded)

    def send_if_idle(self, message: Message, idle_s: float) -> None:
        """Send a small frame, unless something is being sent, or was within the last `idle_s`.

        Raises: ConnectionLostError as `send` does.
        """
        if not self._sending.acquire(blocking=False):
            return
        try:
            if time.monotonic() - self._sent_at_s >= idle_s:
                self._send(*framing.encode(message))
        finally:
            self._sending.release()

    def _send(self, kind: int, header: bytes, buffers: list[memoryview]) -> Sent:
        if self._broken is not None:  # in the middle of a frame; nothing sensible can follow
            raise ConnectionLostError(self._broken)
        now_s = time.time()
        start = framing.prefix(kind, header, buffers, now_s, self._sent_frames + 1)
        views = [memoryview(start + header), *(view for view in buffers if len(view))]
        size = sum(map(len, views))
        try:
            self._wire.send(views)
        except BlockingIOError:
            self._broken = f"{self.peer} has read nothing for {STALL_S} s."
            raise ConnectionLostError(self._broken) from None
        except OSError as error:
            self._broken = f"The connection to {self.peer} broke: {error}."
            raise ConnectionLostError(self._broken) from error
        self._sent_frames += 1
        self._sent_at_s = time.monotonic()
        return Sent(now_s, self._wire.size_on_wire(size))

    def receive(self) -> Received:
        """Wait for one frame. One that came before is passed over.

        Raises: ConnectionLostError if the other side is gone, ProtocolError if it sends anything else.
        """
        while True:
            first, _ = self._receive_exactly(framing.PREFIX.size)
            start = framing.parse_prefix(first, self.limits)
            if start.number > self._received_frames + 1:
                raise ProtocolError(
                    f"{self.peer} sent frame {start.number}; frame {self._received_frames + 1} never came."
                )
            self.arriving = start
            header, arrival_s = self._receive_exactly(start.header_bytes)
            payload, payload_arrival_s = self._receive_exactly(start.payload_bytes)
            self.arriving = None
            frame = framing.decode(start, header, payload)
            frame = replace(frame, size_bytes=self._wire.size_on_wire(frame.size_bytes))
            if start.number <= self._received_frames:
                continue
            self._received_frames = start.number
            return Received(frame, payload_arrival_s if payload else arrival_s)

    def start(self, deliver: Callable[[Inbound], None]) -> None:
        """Receive in a thread from now on; the last delivery is a Lost."""
        threading.Thread(target=self._receive_all, args=(deliver,), daemon=True).start()

    def set_timeout(self, seconds: float | None) -> None:
        """How long `receive` waits for bytes; None: for ever."""
        self._socket.settimeout(seconds)

    def abort(self) -> None:
        """Hang up at once: what was sent may be lost, and both sides' ports are free for the next connection.

        The other side's kernel would keep a killed process's port for a minute (TIME_WAIT); a reset ends that.
        """
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Say goodbye; what was sent still arrives."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _receive_all(self, deliver: Callable[[Inbound], None]) -> None:
        while True:
            try:
                deliver(self.receive())
            except (NetworkError, ProtocolError) as error:
                deliver(Lost(str(error), error))
                return

    def _receive_exactly(self, size: int) -> tuple[bytearray, float]:
        data = bytearray(size)
        view = memoryview(data)
        stamp_s = 0.0
        while len(view):
            try:
                got, stamp_s = self._wire.receive_into(view)
            except OSError as error:
                raise explain(error, self.peer) from error
            if got == 0:
                raise ConnectionLostError(f"{self.peer} closed the connection.")
            view = view[got:]
        return data, stamp_s


def connect(
    address: tuple[str, int], source_port: int | None, timeout_s: float, source_ip: str = "",
    context: ssl.SSLContext | None = None, server_name: str = "",
) -> Connection:
    """Connect to the cloud from a fixed source port, again and again until `timeout_s` has passed.

    Raises: NetworkError with the last reason, and at once if the TLS handshake fails.
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
