"""The reservation service: reserve, commit, modify, release. Read access: `controller.service.queries`.

A request is decided and booked under the lock of ServiceState, installed outside it, confirmed by barriers from every
switch concerned, recorded in the ledger, and answered. Nothing is recorded before the switches have confirmed: if the
process dies before that, the switches hold entries of no reservation, which are removed at the next start. If a switch
fails, the change is undone and the request is answered with the error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from controller.admission.admission import Admitted, Request
from controller.admission.counter_offer import attach_offer
from controller.admission.limit_checks import check_limits
from controller.admission.live_reservations import LiveReservations
from controller.calculus.network_bounds import DEFAULT_CALIBRATION, Calibration, NoBound
from controller.clock import Clock
from controller.dataplane.intended_state import ChangedKeys
from controller.dataplane.southbound import CONFIRM_TIMEOUT_S, Switches
from controller.domain.events import ReservationInstalled, SwitchReport
from controller.domain.network import Network
from controller.domain.reservation import Flow, Reservation, State
from controller.errors import NotHeld, NotLive, Refused
from controller.optical.defragmentation import LightpathMove
from controller.optical.lightpath_design import precompute_fibres
from controller.service.bound_updates import BoundUpdates
from controller.service.concurrency import RequestLimiter
from controller.service.idempotency import IdempotencyCache
from controller.service.lifecycle import LifecycleManager
from controller.service.lightpath_migration import LightpathMigrator
from controller.service.maintenance import Maintenance
from controller.service.queries import Queries
from controller.service.requests import AttachedRow, RequestGuard, ReservationSpec, Response, until_s
from controller.service.retention import RETENTION_INTERVAL_S, RetentionLoop, RetentionTask
from controller.service.setup import SetupPipeline
from controller.service.state import INSTALLED, ServiceState, drain_time_s, has_unrouted_flow, switches_of
from controller.service.verification_loop import VERIFY_INTERVAL_S, VerificationLoop
from controller.storage.ledger import IdempotencyKey, Ledger

log = logging.getLogger(__name__)

FOLLOW_S = 0.25
FOLLOW_SHARE = 0.2
"""A standby reads what has changed every FOLLOW_S, or less often so that it takes no more than this share of the time.
"""
RELEASE_WAIT_S = 1.0
"""How long the response to a release waits for slow switches."""


class Service:
    """Reservations and their changes. Thread-safe; `start` before use, `stop` after."""

    def __init__(
        self,
        network: Network,
        switches: Switches,
        ledger: Ledger,
        calibration: Calibration = DEFAULT_CALIBRATION,
        clock: Clock | None = None,
        verify_interval_s: float = VERIFY_INTERVAL_S,
        retention_tasks: Sequence[RetentionTask] = (),
        retention_interval_s: float = RETENTION_INTERVAL_S,
    ) -> None:
        """`verify_interval_s`: interval at which the switches are verified in turn.

        `retention_tasks`: called every `retention_interval_s` to delete old records of other components.
        """
        self.network = network
        self.ledger = ledger
        self.calibration = calibration
        self._state = ServiceState(network, switches, ledger, calibration, clock)
        self._store, self._switches, self._clock = self._state.store, self._state.switches, self._state.clock
        self._bound_updates = BoundUpdates(self._state)
        self.queries = Queries(self._state, self._bound_updates)
        idempotency = IdempotencyCache(ledger)
        self._lifecycle = LifecycleManager(self._state)
        tasks = idempotency.delete_expired, *retention_tasks
        self._retention = RetentionLoop(tasks, self._clock, retention_interval_s)
        self._verification = VerificationLoop(
            self._switches, [switch.name for switch in network.switches], verify_interval_s
        )
        self.maintenance = Maintenance(self._state, self._lifecycle)
        self._migrator = LightpathMigrator(self._state)
        self._limiter = RequestLimiter(self._switches.silent_s)
        self._setup = SetupPipeline(self._state, self._lifecycle, self._migrator, idempotency, self._limiter)

    def prepare(self) -> None:
        """Compute in advance what `start` needs and the ledger does not change: the noise of the map's fibres."""
        precompute_fibres(self.network)

    def follow(self, stopping: threading.Event) -> None:
        """Keep up with a ledger that another controller writes, until `stopping` is set; then `start` has little to do.
        """
        self.prepare()
        pause_s = 0.0
        while not stopping.wait(pause_s):
            began_s = time.monotonic()
            try:
                self._lifecycle.loader.follow(stopping.is_set)
            except (SQLAlchemyError, OSError) as error:
                log.debug("the ledger cannot be followed now: %s", error)
            pause_s = max(FOLLOW_S, (time.monotonic() - began_s) / FOLLOW_SHARE)

    def start(self) -> None:
        """Load the ledger and start the threads."""
        self.prepare()
        self._lifecycle.start()
        self._state.writer.start()
        self._retention.start()
        self._bound_updates.start()
        self._verification.start()
        self._setup.start()

    def stop(self) -> None:
        """Stop the threads and close the ledger; the switches keep their entries."""
        self._setup.stop()
        self._bound_updates.stop()
        self._lifecycle.stop()
        self._verification.stop()
        self._retention.stop()
        self._state.writer.stop()
        self.ledger.close()

    def reserve(
        self,
        spec: ReservationSpec,
        key: IdempotencyKey | None = None,
        guard: RequestGuard = nullcontext,
        attached_row: AttachedRow | None = None,
    ) -> Future[Response]:
        """Admit all flows or none and install them; the future completes when every switch has confirmed.

        The future cannot be cancelled. `key`: if an earlier request with it was answered, the response is repeated.
        `guard`: entered around a new request; may be left in another thread. `attached_row`: written together with
        the reservation.

        The future's exceptions: Refused or UnknownHost if the flows cannot be admitted, SwitchError if a switch
        failed, KeyReused or InProgress if `key` belongs to another request or one in progress, Overloaded,
        LedgerUnavailable, and those of `guard`.
        """
        return self._setup.submit(spec, key, guard, attached_row)

    @attach_offer
    def commit(self, reservation_id: str) -> Reservation:
        """Turn a held reservation into a scheduled or active one, and renew its lease.

        Raises: NotFound, NotLive, NotHeld, Refused, SwitchError, Overloaded, LedgerUnavailable; the reservation is
        then held as before.
        """
        self._state.writer.require_writable()
        with self._limiter.acquire(), self._state.reservation_locks.hold(reservation_id):
            self._find_live(reservation_id)
            with self._state.lock:
                held = self._find_live(reservation_id)
                if held.state is not State.HELD:
                    raise NotHeld(f"Reservation {held.id} is {held.state}; only a held one can be committed.")
                now_s = self._clock()
                renewed = replace(held, expires_at_s=now_s + held.lease_s)
                is_immediate, admitted = renewed.start_at_s <= now_s, None
                if is_immediate and has_unrouted_flow(renewed, self._switches.links.down):
                    renewed = replace(renewed, version=renewed.version + 1)
                    flows = tuple(placement.flow for placement in renewed.placements)
                    renewed, admitted = self._readmitted(renewed, flows)
                if is_immediate:
                    self._switches.require_in_step(switches_of(renewed))
                if admitted is not None:
                    self._store.add(renewed, admitted)
                self._store.replace(renewed)
                changed_keys = self._state.set_intended({renewed.id: renewed} if is_immediate else {})
            if is_immediate:
                return self._install(renewed.with_state(State.ACTIVE), held, changed_keys)
            return self._record_or_revert(renewed.with_state(State.SCHEDULED), held)

    @attach_offer
    def modify(self, reservation_id: str, lease_s: float | None, flows: tuple[Flow, ...] | None) -> Reservation:
        """Renew the lease and, if flows are given, change the reservation without interrupting unchanged flows.

        Raises: as `reserve`, and NotFound or NotLive; the reservation is then unchanged.
        """
        if flows is None:
            return self._renew(reservation_id, lease_s)
        self._state.writer.require_writable()
        with self._limiter.acquire(), self._state.reservation_locks.hold(reservation_id):
            self._find_live(reservation_id)
            try:
                return self._modify(reservation_id, lease_s, flows)
            except Refused:
                if not self._state.wait_until_drained():
                    raise
            return self._modify(reservation_id, lease_s, flows)

    def _modify(self, reservation_id: str, lease_s: float | None, flows: tuple[Flow, ...]) -> Reservation:
        with self._state.lock:
            before = self._find_live(reservation_id)
            renewed = self._renewed(before, lease_s)
            changed, admitted = self._readmitted(renewed, flows)
            is_installed = before.state in INSTALLED
            old_meters = self._store.live.meter_bursts(before.id)
            with self._store.undone_if_refused() as undo:
                self._store.add(changed, admitted)
                while is_installed:  # repeated where a port's meters have grown: its delay does not depend on them
                    transition_id = self._store.book_transition(before, changed)
                    draining_id = self._store.begin_drain(before, changed, old_meters)
                    others = self._store.others_as_grown(changed, draining_id)
                    if others is None:
                        self._check_transition(before)
                        break
                    undo()
                    changed, admitted = self._readmitted(renewed, flows, others)
                    self._store.add(changed, admitted)
            changed_keys = self._state.set_intended({changed.id: changed} if is_installed else {})
        if not is_installed:
            self._switches.updates.synchronize(changed_keys)
            return self._record_or_revert(changed, before)
        try:
            return self._install(changed, before, changed_keys, drain_time_s(before))
        finally:
            with self._state.lock:
                self._store.remove(transition_id)
                self._store.end_drain(draining_id)

    def _renew(self, reservation_id: str, lease_s: float | None) -> Reservation:
        """Renew the lease, also while the ledger cannot be written: a reservation must not end because of that.

        The renewal is recorded when this returns, or as soon as it is possible.
        """
        with self._limiter.acquire(), self._state.reservation_locks.hold(reservation_id):
            self._find_live(reservation_id)
            with self._state.lock:
                renewed = self._store.retold(self._renewed(self._find_live(reservation_id), lease_s))
                self._state.record_later(renewed, cause="other_reservations")
        self._state.writer.flush()
        return renewed

    def _renewed(self, before: Reservation, lease_s: float | None) -> Reservation:
        lease_s = lease_s or before.lease_s
        return replace(before, version=before.version + 1, lease_s=lease_s, expires_at_s=self._clock() + lease_s)

    def release(self, reservation_id: str) -> Reservation:
        """End a reservation now; no effect on one that has ended.

        A switch that cannot be updated now is updated when it is in step again.

        Raises: NotFound, Overloaded, LedgerUnavailable.
        """
        with self._state.reservation_locks.hold(reservation_id):
            reservation = self.queries.stored(reservation_id)
            if not reservation.is_live:
                return reservation
            changed_keys = self._state.release(reservation)
            self._switches.updates.settle(changed_keys, RELEASE_WAIT_S)
            self._state.purge()
            return self.queries.stored(reservation_id)

    @property
    def lightpath_moves(self) -> int:
        """How many lightpaths were moved since the start."""
        return self._migrator.moves

    def defragment(self) -> tuple[LightpathMove, ...]:
        """Move lightpaths to lower channels without packet loss; returns the moves.

        Raises: SwitchError, Overloaded, LedgerUnavailable.
        """
        self._state.writer.require_writable()
        with self._limiter.acquire():
            return self._migrator.defragment()

    def repair(self) -> tuple[SwitchReport, ...]:
        """Repair missing or wrong entries of all switches; returns what was found on each."""
        return tuple(self._switches.verify([switch.name for switch in self.network.switches], repair=True))

    # Steps of a change ----------------------------------------------------------------------------------------------

    def _find_live(self, reservation_id: str) -> Reservation:
        reservation = self.queries.stored(reservation_id)
        if not reservation.is_live:
            raise NotLive(f"Reservation {reservation_id} is {reservation.state} and cannot be changed.")
        return reservation

    def _readmitted(
        self, changed: Reservation, flows: tuple[Flow, ...], others: LiveReservations | None = None
    ) -> tuple[Reservation, Admitted]:
        """Decide on a reservation with these flows in place of its current ones; returns it admitted.

        `others`: all others, if their meters must grow for it.
        """
        start_s = changed.start_at_s if changed.start_at_s > self._clock() else None
        request = Request(changed.id, changed.version, flows, start_s, until_s(changed.end_at_s))
        live = None if others is None else self._store.live.with_others(changed.id, others)
        admitted = self._state.admit(request, live)
        changed = replace(changed, placements=admitted.placements)
        if changed.state is State.DEGRADED:
            changed = changed.with_state(State.ACTIVE)
        if changed.state in INSTALLED:
            self._switches.require_in_step(switches_of(changed))
        return changed, admitted

    def _record_or_revert(self, changed: Reservation, before: Reservation) -> Reservation:
        """Record a change of a reservation that is on no switch."""
        try:
            ((recorded,), _) = self._state.record(changed)
        except Exception:
            with self._state.lock:
                self._store.undo(self._store.published[before.id])
            self._state.purge()
            raise
        return recorded

    def _check_transition(self, before: Reservation) -> None:
        """Check the limits of others while packets sent before a change are in the network.

        Raises: LatencyNotMet.
        """
        live = self._store.live_with_draining_bursts()
        with suppress(NoBound):  # possible only if the calibration changed after an admission
            check_limits(live, live.bounds, live.bounds.changed_limited_flows(), before.id)

    def _install(
        self, changed: Reservation, before: Reservation, changed_keys: ChangedKeys, drain_s: float = 0.0
    ) -> Reservation:
        """Install a booked change and record it; undo it if a switch or the ledger fails."""
        started_s = time.monotonic()
        try:
            with self._limiter.acquire_at(switches_of(changed)):
                self._switches.updates.confirm(changed_keys, drain_s)
            ((active,), _) = self._state.record(changed)
        except Exception:
            self._undo(before)
            raise
        self._state.publish(ReservationInstalled(active.id, time.monotonic() - started_s))
        self._lifecycle.recheck(active)
        log.info("installed id=%s version=%d", active.id, active.version)
        return active

    def _undo(self, before: Reservation) -> None:
        """Restore the version before a change; links may have failed since, so it is re-evaluated."""
        with self._state.lock:
            before = self._store.published.get(before.id, before)
            self._store.undo(before)
            undo_keys = self._state.set_intended({before.id: before if before.state in INSTALLED else None})
        self._switches.updates.settle(undo_keys, CONFIRM_TIMEOUT_S)
        self._state.purge()
        self._lifecycle.recheck_all()
