"""The peak load equals brute force over all times, phases and failures."""

from __future__ import annotations

from math import inf, lcm

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.booking.peak_load import ALWAYS, Activity, peak_load
from controller.domain.reservation import Window

FAILURES = ("a-b", "b-c", "c-d")


@st.composite
def windows(draw: st.DrawFn, period: st.SearchStrategy[int]) -> Window:
    period_us = draw(period)
    return Window(period_us, draw(st.integers(0, 2 * period_us)), draw(st.integers(0, period_us)))


def members(period: st.SearchStrategy[int]) -> st.SearchStrategy[list[tuple[Activity, int]]]:
    lifetime = st.tuples(st.integers(0, 8), st.integers(1, 8)).map(lambda pair: (pair[0], pair[0] + pair[1]))
    activity = st.builds(
        lambda lifetime, window, failures: Activity(lifetime[0], lifetime[1], window, failures),
        lifetime | st.just((-inf, inf)),
        st.none() | windows(period),
        st.just(frozenset()) | st.frozensets(st.sampled_from(FAILURES)),
    )
    return st.lists(st.tuples(activity, st.integers(1, 9)), max_size=7)


def is_open(window: Window | None, moment_us: int) -> bool:
    return window is None or (moment_us - window.offset_us) % window.period_us < window.length_us


def by_brute_force(needed: list[tuple[Activity, int]], start_s: int, end_s: int) -> int:
    circle_us = lcm(*(activity.window.period_us for activity, _ in needed if activity.window))
    most = 0
    for moment_s in range(start_s, end_s):
        for phase_us in range(circle_us):
            for down in ("", *FAILURES):
                taken = sum(
                    amount
                    for activity, amount in needed
                    if activity.start_s <= moment_s < activity.end_s
                    and is_open(activity.window, phase_us)
                    and (not activity.failures or down in activity.failures)
                )
                most = max(most, taken)
    return most


@given(needed=members(st.just(12)), start_s=st.integers(0, 15), length_s=st.integers(1, 16))
@settings(max_examples=150, deadline=None)
def test_with_equal_periods_the_peak_is_exact(
    needed: list[tuple[Activity, int]], start_s: int, length_s: int
) -> None:
    assert peak_load(needed, start_s, start_s + length_s) == by_brute_force(needed, start_s, start_s + length_s)


@given(needed=members(st.sampled_from((4, 6, 8, 12))))
@settings(max_examples=100, deadline=None)
def test_with_mixed_periods_the_peak_is_never_too_low(needed: list[tuple[Activity, int]]) -> None:
    assert peak_load(needed, 0, 20) >= by_brute_force(needed, 0, 20)


def test_windows_that_follow_each_other_share() -> None:
    first, second = Activity(window=Window(100, 0, 50)), Activity(window=Window(100, 150, 50))
    assert peak_load([(first, 7), (second, 5)]) == 7
    assert peak_load([(first, 7), (second, 5), (ALWAYS, 1)]) == 8


def test_a_window_that_wraps_overlaps_the_next_period() -> None:
    wrapping, early = Activity(window=Window(100, 80, 40)), Activity(window=Window(100, 10, 5))
    assert peak_load([(wrapping, 3), (early, 4)]) == 7


def test_backups_share_capacity_unless_one_failure_needs_both() -> None:
    first, second = Activity(failures=frozenset({"a-b"})), Activity(failures=frozenset({"b-c", "c-d"}))
    both = Activity(failures=frozenset({"a-b", "c-d"}))
    assert peak_load([(ALWAYS, 1), (first, 3), (second, 4)]) == 5
    assert peak_load([(ALWAYS, 1), (first, 3), (second, 4), (both, 2)]) == 7


def test_a_demand_that_ends_does_not_overlap_one_that_starts_at_the_same_time() -> None:
    assert peak_load([(Activity(0, 10), 5), (Activity(10, 20), 6)], 0, 20) == 6
    assert peak_load([(Activity(0, 10), 5), (Activity(10, 20), 6)], 0, 10) == 5
    assert peak_load([], 0, 20) == 0
