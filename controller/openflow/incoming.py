"""Limits on the messages of a switch: replies without end, unasked messages without number, malformed ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from struct import Struct

from controller.openflow.encoder import HEADER, MULTIPART_REPLY, PORT_STATUS, VERSION
from controller.openflow.limits import OpenFlowLimits

_MULTIPART = Struct("!HH")
_MORE = 1
"""OFPMPF_REPLY_MORE."""
_PORT = Struct("!I")
_PORT_OFFSET = 16
"""Of the port number in a port-status message."""
PORT_STATUS_BYTES = 80
MAX_REPLIES = 64
"""Multipart replies under way at once; the controller asks for three."""
IGNORED_COST = 0.005
"""Share of a message that is ignored unparsed, beside one that is handled."""
UNKNOWN_SHARE = 0.05
"""Share of the rate that a switch gets that is not on the map."""


class BadMessageError(Exception):
    """A switch has sent what its connection cannot go on after."""


class IncomingMessages:
    """Checks every message of one connection in order.

    `wanted_ports`: the ports whose status is of interest; None: any, as long as the handshake is incomplete.
    """

    def __init__(self, limits: OpenFlowLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._replies: dict[int, tuple[int, int]] = {}
        """Bytes and parts so far of each multipart reply under way, by transaction id."""
        self._tokens = limits.messages_per_s
        self._at_s = clock()
        self.rate_per_s = limits.messages_per_s
        self.wanted_ports: Collection[int] | None = None
        self.reply_bytes = limits.ports * 64 + 4096
        """During the handshake; 64 bytes describe a port."""

    def on_established(self, wanted_ports: Collection[int], is_known: bool) -> None:
        """The handshake is complete; a switch that is not on the map gets a small share only."""
        self.wanted_ports = wanted_ports
        self.reply_bytes = self._limits.reply_bytes if is_known else self._limits.ports * 64 + 4096
        self.rate_per_s = self._limits.messages_per_s if is_known else self._limits.messages_per_s * UNKNOWN_SHARE

    def is_wanted(self, version: int, kind: int, length: int, xid: int, buffer: bytearray, offset: int) -> bool:
        """Whether to handle the message at this offset; False: ignore it.

        Raises: BadMessageError.
        """
        if length < HEADER.size:
            raise BadMessageError(f"a message announces {length} bytes; a header has {HEADER.size}")
        if kind == MULTIPART_REPLY and version == VERSION:
            self._count_part(length, xid, buffer, offset)
        elif kind == PORT_STATUS and version == VERSION:
            if length != PORT_STATUS_BYTES:
                raise BadMessageError(f"a port-status message has {length} bytes instead of {PORT_STATUS_BYTES}")
            (port,) = _PORT.unpack_from(buffer, offset + _PORT_OFFSET)
            if self.wanted_ports is not None and port not in self.wanted_ports:
                self._tokens -= IGNORED_COST
                return False
        return True

    def count_unasked(self) -> None:
        """Count a message that answers no request."""
        self._tokens -= 1

    @property
    def is_fast(self) -> bool:
        """Whether more has arrived of late than the rate allows."""
        return self._tokens < 0

    def pause_s(self) -> float:
        """How long to wait before more is read, so that the rate is kept on average."""
        now_s, rate_per_s = self._clock(), self.rate_per_s
        tokens = self._tokens + (now_s - self._at_s) * rate_per_s
        burst = rate_per_s if rate_per_s > 1.0 else 1.0
        self._tokens = tokens if tokens < burst else burst
        self._at_s = now_s
        return 0.0 if tokens >= 0 else -tokens / rate_per_s

    def _count_part(self, length: int, xid: int, buffer: bytearray, offset: int) -> None:
        if length < HEADER.size + _MULTIPART.size:
            raise BadMessageError(f"a multipart reply has {length} bytes")
        _, flags = _MULTIPART.unpack_from(buffer, offset + HEADER.size)
        size, parts = self._replies.pop(xid, (0, 0))
        size, parts = size + length, parts + 1
        if size > self.reply_bytes or parts > self._limits.reply_parts:
            limit = f"{self.reply_bytes} bytes and {self._limits.reply_parts} parts"
            raise BadMessageError(f"a multipart reply is larger than {limit}")
        if flags & _MORE:
            if len(self._replies) >= MAX_REPLIES:
                raise BadMessageError(f"more than {MAX_REPLIES} multipart replies are incomplete")
            self._replies[xid] = size, parts
