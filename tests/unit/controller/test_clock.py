"""The pair of clocks: steps of the wall clock are seen, slow corrections are followed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.clock import Clock
from tests.simulated_service import SetClock


@given(st.lists(st.one_of(st.sampled_from([-3600.0, -30.0, -5.0, 5.0, 30.0, 3600.0]), st.floats(-0.01, 0.01))))
def test_time_never_steps_by_itself_and_equals_the_wall_clock_once_steps_are_taken(moves: list[float]) -> None:
    clock = SetClock()
    pair = clock.pair()
    for move in moves:
        before_s = pair()
        clock.step(move)
        assert pair() == before_s
        clock.advance(1.0)
        assert pair() == pytest.approx(before_s + 1.0)
        if step_s := pair.step_s():
            assert step_s == pytest.approx(move, abs=0.2)
            pair.take_step(step_s)
        assert pair() == pytest.approx(clock.monotonic_s + clock.offset_s)


def test_a_correction_below_the_threshold_is_followed_and_their_sum_is_a_step() -> None:
    clock = SetClock()
    pair = clock.pair()
    steps_s = []
    for _ in range(4):
        clock.step(0.03)
        steps_s.append(pair.step_s())
    assert steps_s == [0.0, 0.0, 0.0, pytest.approx(0.12)]


def test_readings_between_which_the_process_was_interrupted_are_no_step() -> None:
    interrupted = iter([0.3, 0.0] * 1000)

    class Interrupted(SetClock):
        def wall(self) -> float:
            self.advance(next(interrupted))
            return self.monotonic_s + self.offset_s

    clock = Interrupted()
    pair = Clock(clock.wall, lambda: clock.monotonic_s)
    assert [pair.step_s() for _ in range(5)] == [0.0] * 5
