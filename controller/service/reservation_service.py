"""What clients can have done: reserve, commit, modify, release. What they can ask: `controller.service.queries`.

A request is decided and counted under the writer's lock, installed outside it, confirmed by barriers from every switch
concerned, written down, and answered. Nothing is written down before the switches have confirmed: if the process dies
on the way, the switches hold entries that no reservation wants, and those go at the next start. If a switch fails on
the way, everything is put back and the request is answered with what happened.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from controller.admission.admission import Request
from controller.admission.counter_offer import attach_offer
from controller.calculus.network_bounds import DEFAULT_CALIBRATION, Calibration
from controller.dataplane.intended_state import ChangedKeys
from controller.dataplane.southbound import CONFIRM_TIMEOUT_S, Switches
from controller.domain.events import ReservationInstalled, SwitchReport
from controller.domain.network import Network
from controller.domain.reservation import Flow, Reservation, State
from controller.errors import NotHeld, NotLive
from controller.optical.defragmentation import Move
from controller.optical.lightpath_design import precompute_fibres
from controller.service.concurrency import RequestLimiter
from controller.service.idempotency import IdempotencyCache
from controller.service.lifecycle import CHECK_S, Forget, LifecycleManager
from controller.service.lightpath_migration import LightpathMigrator
from controller.service.maintenance import Maintenance
from controller.service.queries import Queries
from controller.service.requests import AttachedRow, ReservationSpec, until_s
from controller.service.setup import SetupPipeline
from controller.service.state import INSTALLED, ServiceState, drain_s, is_stranded, switches_of
from controller.storage.ledger import IdempotencyKey, Ledger

log = logging.getLogger(__name__)

RELEASE_WAIT_S = 1.0
"""How long an answer to a release waits for switches that are slow."""


class Service(Queries):
    """Reservations with a life, on a fabric of switches. Thread-safe; `start` before use, `stop` after."""

    def __init__(
        self,
        network: Network,
        switches: Switches,
        ledger: Ledger,
        calibration: Calibration = DEFAULT_CALIBRATION,
        clock: Callable[[], float] = time.time,
        check_s: float = CHECK_S,
        forgets: Sequence[Forget] = (),
    ) -> None:
        """`check_s`: how often a switch is read back, one after the other, to see that all is as it should be.

        `forgets`: what else is to drop what is too old, now and then.
        """
        super().__init__(ServiceState(network, switches, ledger, calibration, clock))
        self._repeats = IdempotencyCache(ledger)
        self._caretaker = LifecycleManager(self._writer, (self._repeats.forget_old, *forgets), check_s)
        self.maintenance = Maintenance(self._writer, self._caretaker)
        self._tidying = LightpathMigrator(self._writer)
        self._room = RequestLimiter(self._fabric.silent_s)
        self._intake = SetupPipeline(self._writer, self._caretaker, self._tidying, self._repeats, self._room)

    def start(self) -> None:
        """Work out the map's fibres, take up what the ledger holds and begin to listen to the switches."""
        precompute_fibres(self.network)
        self._caretaker.start()
        self._intake.start()

    def stop(self) -> None:
        """Stop listening; the switches keep what they hold."""
        self._intake.stop()
        self._caretaker.stop()
        self.ledger.close()

    def reserve(
        self,
        asked: ReservationSpec,
        repeat: IdempotencyKey | None = None,
        within: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> tuple[Reservation, bool]:
        """Admit all flows or none, install them, and answer when every switch has confirmed.

        The answer to an earlier request with the same `repeat` is given again, and True with it. What is done anew is
        done `within` a context, which may refuse it.

        Raises: Refused or UnknownHost if they cannot be promised, SwitchError if a switch did not do its part,
        KeyReused or InProgress if `repeat` stands for another request or one not answered yet, Overloaded.
        """
        return self._intake.take(asked, repeat, within)

    def reserve_soon(
        self,
        asked: ReservationSpec,
        repeat: IdempotencyKey | None = None,
        within: Callable[[], AbstractContextManager[None]] = nullcontext,
        note: AttachedRow | None = None,
    ) -> Future[tuple[Reservation, bool]]:
        """The same without waiting for it; cannot be cancelled. `within` may be left in another thread than entered.

        `note`: what is to be written down together with the reservation.
        """
        return self._intake.ask(asked, repeat, within, note)

    @attach_offer
    def commit(self, reservation_id: str) -> Reservation:
        """Turn a held reservation into a scheduled or active one, and renew its lease.

        Raises: NotFound, NotLive, NotHeld, Refused, SwitchError, Overloaded; then it is held as before.
        """
        with self._room.place(), self._writer.turns.hold(reservation_id):
            with self._writer.lock:
                held = self._found_live(reservation_id)
                if held.state is not State.HELD:
                    raise NotHeld(f"Reservation {held.id} is {held.state}; only a held one can be committed.")
                now_s = self._clock()
                renewed = replace(held, expires_at_s=now_s + held.lease_s)
                if renewed.start_at_s > now_s:
                    scheduled = renewed.with_state(State.SCHEDULED)
                    self._writer.record(scheduled)
                    return scheduled
                if is_stranded(renewed, self._fabric.links.down):
                    renewed = self._decided_anew(renewed, tuple(each.flow for each in renewed.placements))
                self._fabric.require_in_step(switches_of(renewed))
                self._book.replace(renewed)
                touched = self._fabric.set_intended({renewed.id: renewed})
            return self._carry_out(renewed, touched, lambda: self._back_to(held))

    @attach_offer
    def modify(self, reservation_id: str, lease_s: float | None, flows: tuple[Flow, ...] | None) -> Reservation:
        """Renew the lease and, if flows are given, change what is reserved without interrupting what stays.

        Raises: as `reserve`, and NotFound or NotLive. On any of them the reservation stays as it was.
        """
        with self._room.place(), self._writer.turns.hold(reservation_id):
            with self._writer.lock:
                before = self._found_live(reservation_id)
                now_s, lease_s = self._clock(), lease_s or before.lease_s
                changed = replace(before, version=before.version + 1, lease_s=lease_s, expires_at_s=now_s + lease_s)
                if flows is not None:
                    changed = self._decided_anew(changed, flows)
                if flows is None or before.state not in INSTALLED:
                    return self._record_changed(changed, before)
                both = self._book.book_transition(before, changed)
                touched = self._fabric.set_intended({changed.id: changed})
            try:
                return self._carry_out(changed, touched, lambda: self._back_to(before), drain_s(before))
            finally:
                with self._writer.lock:
                    self._book.remove(both)

    def _decided_anew(self, changed: Reservation, flows: tuple[Flow, ...]) -> Reservation:
        start_s = changed.start_at_s if changed.start_at_s > self._clock() else None
        request = Request(changed.id, changed.version, flows, start_s, until_s(changed.end_at_s))
        admitted = self._writer.admit(request)
        changed = replace(changed, placements=admitted.placements)
        if changed.state is State.DEGRADED:
            changed = changed.with_state(State.ACTIVE)
        if changed.state in INSTALLED:
            self._fabric.require_in_step(switches_of(changed))
        self._book.add(changed, admitted)
        return changed

    def _record_changed(self, changed: Reservation, before: Reservation) -> Reservation:
        try:
            self._writer.record(changed)
        except Exception:
            self._book.revert(before)
            raise
        return changed

    def _back_to(self, before: Reservation) -> ChangedKeys:
        self._book.revert(before)
        return self._fabric.set_intended({before.id: before if before.state in INSTALLED else None})

    def _carry_out(
        self,
        changed: Reservation,
        touched: ChangedKeys,
        undo: Callable[[], ChangedKeys],
        drain_s: float = 0.0,
    ) -> Reservation:
        """Install what counts already, and write it down; if a switch or the ledger fails, undo it."""
        began_s = time.monotonic()
        try:
            with self._room.place_at(switches_of(changed)):
                self._fabric.updates.confirm(touched, drain_s)
            with self._writer.lock:
                active = self._writer.as_installed(changed)
                self._writer.record(active)
        except Exception:
            with self._writer.lock:
                undone = undo()
            self._fabric.updates.settle(undone, CONFIRM_TIMEOUT_S)
            self._writer.sweep()
            raise
        self._writer.publish(ReservationInstalled(active.id, time.monotonic() - began_s))
        self._caretaker.look_again(active)
        log.info("installed id=%s version=%d owner=%s", active.id, active.version, active.owner)
        return active

    def release(self, reservation_id: str) -> Reservation:
        """End a reservation now; one that has already ended stays as it is.

        A switch that cannot be told is told as soon as it can be.

        Raises: NotFound.
        """
        with self._writer.turns.hold(reservation_id):
            with self._writer.lock:
                reservation = self._found(reservation_id)
                if not reservation.is_live:
                    return reservation
                touched = self._writer.end(reservation, State.RELEASED, None)
            self._fabric.updates.settle(touched, RELEASE_WAIT_S)
            self._writer.sweep()
            return self.reservation(reservation_id)

    def defragment(self) -> tuple[Move, ...]:
        """Move lightpaths to lower channels, losing no packet; what has been moved.

        Raises: SwitchError, Overloaded.
        """
        with self._room.place():
            return self._tidying.defragment()

    def repair(self) -> tuple[SwitchReport, ...]:
        """Put right what is missing or wrong; what was found, switch by switch."""
        return tuple(self._fabric.verify([switch.name for switch in self.network.switches], repair=True))

    # Small things ---------------------------------------------------------------------------------------------------

    def _found_live(self, reservation_id: str) -> Reservation:
        reservation = self.reservation(reservation_id)
        if not reservation.is_live:
            raise NotLive(f"Reservation {reservation_id} is {reservation.state} and cannot be changed.")
        return reservation
