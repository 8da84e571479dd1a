"""Whatever the history, incrementally updated delays exceed those of a new analysis by at most 2 %."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.booking.peak_load import ALWAYS, Activity
from controller.calculus.busy_period import CrossFlow, Unstable, server_delay
from controller.calculus.curves import Server, ShapingCurve
from controller.calculus.delays import Delays
from controller.calculus.fixed_point import HEADROOMS
from controller.calculus.streams import NoBound, Stream
from controller.domain.reservation import Window

RATE_BPS, FRAME_BITS = 1e8, 12_000.0
WIDER_AT_MOST = 1.02

WINDOWS = [Activity(window=Window(400_000, offset_us, 100_000)) for offset_us in (0, 110_000, 150_000, 250_000)]
ACTIVITIES = ((ALWAYS,), (ALWAYS,), (ALWAYS, *WINDOWS), (ALWAYS, Activity(0, 1), Activity(1.02, 2), Activity(1.2, 2)))

Change = tuple[int, Stream | None]
"""The stream of that number is added or replaced, or removed."""


def port(rate_bps: float = RATE_BPS, is_shaped: bool = True) -> Server:
    frame_us = FRAME_BITS / rate_bps * 1e6
    shaping = ShapingCurve(3 * FRAME_BITS, rate_bps) if is_shaped else None
    return Server(rate_bps, frame_us, frame_us / 25, 1100.0, 100.0, shaping)


@st.composite
def ring_histories(draw: st.DrawFn) -> tuple[dict[str, Server], list[Change]]:
    """Streams round a ring, with a second ring over the same switches the other way, or a mesh of shortcuts."""
    size, hops, shaped = draw(st.integers(3, 7)), draw(st.integers(2, 6)), draw(st.booleans())
    servers = {f"s{number}": port(is_shaped=shaped) for number in range(size)}
    servers |= {f"x{number}": port(2 * RATE_BPS, shaped) for number in range(size)}
    utilisation = draw(st.sampled_from((0.3, 0.8, 0.9, 0.95, 0.97, 0.99, 0.995)))
    number = st.integers(0, 2 * size)
    full_bps = float(int(utilisation * RATE_BPS / min(hops, size)))
    rates = st.integers(int(full_bps / 5), int(full_bps)).map(float)

    def path(first: int, shortcuts: int = 0) -> tuple[str, ...]:
        return tuple(f"{'sx'[shortcuts >> hop & 1]}{(first + hop) % size}" for hop in range(min(hops, size)))

    paths = st.builds(path, st.integers(0, size - 1), st.just(0) | st.integers(0, 2**hops - 1))
    bursts = st.sampled_from((1, 2, 10, 50)).map(lambda frames: frames * FRAME_BITS)
    streams = st.builds(Stream, paths, rates, bursts, activity=st.sampled_from(draw(st.sampled_from(ACTIVITIES))))
    changes: list[Change] = draw(st.lists(st.tuples(number, st.none() | streams), min_size=1, max_size=12))
    if draw(st.booleans()):
        changes = [*((first, Stream(path(first), full_bps, 8 * FRAME_BITS)) for first in range(size)), *changes]
    return servers, changes


@given(history=ring_histories())
@settings(max_examples=150, deadline=None)
def test_after_any_history_on_a_ring_no_delay_is_more_than_two_per_cent_above_a_new_analysis(
    history: tuple[dict[str, Server], list[Change]],
) -> None:
    servers, changes = history
    delays: Delays[int] = Delays(servers, {})
    for number, stream in changes:
        removed = [number] if number in delays.streams else []
        added = {} if stream is None else {number: stream}
        streams = {key: kept for key, kept in delays.streams.items() if key != number} | added
        try:
            fresh = Delays(servers, streams)
        except NoBound:
            with pytest.raises(NoBound):
                delays.changed(added, removed)
            continue
        delays = delays.changed(added, removed)
        for name in {name for stream in streams.values() for name in stream.servers}:
            new_us, delay_us = fresh.path_delay_us([name]), delays.path_delay_us([name])
            assert delay_us <= new_us * WIDER_AT_MOST
            assert delay_us >= new_us / (1 + HEADROOMS[-1]), "a new analysis is the least"


def test_earlier_packets_do_not_make_more_windows_concurrent() -> None:
    """Once the least extension was exceeded by a headroom, which could count a further window."""
    windows = [Activity(window=Window(2_000_000, offset_us, 100_000)) for offset_us in (0, 203_000, 209_000)]

    def delay_us(lateness_us: float) -> float:
        streams = zip(windows, (5e6, 5.1e5, 5.1e5), strict=True)
        flows = [CrossFlow(activity, "", None, bits, 1e5, lateness_us) for activity, bits in streams]
        return server_delay(port(), flows).delay_us

    assert delay_us(50_000.0) < delay_us(53_000.0)


@given(
    streams=st.lists(
        st.tuples(st.sampled_from((ALWAYS, *WINDOWS)), st.floats(1e4, 3e6), st.floats(1e5, 2e7), st.floats(0, 5e4)),
        min_size=2, max_size=6,
    ),
    later_us=st.floats(0, 3e4), more_bits=st.floats(0, 1e6),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_the_delay_of_a_server_never_falls_when_streams_are_later_or_burstier(
    streams: list[tuple[Activity, float, float, float]], later_us: float, more_bits: float
) -> None:
    def delay_us(later_us: float, more_bits: float) -> float:
        flows = [
            CrossFlow(activity, "", None, burst_bits + more_bits, rate_bps, lateness_us + later_us)
            for activity, burst_bits, rate_bps, lateness_us in streams
        ]
        try:
            return server_delay(port(), flows).delay_us
        except Unstable:
            return inf

    assert delay_us(0.0, 0.0) <= delay_us(later_us, more_bits) * (1 + 1e-9)
