"""A paced sender loses nothing at the meter of the burst that the trainer reserves, at any rate."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.property.controller.domain.test_meter_burst import Meter
from trainer.transport.pacing import PACE_SHARE, burst_bytes

FRAME_BYTES = 9014
TIMER_SLACK_S = 0.0002


@given(rate_kbps=st.integers(1000, 1_000_000), seed=st.integers(0, 2**32))
def test_the_kernels_paced_bursts_pass_the_meter(rate_kbps: int, seed: int) -> None:
    """Each burst is due when the last has left at the pace; timers are late, and the next due time does not wait."""
    chance = random.Random(seed)
    meter = Meter(rate_kbps, burst_bytes(rate_kbps * 1000))
    pace_bytes_per_s = PACE_SHARE * rate_kbps * 125
    frames_at_once = max(2, int(pace_bytes_per_s / 1024 / FRAME_BYTES))
    due_s = chance.uniform(0, 0.003)
    for _ in range(100):
        sent_ms = (due_s + chance.uniform(0, TIMER_SLACK_S)) * 1e3
        assert all(meter.passes(FRAME_BYTES, sent_ms) for _ in range(frames_at_once))
        due_s += frames_at_once * FRAME_BYTES / pace_bytes_per_s + (0.05 if chance.random() < 0.05 else 0.0)
