"""Schedules: places that never meet, streams that stay where they are, and refusals with name and code."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import gcd

from controller.tsn.export import schedule_document
from controller.tsn.gate_lists import gate_lists
from controller.tsn.scheduler import add_stream, schedule, tick_of, without_stream
from controller.tsn.simulation import simulate
from controller.tsn.streams import FailureCode, Schedule
from tests.unit.controller.tsn.networks import line, stream

CROSSING = [
    stream(f"s{number}", f"e{number % 2}", f"e{3 - number % 3 % 2}", 100 * 2 ** (number % 3)) for number in range(18)
]


def meetings(made: Schedule) -> list[tuple[str, str, str]]:
    """Pairs of frames that some port would have to send at the same time."""
    windows = [
        (hop.link.name, frame.stream, hop.start_ns, hop.duration_ns, frame.interval_ns)
        for frame in made.frames
        for hop in frame.hops
    ]
    found = []
    for (port, name, start, length, interval), (other_port, other, *window) in combinations(windows, 2):
        common = gcd(interval, window[2])
        ahead = (window[0] - start) % common
        if port == other_port and (ahead < length or common - ahead < window[1]):
            found.append((port, name, other))
    return found


def test_no_two_frames_meet_and_none_waits() -> None:
    made = schedule(line(4), CROSSING)
    assert not made.refused
    assert len(made.frames) == 18
    assert meetings(made) == []
    assert {hop.start_ns - hop.ready_ns for frame in made.frames for hop in frame.hops} == {0}


def test_the_latency_is_that_of_a_frame_alone() -> None:
    made = schedule(line(4), [stream("s", "e0", "e3")])
    assert made.latency_ns["s"] == {"e3": 5 * 4000 + 4 * 2000}


def test_a_stream_too_slow_for_its_latency_is_refused_by_name_with_code_21() -> None:
    late = replace(stream("slow", "e0", "e3"), max_latency_ns=27_999)
    made = schedule(line(4), [*CROSSING, late])
    assert [(refusal.stream, refusal.code) for refusal in made.refused] == [("slow", FailureCode.MAX_LATENCY_EXCEEDED)]
    assert "28000 ns" in made.refused[0].reason
    assert not made.frames


def test_more_than_fits_the_link_of_a_talker_is_refused_with_code_1() -> None:
    made = schedule(line(2), [stream(f"s{number}", "e0", "e1", 100, 1500) for number in range(9)])
    assert [(refusal.stream, refusal.code) for refusal in made.refused] == [("s8", FailureCode.INSUFFICIENT_BANDWIDTH)]


def test_intervals_that_must_meet_are_refused_with_code_3() -> None:
    first, second = stream("a", "e0", "e1"), replace(stream("b", "e0", "e1"), interval_ns=100_001)
    made = schedule(line(2), [first, second])
    (refusal,) = made.refused
    assert (refusal.stream, refusal.code) == ("b", FailureCode.INSUFFICIENT_BANDWIDTH_FOR_TRAFFIC_CLASS)
    assert "every 100001 ns" in refusal.reason


def test_adding_and_removing_a_stream_moves_no_other() -> None:
    network, made = line(4), schedule(line(4), CROSSING)
    new = stream("new", "e0", "e2", 200)
    more = add_stream(network, made, new)
    assert not more.refused
    assert more.frames[: len(made.frames)] == made.frames
    assert meetings(more) == []
    assert without_stream(more, "new") == made
    assert add_stream(network, more, new).refused[0].code == FailureCode.STREAM_ID_IN_USE


def test_a_stream_waits_in_a_queue_if_it_fits_nowhere_without() -> None:
    """Two ports on the way are free in turns only, so a frame has to wait between them."""
    network = line(3)
    every = [
        replace(stream(f"a{number}", "e0", "e1", 80, 250), earliest_ns=at, latest_ns=at)
        for number, at in enumerate(range(4000, 80_000, 8000))
    ]
    every += [
        replace(stream(f"b{number}", "e1", "e2", 80, 250), earliest_ns=at, latest_ns=at)
        for number, at in enumerate(range(0, 80_000, 8000))
    ]
    made = schedule(network, [*every, stream("c", "e0", "e2", 80, 500)])
    assert not made.refused
    assert meetings(made) == []
    assert any(hop.start_ns > hop.ready_ns for frame in made.frames for hop in frame.hops)
    result = simulate(network, schedule_document(made, gate_lists(network, made)))
    assert (result.lost, result.late, result.jitter_ns) == (0, 0, 0)


def test_transmit_offsets_and_several_frames_per_interval() -> None:
    sent = replace(stream("s", "e0", "e1"), frames=3, earliest_ns=20_000, latest_ns=40_000)
    made = schedule(line(2), [stream("t", "e0", "e1"), sent])
    offsets = [frame.offset_ns for frame in made.frames if frame.stream == "s"]
    assert len(offsets) == 3
    assert 20_000 <= offsets[0] < offsets[1] < offsets[2] <= 40_000
    assert meetings(made) == []


def test_the_tick_divides_all_times_exactly_or_at_least_the_intervals() -> None:
    assert tick_of(line(2), [stream("s", "e0", "e1", 100, 100)]) == 400
    assert tick_of(line(2, rate_bps=999_999_937), [stream("s", "e0", "e1", 100_000, 100)]) == 100


def test_intervals_that_repeat_too_seldom_are_refused_with_code_2() -> None:
    """Bitmaps and lists stay small whatever is asked for."""
    network = line(2)
    intervals_ns = (49_990_000_000, 49_930_000_000, 49_870_000_000)
    streams = [
        replace(stream(f"s{number}", "e0", "e1"), interval_ns=interval_ns, max_latency_ns=10**9)
        for number, interval_ns in enumerate(intervals_ns)
    ]
    (refusal,) = schedule(network, streams).refused
    assert (refusal.stream, refusal.code) == ("s2", FailureCode.INSUFFICIENT_BRIDGE_RESOURCES)
    prime = replace(stream("s", "e0", "e1"), interval_ns=1_000_003)
    fine = replace(stream("fine", "e0", "e1"), interval_ns=50_000_000_000, earliest_ns=1, latest_ns=10**9)
    added = add_stream(network, schedule(network, [prime]), fine)
    assert [(refusal.stream, refusal.code) for refusal in added.refused] == [
        ("fine", FailureCode.INSUFFICIENT_BRIDGE_RESOURCES)
    ]
