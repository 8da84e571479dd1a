"""Paced sockets: one TCP connection, frames in both directions, a thread that receives.

Arrival is when the kernel received a frame's last byte (SO_TIMESTAMPNS), not when a busy process noticed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from trainer import protocol
from trainer.errors import ConnectionLostError, NetworkError, ProtocolError
from trainer.messages import Message
from trainer.pacing import DEFAULT_MSS

log = logging.getLogger(__name__)

SO_MAX_PACING_RATE = 47  # not in Python's socket module; bytes/s of payload
SO_TIMESTAMPNS = 35
RESERVED_TOS = 46 << 2
"""DSCP 46: priority already at this host's own port. The first switch marks for itself and believes nobody."""
UNPACED = 0xFFFF_FFFF
EXPEDITED_FORWARDING = 46 << 2
"""The type-of-service byte of DSCP 46 (RFC 3246)."""
BUFFER_BYTES = 16 * 1024 * 1024
"""A whole segment fits, so sending does not wait and a busy receiver does not close the window."""
SILENCE_MS = 120_000
"""Unacknowledged for this long, a connection counts as lost (TCP_USER_TIMEOUT)."""
PROBE_AFTER_S, PROBE_EVERY_S, PROBES = 20, 10, 4
"""An idle connection is probed, so that a host that vanished is noticed after a minute."""
STALL_S = 15
"""The kernel takes not one byte of a frame for this long: the other side has stopped reading."""

_TIMESPEC = struct.Struct("@ll")
_ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)


@dataclass(frozen=True, slots=True)
class Sent:
    """When a frame was handed to the kernel (seconds, this clock) and its size."""

    send_s: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Received:
    """A frame, and when its last byte arrived (seconds, this clock)."""

    frame: protocol.Frame
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

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sending = threading.Lock()
        self._broken: str | None = None
        self._sent_frames = 0
        self._received_frames = 0
        self._sent_at_s = 0.0
        self.limits = protocol.Limits()
        self.arriving: protocol.Prefix | None = None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_EVERY_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMESPEC.pack(STALL_S, 0))
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

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
        """Send no faster than this from now on, as reserved traffic; None takes limit and mark away."""
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0 if bytes_per_s is None else RESERVED_TOS)
        rate = UNPACED if bytes_per_s is None else max(1, int(bytes_per_s))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, struct.pack("@I", min(rate, UNPACED)))

    def send(self, message: Message, tensors: Mapping[str, Tensor] | None = None) -> Sent:
        """Send one frame; returns when the kernel has all of it.

        Raises: ConnectionLostError if the other side is gone or has stopped reading.
        """
        encoded = protocol.encode(message, tensors)
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
                self._send(*protocol.encode(message))
        finally:
            self._sending.release()

    def _send(self, kind: int, header: bytes, buffers: list[memoryview]) -> Sent:
        if self._broken is not None:  # in the middle of a frame; nothing sensible can follow
            raise ConnectionLostError(self._broken)
        now_s = time.time()
        start = protocol.prefix(kind, header, buffers, now_s, self._sent_frames + 1)
        views = [memoryview(start + header), *(view for view in buffers if len(view))]
        size = sum(map(len, views))
        try:
            while views:
                views = _after(views, self._socket.sendmsg(views[:64]))
        except BlockingIOError:
            self._broken = f"{self.peer} has read nothing for {STALL_S} s."
            raise ConnectionLostError(self._broken) from None
        except OSError as error:
            self._broken = f"The connection to {self.peer} broke: {error}."
            raise ConnectionLostError(self._broken) from error
        self._sent_frames += 1
        self._sent_at_s = time.monotonic()
        return Sent(now_s, size)

    def receive(self) -> Received:
        """Wait for one frame. One that came before is passed over.

        Raises: ConnectionLostError if the other side is gone, ProtocolError if it sends anything else.
        """
        while True:
            first, _ = self._receive_exactly(protocol.PREFIX.size)
            start = protocol.parse_prefix(first, self.limits)
            if start.number > self._received_frames + 1:
                raise ProtocolError(
                    f"{self.peer} sent frame {start.number}; frame {self._received_frames + 1} never came."
                )
            self.arriving = start
            header, arrival_s = self._receive_exactly(start.header_bytes)
            payload, payload_arrival_s = self._receive_exactly(start.payload_bytes)
            self.arriving = None
            frame = protocol.decode(start, header, payload)
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
        """Hang up at once: what was sent may be lost, and the port is free for the next connection."""
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
            except (ConnectionLostError, ProtocolError) as error:
                deliver(Lost(str(error), error))
                return

    def _receive_exactly(self, size: int) -> tuple[bytearray, float]:
        data = bytearray(size)
        view = memoryview(data)
        stamp_s = 0.0
        while len(view):
            try:
                got, ancillary, _, _ = self._socket.recvmsg_into([view], _ANCILLARY_BYTES)
            except TimeoutError as error:
                if error.errno == errno.ETIMEDOUT:
                    raise ConnectionLostError(
                        f"Nothing came through to or from the other side for {SILENCE_MS / 1000:g} s."
                    ) from error
                raise ProtocolError(f"{self.peer} began a frame and did not go on.") from None
            except OSError as error:
                raise ConnectionLostError(f"The connection to {self.peer} broke: {error}.") from error
            if got == 0:
                raise ConnectionLostError(f"{self.peer} closed the connection.")
            stamp_s = _kernel_stamp_s(ancillary) or time.time()
            view = view[got:]
        return data, stamp_s


def connect(
    address: tuple[str, int], source_port: int | None, timeout_s: float, source_ip: str = ""
) -> Connection:
    """Connect to the cloud from a fixed source port, again and again until `timeout_s` has passed.

    Raises: NetworkError with the last reason.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        sock = _new_socket()
        try:
            if source_port is not None:
                sock.bind((source_ip, source_port))
            sock.settimeout(max(0.1, deadline - time.monotonic()))
            sock.connect(address)
            sock.settimeout(None)
            return Connection(sock)
        except OSError as error:
            sock.close()
            if time.monotonic() >= deadline:
                raise NetworkError(
                    f"No cloud at {address[0]}:{address[1]} after {timeout_s:g} s"
                    f"{f' (from port {source_port})' if source_port else ''}: {error}."
                ) from error
            time.sleep(0.1)


def listen(address: tuple[str, int]) -> socket.socket:
    """A listening socket.

    Raises: NetworkError if the address is taken or not ours.
    """
    sock = _new_socket()
    try:
        sock.bind(address)
        sock.listen(64)
    except OSError as error:
        sock.close()
        raise NetworkError(
            f"Cannot listen on {address[0]}:{address[1]}: {error.strerror}. Is another cloud running? "
            "Choose another port with --port."
        ) from error
    return sock


def _new_socket() -> socket.socket:
    """A TCP socket with large buffers: set before connecting, they count for the window's scale."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for forced, plain in ((33, socket.SO_RCVBUF), (32, socket.SO_SNDBUF)):  # SO_RCVBUFFORCE, SO_SNDBUFFORCE
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
    return sock


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
