"""Flows whose largest frame is smaller than the map's."""

from __future__ import annotations

import pytest

from controller.admission.admission import Admitted, Request, decide
from controller.admission.live_reservations import LiveReservations
from controller.booking.calendar import Calendar
from controller.booking.transfer_rate import completion_us, gate_window, least_rate_bps
from controller.domain.network import network_from_map
from controller.domain.reservation import Flow, Match, Placement, Requirement, least_burst_bytes
from topologies.map_file.loader import load_map

PAIR = network_from_map(load_map("pair"))


def placed(requirement: Requirement) -> Placement:
    flow = Flow("f", "edge1", "cloud", Match("udp", 7801, 7800), requirement)
    decision = decide(PAIR, Calendar(), LiveReservations(PAIR), Request("r-1", 1, (flow,)), 0.0)
    assert isinstance(decision, Admitted)
    return decision.placements[0]


def test_a_burst_may_be_as_small_as_a_declared_frame_and_what_its_rate_needs() -> None:
    small, large = (placed(Requirement(64_000, 1, max_frame_bytes=frame)) for frame in (100, None))
    assert small.burst_bytes == least_burst_bytes(64_000, 100) < 150
    assert large.burst_bytes == least_burst_bytes(64_000, PAIR.max_frame_bytes)
    saved_us = (large.burst_bytes - small.burst_bytes) * 8 / 100
    assert large.accumulated_latency_us - small.accumulated_latency_us >= saved_us


def test_a_declared_frame_above_the_largest_of_the_map_changes_nothing() -> None:
    one, other = (placed(Requirement(64_000, 1, max_frame_bytes=frame)) for frame in (60_000, None))
    assert one.burst_bytes == other.burst_bytes


def test_the_default_burst_counts_the_declared_frame() -> None:
    assert placed(Requirement(64_000, max_frame_bytes=100)).burst_bytes == 400


def test_a_transfer_of_one_frame_is_sent_at_once() -> None:
    requirement = Requirement(transfer_bytes=200, max_frame_bytes=200, deadline_ms=50.0, period_ms=1000.0)
    placement = placed(requirement)
    assert placement.reserved_bps == 2000
    assert placement.completion_us == placement.accumulated_latency_us
    assert placement.burst_bytes == least_burst_bytes(2000, 200)


def test_the_window_of_a_transfer_of_one_frame_is_as_long_as_the_tolerance_of_senders() -> None:
    requirement = Requirement(transfer_bytes=200, max_frame_bytes=200, deadline_ms=500.0, period_ms=1000.0)
    window = gate_window(Flow("f", "edge1", "cloud", Match("udp", 1, 1), requirement), 2000)
    assert window is not None and window.length_us == 10_000


def test_a_transfer_of_more_than_one_declared_frame_is_paced() -> None:
    requirement = Requirement(transfer_bytes=201, max_frame_bytes=200, deadline_ms=50.0)
    rate_bps = least_rate_bps(requirement)
    assert rate_bps is not None and rate_bps >= 201 * 8 / 0.05
    assert completion_us(requirement, rate_bps, 10.0) == pytest.approx(10 + 8e6 * 201 / rate_bps)


def test_a_frame_that_cannot_arrive_in_time_has_no_rate() -> None:
    requirement = Requirement(transfer_bytes=200, max_frame_bytes=200, deadline_ms=1.0)
    assert least_rate_bps(requirement, latency_us=1001.0) is None
