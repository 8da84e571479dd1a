"""The meter of Open vSwitch passes a conforming stream whole exactly where its burst is `least_burst_bytes` or more."""

from __future__ import annotations

import random
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from controller.dataplane.pipeline import ARP_BURST_KBIT, ARP_METER_MAX_KBPS, ARP_METER_MIN_KBPS, best_effort_meter
from controller.domain.network import MAX_FRAME_BYTES, DirectedLink
from controller.domain.reservation import default_burst_bytes, least_burst_bytes
from topologies.maps import least_queue_bytes

RATES_KBPS = st.integers(1, 1_000_000) | st.integers(1, 10_000)
FRAMES_BYTES = st.sampled_from([60, 590, 1514, 9014])


class Meter:
    """A drop band of Open vSwitch: whole milliseconds, and never more of them than the burst holds.

    Source: `dp_netdev_run_meter` and `dpif_netdev_meter_set` in its lib/dpif-netdev.c, 3.1 and 3.5.
    """

    def __init__(self, rate_kbps: int, burst_bytes: int) -> None:
        self.rate_kbps = rate_kbps
        self.burst_bits = ceil(burst_bytes * 8 / 1000) * 1000
        self.bucket_bits, self.used_ms = self.burst_bits, 0

    def passes(self, frame_bytes: int, now_ms: float) -> bool:
        passed_ms = min(int(now_ms) - self.used_ms, self.burst_bits // self.rate_kbps)
        self.used_ms = int(now_ms)
        self.bucket_bits = min(self.burst_bits, self.bucket_bits + passed_ms * self.rate_kbps)
        if self.bucket_bits < frame_bytes * 8:
            return False
        self.bucket_bits -= frame_bytes * 8
        return True


def paced_ms(rate_kbps: int, max_frame_bytes: int, chance: random.Random) -> list[tuple[float, int]]:
    """Moments and sizes of frames, each sent when the frames before it have left a line of that rate; with pauses."""
    now_ms, frames = chance.uniform(0, 3), []
    for _ in range(200):
        frame_bytes = chance.choice((60, max_frame_bytes, max_frame_bytes))
        frames.append((now_ms, frame_bytes))
        now_ms += frame_bytes * 8 / rate_kbps + (chance.uniform(0, 50) if chance.random() < 0.05 else 0.0) + 1e-9
    return frames


@given(rate_kbps=RATES_KBPS, frame_bytes=FRAMES_BYTES, seed=st.integers(0, 2**32))
def test_a_stream_of_the_full_rate_passes_whole(rate_kbps: int, frame_bytes: int, seed: int) -> None:
    meter = Meter(rate_kbps, least_burst_bytes(rate_kbps * 1000, frame_bytes))
    assert all(meter.passes(size, now_ms) for now_ms, size in paced_ms(rate_kbps, frame_bytes, random.Random(seed)))


def test_one_frame_at_a_high_rate_passes_one_bucket_and_then_nothing() -> None:
    meter = Meter(75_000, 9014)
    passed = [meter.passes(1000, 4.0 * number) for number in range(200)]
    assert passed == [True] * 9 + [False] * 191


def test_a_millisecond_less_than_the_least_burst_drops_of_a_full_rate_stream() -> None:
    meter = Meter(100_000, least_burst_bytes(100_000_000, 9014) - 12_500)
    frames = paced_ms(100_000, 9014, random.Random(0))
    assert sum(meter.passes(size, now_ms) for now_ms, size in frames) < 0.9 * len(frames)


@given(rate_kbps=RATES_KBPS, frame_bytes=FRAMES_BYTES)
def test_every_meter_has_the_least_burst(rate_kbps: int, frame_bytes: int) -> None:
    rate_bps = rate_kbps * 1000
    least_bytes = least_burst_bytes(rate_bps, frame_bytes)
    assert least_bytes * 8 >= frame_bytes * 8 + rate_kbps
    assert least_bytes * 8 < frame_bytes * 8 + 2 * rate_kbps + 8
    assert default_burst_bytes(rate_bps, frame_bytes) >= least_bytes


@given(capacity_kbps=st.integers(1, 100_000_000), reserved_share=st.floats(0, 1), queue_share=st.floats(1, 50))
def test_every_meter_of_best_effort_has_the_least_burst_and_its_queue_holds_it(
    capacity_kbps: int, reserved_share: float, queue_share: float
) -> None:
    queue_bytes = round(least_queue_bytes(capacity_kbps * 1000) * queue_share)
    link = DirectedLink("a->b", "a", "b", 1, 1, 1.0, capacity_kbps * 1000, queue_bytes=queue_bytes)
    meter = best_effort_meter(link, round(link.reservable_bps * reserved_share))
    assert meter.burst_kbit * 1000 >= least_burst_bytes(meter.rate_kbps * 1000, MAX_FRAME_BYTES) * 8
    assert meter.burst_kbit * 1000 <= queue_bytes * 8


def test_every_meter_of_arp_has_the_least_burst() -> None:
    for rate_kbps in range(ARP_METER_MIN_KBPS, ARP_METER_MAX_KBPS + 1):
        assert least_burst_bytes(rate_kbps * 1000, 60) * 8 <= ARP_BURST_KBIT * 1000
