"""Bounded concurrency of requests: slots per service and per switch, one lock per reservation. Thread-safe."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from controller.errors import Overloaded

MAX_REQUESTS = 64
"""Changing requests in progress at once."""

MAX_REQUESTS_PER_SWITCH = 12
"""Of these, requests to a switch with unanswered transactions; further requests wait for a slot."""

UNRESPONSIVE_S = 0.25
"""Age of a switch's oldest unanswered transaction above which further requests are refused instead of waiting."""

RETRY_AFTER_S = 1
LOCK_TIMEOUT_S = 15.0
"""How long a request waits for another request on the same reservation."""


class Slot:
    """A slot of a RequestLimiter, held until it is released or its context ends."""

    __slots__ = ("_release",)

    def __init__(self, release: Callable[[], None]) -> None:
        self._release = release

    def release(self) -> None:
        """Free the slot; to be called once."""
        self._release()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._release()


class RequestLimiter:
    """Limits the changing requests in progress, in total and per switch."""

    def __init__(self, unanswered_s: Callable[[str], float]) -> None:
        """`unanswered_s`: age of a switch's oldest unanswered transaction; 0 if there is none."""
        self._unanswered_s = unanswered_s
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting = 0
        self._in_progress = 0
        self._at_switch: Counter[str] = Counter()

    def acquire(self) -> Slot:
        """Take a slot for a request.

        Raises: Overloaded if there is none.
        """
        with self._lock:
            if self._in_progress >= MAX_REQUESTS:
                raise Overloaded(f"{MAX_REQUESTS} requests are in progress already.", retry_after_s=RETRY_AFTER_S)
            self._in_progress += 1
        return Slot(self._release)

    def acquire_at(self, switches: Collection[str]) -> Slot:
        """Wait for a slot at each of these switches.

        Raises: Overloaded if one of them is unresponsive and has no free slot.
        """
        with self._lock:
            self._waiting += 1
            try:
                while not self._has_slots(switches):
                    self._changed.wait(UNRESPONSIVE_S / 4)
                return self._take_slots(switches)
            finally:
                self._waiting -= 1

    def try_acquire_at(self, switches: Collection[str]) -> Slot | None:
        """Take a slot at each of these switches, or None if one of them has none now.

        Raises: Overloaded if one of them is unresponsive and has no free slot.
        """
        with self._lock:
            return self._take_slots(switches) if self._has_slots(switches) else None

    def _has_slots(self, switches: Iterable[str]) -> bool:
        unanswered_s = {
            name: self._unanswered_s(name) for name in switches if self._at_switch[name] >= MAX_REQUESTS_PER_SWITCH
        }
        unresponsive = sorted(name for name, seconds in unanswered_s.items() if seconds > UNRESPONSIVE_S)
        if unresponsive:
            names = ", ".join(unresponsive)
            sentence = f"{names} does not answer, and {MAX_REQUESTS_PER_SWITCH} requests wait for it already."
            raise Overloaded(sentence, retry_after_s=RETRY_AFTER_S, switches=unresponsive)
        return not any(unanswered_s.values())

    def _take_slots(self, switches: Collection[str]) -> Slot:
        self._at_switch.update(switches)
        return Slot(partial(self._release_at, switches))

    def _release(self) -> None:
        with self._lock:
            self._in_progress -= 1

    def _release_at(self, switches: Collection[str]) -> None:
        with self._lock:
            self._at_switch.subtract(switches)
            if self._waiting:
                self._changed.notify_all()


class ReservationLocks:
    """One lock per reservation, held while it is changed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._held: set[str] = set()

    @contextmanager
    def hold(self, reservation_id: str) -> Iterator[None]:
        """Wait for the lock and hold it.

        Raises: Overloaded after LOCK_TIMEOUT_S.
        """
        with self._lock:
            if reservation_id in self._held and not self._changed.wait_for(
                lambda: reservation_id not in self._held, LOCK_TIMEOUT_S
            ):
                raise Overloaded(f"Reservation {reservation_id} is being changed.", retry_after_s=RETRY_AFTER_S)
            self._held.add(reservation_id)
        try:
            yield
        finally:
            self._release({reservation_id})

    @contextmanager
    def try_hold(self, *reservation_ids: str) -> Iterator[bool]:
        """Hold all of these locks without waiting; False: one of them is held already, and none is acquired."""
        with self._lock:
            acquired = self._held.isdisjoint(reservation_ids)
            if acquired:
                self._held.update(reservation_ids)
        try:
            yield acquired
        finally:
            if acquired:
                self._release(reservation_ids)

    def is_held(self, reservation_id: str) -> bool:
        """Whether the reservation is being changed."""
        return reservation_id in self._held

    def _release(self, reservation_ids: Iterable[str]) -> None:
        with self._lock:
            self._held.difference_update(reservation_ids)
            self._changed.notify_all()
