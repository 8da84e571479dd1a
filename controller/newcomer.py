"""A request for a new reservation, from when it is asked until it is answered."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from controller.asked import Asked, RepeatKey
from controller.ledger import Row
from controller.reservation import Reservation

Answer = tuple[Reservation, bool]
"""A reservation, and whether it is what an earlier request was answered."""


class Note(Protocol):
    """What is to be written down in the transaction that makes a reservation, if that can be."""

    is_written: bool

    def row(self, reservation: Reservation) -> Row:
        """What is to be written."""


@dataclass(slots=True, eq=False)
class Newcomer:
    """A request on its way: asked, then decided (`wanted`), then told to its switches (`told`), then answered."""

    asked: Asked
    repeat: RepeatKey | None
    within: Callable[[], AbstractContextManager[None]]
    note: Note | None
    waits: Callable[..., object]
    """Calls a function that may have to wait."""
    answer: Future[Answer] = field(default_factory=Future)
    places: ExitStack = field(default_factory=ExitStack)
    wanted: Reservation | None = None
    switches: frozenset[str] = frozenset()
    told: Future[None] | None = None
    began_s: float = 0.0
