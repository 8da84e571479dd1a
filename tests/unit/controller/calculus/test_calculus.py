"""Network calculus of single servers and rings, against a published example and by hand."""

from __future__ import annotations

import pytest

from controller.booking.peak_load import Activity
from controller.calculus.busy_period import CrossFlow, server_delay
from controller.calculus.curves import Server
from controller.calculus.delays import Delays
from controller.calculus.streams import NoBound, Stream


def test_the_published_example_of_a_total_flow_analysis() -> None:
    """Three servers of 4 Mb/s and 10 us, three flows of 10 B bursts and 10 kb/s."""
    servers = {name: Server(4e6, 10.0) for name in ("s0", "s1-o0", "s1-o1")}
    paths = {"f0": ("s0", "s1-o0"), "f1": ("s0", "s1-o1"), "f2": ("s1-o0",)}
    streams = {name: Stream(path, 10_000, 80) for name, path in paths.items()}
    from_zero = Delays(servers, streams)
    incremental = Delays[str](servers, {})
    for name, stream in streams.items():
        incremental = incremental.changed({name: stream})
    assert {name: round(from_zero.path_delay_us([name]), 3) for name in servers} == {
        "s0": 50.000, "s1-o0": 50.125, "s1-o1": 30.125,
    }  # fmt: skip
    ends = {name: round(from_zero.path_delay_us(path), 3) for name, path in paths.items()}
    assert ends == {"f0": 100.125, "f1": 80.125, "f2": 50.125}
    for server in servers:
        delay_us = from_zero.path_delay_us([server])
        assert delay_us <= incremental.path_delay_us([server]) * (1 + 1e-9) <= delay_us * 1.03


def test_an_unstable_ring_has_no_bound_and_the_error_names_a_link() -> None:
    """Five streams, four servers long, in a ring of five: D = T + (4 b + (0 + 1 + 2 + 3) r D) / R, so r below R / 6."""
    servers = {f"s{i}": Server(1e6, 100.0) for i in range(5)}

    def round_the_ring(rate_bps: float) -> dict[int, Stream]:
        return {i: Stream(tuple(f"s{(i + hop) % 5}" for hop in range(4)), rate_bps, 1000) for i in range(5)}

    ring = Delays(servers, round_the_ring(100_000))
    for name in servers:
        assert ring.path_delay_us([name]) == pytest.approx((100 + 4000) / (1 - 0.6), rel=1e-4)
    tight = round_the_ring(170_000)
    with pytest.raises(NoBound) as refusal:
        Delays(servers, tight)
    assert refusal.value.link in servers
    with pytest.raises(NoBound):
        Delays(servers, {i: tight[i] for i in range(1, 5)}).changed({0: tight[0]})


def cross_flow(burst_bits: float, rate_bps: float, start_s: float, end_s: float) -> CrossFlow:
    return CrossFlow(Activity(start_s, end_s), str(start_s), None, burst_bits, rate_bps, 0.0)


def test_a_served_burst_still_delays_later_streams_in_the_same_busy_period() -> None:
    """1000 bit/s. One burst takes 8 s, meanwhile 4000 bits come in, then another burst: it waits for 12 s."""
    steady, first = cross_flow(0, 500, -1e9, 1e9), cross_flow(8000, 1, 0, 0.001)
    soon, late = cross_flow(8000, 1, 8, 9), cross_flow(8000, 1, 80, 81)
    server = Server(1000, 0)
    assert server_delay(server, [steady, first, soon]).delay_us >= 12e6
    assert server_delay(server, [steady, first, late]).delay_us == pytest.approx(8e6)
