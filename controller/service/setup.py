"""Sets up new reservations: admits requests in order, installs them concurrently, records confirmed ones together.

One thread does so and never blocks: each reservation is sent to its switches on its own, so that a slow switch delays
only reservations on it. Steps that may block run in a thread pool: waiting for a slot at a switch, undoing an
installation, migrating lightpaths, computing the counter-offer of a refusal. Their names begin with `_blocking_`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from queue import SimpleQueue

from controller.admission.admission import Admitted
from controller.dataplane.intended_state import ChangedKeys
from controller.dataplane.southbound import CONFIRM_TIMEOUT_S
from controller.domain.events import ReservationInstalled
from controller.domain.reservation import Reservation, State
from controller.errors import NoSpectrum, Refused
from controller.service.concurrency import RequestLimiter, Slot
from controller.service.idempotency import IdempotencyCache
from controller.service.lifecycle import LifecycleManager
from controller.service.lightpath_migration import LightpathMigrator
from controller.service.requests import (
    AttachedRow,
    PendingSetup,
    RequestGuard,
    ReservationSpec,
    Response,
    request_of,
)
from controller.service.reservation_ids import UNASSIGNED_ID, ReservationNumbers, id_of
from controller.service.state import ServiceState, switches_of
from controller.storage.ledger import IdempotencyKey

log = logging.getLogger(__name__)

MAX_IN_PROGRESS = 32
"""New reservations in progress at once; further requests are queued."""


class SetupPipeline:
    """Sets up reservations requested by any thread; `start` before use, `stop` after."""

    def __init__(
        self,
        state: ServiceState,
        lifecycle: LifecycleManager,
        migrator: LightpathMigrator,
        idempotency: IdempotencyCache,
        limiter: RequestLimiter,
    ) -> None:
        self._state, self._store, self._switches = state, state.store, state.switches
        self._lifecycle, self._migrator, self._idempotency, self._limiter = lifecycle, migrator, idempotency, limiter
        self._inbox: SimpleQueue[PendingSetup | None] = SimpleQueue()
        self._queued: deque[PendingSetup] = deque()
        self._lock = threading.Lock()
        self._in_progress = 0
        self._numbers = ReservationNumbers(state.ledger, lambda name: self._store.live.get(name) is not None)
        self._numbers_lock = threading.Lock()
        self._stopping = False
        self._pool = ThreadPoolExecutor(MAX_IN_PROGRESS, "paceline-setup-blocking")
        self._thread = threading.Thread(target=self._run, name="paceline-setup", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop accepting requests, and wait for the thread's end for up to 10 s."""
        self._stopping = True
        self._inbox.put(None)
        self._thread.join(timeout=10)
        self._pool.shutdown(wait=False)

    def submit(
        self,
        spec: ReservationSpec,
        key: IdempotencyKey | None,
        guard: RequestGuard,
        attached_row: AttachedRow | None,
    ) -> Future[Response]:
        """Queue a request; see Service.reserve."""
        setup = PendingSetup(spec, key, guard, attached_row)
        setup.response.set_running_or_notify_cancel()
        self._inbox.put(setup)
        return setup.response

    def _run(self) -> None:
        while not self._stopping:
            received = self._receive()
            self._queued += [setup for setup in received if setup.installation is None]
            try:
                self._finish([setup for setup in received if setup.installation is not None])
                while self._queued and self._in_progress < MAX_IN_PROGRESS:
                    with self._lock:
                        self._in_progress += 1
                    self._accept(self._queued.popleft())
            except Exception:
                # The thread must survive any error.
                log.exception("setup: requests could not be processed")

    def _receive(self) -> list[PendingSetup]:
        """Wait for requests or confirmed installations; all that are in the inbox then."""
        received = [self._inbox.get()]
        while not self._inbox.empty():  # this is the only thread that takes something out
            received.append(self._inbox.get())
        return [setup for setup in received if setup is not None]

    # Admission ------------------------------------------------------------------------------------------------------

    def _accept(self, setup: PendingSetup) -> None:
        try:
            setup.slot = self._limiter.acquire()
            self._state.writer.require_writable()
            if setup.key is not None:
                stored = setup.enter(self._idempotency.first_response(setup.key))
                if stored is not None:
                    self._respond(setup, (stored, True))
                    return
            if setup.guard is not nullcontext:
                setup.enter(setup.guard())
            self._admit(setup)
        except Refused as refusal:
            self._pool.submit(self._blocking_admit_again, setup, refusal)
        except Exception as error:  # noqa: BLE001 - it is the response
            self._respond(setup, error)

    def _blocking_admit_again(self, setup: PendingSetup, refusal: Refused) -> None:
        """Decide a refused request again when lightpaths have made room, or earlier packets have left the network."""
        try:
            makes_room = isinstance(refusal, NoSpectrum) and self._migrator.make_room(
                request_of(setup.spec, UNASSIGNED_ID)
            )
            if not makes_room and not self._state.wait_until_drained():
                raise refusal
            self._admit(setup)
        except Exception as error:  # noqa: BLE001 - it is the response
            self._blocking_refuse(setup, error)

    def _blocking_refuse(self, setup: PendingSetup, error: Exception) -> None:
        try:
            if isinstance(error, Refused):
                log.info("refused code=%s", error.code)
                error.add_offer()
        finally:
            self._respond(setup, error)

    def _admit(self, setup: PendingSetup) -> None:
        """Admit a request and start its installation; if it is not to be installed yet, record it."""
        spec, number = setup.spec, self._draw_number()
        with self._state.lock:
            reservation, admitted = self._decide(spec, number)
            is_immediate = not spec.hold and reservation.start_at_s <= reservation.created_at_s
            if is_immediate:
                setup.switches = switches_of(reservation)
                self._switches.require_in_step(setup.switches)
            self._store.add(reservation, admitted)
            changed_keys = self._state.set_intended({reservation.id: reservation} if is_immediate else {})
        setup.reservation, setup.started_s = reservation, time.monotonic()
        if is_immediate:
            self._install(setup, changed_keys)
        else:
            self._switches.updates.synchronize(changed_keys)
            reservation = self._record_uninstalled(setup, reservation)
            log.info("reserved id=%s state=%s", reservation.id, reservation.state)
            self._respond(setup, (reservation, False))

    def _draw_number(self) -> int:
        with self._numbers_lock:
            return self._numbers.draw()

    def _decide(self, spec: ReservationSpec, number: int) -> tuple[Reservation, Admitted]:
        now_s = self._state.clock()
        reservation_id = id_of(number)
        admitted = self._state.admit(request_of(spec, reservation_id))
        lease = spec.lease_s, now_s, now_s + spec.lease_s
        start_at_s = max(now_s, spec.start_at_s or now_s)
        reservation = Reservation(
            reservation_id, number, 1, spec.owner, State.HELD, *lease, admitted.placements,
            start_at_s=start_at_s, end_at_s=spec.end_at_s, tenant=spec.tenant,
        )  # fmt: skip
        return reservation, admitted

    def _record_uninstalled(self, setup: PendingSetup, held: Reservation) -> Reservation:
        """Record a held or scheduled reservation; if that fails, free its capacity."""
        reservation = held if setup.spec.hold else held.with_state(State.SCHEDULED)
        try:
            return self._record([(setup, reservation)])[0]
        except Exception:
            with self._state.lock:
                self._store.remove(held.id)
            raise

    # Installation ---------------------------------------------------------------------------------------------------

    def _install(self, setup: PendingSetup, changed_keys: ChangedKeys) -> None:
        """Start the installation; without a free slot at the switches, wait for it in the pool."""
        try:
            slot = self._limiter.try_acquire_at(setup.switches)
        except Exception as error:  # noqa: BLE001 - it is the response
            self._pool.submit(self._blocking_undo, setup, error)
            return
        if slot is None:
            self._pool.submit(self._blocking_install, setup, changed_keys)
        else:
            self._start_installation(setup, changed_keys, slot)

    def _blocking_install(self, setup: PendingSetup, changed_keys: ChangedKeys) -> None:
        try:
            slot = self._limiter.acquire_at(setup.switches)
        except Exception as error:  # noqa: BLE001 - it is the response
            self._blocking_undo(setup, error)
            return
        self._start_installation(setup, changed_keys, slot)

    def _start_installation(self, setup: PendingSetup, changed_keys: ChangedKeys, slot: Slot) -> None:
        """Send the changes; the setup is put into the inbox when its switches have confirmed them."""
        try:
            installation = self._switches.updates.begin(changed_keys)
        except Exception as error:  # noqa: BLE001 - it is the response
            slot.release()
            self._pool.submit(self._blocking_undo, setup, error)
            return
        setup.switch_slot, setup.installation = slot, installation
        if installation.done():
            self._finish([setup])
        else:
            installation.add_done_callback(lambda _: self._inbox.put(setup))

    def _finish(self, setups: Sequence[PendingSetup]) -> None:
        """Record, in one transaction, the setups that all their switches have confirmed, and respond."""
        confirmed: list[tuple[PendingSetup, Reservation]] = []
        for setup in setups:
            assert setup.installation is not None
            assert setup.reservation is not None
            assert setup.switch_slot is not None
            setup.switch_slot.release()
            try:
                self._switches.updates.result(setup.installation)
                confirmed.append((setup, setup.reservation.with_state(State.ACTIVE)))
            except Exception as error:  # noqa: BLE001 - it is the response
                self._pool.submit(self._blocking_undo, setup, error)
        if not confirmed:
            return
        try:
            installed = self._record(confirmed)
        except Exception as error:  # noqa: BLE001 - it is the response
            for setup, _ in confirmed:
                self._pool.submit(self._blocking_undo, setup, error)
            return
        for (setup, _), active in zip(confirmed, installed, strict=True):
            self._state.publish(ReservationInstalled(active.id, time.monotonic() - setup.started_s))
            self._lifecycle.recheck(active)
            log.info("installed id=%s version=%d", active.id, active.version)
            self._respond(setup, (active, False))

    def _record(self, reservations: Sequence[tuple[PendingSetup, Reservation]]) -> list[Reservation]:
        """Record reservations in one transaction, with their attached rows if the database allows."""
        keys = {reservation.id: setup.key for setup, reservation in reservations if setup.key is not None}
        attached = [
            (setup.attached_row, reservation) for setup, reservation in reservations
            if setup.attached_row is not None
        ]
        rows = [row.row(reservation) for row, reservation in attached]
        recorded, has_rows = self._state.record(
            *(reservation for _, reservation in reservations), are_new=True, idempotency_keys=keys, extra_rows=rows
        )
        for row, _ in attached:
            row.is_written = has_rows
        return recorded

    def _blocking_undo(self, setup: PendingSetup, error: Exception) -> None:
        """Remove the entries that switches may have, and respond with the error."""
        try:
            assert setup.reservation is not None
            with self._state.lock:
                self._store.retire(setup.reservation)
                changed_keys = self._state.set_intended({setup.reservation.id: None})
            self._switches.updates.settle(changed_keys, CONFIRM_TIMEOUT_S)
            self._state.purge()
        finally:
            self._respond(setup, error)

    def _respond(self, setup: PendingSetup, response: Response | Exception) -> None:
        try:
            setup.leave()
        finally:
            if setup.slot is not None:
                setup.slot.release()
        with self._lock:
            self._in_progress -= 1
        if self._queued:
            self._inbox.put(None)
        if isinstance(response, Refused):
            # The traceback refers to the setup, which refers to the response: a reference cycle.
            setup.response.set_exception(response.with_traceback(None))
        elif isinstance(response, Exception):
            setup.response.set_exception(response)
        else:
            setup.response.set_result(response)
