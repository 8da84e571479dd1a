"""Writes reservations to the ledger: changes by requests at once, those by failures and time as soon as it is possible.

What a failure, a lease or the calendar changes is applied without waiting for the ledger: it is queued here, and
written by a thread that tries again until it succeeds. Of a reservation only the latest version is queued. A request's
change is written after all queued changes that may have made room for it, so the ledger never has a reservation without
them; bounds told anew make no room.

While the ledger cannot be written, requests are refused at once instead of waiting for it one after another.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from controller.domain.events import LedgerChanged
from controller.domain.reservation import Reservation
from controller.storage.ledger import IdempotencyKey, Ledger, Row, unavailable
from controller.storage.turns import STUCK_S, Turns

log = logging.getLogger(__name__)

MAX_BATCH = 100
"""Queued versions that the thread writes in one transaction, so that requests do not wait long for it."""
RETRY_S = 0.5
"""Pause between attempts to write the queue."""
AT_ONCE_S = 0.1
"""A transaction that fails later than this has waited for the database: it is not tried again with less in it."""
STOP_TIMEOUT_S = 3.0
"""How long the last attempt may take when the controller stops."""


@dataclass(frozen=True, slots=True)
class LedgerStatus:
    """Whether the ledger can be written (None: since when it cannot, Unix time), and what it does not have yet."""

    failing_since_s: float | None
    unrecorded: int


@dataclass(frozen=True, slots=True, eq=False)
class _Queued:
    """The latest version of a reservation; None: a new reservation that must not be in the ledger.

    `is_change`: the ledger does not have it; otherwise it has, unless a failed transaction took effect all the same.
    `makes_room`: requests must not be written before it.
    """

    reservation: Reservation | None
    key: IdempotencyKey | None
    is_change: bool
    makes_room: bool = True


class LedgerWriter:
    """The one writer of the ledger. Thread-safe; no method may be called under the lock of ServiceState but `queue`."""

    def __init__(self, ledger: Ledger, publish: Callable[[LedgerChanged], None]) -> None:
        self._ledger = ledger
        self._publish = publish
        self._turns = Turns(self._note_failure)
        """Of transactions: they take effect in the order in which the queue and requests have asked."""
        self._changed = threading.Condition()
        """Guards the attributes below."""
        self._queue: dict[str, _Queued] = {}
        self._closed_spans: frozenset[str] | None = None
        """Queued: the spans out of service."""
        self._failing_since_s: float | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="paceline-ledger", daemon=True)
        ledger.on_read_failure = self._note_failure

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is queued if possible, and stop the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT_S)
        if unrecorded := self.status.unrecorded:
            log.error("ledger: stopped with unrecorded=%d changes of reservations", unrecorded)

    @property
    def status(self) -> LedgerStatus:
        """The present status."""
        with self._changed:
            unrecorded = sum(queued.is_change for queued in self._queue.values())
            return LedgerStatus(self._failing_since_s, unrecorded)

    def require_writable(self) -> None:
        """Check before a change by a request that the last transaction has succeeded.

        Raises: LedgerUnavailable.
        """
        if self._failing_since_s is not None:
            raise unavailable()

    def queue(self, *reservations: Reservation, makes_room: bool = True) -> None:
        """Have these versions written as soon as possible; does not block.

        `makes_room`: whether a request may be admitted because of them.
        """
        self._enqueue({each.id: _Queued(each, None, True, makes_room) for each in reservations})

    def write(
        self,
        *reservations: Reservation,
        are_new: bool = False,
        idempotency_keys: Mapping[str, IdempotencyKey] | None = None,
        extra_rows: Iterable[Row] = (),
        now_s: float = 0.0,
    ) -> bool:
        """Write what is queued, then these reservations in one transaction (see Ledger.write).

        Returns whether `extra_rows` were written; a failure of theirs alone does not prevent the rest.

        Raises: LedgerUnavailable; the ledger then has or gets none of these versions (see `withdraw`).
        """
        rows, written = list(extra_rows), True

        def transaction() -> None:
            nonlocal written
            head = {"are_new": are_new, "idempotency_keys": idempotency_keys, "now_s": now_s}
            began_s = time.monotonic()
            with self._changed:
                older = {each.id: queued for each in reservations if (queued := self._queue.get(each.id)) is not None}
            try:
                self._ledger.write(*reservations, **head, extra_rows=rows)  # type: ignore[arg-type]
            except SQLAlchemyError:
                if not rows or time.monotonic() - began_s > AT_ONCE_S:
                    raise
                self._ledger.write(*reservations, **head)  # type: ignore[arg-type]
                written = False
            self._dequeue(older)

        self._transact(transaction)
        return written

    def withdraw(
        self, befores: Mapping[str, Reservation | None], keys: Mapping[str, IdempotencyKey] | None = None
    ) -> None:
        """Have the ledger hold these versions again after a failed `write`; None: a new one, with its key.

        A transaction that fails at its commit may have taken effect all the same.
        """
        keys = keys or {}
        self._enqueue({name: _Queued(before, keys.get(name), is_change=False) for name, before in befores.items()})

    def write_closed_spans(self, spans: frozenset[str], before: frozenset[str]) -> None:
        """Write the spans that are out of service.

        Raises: LedgerUnavailable; the ledger then has or gets those of `before`.
        """
        try:
            self._transact(lambda: self._ledger.write_closed_spans(spans))
        except Exception:
            with self._changed:
                self._closed_spans = before
                self._changed.notify_all()
            raise

    def flush(self, everything: bool = False) -> bool:
        """Try once to write what is queued, without delay if the ledger was writable; whether the queue is empty.

        `everything`: also what makes no room.
        """
        if self._queue:
            try:
                self._transact(lambda: None, sys.maxsize if everything else None)
            except Exception as error:  # noqa: BLE001 - the thread tries again, and `status` reports it
                log.debug("ledger: flush failed: %s", error)
        return not self._queue

    # Transactions ---------------------------------------------------------------------------------------------------

    def _transact(self, transaction: Callable[[], None], limit: int | None = None) -> None:
        """Write the queue (see _write_queue), then run a transaction.

        Raises: LedgerUnavailable.
        """
        self.require_writable()
        try:
            with self._turns.take(STUCK_S):
                self.require_writable()
                self._attempt(lambda: self._write_queued_and(transaction, limit))
        except IntegrityError:
            raise
        except (SQLAlchemyError, OSError) as error:
            raise unavailable() from error

    def _write_queued_and(self, transaction: Callable[[], None], limit: int | None) -> None:
        if self._queue or self._closed_spans is not None:  # what was queued before this request is there by now
            self._write_queue(limit)
        transaction()

    def _attempt(self, transaction: Callable[[], None]) -> None:
        """Run a transaction, and note whether the ledger can be written."""
        try:
            transaction()
        except IntegrityError:
            raise
        except Exception as error:
            self._note_failure(error)
            raise
        self._note_success()

    def _write_queue(self, limit: int | None = None) -> bool:
        """Write what is queued in one transaction; False: nothing is. In a turn of its own.

        `limit`: at most so many versions; None: all that make room.
        """
        with self._changed:
            chosen = ((name, queued) for name, queued in self._queue.items() if limit or queued.makes_room)
            batch, closed_spans = dict(islice(chosen, limit)), self._closed_spans
        if not batch and closed_spans is None:
            return False
        reservations = [queued.reservation for queued in batch.values() if queued.reservation is not None]
        withdrawn = {name: queued.key for name, queued in batch.items() if queued.reservation is None}
        self._ledger.write_backlog(reservations, withdrawn, closed_spans)
        self._dequeue(batch)
        with self._changed:
            if self._closed_spans is closed_spans:
                self._closed_spans = None
        return True

    def _dequeue(self, written: Mapping[str, _Queued]) -> None:
        """Remove what is in the ledger, or older than what is there, unless it was replaced meanwhile."""
        with self._changed:
            for name, queued in written.items():
                if self._queue.get(name) is queued:
                    del self._queue[name]

    def _enqueue(self, queued: Mapping[str, _Queued]) -> None:
        if not queued:
            return
        with self._changed:
            for name, item in queued.items():
                # A version that the ledger does not have stays one until it is written.
                before = self._queue.pop(name, None)
                is_change = item.is_change or (before is not None and before.is_change)
                makes_room = item.makes_room or (before is not None and before.makes_room)
                self._queue[name] = _Queued(item.reservation, item.key, is_change, makes_room)
            self._changed.notify_all()

    def _note_failure(self, error: Exception) -> None:
        with self._changed:
            is_first = self._failing_since_s is None
            if is_first:
                self._failing_since_s = time.time()
                self._changed.notify_all()
        if is_first:
            reason = str(error).splitlines()[:1] or [type(error).__name__]
            log.error("ledger: cannot be used: %s; what failures change is recorded later", reason[0])
            self._publish(LedgerChanged(False, self.status.unrecorded))

    def _note_success(self) -> None:
        if self._failing_since_s is None:
            return
        with self._changed:
            since_s, self._failing_since_s = self._failing_since_s, None
        if since_s is not None:
            log.warning("ledger: works again after %.1f s", time.time() - since_s)
            self._publish(LedgerChanged(True, self.status.unrecorded))

    # The thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._has_work(), self._ledger.probe_interval_s)
                if self._stopping and not self._has_work():
                    return
            try:
                with self._turns.take():
                    self._attempt(self._write_batch)
            except Exception as error:  # noqa: BLE001 - noted; tried again
                log.debug("ledger: %s", error)
                with self._changed:
                    if self._stopping:
                        return
                    self._changed.wait_for(lambda: self._stopping, RETRY_S)

    def _write_batch(self) -> None:
        if not self._write_queue(MAX_BATCH):
            self._ledger.probe()

    def _has_work(self) -> bool:
        return bool(self._queue) or self._closed_spans is not None or self._failing_since_s is not None
