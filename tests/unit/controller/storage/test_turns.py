"""Turns: in order, waited for while turns end, given up where the present one does not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pytest

from controller.storage.turns import StuckError, Turns
from machine.polling import wait_until

THREADS = 16


def started(pool: ThreadPoolExecutor, turns: Turns, work: Callable[[], object], stuck_s: float = -1) -> Future[object]:
    """A thread that waits for its turn to do some work."""

    def run() -> object:
        with turns.take(stuck_s):
            return work()

    before = turns.waiting
    future = pool.submit(run)
    wait_until(lambda: turns.waiting == before + 1)
    return future


def test_turns_are_taken_in_the_order_of_asking() -> None:
    turns, order = Turns(), list[int]()
    with ThreadPoolExecutor(THREADS) as pool:
        with turns.take():
            waiting = [started(pool, turns, partial(order.append, number)) for number in range(8)]
        for each in waiting:
            each.result(60)
    assert (order, turns.waiting) == (list(range(8)), 0)


def test_who_waits_does_so_while_turns_end_however_slowly_and_gives_up_when_one_is_stuck() -> None:
    """Time passes when the test says so."""
    timed_out, waits, told = threading.Semaphore(0), list[float](), list[StuckError]()
    seen: list[int] = [0]

    def wait(granted: threading.Lock, stuck_s: float) -> bool:
        if stuck_s < 0:
            return granted.acquire(timeout=60)
        waits.append(stuck_s)
        assert timed_out.acquire(timeout=60)
        return granted.acquire(blocking=False)

    turns, ends = Turns(told.append, wait), [threading.Event() for _ in range(3)]
    with ThreadPoolExecutor(THREADS) as pool:
        with turns.take():
            slow = [started(pool, turns, partial(end.wait, 60)) for end in ends]
            patient = started(pool, turns, lambda: "done", 0.9)
        for number, end in enumerate(ends):
            timed_out.release()
            wait_until(lambda: len(waits) > len(seen))
            seen.append(number)
            end.set()
            assert slow[number].result(60)
        timed_out.release()
        assert (patient.result(60), told) == ("done", [])
        with turns.take():
            hopeless = started(pool, turns, lambda: "done", 0.9)
            timed_out.release()
            with pytest.raises(StuckError, match=r"has not ended for 0\.9 s"):
                hopeless.result(60)
        assert len(told) == 1
        with turns.take(0.9):  # nobody waits any more
            pass


def test_an_error_is_raised_in_all_who_wait_and_in_nobody_who_comes_later() -> None:
    turns = Turns()
    with ThreadPoolExecutor(THREADS) as pool:
        with turns.take():
            waiting = [started(pool, turns, lambda: "done") for _ in range(3)]
            turns.fail_waiting(lambda: TimeoutError("locked"))
            for each in waiting:
                with pytest.raises(TimeoutError, match="locked"):
                    each.result(60)
            later = started(pool, turns, lambda: "done")
        assert later.result(60) == "done"


def test_a_turn_that_fails_ends() -> None:
    turns = Turns()
    with suppress(ValueError), turns.take():
        raise ValueError
    with turns.take(0):
        assert turns.waiting == 0
