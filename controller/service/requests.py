"""A request for a new reservation, and its state while it is in progress."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from math import inf
from typing import Protocol, TypeVar

from controller.admission.admission import Request
from controller.domain.frozen import frozen
from controller.domain.reservation import Flow, Reservation
from controller.service.concurrency import Slot
from controller.storage.ledger import IdempotencyKey, Row

Entered = TypeVar("Entered")


@frozen
class ReservationSpec:
    """A reservation as requested. Times are seconds since the epoch; None: starts immediately, or has no end.

    `hold`: only book the capacity, for `lease_s` seconds or until it is committed.
    """

    owner: str
    tenant: str
    lease_s: float
    flows: tuple[Flow, ...]
    hold: bool = False
    start_at_s: float | None = None
    end_at_s: float | None = None


def request_of(spec: ReservationSpec, reservation_id: str) -> Request:
    """The admission request for a new reservation with that id."""
    return Request(reservation_id, 1, spec.flows, spec.start_at_s, until_s(spec.end_at_s))


def until_s(end_at_s: float | None) -> float:
    """The end of a lifetime; infinite if there is none."""
    return inf if end_at_s is None else end_at_s


Response = tuple[Reservation, bool]
"""A reservation, and whether it is the stored response to an earlier request with the same Idempotency-Key."""

RequestGuard = Callable[[], AbstractContextManager[None]]
"""Creates a context around a new request in progress; entering it may refuse the request (quotas)."""


class AttachedRow(Protocol):
    """A row that another component adds to the transaction that stores a new reservation, if the database allows it."""

    is_written: bool

    def row(self, reservation: Reservation) -> Row:
        """The row, made when the reservation is stored."""


@dataclass(slots=True, eq=False)
class PendingSetup:
    """A request in progress: admitted (`reservation`), sent to its switches (`installation`), answered (`response`)."""

    spec: ReservationSpec
    key: IdempotencyKey | None
    guard: RequestGuard
    attached_row: AttachedRow | None
    response: Future[Response] = field(default_factory=Future)
    contexts: ExitStack | None = None
    """Left when the request is answered; None: there are none."""
    slot: Slot | None = None
    """Among all requests in progress, until it is answered."""
    reservation: Reservation | None = None
    switches: frozenset[str] = frozenset()
    switch_slot: Slot | None = None
    installation: Future[None] | None = None
    started_s: float = 0.0

    def enter(self, context: AbstractContextManager[Entered]) -> Entered:
        """Enter a context until `leave`."""
        if self.contexts is None:
            self.contexts = ExitStack()
        return self.contexts.enter_context(context)

    def leave(self) -> None:
        """Leave all contexts."""
        if self.contexts is not None:
            self.contexts.close()
