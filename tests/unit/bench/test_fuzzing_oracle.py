"""The oracle of the fuzzer finds each kind of broken promise, and nothing where all are kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fuzzing.oracle import Arrival, FlowHistory, Told, judge
from machine.stall_watch import Stall

RATE_BPS, BURST_BYTES, FRAME_BYTES = 8_000_000, 10_000, 1000
PERIOD_S = FRAME_BYTES * 8 / RATE_BPS
TOLD = Told(0.0, RATE_BPS, BURST_BYTES, 20_000.0, 15_000.0)


def history(latency_s: float = 0.01, count: int = 2000) -> FlowHistory:
    arrivals = [
        Arrival(number, 1 + number * PERIOD_S, 1 + number * PERIOD_S + latency_s, 46, FRAME_BYTES)
        for number in range(count)
    ]
    return FlowHistory("f", True, None, [TOLD], [], count, arrivals)


def test_a_flow_within_its_promises_is_not_violated() -> None:
    verdict = judge(history(), [])
    assert not verdict.is_violated
    assert (verdict.judged, verdict.late, verdict.lost) == (2000, 0, 0)
    assert verdict.largest_share_of_bound == pytest.approx(0.5)


def test_datagrams_later_than_the_bound_are_found() -> None:
    verdict = judge(history(latency_s=0.025), [])
    assert verdict.is_violated
    assert verdict.late == 2000
    assert verdict.worst_excess_us == pytest.approx(5000, rel=1e-3)


def test_a_limit_counts_also_where_the_bound_told_has_grown() -> None:
    flow = history(latency_s=0.018)
    flow.limit_us = 15_000
    assert judge(flow, []).beyond_limit == 2000


def test_a_larger_bound_counts_only_from_when_it_was_told() -> None:
    flow = history(latency_s=0.025)
    flow.told.append(replace(TOLD, since_s=2.0, bound_us=30_000.0))
    verdict = judge(flow, [])
    assert 300 < verdict.late < 500


def test_a_proven_stall_excuses_lateness_up_to_its_length() -> None:
    flow = history(count=3)
    flow.arrivals[1] = flow.arrivals[1]._replace(arrived_s=flow.arrivals[1].sent_s + 0.06)
    stall = Stall(flow.arrivals[1].sent_s, flow.arrivals[1].sent_s + 0.05, 0.05)
    assert judge(flow, []).late == 1
    assert judge(flow, [stall]).late == 0


def test_a_gate_that_opens_late_is_no_violation_if_it_is_told() -> None:
    flow = history()
    flow.arrivals[:100] = [arrival._replace(dscp=34) for arrival in flow.arrivals[:100]]
    assert judge(flow, []).unmarked == 100
    flow.late_gates.append((0.95, flow.arrivals[80].sent_s))
    assert judge(flow, []).unmarked == 19


def test_lost_datagrams_are_found_unless_a_link_was_cut() -> None:
    flow = history()
    del flow.arrivals[500:510]
    assert judge(flow, []).lost == 10
    flow.excluded.append((1.4, 1.6))
    assert judge(flow, []).lost == 0


def test_datagrams_outside_the_reserved_class_are_found() -> None:
    flow = history()
    flow.arrivals = [arrival._replace(dscp=0) for arrival in flow.arrivals]
    assert judge(flow, []).unmarked == 2000


def test_a_flow_that_exceeds_its_arrival_curve_is_found_even_if_it_floods() -> None:
    flow = history()
    flow.conforms = False
    assert judge(flow, []).excess_bytes == 0
    refill = [Arrival(5000 + number, 2.0, 2.0, 46, FRAME_BYTES) for number in range(60)]
    flow.arrivals = sorted([*flow.arrivals, *refill], key=lambda arrival: arrival.arrived_s)
    verdict = judge(flow, [])
    assert verdict.is_violated
    assert 30_000 < verdict.excess_bytes < 40_000
