"""Numbers and ids of new reservations: random, and unused in the ledger."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from controller.storage.ledger import Ledger

DRAWN_AT_ONCE = 64
"""Numbers that are drawn and checked against the ledger together."""


def id_of(number: int) -> str:
    """The id of the reservation with that number."""
    return f"r-{number:08x}"


UNASSIGNED_ID = id_of(0)
"""Id of a request that is only evaluated, such as a quote; no reservation has it."""


class ReservationNumbers:
    """Draws unused reservation numbers. Not thread-safe."""

    def __init__(self, ledger: Ledger, is_used: Callable[[str], bool]) -> None:
        """`is_used`: whether a reservation that may not be in the ledger yet has that id."""
        self._ledger = ledger
        self._is_used = is_used
        self._drawn: list[int] = []

    def draw(self) -> int:
        """A number that no reservation has or had."""
        while True:
            while not self._drawn:
                numbers = {secrets.randbits(32) for _ in range(DRAWN_AT_ONCE)} - {0}
                existing_ids = self._ledger.existing_ids([id_of(number) for number in numbers])
                self._drawn = [number for number in numbers if id_of(number) not in existing_ids]
            number = self._drawn.pop()
            if not self._is_used(id_of(number)):
                return number
