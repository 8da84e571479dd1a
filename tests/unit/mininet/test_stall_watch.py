"""Stalls of the machine: proven by missing timer interrupts, not by late wake-ups."""

from __future__ import annotations

import pytest

from machine.stall_watch import Stall, describe_stalls, least_stall_s, read_core, stalled_s

TICK_S = 0.004


def stall(begin_s: float, end_s: float, still_s: float) -> Stall:
    return Stall(begin_s, end_s, still_s)


def test_a_core_that_took_all_its_ticks_did_not_stand_still() -> None:
    assert least_stall_s(0.150, 37, TICK_S) == 0.0


def test_missing_ticks_prove_a_standstill_as_long_as_they_are() -> None:
    assert least_stall_s(0.150, 1, TICK_S) == pytest.approx(0.142)


def test_a_kernel_that_ticks_faster_than_the_watcher_sleeps_proves_no_more_than_the_watcher_sees() -> None:
    assert least_stall_s(0.020, 9, 0.001) == 0.0


def test_a_late_wake_up_alone_excuses_nothing() -> None:
    late = stall(1.0, 1.1, 0.0)
    assert not late.is_proven
    assert stalled_s([late], 0.9, 1.2) == 0.0
    assert "woke 10 ms or more late 1 times" in describe_stalls([late])
    assert "prove 0 stalls of the machine itself" in describe_stalls([late])


def test_the_proven_part_ends_with_the_wake_up() -> None:
    assert stalled_s([stall(1.0, 1.1, 0.06)], 0.0, 2.0) == pytest.approx(0.06)
    assert stalled_s([stall(1.0, 1.1, 0.06)], 0.0, 1.03) == 0.0


def test_two_cores_that_stood_still_at_once_count_once() -> None:
    both = [stall(1.0, 1.1, 0.1), stall(1.02, 1.15, 0.13)]
    assert stalled_s(both, 0.0, 2.0) == pytest.approx(0.15)
    assert stalled_s(both, 1.05, 1.12) == pytest.approx(0.07)
    assert stalled_s(both, 1.2, 1.3) == 0.0


def test_this_machine_says_how_many_interrupts_its_cores_have_taken() -> None:
    before = read_core(0)
    after = read_core(0)
    assert after.monotonic_s > before.monotonic_s
    assert after.interrupts >= before.interrupts > 0
