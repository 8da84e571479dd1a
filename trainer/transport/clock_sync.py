"""Clock offset estimated from pings, as in NTP."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PingTimes:
    """Timestamps of one ping (seconds): sent and reply received on the local clock, the rest on the remote clock."""

    sent_s: float
    remote_receive_s: float
    remote_send_s: float
    received_s: float

    @property
    def round_trip_s(self) -> float:
        """Round-trip time without the processing time of the peer."""
        return (self.received_s - self.sent_s) - (self.remote_send_s - self.remote_receive_s)

    @property
    def offset_s(self) -> float:
        """Remote clock minus local clock; the error is at most half the round-trip time.

        Source: RFC 5905, section 8.
        """
        return ((self.remote_receive_s - self.sent_s) + (self.remote_send_s - self.received_s)) / 2


def best_offset_s(pings: Iterable[PingTimes]) -> float:
    """Return the offset of the ping with the shortest round trip (the clock filter of RFC 5905)."""
    return min(pings, key=lambda ping: ping.round_trip_s).offset_s
