"""Who may wait: bounded room for requests under way, and turns at one reservation. Thread-safe."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from controller.errors import Overloaded

PLACES = 32
"""Requests that change something and are under way at once; fewer than the threads that answer, so reads never wait."""

PLACES_PER_SWITCH = 20
"""Of these, those that wait for one switch: a silent switch must not take all places."""

RETRY_AFTER_S = 1
TURN_S = 15.0
"""How long a request waits for another one about the same reservation."""


class WaitingRoom:
    """Places for requests under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0
        self._at_switch: Counter[str] = Counter()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one request.

        Raises: Overloaded if there is none.
        """
        with self._lock:
            if self._taken >= PLACES:
                raise Overloaded(f"{PLACES} requests are under way already.", retry_after_s=RETRY_AFTER_S)
            self._taken += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken -= 1

    @contextmanager
    def place_at(self, switches: Iterable[str]) -> Iterator[None]:
        """A place among those who wait for these switches.

        Raises: Overloaded if there is none at one of them.
        """
        wanted = set(switches)
        with self._lock:
            full = sorted(name for name in wanted if self._at_switch[name] >= PLACES_PER_SWITCH)
            if full:
                sentence = f"{PLACES_PER_SWITCH} requests wait for {', '.join(full)} already."
                raise Overloaded(sentence, retry_after_s=RETRY_AFTER_S, switches=full)
            self._at_switch.update(wanted)
        try:
            yield
        finally:
            with self._lock:
                self._at_switch.subtract(wanted)


class Turns:
    """One change of a reservation at a time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken: set[str] = set()

    @contextmanager
    def of(self, reservation_id: str) -> Iterator[None]:
        """Wait for one's turn.

        Raises: Overloaded if it does not come.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: reservation_id not in self._taken, TURN_S):
                raise Overloaded(f"Reservation {reservation_id} is being changed.", retry_after_s=RETRY_AFTER_S)
            self._taken.add(reservation_id)
        try:
            yield
        finally:
            self.give_up(reservation_id)

    def take(self, reservation_id: str) -> bool:
        """Take the turn if nobody has it; then `give_up` must follow."""
        with self._changed:
            if reservation_id in self._taken:
                return False
            self._taken.add(reservation_id)
            return True

    def is_taken(self, reservation_id: str) -> bool:
        """Whether somebody has the turn."""
        return reservation_id in self._taken

    def give_up(self, reservation_id: str) -> None:
        """The next may have it."""
        with self._changed:
            self._taken.discard(reservation_id)
            self._changed.notify_all()
