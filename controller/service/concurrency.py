"""Who may wait: bounded room for requests under way, and turns at one reservation. Thread-safe."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

from controller.errors import Overloaded

PLACES = 64
"""Requests that change something and are under way at once."""

PLACES_AT_SWITCH = 12
"""Of these, those that are on their way to one switch while it owes an answer; who comes later waits for a place."""

SILENT_S = 0.25
"""If the switch has been silent for so long, who comes later is sent away instead, so that others find a place."""

RETRY_AFTER_S = 1
TURN_S = 15.0
"""How long a request waits for another one about the same reservation."""


class RequestLimiter:
    """Places for requests under way."""

    def __init__(self, silent_s: Callable[[str], float]) -> None:
        """`silent_s`: for how long a switch has owed an answer; 0 if it owes none."""
        self._silent_s = silent_s
        self._changed = threading.Condition()
        self._taken = 0
        self._at_switch: Counter[str] = Counter()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one request.

        Raises: Overloaded if there is none.
        """
        self.take()
        try:
            yield
        finally:
            self.leave()

    def take(self) -> None:
        """Take such a place; then `leave` must follow.

        Raises: Overloaded if there is none.
        """
        with self._changed:
            if self._taken >= PLACES:
                raise Overloaded(f"{PLACES} requests are under way already.", retry_after_s=RETRY_AFTER_S)
            self._taken += 1

    def leave(self) -> None:
        """Somebody else may have the place."""
        with self._changed:
            self._taken -= 1

    @contextmanager
    def place_at(self, switches: Iterable[str]) -> Iterator[None]:
        """A place among those who wait for these switches.

        Raises: Overloaded if one of them is silent and many wait for it already.
        """
        wanted = frozenset(switches)
        self.take_at(wanted, may_wait=True)
        try:
            yield
        finally:
            self.leave_at(wanted)

    def take_at(self, switches: Collection[str], may_wait: bool) -> bool:
        """Take such a place, if there is one now or one may wait for it; then `leave_at` must follow.

        Raises: Overloaded if one of them is silent and many wait for it already.
        """
        with self._changed:
            while not self._is_room(switches):
                if not may_wait:
                    return False
                self._changed.wait(SILENT_S / 4)
            self._at_switch.update(switches)
        return True

    def leave_at(self, switches: Collection[str]) -> None:
        """Somebody else may have the place."""
        with self._changed:
            self._at_switch.subtract(switches)
            self._changed.notify_all()

    def _is_room(self, switches: Iterable[str]) -> bool:
        crowded = {name: self._silent_s(name) for name in switches if self._at_switch[name] >= PLACES_AT_SWITCH}
        silent = sorted(name for name, seconds in crowded.items() if seconds > SILENT_S)
        if silent:
            sentence = f"{', '.join(silent)} does not answer, and {PLACES_AT_SWITCH} requests wait for it already."
            raise Overloaded(sentence, retry_after_s=RETRY_AFTER_S, switches=silent)
        return not any(crowded.values())


class ReservationLocks:
    """One change of a reservation at a time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken: set[str] = set()

    @contextmanager
    def hold(self, reservation_id: str) -> Iterator[None]:
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
            self.release(reservation_id)

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

    def release(self, reservation_id: str) -> None:
        """The next may have it."""
        with self._changed:
            self._taken.discard(reservation_id)
            self._changed.notify_all()
