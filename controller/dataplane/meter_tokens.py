"""Tokens of a meter, moved from one bucket to the next when a meter is changed.

A switch fills the bucket of a meter that it adds or modifies. So that a change hands out no tokens, frames that the
controller sends through the meter, and that go nowhere, first take tokens out of the old bucket, as far as it has them;
of the new, full bucket as many are removed again as were not taken out of the old one. A frame that finds too few
tokens is dropped and takes none: a flow that uses all of its rate loses nothing, and gains nothing.

docs/guarantees.md has the proof. Source of the meter's behaviour: Open vSwitch 3.1 and 3.5, lib/dpif-netdev.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from controller.dataplane.entries import BASE_COOKIE, CONTROLLER_PORT, FlowEntry, MeterEntry, match_of

MIN_FRAME_BYTES = 60
MAX_FRAME_BYTES = 60_000
"""Below the largest OpenFlow message, 65,535 bytes."""

TOKEN_FRAME_TYPE = 0x88B5
"""Local experimental Ethertype. Source: IEEE 802-2014 §9.2.3."""
TOKEN_FRAME_PRIORITY = 600

KEPT_MS = 2
"""A meter in use keeps the rate of this time, until it has been changed: at most a quarter of its bucket."""
DRAWS = 3
"""How often half of what is left above that is taken: seven eighths of a full bucket."""
GROWTH_DRAWS = 6
"""The same for a meter that grows because of other flows: its own sender has no reason to expect a change."""
MAX_DRAW_FRAMES = 16
"""For DRAWS of them; more draws may send more."""


class MeterCounts(NamedTuple):
    """The counters of a meter; `packets` and `bytes` include the dropped ones."""

    packets: int = 0
    bytes: int = 0
    dropped_packets: int = 0
    dropped_bytes: int = 0

    @property
    def passed_bytes(self) -> int:
        """Bytes that were not dropped."""
        return self.bytes - self.dropped_bytes

    def plus(self, other: MeterCounts, sign: int = 1) -> MeterCounts:
        """The sum, or with sign -1 the difference, of both."""
        return MeterCounts(
            self.packets + sign * other.packets,
            self.bytes + sign * other.bytes,
            self.dropped_packets + sign * other.dropped_packets,
            self.dropped_bytes + sign * other.dropped_bytes,
        )


NO_COUNTS = MeterCounts()


@dataclass(slots=True)
class TokenMove:
    """Frames sent through a meter with a change of it, and its counters directly before and after.

    The southbound interface sets `before` and `after`, zero where the meter does not exist, and then `is_read`.
    """

    frames: tuple[int, ...] = ()
    before: MeterCounts = NO_COUNTS
    after: MeterCounts = NO_COUNTS
    is_read: bool = False

    @property
    def taken_bytes(self) -> int:
        """At least how many tokens the frames took out of a meter that is not changed otherwise.

        Packets of the flow that were dropped in between count as frames that took nothing.
        """
        return max(0, sum(self.frames) - (self.after.dropped_bytes - self.before.dropped_bytes))


def bucket_bytes(meter: MeterEntry) -> int:
    """The content of a full bucket."""
    return meter.burst_kbit * 125


def kept_bytes(meter: MeterEntry) -> int:
    """What a meter in use keeps when tokens are taken out of its full bucket."""
    return min(meter.rate_kbps * KEPT_MS // 8, bucket_bytes(meter) // 4)


def draw_frames(meter: MeterEntry, draws: int = DRAWS) -> tuple[int, ...]:
    """The sizes of frames that take most of the tokens of a full bucket, and few of one that has few."""
    left_bytes = bucket_bytes(meter) - kept_bytes(meter)
    frames: list[int] = []
    for _ in range(draws):
        left_bytes //= 2
        if left_bytes < MIN_FRAME_BYTES:
            break
        frames += frames_of(left_bytes)
    return tuple(frames[: MAX_DRAW_FRAMES * draws // DRAWS])


def start_bytes(old: MeterEntry, new: MeterEntry, taken_bytes: int, since_s: float) -> int:
    """The content with which a changed bucket starts, if so much was taken out of the old one so long ago.

    The old bucket has refilled since by as much as it would not have, had nothing been taken out of it.
    """
    refilled_bytes = round(old.rate_kbps * (since_s * 1000 + KEPT_MS) / 8)
    return max(0, min(taken_bytes - refilled_bytes, bucket_bytes(new)))


def drain_frames(meter: MeterEntry, start_bytes: int) -> tuple[int, ...]:
    """The sizes of frames that leave at most `start_bytes` of a full bucket."""
    surplus_bytes = bucket_bytes(meter) - start_bytes
    return frames_of(max(surplus_bytes, MIN_FRAME_BYTES)) if surplus_bytes > 0 else ()


def frames_of(total_bytes: int) -> tuple[int, ...]:
    """Frame sizes with that sum, as few as possible."""
    count = -(-total_bytes // MAX_FRAME_BYTES)
    size_bytes, larger = divmod(total_bytes, count)
    return (size_bytes + 1,) * larger + (size_bytes,) * (count - larger)


def token_entry(meter_id: int) -> FlowEntry:
    """The entry through which the controller's frames reach a meter, and nothing else; in place while they do."""
    match = match_of({
        "in_port": CONTROLLER_PORT, "eth_type": TOKEN_FRAME_TYPE, "eth_dst": _address(meter_id).hex(":"),
    })  # fmt: skip
    return FlowEntry(0, TOKEN_FRAME_PRIORITY, match, BASE_COOKIE, meter_id)


def token_frame(meter_id: int, size_bytes: int) -> bytes:
    """A frame for that entry."""
    head = _address(meter_id) + _address(0) + TOKEN_FRAME_TYPE.to_bytes(2, "big")
    return head.ljust(size_bytes, b"\0")


def _address(meter_id: int) -> bytes:
    """A locally administered MAC address."""
    return b"\x02\x9a" + meter_id.to_bytes(4, "big")
