"""Numbers for new reservations: drawn at random, and of nobody who is or was in the ledger."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from controller.storage.ledger import Ledger

DRAWN_AT_ONCE = 64
"""The ledger is asked about so many at once."""


def name_of(number: int) -> str:
    """The id of the reservation of that number."""
    return f"r-{number:08x}"


class Numbers:
    """Numbers that nobody has. Not thread-safe."""

    def __init__(self, ledger: Ledger, is_taken: Callable[[str], bool]) -> None:
        """`is_taken`: whether a reservation that may not be in the ledger yet has that id."""
        self._ledger = ledger
        self._is_taken = is_taken
        self._drawn: list[int] = []

    def new(self) -> int:
        """One that is given to nobody else."""
        while True:
            while not self._drawn:
                drawn = {secrets.randbits(32) for _ in range(DRAWN_AT_ONCE)} - {0}
                written = self._ledger.existing_ids([name_of(number) for number in drawn])
                self._drawn = [number for number in drawn if name_of(number) not in written]
            number = self._drawn.pop()
            if not self._is_taken(name_of(number)):
                return number
