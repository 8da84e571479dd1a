"""Receives numbered datagrams that came over two paths, and passes each on once.

Source: IEEE 802.1CB-2017 §7.4.3 (sequence recovery); RFC 3550 §5.1 for the place of the number in RTP.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections import OrderedDict
from dataclasses import dataclass

from controller.tsn.sequence_recovery import SequenceRecovery

NUMBER = struct.Struct("!H")
MAX_DATAGRAM_BYTES = 65_535
RECEIVE_BUFFER_BYTES = 4 << 20
MAX_SENDERS = 1024
"""Senders with numbers of their own; the one that was heard longest ago is forgotten for a further one."""


@dataclass(slots=True)
class Counts:
    """Datagrams so far: passed on, dropped as copies, numbers out of range, without a number, not taken by the next."""

    passed: int = 0
    copies: int = 0
    rogue: int = 0
    short: int = 0
    refused: int = 0


class SeamlessReceiver:
    """Passes datagrams of a socket on to an address. `offset`: bytes before the sequence number."""

    def __init__(self, receiving: socket.socket, to: tuple[str, int], offset: int, history: int) -> None:
        self._receiving = receiving
        self._sending = socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET, socket.SOCK_DGRAM)
        self._sending.connect(to)
        self._offset, self._history = offset, history
        self._recoveries: OrderedDict[tuple[str, int], SequenceRecovery] = OrderedDict()
        self.counts = Counts()
        receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)

    def serve(self) -> None:
        """Pass on what comes, until a signal handler raises."""
        while True:
            datagram, sender = self._receiving.recvfrom(MAX_DATAGRAM_BYTES)
            self.take(datagram, (sender[0], sender[1]), time.monotonic())

    def take(self, datagram: bytes, sender: tuple[str, int], now_s: float) -> None:
        """Pass a datagram on, unless it is a copy."""
        if len(datagram) < self._offset + NUMBER.size:
            self.counts.short += 1
            return
        (number,) = NUMBER.unpack_from(datagram, self._offset)
        recovery = self._recovery_of(sender)
        copies = recovery.discarded
        if recovery.accept(number, now_s):
            self.counts.passed += 1
            try:
                self._sending.send(datagram)
            except OSError:  # nobody listens there yet, or its queue is full
                self.counts.refused += 1
        elif recovery.discarded > copies:
            self.counts.copies += 1
        else:
            self.counts.rogue += 1

    def _recovery_of(self, sender: tuple[str, int]) -> SequenceRecovery:
        recovery = self._recoveries.get(sender)
        if recovery is None:
            recovery = self._recoveries[sender] = SequenceRecovery(self._history)
            if len(self._recoveries) > MAX_SENDERS:
                self._recoveries.popitem(last=False)
        self._recoveries.move_to_end(sender)
        return recovery

    def close(self) -> None:
        """Close the socket to the next."""
        with contextlib.suppress(OSError):
            self._sending.close()
