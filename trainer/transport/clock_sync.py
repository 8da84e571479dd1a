"""The offset between two clocks from pings, after NTP."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PingTimes:
    """One ping in seconds: sent and its answer received on our clock, received and answered on theirs."""

    sent_s: float
    their_receipt_s: float
    their_answer_s: float
    received_s: float

    @property
    def round_trip_s(self) -> float:
        """The time on the way, without the other side's thinking time."""
        return (self.received_s - self.sent_s) - (self.their_answer_s - self.their_receipt_s)

    @property
    def offset_s(self) -> float:
        """Their clock minus ours; wrong by at most half the round trip.

        Source: RFC 5905, section 8.
        """
        return ((self.their_receipt_s - self.sent_s) + (self.their_answer_s - self.received_s)) / 2


def best_offset_s(pings: Iterable[PingTimes]) -> float:
    """The offset of the ping that spent least time on the way (RFC 5905's clock filter)."""
    return min(pings, key=lambda ping: ping.round_trip_s).offset_s
