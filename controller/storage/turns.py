"""Turns at what one thread at a time may use: taken in the order of asking, and given up only where nothing goes on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STUCK_S = 0.9
"""How long a turn may take until those who wait for theirs give up. A busy machine makes every turn slow, so they wait
on while turns end."""

Wait = Callable[[threading.Lock, float], bool]
"""Acquires a lock within a time in seconds; whether it could. A time of -1 has no limit."""


class StuckError(TimeoutError):
    """The present turn does not end."""


def _acquire(granted: threading.Lock, timeout_s: float) -> bool:
    return granted.acquire(timeout=timeout_s)


class _Waiter:
    """`granted`: released when it is this one's turn, or when `error` is set."""

    __slots__ = ("error", "granted")

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.granted = threading.Lock()
        self.granted.acquire()


class Turns:
    """One turn at a time. Thread-safe; a thread must not ask for a turn during its own."""

    def __init__(self, on_stuck: Callable[[StuckError], None] = lambda _: None, wait: Wait = _acquire) -> None:
        """`on_stuck`: called before StuckError is raised."""
        self._on_stuck = on_stuck
        self._wait = wait
        self._lock = threading.Lock()
        """Guards the attributes below; held for moments."""
        self._waiting: deque[_Waiter] = deque()
        self._is_taken = False
        self._ended = 0

    @contextmanager
    def take(self, stuck_s: float = -1) -> Iterator[None]:
        """Have a turn during the block.

        Raises: StuckError if no turn ends within `stuck_s` (-1: wait without limit); the error of `fail_waiting`.
        """
        with self._lock:
            waiter = _Waiter() if self._is_taken else None
            if waiter is not None:
                self._waiting.append(waiter)
            self._is_taken, ended = True, self._ended
        if waiter is not None:
            self._await(waiter, stuck_s, ended)
        try:
            yield
        finally:
            self._end()

    def fail_waiting(self, error: Callable[[], Exception]) -> None:
        """Raise an error in all threads that wait for a turn at this moment."""
        with self._lock:
            while self._waiting:
                waiter = self._waiting.popleft()
                waiter.error = error()
                waiter.granted.release()

    @property
    def waiting(self) -> int:
        """How many threads wait for a turn."""
        return len(self._waiting)

    def _await(self, waiter: _Waiter, stuck_s: float, ended: int) -> None:
        while not self._wait(waiter.granted, stuck_s):
            with self._lock:
                if waiter not in self._waiting:
                    break  # it was granted after the time had passed
                is_stuck, ended = self._ended == ended, self._ended
                if is_stuck:
                    self._waiting.remove(waiter)
            if is_stuck:
                error = StuckError(f"the last transaction has not ended for {stuck_s:g} s")
                self._on_stuck(error)
                raise error
        if waiter.error is not None:
            raise waiter.error

    def _end(self) -> None:
        with self._lock:
            self._ended += 1
            if self._waiting:
                self._waiting.popleft().granted.release()
            else:
                self._is_taken = False
