"""A request for a new reservation, from when it is asked until it is answered."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from controller.admission.admission import Request
from controller.domain.frozen import frozen
from controller.domain.reservation import Flow, Reservation
from controller.storage.ledger import IdempotencyKey, Row


@frozen
class ReservationSpec:
    """A reservation as a client wants it. Times are seconds since the epoch; None: from now, or without an end.

    `hold`: only keep the capacity, for `lease_s` seconds or until it is committed.
    """

    owner: str
    tenant: str
    lease_s: float
    flows: tuple[Flow, ...]
    hold: bool = False
    start_at_s: float | None = None
    end_at_s: float | None = None


def request_of(asked: ReservationSpec, reservation_id: str) -> Request:
    """What admission decides on for a new reservation of that id."""
    return Request(reservation_id, 1, asked.flows, asked.start_at_s, until_s(asked.end_at_s))


def until_s(end_at_s: float | None) -> float:
    """The end of what is to last until then."""
    return inf if end_at_s is None else end_at_s


Answer = tuple[Reservation, bool]
"""A reservation, and whether it is what an earlier request was answered."""


class AttachedRow(Protocol):
    """A row that another component adds to the transaction that stores a new reservation, if the database allows it."""

    is_written: bool

    def row(self, reservation: Reservation) -> Row:
        """The row, made when the reservation is stored."""


@dataclass(slots=True, eq=False)
class PendingSetup:
    """A request on its way: asked, then decided (`wanted`), then told to its switches (`told`), then answered."""

    asked: ReservationSpec
    repeat: IdempotencyKey | None
    within: Callable[[], AbstractContextManager[None]]
    note: AttachedRow | None
    run_blocking: Callable[..., object]
    """Calls a function that may have to wait."""
    answer: Future[Answer] = field(default_factory=Future)
    places: ExitStack = field(default_factory=ExitStack)
    wanted: Reservation | None = None
    switches: frozenset[str] = frozenset()
    installed: Future[None] | None = None
    began_s: float = 0.0
